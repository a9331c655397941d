"""The reader on real bags and on every variant that rosbags and mcap write."""

from __future__ import annotations

import gc
import shutil
import sqlite3
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
from bag_files import (
    EVENT_TOPIC,
    IMAGE_TOPIC,
    PERIOD_NS,
    START_NS,
    Message,
    event_packet_cdr,
    example_messages,
    write_bag,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.writer import CompressionType, IndexType
from mcap.writer import Writer as McapLibraryWriter

from scaleevent_ros.bags import BagError, BagReader, MessageError, Qos
from scaleevent_ros.bags.writer import BagWriter

if TYPE_CHECKING:
    from pathlib import Path

MESSAGES = example_messages()
VARIANTS = [
    ("mcap", "none"),
    ("mcap", "message"),
    ("mcap", "file"),
    ("mcap", "storage"),
    ("sqlite3", "none"),
    ("sqlite3", "message"),
    ("sqlite3", "file"),
]


def contents(reader: BagReader, **window: Any) -> list[Message]:
    return [
        Message(message.topic, message.record_time_ns, bytes(message.data))
        for message in reader.messages(**window)
    ]


def only_file(bag: Path) -> Path:
    (file,) = (path for path in bag.iterdir() if path.suffix != ".yaml")
    return file


def write_mcap(path: Path, messages: list[Message], **options: Any) -> None:
    """Write an MCAP file with the mcap library, in many chunks."""
    with path.open("wb") as stream:
        writer = McapLibraryWriter(stream, chunk_size=8000, **options)
        writer.start("ros2", "test")
        channels = {}
        for message in messages:
            if message.topic not in channels:
                schema = writer.register_schema("event_camera_msgs/msg/EventPacket", "ros2idl", b"")
                channels[message.topic] = writer.register_channel(message.topic, "cdr", schema)
            writer.add_message(
                channels[message.topic], message.time_ns, message.cdr, message.time_ns
            )
        writer.finish()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(("storage", "compression"), VARIANTS)
@pytest.mark.parametrize("version", [8, 9])
@pytest.mark.parametrize("with_metadata", [True, False])
def test_every_variant_holds_the_same(
    tmp_path: Path, storage: str, compression: str, version: Literal[8, 9], with_metadata: bool
) -> None:
    bag = write_bag(
        tmp_path / "bag", MESSAGES, storage=storage, compression=compression, version=version
    )
    if not with_metadata:
        (bag / "metadata.yaml").unlink()
    reader = BagReader(bag)
    assert contents(reader) == MESSAGES
    assert {name: info.count for name, info in reader.topics.items()} == {
        EVENT_TOPIC: 60,
        IMAGE_TOPIC: 20,
    }
    assert reader.topics[EVENT_TOPIC].msgtype == "event_camera_msgs/msg/EventPacket"
    assert (reader.start_ns, reader.end_ns) == (MESSAGES[0].time_ns, MESSAGES[-1].time_ns)
    start_ns, end_ns = START_NS + 10 * PERIOD_NS, START_NS + 31 * PERIOD_NS
    expected = [message for message in MESSAGES if start_ns <= message.time_ns < end_ns]
    assert contents(reader, start_ns=start_ns, end_ns=end_ns) == expected
    assert bool(reader.damage) != with_metadata


def test_a_real_sqlite3_bag_is_read(test_data: Path) -> None:
    reader = BagReader(test_data / "bags/evt3_640x480")
    packets = [packet for _, packet in reader.events()]
    assert len(packets) == 517
    assert {(packet.encoding, packet.width, packet.height) for packet in packets} == {
        ("evt3", 640, 480)
    }
    assert np.all(np.diff([packet.seq for packet in packets]) == 1)


def test_a_real_bag_without_storage_identifier_and_with_idl_schemas_is_read(
    test_data: Path,
) -> None:
    reader = BagReader(test_data / "bags/libcaer_cmp_346x260")
    packets = [packet for _, packet in reader.events()]
    assert len(packets) == 100
    assert packets[0].encoding == "libcaer_cmp"
    assert "IDL: event_camera_msgs" in reader.topics["/event_camera/events"].definition.text
    assert reader.topics["/event_camera/events"].qos == Qos("best_effort", depth=1000)


def test_a_single_file_is_a_bag(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", MESSAGES)
    assert contents(BagReader(only_file(bag))) == MESSAGES
    assert contents(BagReader(bag / "metadata.yaml")) == MESSAGES


@pytest.mark.parametrize(
    "options",
    [
        {"compression": CompressionType.NONE},
        {"compression": CompressionType.LZ4},
        {"compression": CompressionType.ZSTD},
        {"compression": CompressionType.NONE, "use_chunking": False},
        {"compression": CompressionType.LZ4, "index_types": IndexType.NONE},
        {"compression": CompressionType.ZSTD, "use_statistics": False},
        {"compression": CompressionType.ZSTD, "use_summary_offsets": False},
        {"compression": CompressionType.NONE, "repeat_channels": False, "repeat_schemas": False},
    ],
)
def test_mcap_files_of_another_writer_are_read(tmp_path: Path, options: dict[str, object]) -> None:
    write_mcap(tmp_path / "a.mcap", MESSAGES, **options)
    reader = BagReader(tmp_path / "a.mcap")
    assert contents(reader) == MESSAGES
    assert not reader.damage
    assert reader.topics[EVENT_TOPIC].count == 60
    assert (reader.start_ns, reader.end_ns) == (MESSAGES[0].time_ns, MESSAGES[-1].time_ns)


def test_messages_out_of_order_come_in_order_of_time(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    shuffled = [MESSAGES[index] for index in random.permutation(len(MESSAGES))]
    write_mcap(tmp_path / "a.mcap", shuffled, compression=CompressionType.ZSTD)
    assert contents(BagReader(tmp_path / "a.mcap")) == MESSAGES


def test_split_bags_are_read_in_the_order_of_time(tmp_path: Path) -> None:
    bag = tmp_path / "bag"
    bag.mkdir()
    for index in range(12):
        write_mcap(bag / f"bag_{index}.mcap", MESSAGES[index * 7 : index * 7 + 7])
    assert contents(BagReader(bag)) == MESSAGES


def test_files_that_overlap_in_time_are_merged(tmp_path: Path) -> None:
    bag = tmp_path / "bag"
    bag.mkdir()
    write_mcap(bag / "bag_0.mcap", MESSAGES[::2])
    write_mcap(bag / "bag_1.mcap", MESSAGES[1::2])
    assert contents(BagReader(bag)) == MESSAGES


def test_a_missing_and_an_empty_file_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", MESSAGES)
    text = (bag / "metadata.yaml").read_text()
    name = only_file(bag).name
    (bag / "metadata.yaml").write_text(
        text.replace(f"  - {name}\n", f"  - {name}\n  - bag_1.mcap\n  - bag_2.mcap\n")
    )
    (bag / "bag_2.mcap").write_bytes(b"")
    reader = BagReader(bag)
    assert reader.damage == {"bag_1.mcap": "it is missing", "bag_2.mcap": "it is empty"}
    assert contents(reader) == MESSAGES


@pytest.fixture(scope="module")
def plain_mcap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("torn") / "plain.mcap"
    write_mcap(path, MESSAGES, compression=CompressionType.NONE)
    return path


@pytest.fixture(scope="module")
def packed_mcap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("torn") / "packed.mcap"
    write_mcap(path, MESSAGES, compression=CompressionType.ZSTD)
    return path


@given(share=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_of_a_cut_file_every_whole_message_is_read(plain_mcap: Path, share: float) -> None:
    data = plain_mcap.read_bytes()
    cut = int(share * (len(data) - 1))
    torn = plain_mcap.with_name("torn.mcap")
    torn.write_bytes(data[:cut])
    reader = BagReader(torn)
    # A message is there if all its bytes lie before the cut.
    expected = [
        message
        for message in MESSAGES
        if 0 <= (at := data.find(message.cdr)) <= cut - len(message.cdr) and at
    ]
    assert contents(reader) == expected
    assert sum(info.count for info in reader.topics.values()) == len(expected)
    assert reader.damage


@given(share=st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_of_a_cut_compressed_file_every_whole_chunk_is_read(
    packed_mcap: Path, share: float
) -> None:
    data = packed_mcap.read_bytes()
    cut = 8 + int(share * (len(data) - 9))
    torn = packed_mcap.with_name("torn.mcap")
    torn.write_bytes(data[:cut])
    found = contents(BagReader(torn))
    assert found == MESSAGES[: len(found)]
    # A chunk is 8 kB, at most 7 messages here; random payloads do not compress.
    stored = sum(len(message.cdr) for message in MESSAGES)
    least = sum(
        np.cumsum([len(message.cdr) for message in MESSAGES]) < (cut / len(data)) * stored - 24_000
    )
    assert len(found) >= least


@given(position=st.floats(0, 1), noise=st.binary(min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_damage_anywhere_raises_nothing_but_a_bag_error(
    plain_mcap: Path, position: float, noise: bytes
) -> None:
    data = bytearray(plain_mcap.read_bytes())
    start = int(position * len(data))
    data[start : start + len(noise)] = noise
    damaged = plain_mcap.with_name("damaged.mcap")
    damaged.write_bytes(data)
    try:
        found = contents(BagReader(damaged))
    except BagError:
        return
    assert len(found) <= len(MESSAGES)


def test_damage_in_a_chunk_costs_that_chunk_only(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    write_mcap(
        path,
        MESSAGES,
        compression=CompressionType.NONE,
        index_types=IndexType.NONE,
        enable_crcs=False,  # else all of the chunk is left out
    )
    data = bytearray(path.read_bytes())
    at = data.find(MESSAGES[20].cdr) - 31
    data[at : at + 9] = b"\xff" * 9  # the kind and the length of the record
    path.write_bytes(data)
    found = contents(BagReader(path))
    assert found[:20] == MESSAGES[:20]
    assert found[-40:] == MESSAGES[-40:]
    assert len(found) > len(MESSAGES) - 10


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_of_a_cut_database_what_lies_before_the_cut_is_read(tmp_path: Path, share: float) -> None:
    bag = write_bag(tmp_path / "bag", MESSAGES, storage="sqlite3")
    file = only_file(bag)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    reader = BagReader(bag)
    found = contents(reader)
    assert found == MESSAGES[: len(found)]
    assert len(found) > len(MESSAGES) * (share - 0.15)
    assert reader.damage == {file.name: "it is cut off"}
    assert file.stat().st_size == int(len(data) * share)


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
def test_a_database_that_was_not_closed_is_read_up_to_its_last_commit(
    tmp_path: Path, journal: str
) -> None:
    bag = write_bag(tmp_path / "bag", MESSAGES, storage="sqlite3")
    file = only_file(bag)
    with sqlite3.connect(file) as database:
        database.execute(f"PRAGMA journal_mode = {journal}")
        database.execute("PRAGMA wal_autocheckpoint = 0")
        database.execute("PRAGMA cache_size = 1")  # lets pages reach the file before the commit
        row = (1, MESSAGES[-1].time_ns + 1, MESSAGES[0].cdr)
        insert = "INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)"
        database.execute(insert, row)
        database.commit()
        for _ in range(100):
            database.execute(insert, row)
        copy = tmp_path / "crashed"
        shutil.copytree(bag, copy)
        database.rollback()
    assert len(list(copy.iterdir())) > 2
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    reader = BagReader(copy)
    expected = [*MESSAGES, Message(EVENT_TOPIC, row[1], row[2])]
    assert contents(reader) == expected
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


def test_events_and_frames_are_parsed(tmp_path: Path) -> None:
    reader = BagReader(write_bag(tmp_path / "bag", MESSAGES))
    stamps, packets = zip(*reader.events(), strict=True)
    assert list(stamps) == [START_NS + index * PERIOD_NS for index in range(60)]
    assert [packet.seq for packet in packets] == list(range(60))
    frames = list(reader.frames())
    assert [frame.stamp_ns for frame in frames] == list(stamps[::3])
    assert frames[0].image.shape == (24, 32, 3)
    later = list(reader.events(start_ns=START_NS + 30 * PERIOD_NS))
    assert [packet.seq for _, packet in later] == list(range(30, 60))


def test_memory_is_bounded_by_a_block(tmp_path: Path) -> None:
    """Views of an earlier block must be released while later ones are read."""
    messages = [
        Message(EVENT_TOPIC, START_NS + index, event_packet_cdr(index, bytes(500_000)))
        for index in range(100)
    ]
    reader = BagReader(write_bag(tmp_path / "bag", messages))
    largest = 0
    for index, _ in enumerate(reader.messages()):
        if index % 10 == 0:
            alive = sum(len(thing) for thing in gc.get_objects() if isinstance(thing, memoryview))
            largest = max(largest, alive)
    assert largest < 10e6


class TestBadInput:
    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(BagError, match="there is no bag at"):
            BagReader(tmp_path / "missing")

    def test_a_folder_of_other_things(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("hello")
        with pytest.raises(BagError, match=r"no \.mcap or \.db3"):
            BagReader(tmp_path)

    def test_a_file_of_another_kind(self, tmp_path: Path) -> None:
        (tmp_path / "movie.mp4").write_bytes(b"\0\0\0\x20ftypisom and so on")
        with pytest.raises(BagError, match="neither MCAP nor sqlite3"):
            BagReader(tmp_path / "movie.mp4")

    def test_a_database_of_other_things(self, tmp_path: Path) -> None:
        with sqlite3.connect(tmp_path / "other.db3") as database:
            database.execute("CREATE TABLE cats (name TEXT)")
        with pytest.raises(BagError, match="cannot be read as a bag"):
            BagReader(tmp_path)

    def test_metadata_that_makes_no_sense(self, tmp_path: Path) -> None:
        bag = write_bag(tmp_path / "bag", MESSAGES)
        (bag / "metadata.yaml").write_text("rosbag2_bagfile_information: [1, {")
        reader = BagReader(bag)
        assert reader.damage == {"metadata.yaml": "it cannot be read"}
        assert contents(reader) == MESSAGES

    def test_an_empty_bag(self, tmp_path: Path) -> None:
        reader = BagReader(write_bag(tmp_path / "bag", []))
        assert contents(reader) == []
        assert (reader.start_ns, reader.end_ns) == (0, 0)

    def test_no_event_topic(self, tmp_path: Path) -> None:
        write_mcap(tmp_path / "a.mcap", [])
        with pytest.raises(BagError, match="has no event topic; it has no topics at all"):
            next(BagReader(tmp_path).events())

    def test_a_topic_of_another_type(self, tmp_path: Path) -> None:
        reader = BagReader(write_bag(tmp_path / "bag", MESSAGES))
        with pytest.raises(BagError, match=r"holds sensor_msgs/msg/Image, not events"):
            next(reader.events(IMAGE_TOPIC))
        with pytest.raises(BagError, match="has no topic /else"):
            next(reader.frames("/else"))

    def test_two_event_topics_and_none_named(self, tmp_path: Path) -> None:
        twice = [*MESSAGES, *(message._replace(topic="/other") for message in MESSAGES)]
        write_mcap(tmp_path / "a.mcap", twice)
        with pytest.raises(BagError, match="3 event topics, name one: "):
            next(BagReader(tmp_path).events())

    @pytest.mark.parametrize(
        ("names", "camera"),
        [
            (("/labels", "/camera/image_raw"), "/camera/image_raw"),
            (("/overlay", "/cam/image_raw/compressed"), "/cam/image_raw/compressed"),
            (("/labels",), "/labels"),
            (("/left/image_raw", "/right/image_raw"), None),
            (("/left", "/right"), None),
        ],
    )
    def test_among_several_image_topics_the_camera_is_known_by_its_name(
        self, tmp_path: Path, names: tuple[str, ...], camera: str | None
    ) -> None:
        with BagWriter(tmp_path / "bag") as writer:
            for name in names:
                writer.add_topic(name, "sensor_msgs/msg/Image")
        reader = BagReader(tmp_path / "bag")
        if camera is None:
            with pytest.raises(BagError, match="2 image topics, name one: "):
                reader.image_topic()
        else:
            assert reader.image_topic() == camera

    def test_a_message_that_lies(self, tmp_path: Path) -> None:
        cdr = bytearray(MESSAGES[0].cdr)
        cdr = cdr[:20]
        bag = write_bag(tmp_path / "bag", [Message(EVENT_TOPIC, START_NS, bytes(cdr))])
        with pytest.raises(MessageError, match=rf"message of {EVENT_TOPIC} recorded at {START_NS}"):
            next(BagReader(bag).events())
