"""Damage that decodes without an error is found by checksums, ours and other writers'."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
from bag_files import EVENT_TOPIC, START_NS, event_packet_cdr
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mcap.reader import SeekingReader
from mcap.stream_reader import StreamReader
from mcap.writer import CompressionType, Writer

from scaleevent_ros.bags import BagError, BagReader, BagWriter, recover
from scaleevent_ros.bags.messages import EVENT_PACKET, IMAGE

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 200


def write_ours(path: Path, compression: str | None, *, closed: bool = True) -> None:
    """Write 200 packets in several chunks; a topic is declared inside one."""
    random = np.random.default_rng(5)
    writer = BagWriter(path, compression=compression)
    writer.add_topic(EVENT_TOPIC, EVENT_PACKET)
    for index in range(COUNT):
        data = event_packet_cdr(index, random.bytes(90_000))
        writer.write(EVENT_TOPIC, START_NS + index, data)
        if index == 100:
            writer.add_topic("/late", IMAGE)
    if closed:
        writer.close()


@pytest.fixture(scope="module", params=[None, "zstd", "lz4"])
def sound_file(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    path = tmp_path_factory.mktemp("sound") / "bag"
    write_ours(path, request.param)
    return path / "bag_0.mcap"


def test_another_reader_agrees_with_our_checksums(sound_file: Path) -> None:
    with sound_file.open("rb") as stream:
        records = Counter(
            type(record).__name__ for record in StreamReader(stream, validate_crcs=True).records
        )
    assert records["Message"] == COUNT
    with sound_file.open("rb") as stream:
        reader = SeekingReader(stream, validate_crcs=True)
        assert len(list(reader.iter_messages())) == COUNT
        summary = reader.get_summary()
    assert summary is not None
    assert len(summary.chunk_indexes) > 3


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=st.floats(0, 1), bit=st.integers(0, 7), indexed=st.booleans())
@example(place=0.0, bit=2, indexed=False)  # the header becomes a message
def test_one_flipped_bit_never_changes_a_message(
    sound_file: Path, tmp_path: Path, place: float, bit: int, indexed: bool
) -> None:
    sound = {bytes(message.data) for message in BagReader(sound_file).messages()}
    data = bytearray(sound_file.read_bytes())
    if not indexed:
        del data[-2000:]
    data[8 + int(place * (len(data) - 9))] ^= 1 << bit
    file = tmp_path / "flipped.mcap"
    file.write_bytes(data)
    try:
        reader = BagReader(file, skip_damaged=True)
    except BagError:
        return
    found = [bytes(message.data) for message in reader.messages() if message.topic == EVENT_TOPIC]
    assert set(found) <= sound
    assert len(found) == len(set(found))
    if len(found) < COUNT:
        assert reader.damage
    assert reader.end_ns < START_NS + COUNT


def test_a_damaged_chunk_of_another_writer_is_left_out_and_said(tmp_path: Path) -> None:
    (tmp_path / "bag").mkdir()
    file = tmp_path / "bag" / "bag.mcap"
    random = np.random.default_rng(5)
    with file.open("wb") as stream:
        writer = Writer(stream, chunk_size=100_000, compression=CompressionType.NONE)
        writer.start()
        schema = writer.register_schema(EVENT_PACKET, "ros2msg", b"")
        channel = writer.register_channel(EVENT_TOPIC, "cdr", schema)
        for index in range(COUNT):
            data = event_packet_cdr(index, random.bytes(9_000))
            writer.add_message(channel, START_NS + index, data, START_NS + index)
        writer.finish()  # type: ignore[no-untyped-call]
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 16
    file.write_bytes(damaged)
    with pytest.raises(BagError, match=r"its checksum is wrong\): use scaleevent recover"):
        list(BagReader(file).messages())
    recovery = recover(tmp_path / "bag")
    assert 185 <= recovery.counts[EVENT_TOPIC] < COUNT
    assert "its checksum is wrong" in recovery.damage["bag.mcap"]
    # Without the index, nothing else is lost.
    file.write_bytes(damaged[:-100])
    walked = BagReader(file, skip_damaged=True)
    assert walked.topics[EVENT_TOPIC].count == recovery.counts[EVENT_TOPIC]
    assert "its checksum is wrong" in walked.damage["bag.mcap"]


def test_a_damaged_index_is_not_believed(tmp_path: Path) -> None:
    write_ours(tmp_path / "bag", None)
    file = tmp_path / "bag" / "bag_0.mcap"
    data = bytearray(file.read_bytes())
    statistics = data.rindex(b"\x0b" + (46 + 10).to_bytes(8, "little"))
    data[statistics + 9 + 26] ^= 1  # the time of the first message
    file.write_bytes(data)
    assert BagReader(file).start_ns == START_NS


def test_an_early_message_is_named_and_the_rest_is_what_counts(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as writer:
        writer.add_topic(EVENT_TOPIC, EVENT_PACKET)
        writer.write(EVENT_TOPIC, 0, event_packet_cdr(0, b""))
        for index in range(1, 50):
            writer.write(EVENT_TOPIC, START_NS + index * 10**8, event_packet_cdr(index, b""))
    reader = BagReader(tmp_path / "bag")
    assert (reader.end_ns - reader.start_ns) / 1e9 == pytest.approx(4.8)
    assert len(list(reader.messages())) == reader.topics[EVENT_TOPIC].count == 49
    (said,) = reader.damage.values()
    assert said.startswith("1 messages of /camera/events are left out, recorded 54 years before")


def test_simulated_time_may_start_at_0(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as writer:
        writer.add_topic(EVENT_TOPIC, EVENT_PACKET)
        for index in range(50):
            writer.write(EVENT_TOPIC, index * 10**8, event_packet_cdr(index, b""))
    reader = BagReader(tmp_path / "bag")
    assert reader.damage == {}
    assert (reader.start_ns, len(list(reader.messages()))) == (0, 50)
