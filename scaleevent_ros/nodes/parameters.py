"""Parameters of the nodes: names, types, limits and descriptions in one frozen dataclass each.

A node declares its parameters from it (`managed_node.declare`), launch files list them from it,
and the YAML files in `config/` are checked against it. Launch files run under the system's Python,
so this module and all that it imports need only the standard library.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from scaleevent_ros.bags.mcap_format import COMPRESSIONS
from scaleevent_ros.bags.messages import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    EVENT_PACKET,
    IMAGE,
    IMU,
)
from scaleevent_ros.errors import ScaleEventError
from scaleevent_ros.runtime.options import BACKENDS, FEATURE_SPACES, PRECISIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Parameters = TypeVar("Parameters")

RELIABILITIES = ("auto", "reliable", "best_effort")
DURABILITIES = ("auto", "volatile", "transient_local")

TYPE_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    tuple: "a list of texts",
}


class NodeError(ScaleEventError):
    """A node cannot work with its parameters or the ROS graph."""


class Limits(NamedTuple):
    """Allowed values of a parameter: numbers from `minimum` to `maximum`, texts of `choices`."""

    minimum: float = -math.inf
    maximum: float = math.inf
    choices: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the limits in words; empty if there are none."""
        if self.choices:
            return "One of " + ", ".join(self.choices) + "."
        if math.isfinite(self.minimum) and math.isfinite(self.maximum):
            return f"From {self.minimum:g} to {self.maximum:g}."
        if math.isfinite(self.minimum):
            return f"At least {self.minimum:g}."
        return ""


def parameter(
    default: bool | float | str | tuple[str, ...],
    description: str,
    *,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    choices: tuple[str, ...] = (),
    read_only: bool = False,
) -> Any:
    """Define one parameter of a node, as a field of its dataclass.

    Args:
        default: Default value; its type is the parameter's.
        description: Purpose and unit.
        minimum: Smallest value of a number.
        maximum: Largest value of a number.
        choices: Allowed values of a text; empty for any.
        read_only: Whether the value is fixed once the node has started.
    """
    limits = Limits(minimum, maximum, choices)
    return dataclasses.field(
        default=default,
        metadata={
            "description": f"{description} {limits}".strip(),
            "limits": limits,
            "read_only": read_only,
        },
    )


class Described(NamedTuple):
    """A parameter's name, default and description, which includes its limits."""

    name: str
    default: Any
    description: str


def described(kind: type[object]) -> Iterator[Described]:
    """List the parameters of a dataclass whose fields were made by `parameter`, in order."""
    for field in fields_of(kind):
        yield Described(field.name, field.default, field.metadata["description"])


def shown(default: object) -> str:
    """Format a default as it is written on the command line."""
    if isinstance(default, tuple):
        return "[" + ", ".join(default) + "]"
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else repr(default)


def changed(settings: Parameters, changes: Mapping[str, object]) -> Parameters:
    """Return a copy of a parameter dataclass with new values of some parameters.

    Raises:
        NodeError: If a value is of a wrong type or outside its limits.
    """
    fields = {field.name: field for field in fields_of(type(settings))}
    values: Any = {name: checked(fields[name], value) for name, value in changes.items()}
    return dataclasses.replace(settings, **values)  # type: ignore[type-var]  # as for fields_of


def fields_of(kind: type[object]) -> tuple[dataclasses.Field[Any], ...]:
    """Return the fields of a parameter dataclass."""
    return dataclasses.fields(kind)  # type: ignore[arg-type]  # mypy has no name for "a dataclass"


def checked(field: dataclasses.Field[Any], value: object) -> object:
    """Check a value against its field's type and limits, and return it in this type.

    Integers are converted to floats for float fields, and lists to tuples without empty texts.

    Raises:
        NodeError: If the value is of a wrong type or outside its limits.
    """
    wanted, limits = type(field.default), field.metadata["limits"]
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if wanted is tuple and isinstance(value, (list, tuple)):
        value = tuple(text for text in value if text)
    if not isinstance(value, wanted):
        msg = f"parameter {field.name!r} is {value!r}, not {TYPE_NAMES[wanted]}"
        raise NodeError(msg)
    if limits.choices and value not in limits.choices:
        msg = f"parameter {field.name!r} is {value!r}, not one of {', '.join(limits.choices)}"
        raise NodeError(msg)
    if isinstance(value, (int, float)) and not limits.minimum <= value <= limits.maximum:
        msg = f"parameter {field.name!r} is {value}, outside its limits: {limits}"
        raise NodeError(msg)
    return value


DISTRIBUTIONS = {"humble": 8, "iron": 8, "jazzy": 9, "kilted": 9}
"""Version of the bag's metadata for each ROS 2 distribution."""

PIXELS = ("standard", "ideal", "noisy")

TRIGGERS = ("rate", "packet", "count", "image")
WINDOWS = ("trained", "fixed", "motion")
RESOLUTIONS = ("patch", "pixel")

INPUTS = {
    "~/events": "Topic of event packets. Unset: the one that exists, see docs/perception.md.",
    "~/image": "Topic of images, used with trigger image.",
    "~/point": "Topic of the query pixel of ~/similarity.",
    "~/click": "Topic of the query pixel without a header, as for clicks in rqt_image_view.",
}
"""Topics that the perception node subscribes to, for launch files to remap."""

