"""Bags in every variant, written for tests with `rosbags`, an independent implementation."""

from __future__ import annotations

import resource
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EVENT_TOPIC = "/camera/events"
IMAGE_TOPIC = "/camera/image_raw"
START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 10_000_000

TYPESTORE = get_typestore(Stores.ROS2_JAZZY)
TYPESTORE.register(
    get_types_from_msg(
        "std_msgs/Header header\nuint32 height\nuint32 width\nuint64 seq\nuint64 time_base\n"
        "string encoding\nbool is_bigendian\nuint8[] events\n",
        "event_camera_msgs/msg/EventPacket",
    )
)


class Message(NamedTuple):
    """Messages that were written."""

    topic: str
    time_ns: int
    cdr: bytes


def header(stamp_ns: int, frame_id: str) -> Any:
    types = TYPESTORE.types
    seconds, nanoseconds = divmod(stamp_ns, 10**9)
    stamp = types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
    return types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)


def event_packet_cdr(
    index: int, payload: bytes, *, encoding: str = "evt3", little_endian: bool = True
) -> bytes:
    """Serialize an event packet with rosbags."""
    message = TYPESTORE.types["event_camera_msgs/msg/EventPacket"](
        header=header(START_NS + index * PERIOD_NS, "event_camera"),
        height=480,
        width=640,
        seq=index,
        time_base=index * 1000,
        encoding=encoding,
        is_bigendian=False,
        events=np.frombuffer(payload, np.uint8),
    )
    return bytes(
        TYPESTORE.serialize_cdr(
            message, "event_camera_msgs/msg/EventPacket", little_endian=little_endian
        )
    )


def image_cdr(index: int, pixels: np.ndarray, encoding: str) -> bytes:
    """Serialize an image with rosbags."""
    message = TYPESTORE.types["sensor_msgs/msg/Image"](
        header=header(START_NS + index * PERIOD_NS, "camera"),
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=pixels.strides[0],
        data=np.ascontiguousarray(pixels).reshape(-1).view(np.uint8),
    )
    return bytes(TYPESTORE.serialize_cdr(message, "sensor_msgs/msg/Image"))


def example_messages(count: int = 60) -> list[Message]:
    """Create event packets, and an image with each third, in order of time."""
    random = np.random.default_rng(4)
    messages = []
    for index in range(count):
        time_ns = START_NS + index * PERIOD_NS + 2_000_000
        payload = random.bytes(int(random.integers(0, 3000)))
        messages.append(Message(EVENT_TOPIC, time_ns, event_packet_cdr(index, payload)))
        if index % 3 == 0:
            pixels = random.integers(0, 255, (24, 32, 3), np.uint8)
            messages.append(Message(IMAGE_TOPIC, time_ns + 5, image_cdr(index, pixels, "rgb8")))
    return messages


def write_bag(
    path: Path,
    messages: list[Message],
    *,
    storage: str = "mcap",
    compression: str = "none",
    version: Literal[8, 9] = 9,
) -> Path:
    """Write a bag with rosbags."""
    writer = Writer(path, version=version, storage_plugin=StoragePlugin[storage.upper()])
    if compression != "none":
        writer.set_compression(CompressionMode[compression.upper()], CompressionFormat.ZSTD)
    with writer:
        connections = {
            EVENT_TOPIC: writer.add_connection(
                EVENT_TOPIC, "event_camera_msgs/msg/EventPacket", typestore=TYPESTORE
            ),
            IMAGE_TOPIC: writer.add_connection(
                IMAGE_TOPIC, "sensor_msgs/msg/Image", typestore=TYPESTORE
            ),
        }
        for message in messages:
            writer.write(connections[message.topic], message.time_ns, message.cdr)
    return path


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Make the kernel refuse to grow a file beyond this size, in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
