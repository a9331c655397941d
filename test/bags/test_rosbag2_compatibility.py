"""Bags as rosbag2 of each distribution reads them, and as other libraries decode their messages.

rosbag2 itself is in no package registry. `Rosbag2Metadata` follows the decoders of its branches
humble, iron and jazzy (`rosbag2_storage/yaml.hpp`, `rosbag2_storage/qos.cpp`): which fields each
requires, where QoS is a text, and when policies are numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import yaml
from bag_files import EVENT_TOPIC, IMAGE_TOPIC, TYPESTORE, example_messages, header
from mcap.reader import SeekingReader
from mcap_ros2.decoder import DecoderFactory
from rosbags.highlevel import AnyReader
from rosbags.typesys import get_types_from_msg

from scaleevent_ros.bags import BagWriter, Qos
from scaleevent_ros.bags.messages import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    EVENT_PACKET,
    IMAGE,
    IMU,
    LABEL_INFO,
)
from scaleevent_ros.nodes.parameters import DISTRIBUTIONS

if TYPE_CHECKING:
    from pathlib import Path

VISION_CLASS = "vision_msgs/msg/VisionClass"
for msgtype, definition in (
    (VISION_CLASS, "uint16 class_id\nstring class_name\n"),
    (LABEL_INFO, f"std_msgs/Header header\n{VISION_CLASS}[] class_map\nfloat32 threshold\n"),
):
    TYPESTORE.register(get_types_from_msg(definition, msgtype))

# rmw/types.h and rmw/qos_string_conversions.c.
POLICIES = {
    "history": ("system_default", "keep_last", "keep_all", "unknown"),
    "reliability": ("system_default", "reliable", "best_effort", "unknown"),
    "durability": ("system_default", "transient_local", "volatile", "unknown"),
    "liveliness": ("system_default", "automatic"),
}
INFINITE = {"sec": 9_223_372_036, "nsec": 854_775_807}  # RMW_DURATION_INFINITE
QOS = {
    EVENT_TOPIC: Qos("best_effort", depth=500),
    IMAGE_TOPIC: Qos("reliable", "transient_local", "keep_all", 7),
    "/unknown": Qos("unknown", "unknown", "unknown", 0),
}


def read_qos(node: Any, distribution: str) -> Qos:
    """`convert<Rosbag2QoS>::decode`: numbers up to Iron, numbers or names from Jazzy on."""
    names = {}
    for policy, known in POLICIES.items():
        value = node[policy]
        if value.isdecimal():
            names[policy] = known[int(value)]
        else:
            assert distribution not in ("humble", "iron"), f"{distribution} wants a number: {value}"
            assert value in known
            names[policy] = value
    assert names.pop("liveliness") == "automatic"
    for duration in ("deadline", "lifespan", "liveliness_lease_duration"):
        assert {name: int(value) for name, value in node[duration].items()} == INFINITE
    assert node["avoid_ros_namespace_conventions"] == "false"
    return Qos(depth=int(node["depth"]), **names)


class Rosbag2Metadata(NamedTuple):
    """`rosbag2_storage::BagMetadata`."""

    storage: str
    start_ns: int
    duration_ns: int
    message_count: int
    topics: dict[str, tuple[str, int]]
    qos: dict[str, Qos]
    files: list[tuple[str, int, int, int]]
    custom_data: dict[str, str]

    @staticmethod
    def decode(text: str, distribution: str) -> Rosbag2Metadata:
        # Like yaml-cpp, which knows no types: every scalar is a text.
        node = yaml.load(text, Loader=yaml.BaseLoader)
        if "rosbag2_bagfile_information" in node:
            node = node["rosbag2_bagfile_information"]
        version = int(node["version"])
        topics, qos = {}, {}
        for entry in node["topics_with_message_count"]:
            topic = entry["topic_metadata"]
            assert topic["serialization_format"] == "cdr"
            profiles = topic["offered_qos_profiles"]
            if version < 9 or distribution in ("humble", "iron"):
                assert isinstance(profiles, str), "QoS must be a text"
                profiles = yaml.load(profiles, Loader=yaml.BaseLoader)
            (profile,) = profiles
            qos[topic["name"]] = read_qos(profile, distribution)
            if distribution != "humble":
                assert topic["type_description_hash"].startswith("RIHS01_") or (
                    topic["type_description_hash"] == ""
                )
            topics[topic["name"]] = (topic["type"], int(entry["message_count"]))
        files = [
            (
                file["path"],
                int(file["starting_time"]["nanoseconds_since_epoch"]),
                int(file["duration"]["nanoseconds"]),
                int(file["message_count"]),
            )
            for file in node["files"]
        ]
        assert [name for name, *_ in files] == node["relative_file_paths"]
        assert (node["compression_format"], node["compression_mode"]) == ("", "")
        custom: dict[str, str] = {}
        if distribution != "humble":
            assert isinstance(node["ros_distro"], str)
            custom = {} if node["custom_data"] == "null" else node["custom_data"]
        return Rosbag2Metadata(
            node["storage_identifier"],
            int(node["starting_time"]["nanoseconds_since_epoch"]),
            int(node["duration"]["nanoseconds"]),
            int(node["message_count"]),
            topics,
            qos,
            files,
            custom,
        )


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("custom", [{}, {"camera": "left", "note": "a: b\n"}])
def test_each_distribution_reads_the_metadata(
    tmp_path: Path, distribution: str, custom: dict[str, str]
) -> None:
    path = tmp_path / "bag"
    messages = example_messages()
    with BagWriter(
        path,
        metadata_version=DISTRIBUTIONS[distribution],
        max_duration_ns=messages[-1].time_ns - messages[0].time_ns,
        custom_data=custom,
    ) as writer:
        writer.add_topic(EVENT_TOPIC, EVENT_PACKET, qos=QOS[EVENT_TOPIC])
        writer.add_topic(IMAGE_TOPIC, IMAGE, qos=QOS[IMAGE_TOPIC])
        writer.add_topic("/unknown", "our_msgs/msg/A", qos=QOS["/unknown"])
        for message in messages:
            writer.write(message.topic, message.time_ns, message.cdr)
    read = Rosbag2Metadata.decode((path / "metadata.yaml").read_text(), distribution)
    times = [message.time_ns for message in messages]
    assert (read.storage, read.start_ns, read.duration_ns, read.message_count) == (
        "mcap",
        times[0],
        times[-1] - times[0],
        len(messages),
    )
    assert read.topics == {
        EVENT_TOPIC: (EVENT_PACKET, 60),
        IMAGE_TOPIC: (IMAGE, 20),
        "/unknown": ("our_msgs/msg/A", 0),
    }
    assert read.qos == QOS
    assert len(read.files) > 1
    assert sum(count for *_, count in read.files) == len(messages)
    assert all(times[0] <= start <= start + span <= times[-1] for _, start, span, _ in read.files)
    if distribution != "humble":
        assert read.custom_data == custom
    # rosbag2_storage_mcap opens a file alone by this record and by its channels' metadata.
    for name, *_ in read.files:
        with (path / name).open("rb") as stream:
            reader = SeekingReader(stream)
            (record,) = reader.iter_metadata()
            summary = reader.get_summary()
        text = record.metadata["serialized_metadata"]
        alone = Rosbag2Metadata.decode(text, distribution)
        assert alone.files == [file for file in read.files if file[0] == name]
        assert summary is not None
        for channel in summary.channels.values():
            (profile,) = yaml.load(channel.metadata["offered_qos_profiles"], Loader=yaml.BaseLoader)
            assert read_qos(profile, distribution) == QOS[channel.topic]


def test_an_empty_bag_has_the_times_that_rosbag2_writes(tmp_path: Path) -> None:
    BagWriter(tmp_path / "bag").close()
    read = Rosbag2Metadata.decode((tmp_path / "bag" / "metadata.yaml").read_text(), "jazzy")
    never = 2**63 - 1  # time_point::max()
    assert (read.start_ns, read.duration_ns, read.message_count) == (never, 0, 0)


def test_policies_have_the_numbers_of_rmw() -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    from rclpy import qos

    for policy, names in POLICIES.items():
        numbers = getattr(qos, f"{policy.capitalize()}Policy")
        for number, name in enumerate(names):
            assert numbers[name.upper()].value == number


def messages_of_every_type() -> dict[str, Any]:
    """Return a message of every type that the recorder takes by default, and of our outputs."""
    types = TYPESTORE.types
    random = np.random.default_rng(0)

    def numbers(count: int) -> np.ndarray:
        return random.standard_normal(count)

    def octets(count: int) -> np.ndarray:
        return random.integers(0, 256, count, dtype=np.uint8)

    x, y, z = numbers(3)
    vector = types["geometry_msgs/msg/Vector3"](x=x, y=y, z=z)
    stamp = header(1_700_000_000_123_456_789, "sensor")
    return {
        EVENT_PACKET: types[EVENT_PACKET](
            header=stamp, height=480, width=640, seq=2**40, time_base=2**50, encoding="evt3",
            is_bigendian=False, events=octets(1001),
        ),
        IMAGE: types[IMAGE](
            header=stamp, height=3, width=5, encoding="bgr8", is_bigendian=0, step=15,
            data=octets(45),
        ),
        COMPRESSED_IMAGE: types[COMPRESSED_IMAGE](header=stamp, format="jpeg", data=octets(17)),
        CAMERA_INFO: types[CAMERA_INFO](
            header=stamp, height=480, width=640, distortion_model="plumb_bob", d=numbers(5),
            k=numbers(9), r=numbers(9), p=numbers(12), binning_x=1, binning_y=2,
            roi=types["sensor_msgs/msg/RegionOfInterest"](
                x_offset=1, y_offset=2, height=3, width=4, do_rectify=True
            ),
        ),
        IMU: types[IMU](
            header=stamp,
            orientation=types["geometry_msgs/msg/Quaternion"](x=x, y=y, z=z, w=1.0),
            orientation_covariance=numbers(9), angular_velocity=vector,
            angular_velocity_covariance=numbers(9), linear_acceleration=vector,
            linear_acceleration_covariance=numbers(9),
        ),
        LABEL_INFO: types[LABEL_INFO](
            header=stamp, threshold=0.5,
            class_map=[types[VISION_CLASS](class_id=7, class_name="road")],
        ),
    }  # fmt: skip


def plain(message: Any) -> Any:
    """Bring a message of any library to dictionaries, lists and numbers."""
    fields = getattr(message, "__dataclass_fields__", None) or getattr(message, "__slots__", None)
    if fields:
        return {name: plain(getattr(message, name)) for name in fields if not name.startswith("__")}
    if isinstance(message, (list, tuple, bytes, np.ndarray)):
        return [plain(item) for item in message]
    return message.item() if isinstance(message, np.generic) else message


@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
@pytest.mark.parametrize("version", [8, 9])
def test_other_libraries_decode_every_message_by_the_bag_alone(
    tmp_path: Path, compression: str | None, version: int
) -> None:
    path = tmp_path / "bag"
    messages = messages_of_every_type()
    with BagWriter(path, metadata_version=version, compression=compression) as writer:
        for number, (msgtype, message) in enumerate(messages.items()):
            writer.add_topic(f"/{number}", msgtype)
            for time_ns in range(3):
                cdr = TYPESTORE.serialize_cdr(message, msgtype)
                writer.write(f"/{number}", time_ns, bytes(cdr))
    expected = {msgtype: [plain(message)] * 3 for msgtype, message in messages.items()}

    with_mcap: dict[str, list[Any]] = {}
    with (path / "bag_0.mcap").open("rb") as stream:
        reader = SeekingReader(stream, decoder_factories=[DecoderFactory()])
        for schema, _, _, message in reader.iter_decoded_messages():
            assert schema is not None
            with_mcap.setdefault(schema.name, []).append(plain(message))
    assert with_mcap == expected

    # By the definitions in the bag, without a typestore.
    with_rosbags: dict[str, list[Any]] = {}
    with AnyReader([path]) as any_reader:
        for connection, _, data in any_reader.messages():
            message = any_reader.deserialize(data, connection.msgtype)
            with_rosbags.setdefault(connection.msgtype, []).append(plain(message))
    assert with_rosbags == expected