LIVE = frozenset(
    {
        "rate", "count", "window", "window_ms", "shortest_ms", "events_per_pixel",
        "slices_per_bin", "activity_threshold", "features_channels", "features_resolution",
        "overlay_fade", "silence",
    }
)  # fmt: skip
"""Parameters that may change while the perception node is configured or active."""


@dataclass(frozen=True)
class PerceptionParameters:
    """Parameters of the perception node, for launch files, YAML files and the command line."""

    model: str = parameter(
        "lite",
        "Shipped student (lite or small), or path of a checkpoint or of an exported file.",
    )
    device: str = parameter(
        "auto", "Device: auto, cpu, cuda or cuda:N. auto: the GPU, or the CPU with a warning."
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
        "Seconds in which the colours of ~/overlay fade after their patch was last active. "
        "0: no fading.",
        minimum=0,
        maximum=3600,
    )
    features_space: str = parameter(
        "student",
        "Space of the published features: student, or teacher, for heads and queries that were "
        "made for the teacher's image features.",
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


@dataclass(frozen=True)
class RecorderParameters:
    """Parameters of the recorder, for launch files, YAML files and the command line.

    Changes take effect when the node is configured the next time.
    """

    topics: tuple[str, ...] = parameter(
        (), "Topics to record, as soon as they appear. Empty: all topics of `types`."
    )
    types: tuple[str, ...] = parameter(
        (EVENT_PACKET, IMAGE, COMPRESSED_IMAGE, CAMERA_INFO, IMU),
        "Message types to record if `topics` is empty.",
    )
    exclude: str = parameter(
        "", "Regular expression, matched from the start: topics that are not recorded."
    )
    output_folder: str = parameter("~/bags", "Folder for the bags; created if missing.")
    name: str = parameter(
        "%Y-%m-%d_%H-%M-%S",
        "Name of a bag, with strftime fields in local time. A number is appended to a name in use.",
    )
    duration: float = parameter(
        0.0, "Seconds to record before bag and node end. 0: no limit.", minimum=0
    )
    max_file_size: float = parameter(
        0.0, "Size in MB at which the bag is split. 0: no limit.", minimum=0
    )
    max_file_duration: float = parameter(
        0.0, "Duration in seconds at which the bag is split. 0: no limit.", minimum=0
    )
    compression: str = parameter(
        "none", "Compression of the bag's chunks.", choices=("none", *COMPRESSIONS)
    )
    distribution: str = parameter(
        "jazzy", "Oldest ROS 2 distribution that must read the bag.", choices=tuple(DISTRIBUTIONS)
    )
    min_free_space: float = parameter(
        1000.0, "Free disk space in MB below which recording stops.", minimum=0
    )
    queue_size: float = parameter(
        128.0, "Size in MB of the queue before the disk; messages beyond it are dropped.", minimum=1
    )
    reliability: str = parameter(
        "auto", "Reliability of the subscriptions; auto: as offered.", choices=RELIABILITIES
    )
    durability: str = parameter(
        "auto", "Durability of the subscriptions; auto: as offered.", choices=DURABILITIES
    )
    qos_depth: int = parameter(
        400, "Queue length of each topic in the middleware, in messages.", minimum=1
    )
    autostart: bool = parameter(True, "Configure, activate and record at start.", read_only=True)


@dataclass(frozen=True)
class ReplayParameters:
    """Parameters of the replay node, for launch files, YAML files and the command line."""

    path: str = parameter("", "Bag to play, or recording in a format of `scaleevent convert`.")
    topics: tuple[str, ...] = parameter((), "Topics to play. Empty: all.")
    rate: float = parameter(1.0, "Speed relative to real time. 0: as fast as possible.", minimum=0)
    loop: bool = parameter(False, "Repeat from the start at the end.")
    start_offset: float = parameter(0.0, "Seconds of the recording to skip.", minimum=0)
    delay: float = parameter(
        1.0,
        "Seconds without a new subscriber before the first message; at most five times as long.",
        minimum=0,
    )
    paused: bool = parameter(False, "Start paused, until the service ~/resume is called.")
    restamp: bool = parameter(
        True, "Shift header stamps to now; intervals are kept (divided by `rate`)."
    )
    clock_hz: float = parameter(
        0.0,
        "Frequency at which the recording's time is published on /clock, for nodes with "
        "use_sim_time; needs restamp false. 0: not published.",
        minimum=0,
        maximum=1000,
    )
    reliability: str = parameter(
        "auto", "Reliability of the publishers; auto: as recorded.", choices=RELIABILITIES
    )


@dataclass(frozen=True)
class SimulateParameters:
    """Parameters of the simulate node, for launch files, YAML files and the command line."""

    image: str = parameter(
        "/camera/image_raw",
        "Topic of images; sensor_msgs/CompressedImage if it ends in /compressed.",
    )
    events: str = parameter("/event_camera/events", "Topic of the simulated event packets.")
    width: int = parameter(0, "Sensor width in pixels. 0: that of the images.", minimum=0)
    height: int = parameter(0, "Sensor height in pixels. 0: that of the images.", minimum=0)
    pixels: str = parameter("standard", "Pixel model.", choices=PIXELS)
    threshold: float = parameter(
        0.0, "Contrast threshold of an event, in natural logarithms. 0: the model's.", minimum=0
    )
    interpolate: bool = parameter(
        True, "Interpolate frames along the optical flow; needs a fast CPU."
    )
    max_gap: float = parameter(
        1.0, "Seconds without an image after which the simulation restarts.", minimum=0.01
    )
