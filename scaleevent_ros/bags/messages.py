"""Messages as views of their CDR bytes: nothing is copied to read one, one copy to write one.

CDR (OMG DDS-XTypes 1.3, section 7.4, plain CDR version 1): four bytes with the byte order, then
each field follows at a multiple of its size, counted from the end of those four bytes.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from scaleevent_ros.bags.errors import MessageError

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

BytesLike: TypeAlias = "bytes | bytearray | memoryview"

EVENT_PACKET = "event_camera_msgs/msg/EventPacket"
IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
IMU = "sensor_msgs/msg/Imu"
LABEL_INFO = "vision_msgs/msg/LabelInfo"

_DEFINITIONS = {
    EVENT_PACKET: (
        "std_msgs/Header header\nuint32 height\nuint32 width\nuint64 seq\nuint64 time_base\n"
        "string encoding\nbool is_bigendian\nuint8[] events\n"
    ),
    "vision_msgs/msg/VisionClass": "uint16 class_id\nstring class_name\n",
    LABEL_INFO: (
        "std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold\n"
    ),
}

_NS = 1_000_000_000
_MAX_SIDE = 1 << 16  # coordinates are uint16


class Header(NamedTuple):
    """A `std_msgs/Header`.

    Attributes:
        stamp_ns: Time stamp in ns.
        frame_id: Coordinate frame.
    """

    stamp_ns: int
    frame_id: str


class EventPacketView(NamedTuple):
    """Message `event_camera_msgs/msg/EventPacket`.

    Attributes:
        stamp_ns: Header stamp in ns: by the drivers' convention the packet's arrival at the host.
        frame_id: Coordinate frame of the sensor.
        height: Sensor height in pixels.
        width: Sensor width in pixels.
        seq: Sequence number of the packet; a gap means that packets were lost.
        time_base: Time base in ns; its meaning depends on the encoding.
        encoding: `evt3`, `libcaer_cmp`, …
        is_bigendian: Byte order of the payload.
        payload: Encoded events; in a parsed message, a view of the message's bytes.
    """

    stamp_ns: int
    frame_id: str
    height: int
    width: int
    seq: int
    time_base: int
    encoding: str
    is_bigendian: bool
    payload: BytesLike


class ImageView(NamedTuple):
    """Message `sensor_msgs/msg/Image`.

    Attributes:
        stamp_ns: Header stamp in ns.
        frame_id: Coordinate frame of the camera.
        height: Rows.
        width: Columns.
        encoding: `rgb8`, `mono16`, `32FC3`, …
        is_bigendian: Byte order of pixels wider than one byte.
        step: Bytes from one row to the next.
        data: Pixels; in a parsed message, a view of the message's bytes.
        bits: Bits used by the pixels of a 16-bit encoding; not part of the message.
    """

    stamp_ns: int
    frame_id: str
    height: int
    width: int
    encoding: str
    is_bigendian: bool
    step: int
    data: BytesLike
    bits: int = 16


class CompressedImageView(NamedTuple):
    """Message `sensor_msgs/msg/CompressedImage`.

    Attributes:
        stamp_ns: Header stamp in ns.
        frame_id: Coordinate frame of the camera.
        format: Format string of the publisher, for example `rgb8; jpeg compressed bgr8`.
        data: Compressed picture; in a parsed message, a view of the message's bytes.
        bits: Bits used by the pixels of a 16-bit encoding; not part of the message.
    """

    stamp_ns: int
    frame_id: str
    format: str
    data: BytesLike
    bits: int = 16


class TypeDefinition(NamedTuple):
    """Definition of a message type.

    Attributes:
        text: Definition including nested types, in the `ros2msg` form.
        hash: Type hash (REP 2016), `RIHS01_…`, or "" if unknown.
    """

    text: str
    hash: str


@cache
def _typestore() -> Typestore:
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    for name, text in _DEFINITIONS.items():
        store.register(get_types_from_msg(text, name))
    return store


@cache
def type_definition(msgtype: str) -> TypeDefinition:
    """Return the definition of a message type of ROS 2's common packages or of this project.

    Args:
        msgtype: Message type, for example `sensor_msgs/msg/Image`.

    Returns:
        Definition of the type; empty if it is unknown, which is allowed in bags.
    """
    store = _typestore()
    if msgtype not in store.fielddefs:
        return TypeDefinition("", "")
    text, _ = store.generate_msgdef(msgtype, ros_version=2)
    return TypeDefinition(text, store.hash_rihs01(msgtype))


def parse_message(cdr: BytesLike, msgtype: str) -> Any:
    """Deserialize a small message of any type, with copies of its fields.

    Returns:
        An object with the message's fields.

    Raises:
        MessageError: If `type_definition` does not know the type, or the bytes do not match it.
    """
    try:
        return _typestore().deserialize_cdr(bytes(cdr), msgtype)
    except Exception as error:
        # rosbags' deserializer may raise anything on malformed input.
        msg = f"not a {msgtype}: {error!r}"
        raise MessageError(msg) from None


class _CdrReader:
    """Reads the fields of one message in order; reads beyond the end raise a MessageError."""

    def __init__(self, cdr: BytesLike) -> None:
        self._bytes = memoryview(cdr).cast("B")
        if len(self._bytes) < 4 or self._bytes[0] != 0 or self._bytes[1] > 1:
            msg = f"not a plain CDR message: it starts with {bytes(self._bytes[:4]).hex()!r}"
            raise MessageError(msg)
        self._order = "<" if self._bytes[1] else ">"
        self._position = 4

    def scalar(self, code: str, size: int) -> int:
        """Read one integer, with the format code and the size in bytes of `struct`."""
        start = self._position + -(self._position - 4) % size
        self._position = start + size
        if self._position > len(self._bytes):
            msg = f"the message ends after {len(self._bytes)} bytes, inside a field"
            raise MessageError(msg)
        return int(struct.unpack_from(self._order + code, self._bytes, start)[0])

    def uint8(self) -> int:
        return self.scalar("B", 1)

    def uint32(self) -> int:
        return self.scalar("I", 4)

    def uint64(self) -> int:
        return self.scalar("Q", 8)

    def octets(self) -> memoryview:
        """View a `uint8[]`."""
        length = self.uint32()
        start = self._position
        left = len(self._bytes) - start
        if length > left:
            msg = f"the message declares {length} bytes of data, but {left} are left"
            raise MessageError(msg)
        self._position = start + length
        return self._bytes[start : self._position]

    def string(self) -> str:
        text = bytes(self.octets())
        try:
            return text.rstrip(b"\0").decode()
        except UnicodeDecodeError:
            msg = f"the message holds {text[:40]!r} instead of a UTF-8 string"
            raise MessageError(msg) from None

    def stamp(self) -> int:
        return self.scalar("i", 4) * _NS + self.uint32()


class _CdrWriter:
    """Gathers the little-endian fields of one message, joined once at the end."""

    def __init__(self) -> None:
        self._parts: list[BytesLike] = [b"\0\1\0\0"]
        self._length = 0

    def scalar(self, code: str, size: int, value: int) -> None:
        self._append(b"\0" * (-self._length % size) + struct.pack("<" + code, value))

    def uint8(self, value: int) -> None:
        self.scalar("B", 1, value)

    def uint32(self, value: int) -> None:
        self.scalar("I", 4, value)

    def uint64(self, value: int) -> None:
        self.scalar("Q", 8, value)

    def octets(self, data: BytesLike) -> None:
        view = memoryview(data).cast("B")
        self.uint32(len(view))
        self._append(view)

    def string(self, text: str) -> None:
        self.octets(text.encode() + b"\0")

    def stamp(self, stamp_ns: int) -> None:
        seconds, nanoseconds = divmod(stamp_ns, _NS)
        self.scalar("i", 4, seconds)
        self.uint32(nanoseconds)

    def _append(self, part: BytesLike) -> None:
        self._parts.append(part)
        self._length += len(part)

    def join(self) -> bytes:
        return b"".join(self._parts)


def parse_header(cdr: BytesLike) -> Header:
    """Read the header of any message that starts with a `std_msgs/Header`.

    Raises:
        MessageError: If the bytes are too short, or not CDR.
    """
    reader = _CdrReader(cdr)
    return Header(reader.stamp(), reader.string())


def parse_header_stamp(cdr: BytesLike) -> int:
    """Read only the stamp of a header, in ns; raises the errors of `parse_header`."""
    return _CdrReader(cdr).stamp()


def parse_event_packet(cdr: BytesLike) -> EventPacketView:
    """Read an event packet without copying its payload.

    Args:
        cdr: The serialized message, as bags hold it and raw subscriptions deliver it.

    Raises:
        MessageError: If the bytes are not such a message, or truncated, or a side of the sensor is
            not in 1 to 65,536.
    """
    reader = _CdrReader(cdr)
    packet = EventPacketView(
        stamp_ns=reader.stamp(),
        frame_id=reader.string(),
        height=reader.uint32(),
        width=reader.uint32(),
        seq=reader.uint64(),
        time_base=reader.uint64(),
        encoding=reader.string(),
        is_bigendian=bool(reader.uint8()),
        payload=reader.octets(),
    )
    if not (0 < packet.width <= _MAX_SIDE and 0 < packet.height <= _MAX_SIDE):
        msg = f"a sensor of {packet.width}x{packet.height} pixels is impossible"
        raise MessageError(msg)
    return packet


def serialize_event_packet(packet: EventPacketView) -> bytes:
    """Write an event packet as little-endian CDR."""
    writer = _CdrWriter()
    writer.stamp(packet.stamp_ns)
    writer.string(packet.frame_id)
    writer.uint32(packet.height)
    writer.uint32(packet.width)
    writer.uint64(packet.seq)
    writer.uint64(packet.time_base)
    writer.string(packet.encoding)
    writer.uint8(packet.is_bigendian)
    writer.octets(packet.payload)
    return writer.join()


def parse_image(cdr: BytesLike) -> ImageView:
    """Read an image without copying its pixels.

    Raises:
        MessageError: If the bytes are not such a message, or truncated.
    """
    reader = _CdrReader(cdr)
    return ImageView(
        stamp_ns=reader.stamp(),
        frame_id=reader.string(),
        height=reader.uint32(),
        width=reader.uint32(),
        encoding=reader.string(),
        is_bigendian=bool(reader.uint8()),
        step=reader.uint32(),
        data=reader.octets(),
    )


def serialize_image(image: ImageView) -> bytes:
    """Write an image as little-endian CDR."""
    writer = _CdrWriter()
    writer.stamp(image.stamp_ns)
    writer.string(image.frame_id)
    writer.uint32(image.height)
    writer.uint32(image.width)
    writer.string(image.encoding)
    writer.uint8(image.is_bigendian)
    writer.uint32(image.step)
    writer.octets(image.data)
    return writer.join()


def parse_compressed_image(cdr: BytesLike) -> CompressedImageView:
    """Read a compressed image without copying its data.

    Raises:
        MessageError: If the bytes are not such a message, or truncated.
    """
    reader = _CdrReader(cdr)
    return CompressedImageView(
        stamp_ns=reader.stamp(),
        frame_id=reader.string(),
        format=reader.string(),
        data=reader.octets(),
    )


def serialize_compressed_image(image: CompressedImageView) -> bytes:
    """Write a compressed image as little-endian CDR."""
    writer = _CdrWriter()
    writer.stamp(image.stamp_ns)
    writer.string(image.frame_id)
    writer.string(image.format)
    writer.octets(image.data)
    return writer.join()
