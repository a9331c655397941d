"""Common form of all recordings: the result of every reader and the input of the converter.

All times are int64 nanoseconds on one clock, which `ClockStatement` describes. Every stream starts
from a given time, so that an interrupted conversion can continue, and yields its content in small
pieces, so that memory does not depend on the length of a recording.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scaleevent_ros.sources.camera import Camera
from scaleevent_ros.sources.errors import SourceError
from scaleevent_ros.sources.faults import MAX_LOST_SHARE, Faults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from scaleevent_ros.events import EventBatch, Triggers
    from scaleevent_ros.sources.calibration import Rig

# Topics of bags. Those below /event_camera are in the event camera's view, others in the frame
# camera's.
EVENTS_TOPIC = "/event_camera/events"
EVENTS_INFO_TOPIC = "/event_camera/camera_info"
IMU_TOPIC = "/event_camera/imu"
FRAMES_TOPIC = "/camera/image_raw"
FRAMES_INFO_TOPIC = "/camera/camera_info"
WARPED_TOPIC = "/event_camera/image_warped"
LABELS_TOPIC = "/event_camera/labels"
LABEL_INFO_TOPIC = "/event_camera/label_info"
DEPTH_TOPIC = "/event_camera/depth"
DISPARITY_TOPIC = "/event_camera/disparity"
FLOW_TOPIC = "/event_camera/flow"

CHUNK_EVENTS = 1 << 20
"""Readers yield about this many events at a time: 13 MB in an `EventBatch`."""

TIME_UNITS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
"""Number of nanoseconds in each unit of time."""

MAX_TIME_NS = (1 << 31) * 1_000_000_000 - 1
"""Maximum time in ns that a ROS header can represent."""

ClockMethod = Literal["hardware_trigger", "sensor_time", "header_stamps", "estimated"]


@dataclass(frozen=True, slots=True)
class ClockStatement:
    """Common clock of frames and events.

    Attributes:
        method: ``sensor_time`` if one device stamped both, ``hardware_trigger`` if a signal
            synchronized two devices, ``header_stamps`` if both were stamped on arrival, else
            ``estimated``.
        detail: Description in one sentence.
        residual_ms: Residual of the synchronization in ms; None if the authors do not state it.
    """

    method: ClockMethod
    detail: str
    residual_ms: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A frame, a label map, a depth map or a flow field.

    Attributes:
        t: Time in ns; the middle of a frame's exposure if that is known.
        pixels: uint8 [H, W] grey or class ids, uint8 [H, W, 3] red-green-blue, uint16 [H, W],
            float32 [H, W] (m, or px of disparity), or float32 [H, W, 2] (px of flow: x, y).
            Unknown float values are NaN, and unknown classes 255.
        stored: JPEG or PNG file from which the pixels were decoded, for bags of compressed frames;
            None if there is none.
    """

    t: int
    pixels: NDArray[Any]
    stored: bytes | None = None


@dataclass(frozen=True, slots=True, eq=False)
class PictureStream:
    """Pictures of one kind.

    Attributes:
        topic: Topic in a bag.
        place: File or folder of the pictures, for error messages.
        read: Function that reads them in order from a time in ns.
        span_ns: First and last time in ns; None if finding them would need a pass over the data.
    """

    topic: str
    place: str
    read: Callable[[int], Iterator[Picture]]
    span_ns: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ImuSample:
    """IMU sample.

    Attributes:
        t: Time in ns.
        acceleration: Linear acceleration in m/s²: x, y, z.
        angular_velocity: Angular velocity in rad/s: x, y, z.
    """

    t: int
    acceleration: tuple[float, float, float]
    angular_velocity: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class CameraCalibration:
    """Camera parameters as in `sensor_msgs/CameraInfo`.

    Attributes:
        topic: Topic in a bag.
        width: Width in pixels.
        height: Height in pixels.
        model: ``plumb_bob`` (4 or 5 coefficients) or ``equidistant`` (4).
        matrix: fx, fy, cx, cy, in pixels.
        distortion: Distortion coefficients in the model's order.
    """

    topic: str
    width: int
    height: int
    model: str
    matrix: tuple[float, float, float, float]
    distortion: tuple[float, ...]

    def camera(self) -> Camera:
        """Convert to the camera of a `Rig`."""
        return Camera((self.width, self.height), self.matrix, self.model, self.distortion)


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """Content and streams of a recording.

    Attributes:
        source: File or folder of the recording.
        format: Name of its format.
        width: Width of the event sensor in pixels.
        height: Height of the event sensor in pixels.
        events: Function that reads batches of events in order from a time in ns.
        clock: Common clock of its frames and events.
        pictures: Frames, labels, depth, flow.
        cameras: Calibrations.
        calibration: Mapping of frames into the event image, if they come from another lens.
        triggers: Function that reads triggers from a time in ns; None if the format has none.
        imu: Function that reads IMU samples from a time in ns; None if the format has none.
        span_ns: Times of the first and the last event in ns; None if finding them would need a pass
            over the data.
        one_sensor: Whether events and frames come from the same pixels, as in a DAVIS.
        labels: Class names by id, for pictures on `LABELS_TOPIC`.
        faults: Counter of the faults that its streams have skipped or repaired so far.
    """

    source: Path
    format: str
    width: int
    height: int
    events: Callable[[int], Iterator[EventBatch]]
    clock: ClockStatement
    pictures: tuple[PictureStream, ...] = ()
    cameras: tuple[CameraCalibration, ...] = ()
    calibration: Rig | None = None
    triggers: Callable[[int], Iterator[Triggers]] | None = None
    imu: Callable[[int], Iterator[ImuSample]] | None = None
    span_ns: tuple[int, int] | None = None
    one_sensor: bool = True
    labels: tuple[str, ...] = ()
    faults: Faults = field(default_factory=Faults)


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """Options for information that a recording lacks.

    Attributes:
        width: Width of the event sensor in pixels, which overrides the file's.
        height: Height of the event sensor in pixels, which overrides the file's.
        time_unit: Unit of times, a key of `TIME_UNITS`, which overrides the file's.
        camera: Camera of a stereo pair: ``left`` or ``right``.
        rotate_180: Rotate events and frames of DDD17 and DDD20 by 180 degrees: some of the cars
            carried the camera upside down.
        strict: Raise an error at the first fault instead of skipping or repairing it.
    """

    width: int | None = None
    height: int | None = None
    time_unit: str | None = None
    camera: str = "left"
    rotate_180: bool = False
    strict: bool = False

    def faults(self) -> Faults:
        """Create the fault counters of one recording."""
        return Faults(strict=self.strict)

    def __post_init__(self) -> None:
        """Check the options that do not depend on the format.

        Raises:
            SourceError: If the camera is neither ``left`` nor ``right``.
        """
        if self.camera not in {"left", "right"}:
            msg = f"a stereo pair has the cameras left and right, not {self.camera!r}"
            raise SourceError(msg)

    def geometry(self, source: Path) -> tuple[int, int]:
        """Return the width and the height of the options.

        Raises:
            SourceError: If they are not given.
        """
        if self.width is None or self.height is None:
            msg = f"{source}: the sensor's size is unknown; give --width and --height"
            raise SourceError(msg)
        return self.width, self.height


