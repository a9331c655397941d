"""Bags of event arrays, written by rosbags' own writers."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from bag_contents import assert_same_events, pixels, read_bag
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from recording_events import photographs, recorded_events
from rosbags.rosbag1 import Reader as Rosbag1Reader
from rosbags.rosbag1 import ReaderError as Rosbag1Error
from rosbags.rosbag1 import Writer as Rosbag1Writer
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Rosbag2Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from scaleevent_ros.sources import SourceError
from scaleevent_ros.sources.convert import ConvertOptions, convert
from scaleevent_ros.sources.formats import find_recordings
from scaleevent_ros.sources.recording import ReadOptions
from scaleevent_ros.sources.ros_arrays import parse_event_array

if TYPE_CHECKING:
    from pathlib import Path

    from scaleevent_ros.events import EventBatch

START_S = 1_500_000_000
EVENTS = recorded_events(64, 48, 900, start_s=START_S)
FRAMES = photographs(3, 48, 64)
DEFINITIONS = {
    "Event": "uint16 x\nuint16 y\n{time} ts\nbool polarity\n",
    "EventArray": "std_msgs/Header header\nuint32 height\nuint32 width\n{package}/Event[] events\n",
}


class BagMaker:
    """Makes messages of one kind of bag."""

    def __init__(self, package: str, *, ros1: bool) -> None:
        self.ros1 = ros1
        self.package = package
        self.store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_JAZZY)
        time = "time" if ros1 else "builtin_interfaces/Time"
        for name, text in DEFINITIONS.items():
            definition = text.format(time=time, package=package)
            self.store.register(get_types_from_msg(definition, f"{package}/msg/{name}"))
        self.types: Any = self.store.types

    def time(self, t: int) -> Any:
        return self.types["builtin_interfaces/msg/Time"](*divmod(t, 10**9))

    def header(self, t: int) -> Any:
        sequence = (1,) if self.ros1 else ()
        return self.types["std_msgs/msg/Header"](*sequence, self.time(t), "cam")

    def array(self, events: EventBatch) -> tuple[int, str, Any]:
        event = self.types[f"{self.package}/msg/Event"]
        rows = zip(events.x, events.y, events.t.tolist(), events.p, strict=True)
        some = [event(int(x), int(y), self.time(t), bool(p)) for x, y, t, p in rows]
        stamp = int(events.t[-1])
        name = f"{self.package}/msg/EventArray"
        return stamp, name, self.types[name](self.header(stamp), events.height, events.width, some)

    def image(self, t: int, picture: np.ndarray, encoding: str = "mono8") -> tuple[int, str, Any]:
        name = "sensor_msgs/msg/Image"
        height, width = picture.shape
        message = self.types[name](
            self.header(t),
            height,
            width,
            encoding,
            0,
            width * picture.itemsize,
            picture.ravel().view(np.uint8),
        )
        return t, name, message

    def imu(self, t: int) -> tuple[int, str, Any]:
        vector, nine = self.types["geometry_msgs/msg/Vector3"], np.zeros(9)
        turn = self.types["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0)
        rate, acceleration = vector(1.0, 2.0, 3.0), vector(4.0, 5.0, 6.0)
        name = "sensor_msgs/msg/Imu"
        return t, name, self.types[name](self.header(t), turn, nine, rate, nine, acceleration, nine)

    def serialize(self, msgtype: str, message: Any) -> bytes:
        write = self.store.serialize_ros1 if self.ros1 else self.store.serialize_cdr
        return bytes(write(message, msgtype))

    def write(self, path: Path, messages: list[tuple[str, tuple[int, str, Any]]]) -> None:
        writer: Any
        if self.ros1:
            writer = Rosbag1Writer(path)
        else:
            writer = Rosbag2Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
        with writer:
            connections = {
                topic: writer.add_connection(topic, kind, typestore=self.store)
                for topic, kind in {topic: message[1] for topic, message in messages}.items()
            }
            for topic, (t, kind, message) in sorted(messages, key=lambda one: one[1][0]):
                writer.write(connections[topic], t, self.serialize(kind, message))


def arrays(maker: BagMaker, topic: str, events: EventBatch = EVENTS) -> list[Any]:
    return [(topic, maker.array(events[a:b])) for a, b in pairwise([0, 1, 3, 400, len(events)])]


@pytest.mark.parametrize("package", ["dvs_msgs", "prophesee_event_msgs"])
@pytest.mark.parametrize("ros1", [True, False])
def test_events_images_and_imu_arrive(tmp_path: Path, package: str, *, ros1: bool) -> None:
    maker = BagMaker(package, ros1=ros1)
    times = [START_S * 10**9 + n * 100_000_000 for n in range(1, 4)]
    messages = arrays(maker, "/dvs/events")
    messages += [("/dvs/image_raw", maker.image(t, f)) for t, f in zip(times, FRAMES, strict=True)]
    messages += [("/other/image", maker.image(times[0], FRAMES[0, :10]))]
    messages += [("/dvs/imu", maker.imu(t)) for t in times]
    path = tmp_path / ("a.bag" if ros1 else "a")
    maker.write(path, messages)
    convert(path, tmp_path / "bag", ConvertOptions(ReadOptions(strict=True)))
    bag = read_bag(tmp_path / "bag")
    assert_same_events(bag.events, EVENTS)
    assert (bag.events.width, bag.events.height) == (64, 48)
    images = bag.messages["/camera/image_raw"]
    assert [t for t, _ in images] == times
    assert np.array_equal([pixels(m) for _, m in images], FRAMES)
    samples = bag.messages["/event_camera/imu"]
    assert [t for t, _ in samples] == times
    assert (samples[0][1].linear_acceleration.z, samples[0][1].angular_velocity.x) == (6.0, 1.0)


@pytest.mark.parametrize("ros1", [True, False])
def test_mosaics_of_12_bits_are_scaled_by_the_whole_topic(tmp_path: Path, *, ros1: bool) -> None:
    maker = BagMaker("dvs_msgs", ros1=ros1)
    messages = arrays(maker, "/dvs/events")
    for n, value in enumerate([512, 4095, 2048], 1):
        mosaic = np.full((48, 64), value, "<u2")
        message = maker.image(START_S * 10**9 + n * 100_000_000, mosaic, "bayer_rggb16")
        messages.append(("/dvs/image_raw", message))
    path = tmp_path / ("a.bag" if ros1 else "a")
    maker.write(path, messages)
    convert(path, tmp_path / "bag", ConvertOptions(ReadOptions(strict=True)))
    images = read_bag(tmp_path / "bag").messages["/camera/image_raw"]
    assert [np.unique(pixels(m)).tolist() for _, m in images] == [[32], [255], [128]]


def test_each_topic_of_arrays_is_a_recording(tmp_path: Path) -> None:
    maker = BagMaker("dvs_msgs", ros1=True)
    (tmp_path / "set").mkdir()
    right = EVENTS[:500]
    messages = arrays(maker, "/davis/left/events") + arrays(maker, "/davis/right/events", right)
    maker.write(tmp_path / "set/stereo.bag", messages)
    found = find_recordings(tmp_path / "set")
    assert [one.name for one in found] == ["stereo/davis_left_events", "stereo/davis_right_events"]
    convert(tmp_path / "set", tmp_path / "out", ConvertOptions())
    assert_same_events(read_bag(tmp_path / "out/stereo/davis_right_events").events, right)


def test_damaged_arrays_are_named() -> None:
    maker = BagMaker("dvs_msgs", ros1=True)
    good = maker.serialize(*maker.array(EVENTS)[1:])
    with pytest.raises(SourceError, match=r"^here: is not an event array"):
        parse_event_array(good[:-1], "here", ros1=True)
    with pytest.raises(SourceError, match=r"^here: is not an event array"):
        parse_event_array(b"\x00\x01\x00\x00", "here", ros1=False)


def test_depth_beside_the_events_is_not_taken_for_frames(tmp_path: Path) -> None:
    """ESIM writes depth maps in the namespace of its events and images."""
    maker = BagMaker("dvs_msgs", ros1=True)
    times = [START_S * 10**9 + n * 100_000_000 for n in range(1, 4)]
    messages = arrays(maker, "/cam0/events")
    for t, frame in zip(times, FRAMES, strict=True):
        depth = np.ones((48, 64), "<f4")
        messages.append(("/cam0/depthmap", maker.image(t, depth, "32FC1")))
        messages.append(("/cam0/image_raw", maker.image(t, frame)))
    maker.write(tmp_path / "a.bag", messages)
    convert(tmp_path / "a.bag", tmp_path / "bag", ConvertOptions(ReadOptions(strict=True)))
    images = read_bag(tmp_path / "bag").messages["/camera/image_raw"]
    assert np.array_equal([pixels(m) for _, m in images], FRAMES)


def test_encodings_that_are_no_frames_are_named(tmp_path: Path) -> None:
    maker = BagMaker("dvs_msgs", ros1=True)
    deep = maker.image(START_S * 10**9 + 100_000_000, np.ones((48, 64), "<u2"), "16UC1")
    maker.write(tmp_path / "a.bag", [*arrays(maker, "/dvs/events"), ("/dvs/image_raw", deep)])
    convert(tmp_path / "a.bag", tmp_path / "bag", ConvertOptions())
    assert_same_events(read_bag(tmp_path / "bag").events, EVENTS)
    faults = json.loads((tmp_path / "bag/conversion.json").read_text())["faults"]
    assert "/dvs/image_raw" in faults["pictures that cannot be read"]["first"]
    assert "'16UC1'" in faults["pictures that cannot be read"]["first"]


def write_chunks(path: Path, compression: str | None) -> None:
    """Write a ROS 1 bag of arrays of 50 events, three in a chunk."""
    maker = BagMaker("dvs_msgs", ros1=True)
    writer = Rosbag1Writer(path)
    writer.chunk_threshold = 2000
    if compression is not None:
        writer.set_compression(Rosbag1Writer.CompressionFormat[compression])
    with writer:
        topic = writer.add_connection("/e", "dvs_msgs/msg/EventArray", typestore=maker.store)
        for first in range(0, len(EVENTS), 50):
            t, kind, message = maker.array(EVENTS[first : first + 50])
            writer.write(topic, t, maker.serialize(kind, message))


@pytest.mark.parametrize("compression", [None, "LZ4", "BZ2"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_of_a_torn_bag_every_whole_message_is_converted(
    tmp_path: Path, compression: str | None, share: float
) -> None:
    path = tmp_path / "a.bag"
    write_chunks(path, compression)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(Rosbag1Error):  # or this is no test of a bag without an index
        Rosbag1Reader(path).open()
    convert(path, tmp_path / "bag", ConvertOptions())
    found = read_bag(tmp_path / "bag").events
    assert share * len(EVENTS) - 250 < len(found) < len(EVENTS)
    assert len(found) % 50 == 0
    assert_same_events(found, EVENTS[: len(found)])
    faults = json.loads((tmp_path / "bag/conversion.json").read_text())["faults"]
    assert faults["truncated files"]["first"].startswith(f"{path}: is cut off or damaged: ")
    with pytest.raises(SourceError, match=r"a\.bag: is cut off or damaged"):
        convert(path, tmp_path / "strict", ConvertOptions(ReadOptions(strict=True)))


@pytest.mark.parametrize("compression", ["LZ4", "BZ2"])
def test_a_damaged_chunk_of_ros_1_costs_that_chunk_only(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "a.bag"
    write_chunks(path, compression)
    content = bytearray(path.read_bytes())
    middle = content.index({"LZ4": b"\x04\x22\x4d\x18", "BZ2": b"BZh"}[compression], 8000)
    content[middle + 4 : middle + 40] = bytes(36)
    path.write_bytes(content)
    convert(path, tmp_path / "bag", ConvertOptions())
    found = read_bag(tmp_path / "bag").events
    assert len(EVENTS) - 200 <= len(found) < len(EVENTS)
    assert found.t[-1] == EVENTS.t[-1]
    faults = json.loads((tmp_path / "bag/conversion.json").read_text())["faults"]
    assert "a.bag: is cut off or damaged" in faults["truncated files"]["first"]


def test_a_damaged_chunk_costs_that_chunk_only(tmp_path: Path) -> None:
    maker = BagMaker("dvs_msgs", ros1=False)
    path = tmp_path / "a.mcap"
    with path.open("wb") as file:
        writer = McapWriter(file, chunk_size=1500, compression=CompressionType.ZSTD)
        writer.start()
        name = "dvs_msgs/msg/EventArray"
        channel = writer.register_channel(
            "/dvs/events", "cdr", writer.register_schema(name, "ros2msg", b"")
        )
        for first in range(0, len(EVENTS), 50):
            t, kind, message = maker.array(EVENTS[first : first + 50])
            writer.add_message(channel, t, maker.serialize(kind, message), t)
        writer.finish()  # type: ignore[no-untyped-call]
    content = bytearray(path.read_bytes())
    middle = content.index(b"\x28\xb5\x2f\xfd", len(content) // 2)
    content[middle + 20 : middle + 40] = bytes(20)
    path.write_bytes(content)
    convert(path, tmp_path / "bag", ConvertOptions())
    found = read_bag(tmp_path / "bag").events
    assert len(EVENTS) - 200 <= len(found) < len(EVENTS)
    assert found.t[-1] == EVENTS.t[-1]
    faults = json.loads((tmp_path / "bag/conversion.json").read_text())["faults"]
    assert "a.mcap: is cut off or damaged" in faults["truncated files"]["first"]
