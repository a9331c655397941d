"""The perception node's parameters."""

from __future__ import annotations

from dataclasses import dataclass

from scaleevent_ros.nodes.parameters import parameter
from scaleevent_ros.runtime.options import BACKENDS, FEATURE_SPACES, PRECISIONS

TRIGGERS = ("rate", "packet", "count", "image")
WINDOWS = ("trained", "fixed", "motion")
RESOLUTIONS = ("patch", "pixel")

INPUTS = {
    "~/events": "Topic of event packets. Unset: the one that exists, see docs/perception.md.",
    "~/image": "Topic of images, used with trigger image.",
    "~/point": "Topic of the query pixel of ~/similarity.",
    "~/click": "The same without a header: clicks in rqt_image_view.",
}
"""Topics that the node subscribes to, for launch files to remap."""

LIVE = frozenset(
    {
        "rate", "count", "window", "window_ms", "shortest_ms", "events_per_pixel",
        "slices_per_bin", "activity_threshold", "features_channels", "features_resolution",
        "overlay_fade", "silence",
    }
)  # fmt: skip
"""Parameters that may change while the node is configured or active."""


@dataclass(frozen=True)
class PerceptionParameters:
    """Parameters of the perception node, for launch files, YAML files and the command line."""

    model: str = parameter(
        "lite",
        "Shipped student (lite or small), or path of a checkpoint or of an exported file.",
    )
    device: str = parameter(
        "auto", "auto, cpu, cuda or cuda:N. auto: the GPU, or the CPU with a warning."
    )
    precision: str = parameter(
        "auto",
        "Precision of the network. auto: bf16 or fp16 on a GPU, fp32 on a CPU.",
        choices=PRECISIONS,
    )
    backend: str = parameter(
        "auto", "Runtime of the network. auto: the fastest one.", choices=BACKENDS
    )
    width: int = parameter(
        640, "Expected sensor width in pixels; the node adapts to others.", minimum=1
    )
    height: int = parameter(480, "Expected sensor height in pixels.", minimum=1)
    trigger: str = parameter(
        "rate", "Trigger of a result; image: each message on ~/image.", choices=TRIGGERS
    )
    rate: float = parameter(
        30.0, "With trigger rate: maximum results per second.", minimum=0.1, maximum=1000
    )
    count: int = parameter(
        50_000, "With trigger count: number of events between results.", minimum=1
    )
    window: str = parameter(
        "trained",
        "Window mode. trained: the checkpoint's. motion: as short as events_per_pixel allows.",
        choices=WINDOWS,
    )
    window_ms: float = parameter(
        0.0,
        "Window length in ms, with motion the largest. 0: the checkpoint's, or 50.",
        minimum=0,
        maximum=10_000,
    )
    shortest_ms: float = parameter(
        0.0,
        "With window motion: smallest window length in ms; lengths are multiples of it. "
        "0: the checkpoint's, or 5.",
        minimum=0,
        maximum=10_000,
    )
    events_per_pixel: float = parameter(
        0.0,
        "With window motion: events per pixel in a window. 0: the checkpoint's, or 0.3.",
        minimum=0,
        maximum=1000,
    )
    slices_per_bin: int = parameter(
        2,
        "On a CPU: possible window ends per time bin; memory is proportional to it.",
        minimum=1,
        maximum=32,
    )
    activity_threshold: int = parameter(
        64, "Number of events from which a patch is active.", minimum=1, maximum=1_000_000
    )
    overlay_fade: float = parameter(
        0.0,
        "Seconds in which the colours of ~/overlay fade once their patch is no longer active. "
        "0: they stay.",
        minimum=0,
        maximum=3600,
    )
    features_space: str = parameter(
        "student",
        "Space of the published features: student, or teacher, where heads and queries made for "
        "the teacher's image features work.",
        choices=FEATURE_SPACES,
    )
    features_channels: int = parameter(
        0, "Channels of ~/features, reduced by a fixed projection. 0: all, at most 512.", minimum=0
    )
    features_resolution: str = parameter(
        "patch",
        "Resolution of ~/features; pixel interpolates to the sensor's.",
        choices=RESOLUTIONS,
    )
    debug: bool = parameter(False, "Publish timings of each window on ~/debug/*_ms.")
    silence: float = parameter(
        1.0, "Seconds without packets after which the camera counts as silent.", minimum=0.05
    )
    qos_depth: int = parameter(
        400, "Queue length of ~/events in the middleware, in packets.", minimum=1
    )
    autostart: bool = parameter(True, "Configure and activate at start.", read_only=True)
