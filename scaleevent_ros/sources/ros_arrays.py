"""Bags with arrays of single events: ``.bag`` files of ROS 1, and rosbag2.

Messages: `dvs_msgs/EventArray` (github.com/uzh-rpg/rpg_dvs_ros) and
`prophesee_event_msgs/EventArray` (github.com/prophesee-ai/prophesee_ros_wrapper), which have the
same fields: header, height, width, and events of x, y, ts and polarity. Images and IMU samples come
from the topics in the same namespace. Each topic of arrays is a separate recording.
"""

from __future__ import annotations

import struct
from contextlib import contextmanager, suppress
from functools import cache, partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rosbags.rosbag1 import Reader as Rosbag1
from rosbags.rosbag1 import ReaderError as Rosbag1Error
from rosbags.typesys import Stores, get_typestore

from scaleevent_ros.bags.errors import BagError
from scaleevent_ros.bags.images import depth_of, image_array, image_rgb, is_deep, picture_file
from scaleevent_ros.bags.messages import (
    COMPRESSED_IMAGE,
    IMAGE,
    IMU,
    CompressedImageView,
    ImageView,
)
from scaleevent_ros.bags.reader import BagReader
from scaleevent_ros.sources.errors import SourceError
from scaleevent_ros.sources.event_columns import Columns, event_batches
from scaleevent_ros.sources.faults import UNREADABLE, Faults
from scaleevent_ros.sources.recording import (
    FRAMES_TOPIC,
    ClockStatement,
    ImuSample,
    Picture,
    PictureStream,
    Recording,
)
from scaleevent_ros.sources.rosbag1_scan import ROSBAG1_MAGIC, scan_messages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from scaleevent_ros.events import EventBatch
    from scaleevent_ros.sources.recording import ReadOptions

EVENT_ARRAYS = ("dvs_msgs/msg/EventArray", "prophesee_event_msgs/msg/EventArray")

_NS = 1_000_000_000
_STORES = {True: Stores.ROS1_NOETIC, False: Stores.ROS2_JAZZY}


class EventArray(NamedTuple):
    """An array message: sensor size in pixels, and its events as columns with times in ns."""

    width: int
    height: int
    x: NDArray[np.uint16]
    y: NDArray[np.uint16]
    t: NDArray[np.int64]
    p: NDArray[np.uint8]


