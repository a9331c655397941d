"""The perception node's parameters."""

from __future__ import annotations

from dataclasses import dataclass

from scaleevent_ros.nodes.parameters import parameter
from scaleevent_ros.runtime.options import BACKENDS, FEATURE_SPACES, PRECISIONS

TRIGGERS = ("rate", "packet", "count", "image")
WINDOWS = ("trained", "fixed", "motion")
RESOLUTIONS = ("patch", "pixel")

INPUTS = {
    "~/events": "Topic of event packets. Unset: the topic that there is, see docs/perception.md.",
    "~/image": "Topic of images, for trigger image.",
    "~/point": "Topic of points to compare with, in pixels.",
    "~/click": "Like point, without a header: rqt_image_view's clicks.",
}
"""Topics that the node subscribes to, for launch files to remap."""

LIVE = frozenset(
    {
        "rate", "count", "window", "window_ms", "shortest_ms", "events_per_pixel",
        "slices_per_bin", "activity_threshold", "features_channels", "features_resolution",
        "silence",
    }
)  # fmt: skip
"""Parameters that may change while the node is configured or active."""


@dataclass(frozen=True)
class PerceptionParameters:
    """Parameters of the perception node, for launch files, YAML files and the command line."""

    model: str = parameter(
        "lite",
        "Student that ships with the package, lite or small, or the path of a checkpoint, or of "
        "what was exported of one.",
    )
    device: str = parameter("auto", "auto (a GPU, or with a warning the CPU), cpu, cuda or cuda:N.")
    precision: str = parameter(
        "auto", "auto: bf16 or fp16 on a GPU, fp32 on a CPU.", choices=PRECISIONS
    )
    backend: str = parameter("auto", "auto: the fastest there.", choices=BACKENDS)
    width: int = parameter(
        640, "Sensor width to be ready for, in pixels; another one is followed.", minimum=1
    )
    height: int = parameter(480, "Sensor height, like width.", minimum=1)
    trigger: str = parameter(
        "rate", "What asks for a result; image: each one on ~/image.", choices=TRIGGERS
    )
    rate: float = parameter(
        30.0, "With trigger rate: results a second, at most.", minimum=0.1, maximum=1000
    )
    count: int = parameter(
        50_000, "With trigger count: events from one result to the next.", minimum=1
    )
    window: str = parameter(
        "trained",
        "trained: as the checkpoint was trained. motion: as short as events_per_pixel allows.",
        choices=WINDOWS,
    )
    window_ms: float = parameter(
        0.0,
        "Length of a window, with motion the greatest, in ms. 0: the checkpoint's, or 50.",
        minimum=0,
        maximum=10_000,
    )
    shortest_ms: float = parameter(
        0.0,
        "With window motion: the least length, in ms; lengths are multiples of it. 0: the "
        "checkpoint's, or 5.",
        minimum=0,
        maximum=10_000,
    )
    events_per_pixel: float = parameter(
        0.0,
        "With window motion: events per pixel that a window holds. 0: the checkpoint's, or 0.3.",
        minimum=0,
        maximum=1000,
    )
    slices_per_bin: int = parameter(
        2,
        "On a CPU: in how many moments of a bin a window may end; memory grows with it.",
        minimum=1,
        maximum=32,
    )
    activity_threshold: int = parameter(
        64, "Events that make a patch active.", minimum=1, maximum=1_000_000
    )
    features_space: str = parameter(
        "student",
        "Features on ~/features and in pictures: as the student's network computes them, or in the "
        "teacher's space, where heads and queries made for the teacher's image features work.",
        choices=FEATURE_SPACES,
    )
    features_channels: int = parameter(
        0, "Channels of ~/features, by a fixed projection. 0: all, 512 at most.", minimum=0
    )
    features_resolution: str = parameter(
        "patch", "Resolution of ~/features; pixel: interpolated.", choices=RESOLUTIONS
    )
    debug: bool = parameter(False, "Publish the times of each window on ~/debug/*_ms.")
    silence: float = parameter(
        1.0, "Seconds without a packet after which the camera counts as silent.", minimum=0.05
    )
    qos_depth: int = parameter(
        400, "Packets that the middleware holds while the node is busy.", minimum=1
    )
    autostart: bool = parameter(True, "Configure and activate at once.", read_only=True)