def nanoseconds(times: NDArray[Any], unit: str) -> NDArray[np.int64]:
    """Convert times of a unit (a key of `TIME_UNITS`) to int64 ns, rounded to µs.

    A microsecond is the resolution of event cameras, and of the EVT3 encoding of bags. NaN becomes
    a negative time, and times that ROS cannot represent become later than `MAX_TIME_NS`.
    """
    scale = TIME_UNITS[unit]
    beyond = MAX_TIME_NS // scale + 1
    if np.issubdtype(times.dtype, np.integer):
        wide = times.astype(np.uint64 if times.dtype.kind == "u" else np.int64)
        return np.minimum(wide, beyond).astype(np.int64) * scale
    clipped = np.clip(np.nan_to_num(times.astype(np.float64), nan=-1.0), -1, beyond)
    return np.rint(clipped * (scale / 1000)).astype(np.int64) * 1000


def likely_unit(times: NDArray[Any]) -> str:
    """Guess the unit of times, a key of `TIME_UNITS`.

    Integers are µs and floating-point numbers seconds, unless they would then be later than the
    year 5000.
    """
    latest = float(times.max(initial=0))
    if latest >= 1e17:
        return "ns"
    if np.issubdtype(times.dtype, np.integer) or latest >= 1e14:
        return "us"
    return "ms" if latest >= 1e11 else "s"


def ordered_times(times: NDArray[np.int64], place: str) -> NDArray[np.int64]:
    """Return the times of pictures (ns) after checking that they increase and are not negative.

    Raises:
        SourceError: If a time is invalid; the message gives place and time.
    """
    wrong = (np.diff(times, prepend=times[:1] - 1) <= 0) | (times < 0)
    if wrong.any():
        index = int(wrong.argmax())
        msg = (
            f"{place}: time {index} is {times[index]} ns: times must increase, and not be negative"
        )
        raise SourceError(msg)
    return times


def unwrapped(ticks: NDArray[Any], bits: int, before: int = 0) -> NDArray[np.int64]:
    """Unwrap a counter: a step back by more than half its range is an overflow.

    Args:
        ticks: Values of the counter, [N].
        bits: Number of bits of the counter.
        before: Last value of an earlier call that this one continues; 0 for none.
    """
    period = 1 << bits
    steps = np.diff(ticks.astype(np.int64), prepend=before % period)
    overflows = before // period + np.cumsum(steps < -(period // 2))
    return ticks.astype(np.int64) + overflows * period


def rising(times: NDArray[np.int64], place: str, faults: Faults) -> NDArray[np.int64]:
    """Select the most pictures whose times (ns) increase; the others are counted as faults.

    Returns:
        Indices of the pictures, int64 [N].

    Raises:
        SourceError: If a time is out of order in strict reading, or more than one, and more than
            1 % of them, are; the message gives the first one.
    """
    tails: list[int] = []  # last time of the best sequence of each length
    lasts: list[int] = []  # index of the picture at that time
    before = np.full(len(times), -1, np.int64)
    for index, t in enumerate(times.tolist()):
        if not 0 <= t <= MAX_TIME_NS:
            continue
        length = bisect_left(tails, t)
        before[index] = lasts[length - 1] if length else -1
        tails[length : length + 1], lasts[length : length + 1] = [t], [index]
    chosen = []
    index = lasts[-1] if lasts else -1
    while index >= 0:
        chosen.append(index)
        index = int(before[index])
    wrong = np.setdiff1d(np.arange(len(times)), chosen)
    if len(wrong):
        first = int(wrong[0])
        msg = (
            f"{place}: time {first} is {times[first]} ns: times must increase, and be from 1970 "
            "to 2038"
        )
        if len(wrong) > max(1, MAX_LOST_SHARE * len(times)):
            raise SourceError(msg)
        faults.add("pictures at times that do not increase", msg, np.maximum(times[wrong], 0))
    return np.array(chosen[::-1], np.int64)