class _Bag:
    """A ROS 1 or ROS 2 bag."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_rosbag1 = path.is_file() and _starts_with(path, ROSBAG1_MAGIC)
        self.topics: dict[str, str] = {}
        self._index_damage = ""  # of a ROS 1 bag, which is then scanned
        if self.is_rosbag1:
            try:
                with Rosbag1(path) as reader:
                    self.topics = {c.topic: c.msgtype for c in reader.connections}
            except Rosbag1Error as error:
                self._index_damage = str(error)
                self.topics = {topic: msgtype for topic, msgtype, _ in scan_messages(path)}
        else:
            with _errors(path):
                topics = BagReader(path, skip_damaged=True).topics
                self.topics = {name: info.msgtype for name, info in topics.items()}

    def messages(self, topic: str) -> Iterator[bytes | memoryview]:
        """Yield the serialized messages of a topic in order of record time.

        Raises:
            SourceError: If the bag is damaged; after its last message that can be read.
        """
        damage = self._index_damage
        if not self.is_rosbag1:
            with _errors(self.path):
                reader = BagReader(self.path, skip_damaged=True)
                for message in reader.messages([topic]):
                    yield memoryview(message.data)
                damage = "; ".join(f"{name}: {what}" for name, what in reader.damage.items())
        else:
            done = 0
            if not damage:
                try:
                    with Rosbag1(self.path) as bag:
                        wanted = [c for c in bag.connections if c.topic == topic]
                        for _, _, data in bag.messages(wanted):
                            yield bytes(data)
                            done += 1
                except Exception as error:  # rosbags may raise anything on malformed input
                    damage = str(error)
            if damage:
                found = (data for name, _, data in scan_messages(self.path) if name == topic)
                yield from islice(found, done, None)
        if damage:
            msg = f"{self.path}: is cut off or damaged: {damage}"
            raise SourceError(msg)

    def parse(self, data: bytes | memoryview, msgtype: str) -> Any:
        """Deserialize a message of a standard type.

        Raises:
            SourceError: If the bytes do not match the type.
        """
        store = get_typestore(_STORES[self.is_rosbag1])
        try:
            if self.is_rosbag1:
                return store.deserialize_ros1(data, msgtype)
            return store.deserialize_cdr(data, msgtype)
        except Exception as error:  # rosbags' deserializer may raise anything on malformed input
            msg = f"{self.path}: a {msgtype} cannot be read: {error}"
            raise SourceError(msg) from error


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except BagError as error:
        msg = f"{path}: cannot be read: {error}"
        raise SourceError(msg) from error


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def event_topics(path: Path) -> list[str]:
    """List the topics of event arrays in a bag, by name.

    Raises:
        SourceError: If the bag cannot be read.
    """
    return sorted(name for name, kind in _Bag(path).topics.items() if kind in EVENT_ARRAYS)


def open_recording(path: Path, topic: str, options: ReadOptions) -> Recording:
    """Open one topic of event arrays, with the images and IMU samples of its namespace.

    Raises:
        SourceError: If the bag cannot be read, or the sensor's size is unknown.
    """
    bag = _Bag(path)
    faults = options.faults()
    width, height = _size(bag, topic, options)

    def pieces() -> Iterator[Columns]:
        for place, array in _arrays(bag, topic, faults):
            yield Columns(place, 0, array.x, array.y, array.t, array.p)

    def events(t_start: int) -> Iterator[EventBatch]:
        return event_batches(pieces(), width, height, faults, t_start)

    images = _images_beside(bag, topic)
    imu = next(iter(_beside(bag, topic, (IMU,))), None)
    pictures: tuple[PictureStream, ...] = ()
    if images is not None:
        place = f"{path}: {images}"
        read = partial(_pictures, bag, images, faults)
        pictures = (PictureStream(FRAMES_TOPIC, place, read),)
    return Recording(
        path,
        f"event arrays of {topic}",
        width,
        height,
        events,
        ClockStatement("header_stamps", "Events and frames with the drivers' stamps."),
        pictures,
        imu=None if imu is None else partial(_imu, bag, imu, faults),
        faults=faults,
    )


def parse_event_array(data: bytes | memoryview, place: str, *, ros1: bool) -> EventArray:
    """Parse an array message.

    Args:
        data: Serialized message, in CDR or in the ROS 1 format.
        place: Position in the file, for error messages.
        ros1: Whether it is a ROS 1 message.

    Raises:
        SourceError: If the bytes are not such a message.
    """
    try:
        return _parse_ros1(data) if ros1 else _parse_cdr(data)
    except (struct.error, ValueError, TypeError) as error:
        msg = f"{place}: is not an event array: {error}"
        raise SourceError(msg) from error


def _parse_ros1(data: bytes | memoryview) -> EventArray:
    (length,) = struct.unpack_from("<I", data, 12)  # of the frame id, after seq and stamp
    height, width, count = struct.unpack_from("<3I", data, 16 + length)
    fields = [("x", "<u2"), ("y", "<u2"), ("sec", "<u4"), ("nanosec", "<u4"), ("p", "u1")]
    return _columns(width, height, np.frombuffer(data, np.dtype(fields), count, 28 + length))


def _parse_cdr(data: bytes | memoryview) -> EventArray:
    order = "<" if data[1] else ">"
    body = memoryview(data)[4:]
    (length,) = struct.unpack_from(f"{order}I", body, 8)
    start = (12 + length + 3) // 4 * 4
    height, width, count = struct.unpack_from(f"{order}3I", body, start)
    # Alignment puts the first event's times 4 bytes after its start, and all others' 6 bytes.
    rows = np.empty(
        count, [("x", "u2"), ("y", "u2"), ("sec", "i4"), ("nanosec", "u4"), ("p", "u1")]
    )
    formats = [f"{order}u2", f"{order}u2", f"{order}i4", f"{order}u4", "u1"]
    for some, offsets, place in (
        (slice(0, 1), [0, 2, 4, 8, 12], start + 12),
        (slice(1, None), [0, 2, 6, 10, 14], start + 26),
    ):
        target = rows[some]
        dtype = np.dtype({"names": rows.dtype.names, "formats": formats, "offsets": offsets})
        target[:] = np.ndarray(target.shape, dtype, body, place, (16,)) if len(target) else target
    return _columns(width, height, rows)


def _columns(width: int, height: int, rows: NDArray[Any]) -> EventArray:
    t = rows["sec"].astype(np.int64) * _NS + rows["nanosec"]
    return EventArray(width, height, rows["x"], rows["y"], t, rows["p"])


def _arrays(bag: _Bag, topic: str, faults: Faults) -> Iterator[tuple[str, EventArray]]:
    """Yield position and content of each array of a topic; damaged ones are counted."""
    for number, data in enumerate(_until_cut(bag, topic, faults)):
        place = f"{bag.path}: {topic}: message {number}"
        parse = partial(parse_event_array, data, place, ros1=bag.is_rosbag1)
        array = faults.attempt("messages that cannot be read", parse)
        if array is not None:
            yield place, array


def _until_cut(bag: _Bag, topic: str, faults: Faults) -> Iterator[bytes | memoryview]:
    messages = bag.messages(topic)
    while (data := faults.attempt("truncated files", partial(next, messages, None))) is not None:
        yield data


def _size(bag: _Bag, topic: str, options: ReadOptions) -> tuple[int, int]:
    if options.width is None:
        for _, array in _arrays(bag, topic, Faults()):
            if array.width and array.height:
                return array.width, array.height
            break
    return options.geometry(bag.path)


def _beside(bag: _Bag, topic: str, kinds: tuple[str, ...]) -> list[str]:
    """List the topics of given types by the number of leading parts they share with `topic`."""
    parts = topic.split("/")

    def shared(name: str) -> int:
        pairs = zip(parts, name.split("/"), strict=False)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), 0)

    names = sorted(name for name, kind in bag.topics.items() if kind in kinds)
    return sorted(names, key=shared, reverse=True)


def _images_beside(bag: _Bag, topic: str) -> str | None:
    """Find the topic of images beside one of events: the first that holds pictures, not depth."""
    names = _beside(bag, topic, (IMAGE, COMPRESSED_IMAGE))
    for name in names:
        with suppress(SourceError):
            if (data := next(bag.messages(name), None)) is not None:
                _picture(bag, name, data, lambda: 16)
                return name
    return names[0] if names else None


def _pictures(bag: _Bag, topic: str, faults: Faults, t_start: int) -> Iterator[Picture]:
    depth = cache(partial(_depth, bag, topic))
    for data in _until_cut(bag, topic, faults):
        picture = faults.attempt(UNREADABLE, partial(_picture, bag, topic, data, depth))
        if picture is not None and picture.t >= t_start:
            yield picture


def _picture(bag: _Bag, topic: str, data: bytes | memoryview, depth: Callable[[], int]) -> Picture:
    view = _view(bag, topic, data)
    t = view.stamp_ns
    try:
        if isinstance(view, ImageView) and view.encoding in {"mono8", "mono16", "8UC1"}:
            return Picture(t, image_array(view))
        stored = picture_file(view) if isinstance(view, CompressedImageView) else None
        if is_deep(view):
            view = view._replace(bits=depth())
        return Picture(t, np.ascontiguousarray(image_rgb(view)), stored)
    except BagError as error:
        msg = f"{bag.path}: {topic}: the image at {t} ns: {error}"
        raise SourceError(msg) from error


def _depth(bag: _Bag, topic: str) -> int:
    """Return the number of bits that the 16-bit images of a topic use, in one pass over them."""
    bits = 8
    for data in _until_cut(bag, topic, Faults()):
        with suppress(BagError, SourceError):
            bits = max(bits, depth_of(_view(bag, topic, data)))
    return bits


def _view(bag: _Bag, topic: str, data: bytes | memoryview) -> ImageView | CompressedImageView:
    message = bag.parse(data, bag.topics[topic])
    t = _stamp(message)
    if bag.topics[topic] == COMPRESSED_IMAGE:
        return CompressedImageView(t, "", message.format, message.data)
    return ImageView(
        t,
        "",
        message.height,
        message.width,
        message.encoding,
        bool(message.is_bigendian),
        message.step,
        message.data,
    )


def _imu(bag: _Bag, topic: str, faults: Faults, t_start: int) -> Iterator[ImuSample]:
    for data in _until_cut(bag, topic, faults):
        message = faults.attempt("messages that cannot be read", partial(bag.parse, data, IMU))
        if message is not None and (t := _stamp(message)) >= t_start:
            a, w = message.linear_acceleration, message.angular_velocity
            yield ImuSample(t, (a.x, a.y, a.z), (w.x, w.y, w.z))


def _stamp(message: Any) -> int:
    stamp = message.header.stamp
    return int(stamp.sec) * _NS + int(stamp.nanosec)
