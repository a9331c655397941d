"""The writer's bags, read by rosbags and by the mcap library; full disks; killed processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from bag_files import (
    EVENT_TOPIC,
    IMAGE_TOPIC,
    START_NS,
    Message,
    example_messages,
    files_limited_to,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.exceptions import EndOfFile
from mcap.reader import NonSeekingReader, SeekingReader
from mcap.records import Message as McapMessage
from mcap.stream_reader import StreamReader
from rosbags.interfaces import ConnectionExtRosbag2
from rosbags.rosbag2 import Reader

from scaleevent_ros.bags import (
    BagError,
    BagExistsError,
    BagReader,
    BagWriter,
    DiskFullError,
    Qos,
)
from scaleevent_ros.bags.messages import EVENT_PACKET, IMAGE, TypeDefinition
from scaleevent_ros.bags.metadata import write_metadata

if TYPE_CHECKING:
    from pathlib import Path

MESSAGES = example_messages()


def write(path: Path, messages: list[Message], **options: Any) -> BagWriter:
    with BagWriter(path, **options) as writer:
        writer.add_topic(EVENT_TOPIC, EVENT_PACKET, qos=Qos("best_effort", depth=500))
        writer.add_topic(IMAGE_TOPIC, IMAGE)
        for message in messages:
            writer.write(message.topic, message.time_ns, message.cdr)
    return writer


def read_with_rosbags(path: Path) -> list[Message]:
    with Reader(path) as reader:
        return [
            Message(connection.topic, time_ns, bytes(data))
            for connection, time_ns, data in reader.messages()
        ]


def metadata(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((path / "metadata.yaml").read_text())[
        "rosbag2_bagfile_information"
    ]
    return content


@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
@pytest.mark.parametrize("version", [8, 9])
def test_rosbags_reads_what_was_written(
    tmp_path: Path, compression: str | None, version: int
) -> None:
    path = tmp_path / "bag"
    writer = write(path, MESSAGES, compression=compression, metadata_version=version)
    assert read_with_rosbags(path) == MESSAGES
    assert writer.counts == {EVENT_TOPIC: 60, IMAGE_TOPIC: 20}
    with Reader(path) as reader:
        assert (reader.start_time, reader.end_time - 1) == (
            MESSAGES[0].time_ns,
            MESSAGES[-1].time_ns,
        )
        connection = next(item for item in reader.connections if item.topic == EVENT_TOPIC)
        assert connection.msgcount == 60
        assert connection.msgdef.data.startswith("std_msgs/Header header\nuint32 height")
        assert isinstance(connection.ext, ConnectionExtRosbag2)
        (qos,) = connection.ext.offered_qos_profiles
        assert (qos.reliability.name, qos.depth, qos.durability.name) == (
            "BEST_EFFORT",
            500,
            "VOLATILE",
        )
    assert list(path.glob(".*")) == []


@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
def test_the_mcap_library_reads_a_file_alone(tmp_path: Path, compression: str | None) -> None:
    path = tmp_path / "bag"
    write(path, MESSAGES, compression=compression)
    for reader in (SeekingReader, NonSeekingReader):
        with (path / "bag_0.mcap").open("rb") as stream:
            found = [
                Message(channel.topic, message.log_time, message.data)
                for _, channel, message in reader(stream, validate_crcs=True).iter_messages()
            ]
        assert found == MESSAGES
    with (path / "bag_0.mcap").open("rb") as stream:
        (record,) = SeekingReader(stream).iter_metadata()
    alone = yaml.safe_load(record.metadata["serialized_metadata"])
    assert (record.name, alone["message_count"]) == ("rosbag2", 80)


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_files_are_split_by_size(tmp_path: Path, compression: str | None) -> None:
    path = tmp_path / "bag"
    write(path, MESSAGES, compression=compression, max_bytes=30_000)
    files = sorted(path.glob("*.mcap"))
    assert len(files) > 3
    if compression is None:
        # The index comes on top of the limit.
        assert all(file.stat().st_size < 30_000 + 10_000 for file in files)
    assert [Message(m.topic, m.record_time_ns, bytes(m.data)) for m in BagReader(path).messages()]
    assert read_with_rosbags(path) == MESSAGES
    information = metadata(path)
    assert [file["path"] for file in information["files"]] == [
        f"bag_{index}.mcap" for index in range(len(files))
    ]
    assert sum(file["message_count"] for file in information["files"]) == 80


def test_files_are_split_by_duration(tmp_path: Path) -> None:
    path = tmp_path / "bag"
    write(path, MESSAGES, max_duration_ns=200_000_000)
    spans = [file["duration"]["nanoseconds"] for file in metadata(path)["files"]]
    assert len(spans) == 3
    assert all(190_000_000 <= span < 200_000_000 for span in spans)
    assert read_with_rosbags(path) == MESSAGES


def test_a_split_on_request_and_a_late_topic(tmp_path: Path) -> None:
    path = tmp_path / "bag"
    with BagWriter(path) as writer:
        writer.add_topic(EVENT_TOPIC, EVENT_PACKET)
        writer.write(EVENT_TOPIC, MESSAGES[0].time_ns, MESSAGES[0].cdr)
        writer.split()
        writer.write(EVENT_TOPIC, MESSAGES[2].time_ns, MESSAGES[2].cdr)
        writer.add_topic(IMAGE_TOPIC, IMAGE)
        writer.write(IMAGE_TOPIC, MESSAGES[1].time_ns, MESSAGES[1].cdr)
    reader = BagReader(path)
    assert {name: info.count for name, info in reader.topics.items()} == {
        EVENT_TOPIC: 2,
        IMAGE_TOPIC: 1,
    }
    assert len(read_with_rosbags(path)) == 3


@given(sizes=st.lists(st.integers(0, 40), max_size=30), compress=st.booleans())
@settings(max_examples=30, deadline=None)
def test_any_sequence_of_messages_comes_back(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], compress: bool
) -> None:
    path = tmp_path_factory.mktemp("any") / "bag"
    messages = [
        Message(EVENT_TOPIC, index, b"\0\1\0\0" + bytes(size * 50_000))
        for index, size in enumerate(sizes)
    ]
    write(path, messages, compression="zstd" if compress else None)
    found = [
        Message(message.topic, message.record_time_ns, bytes(message.data))
        for message in BagReader(path).messages()
    ]
    assert found == messages


def test_an_open_bag_can_be_read_at_every_moment(tmp_path: Path) -> None:
    path = tmp_path / "bag"
    writer = BagWriter(path)
    writer.add_topic(EVENT_TOPIC, EVENT_PACKET)
    for index in range(1, 12):
        writer.write(EVENT_TOPIC, START_NS + index, b"\0\1\0\0" + bytes(900_000))
        assert BagReader(path).topics[EVENT_TOPIC].count == index
        found = 0
        with (path / "bag_0.mcap").open("rb") as stream, suppress(EndOfFile):
            for record in StreamReader(stream).records:
                found += isinstance(record, McapMessage)
        assert found == index
    writer.close()


def test_an_idle_compressed_bag_is_flushed_on_request(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "bag", compression="zstd", flush_interval_s=60)
    writer.add_topic(EVENT_TOPIC, EVENT_PACKET)
    writer.write(EVENT_TOPIC, START_NS, MESSAGES[0].cdr)
    assert sum(1 for _ in BagReader(tmp_path / "bag").messages()) == 0
    writer.flush()
    assert sum(1 for _ in BagReader(tmp_path / "bag").messages()) == 1
    writer.close()


def test_an_unknown_type_is_written_with_what_is_known(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as writer:
        writer.add_topic("/a", "our_msgs/msg/A", definition=TypeDefinition("int8 a\n", "RIHS01_1"))
        writer.add_topic("/b", "our_msgs/msg/B")
        writer.write("/a", 1, b"\0\1\0\0\1")
    topics = BagReader(tmp_path / "bag").topics
    assert topics["/a"].definition == ("int8 a\n", "RIHS01_1")
    assert topics["/b"].definition == ("", "")


class TestBadUse:
    def test_nothing_is_overwritten(self, tmp_path: Path) -> None:
        (tmp_path / "bag").mkdir()
        with pytest.raises(BagExistsError, match="exists already"):
            BagWriter(tmp_path / "bag")

    def test_a_split_that_fails_leaves_a_complete_bag(self, tmp_path: Path) -> None:
        path = tmp_path / "bag"
        with BagWriter(path) as writer:
            writer.add_topic("/a", IMAGE)
            writer.write("/a", 1, b"\0\1\0\0")
            (path / "bag_1.mcap").touch()
            with pytest.raises(BagExistsError, match=r"bag_1\.mcap"):
                writer.split()
        (path / "bag_1.mcap").unlink()
        assert [message.record_time_ns for message in BagReader(path).messages()] == [1]
        assert [file["message_count"] for file in metadata(path)["files"]] == [1]

    def test_unknown_options(self, tmp_path: Path) -> None:
        with pytest.raises(BagError, match="compression 'rar' is none of zstd, lz4"):
            BagWriter(tmp_path / "bag", compression="rar")
        with pytest.raises(BagError, match=r"neither 8 .* nor 9"):
            BagWriter(tmp_path / "bag", metadata_version=5)
        assert not (tmp_path / "bag").exists()

    def test_unknown_and_repeated_topics(self, tmp_path: Path) -> None:
        with BagWriter(tmp_path / "bag") as writer:
            writer.add_topic("/a", IMAGE)
            with pytest.raises(BagError, match="topic /a is in the bag"):
                writer.add_topic("/a", IMAGE)
            with pytest.raises(BagError, match="topic /b was not added"):
                writer.write("/b", 0, b"")

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(BagError, match="cannot write"):
            BagWriter(tmp_path / "file" / "bag")


def write_until_full(writer: BagWriter) -> tuple[int, str]:
    """Write the messages; return how many went well, and the error."""
    written = 0
    try:
        for message in MESSAGES:
            writer.write(*message)
            written += 1
    except DiskFullError as error:
        return written, str(error)
    pytest.fail("everything fitted")


@pytest.mark.parametrize("compression", [None, "zstd"])
@pytest.mark.parametrize("limit", [30_000, 61_234])
def test_a_full_disk_leaves_what_was_written(
    tmp_path: Path, compression: str | None, limit: int
) -> None:
    path = tmp_path / "bag"
    with BagWriter(path, compression=compression, flush_interval_s=0) as writer:
        writer.add_topic(EVENT_TOPIC, EVENT_PACKET)
        writer.add_topic(IMAGE_TOPIC, IMAGE)
        with files_limited_to(limit):
            written, error = write_until_full(writer)
    assert re.match(r"no space is left for .*bag_0\.mcap", error)
    assert written > 5
    reader = BagReader(path)
    found = [Message(m.topic, m.record_time_ns, bytes(m.data)) for m in reader.messages()]
    assert found == MESSAGES[:written]
    assert reader.damage == {"bag_0.mcap": "it ends without an index"}


def test_metadata_that_cannot_be_written_leaves_the_old_in_place(tmp_path: Path) -> None:
    write_metadata(tmp_path, {"version": 9})
    with pytest.raises(OSError, match="too large"), files_limited_to(10):
        write_metadata(tmp_path, {"version": 9, "storage_identifier": "mcap"})
    assert metadata(tmp_path) == {"version": 9}
    assert [path.name for path in tmp_path.iterdir()] == ["metadata.yaml"]


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("seconds", [0.4, 1.3])
def test_a_killed_writer_loses_nothing_or_the_last_interval(
    tmp_path: Path, repository: Path, compression: str, seconds: float
) -> None:
    path = tmp_path / "bag"
    process = subprocess.Popen(
        [sys.executable, repository / "test/support/bag_writing_process.py", path, compression],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(repository)},
    )
    assert process.stdout
    first = process.stdout.readline()
    said_at = {}
    end = time.monotonic() + seconds
    for line in iter(process.stdout.readline, b""):
        said_at[int(line)] = time.monotonic()
        if time.monotonic() > end:
            process.send_signal(signal.SIGKILL)
            break
    killed_at = time.monotonic()
    for line in iter(process.stdout.readline, b""):
        if line.endswith(b"\n"):
            said_at[int(line)] = killed_at
    process.wait()
    assert first == b"1\n"
    packets = [packet for _, packet in BagReader(path).events()]
    assert [packet.seq for packet in packets] == list(range(len(packets)))
    if compression == "none":
        assert len(packets) >= max(said_at)
    else:
        lost = [at for number, at in said_at.items() if number > len(packets)]
        assert killed_at - min(lost, default=killed_at) < 1.0
