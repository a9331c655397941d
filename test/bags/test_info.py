"""Summaries of bags that are large, or partly not understood."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from bag_files import EVENT_TOPIC, START_NS, event_packet_cdr
from moving_scene import HEIGHT, IMAGE_TOPIC, WIDTH, Rig, write_scene

from scaleevent_ros.bags import BagReader, BagWriter
from scaleevent_ros.bags.check import check_bag
from scaleevent_ros.bags.event_stream import EventStream
from scaleevent_ros.bags.info import summarize
from scaleevent_ros.bags.messages import (
    EVENT_PACKET,
    EventPacketView,
    parse_event_packet,
    serialize_event_packet,
)
from scaleevent_ros.bags.summary_text import info_text, quality_text
from scaleevent_ros.events import EventBatch, make_encoder

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("info") / "scene"
    write_scene(path, Rig(triggers=True))
    return path


def rewrite(
    source: Path, target: Path, change: Callable[[EventPacketView, int], EventPacketView]
) -> Path:
    """Copy a bag with other event packets, counted from 0."""
    reader = BagReader(source)
    index = 0
    with BagWriter(target) as writer:
        for name, info in reader.topics.items():
            writer.add_topic(name, info.msgtype)
        for message in reader.messages():
            data = bytes(message.data)
            if message.topic != IMAGE_TOPIC:
                data = serialize_event_packet(change(parse_event_packet(data), index))
                index += 1
            writer.write(message.topic, message.record_time_ns, data)
    return target


def test_one_unknown_encoding_hides_nothing_else(scene: Path, tmp_path: Path) -> None:
    reader = BagReader(scene)
    with BagWriter(tmp_path / "bag") as writer:
        for name, topic in reader.topics.items():
            writer.add_topic(name, topic.msgtype)
        writer.add_topic("/other", EVENT_PACKET)
        for message in reader.messages():
            writer.write(message.topic, message.record_time_ns, message.data)
            if message.topic != IMAGE_TOPIC:
                strange = parse_event_packet(message.data)._replace(encoding="evt9")
                data = serialize_event_packet(strange)
                writer.write("/other", message.record_time_ns, data)
    for count in (False, True):
        info = summarize(BagReader(tmp_path / "bag"), count=count)
        assert len(info.topics) == 3
        other = info.event_topics["/other"]
        assert (other.encoding, other.width, other.counts) == ("evt9", WIDTH, None)
        assert "unknown encoding 'evt9'" in other.error
        known = info.event_topics[EVENT_TOPIC]
        assert (known.encoding, known.error) == ("evt3", "")
        assert (known.counts is not None) == count
        text = info_text(info)
        assert "cannot be decoded: " in text
        assert ("ON" in text) == count
        assert isinstance(info.to_dict()["event_topics"][EVENT_TOPIC]["width"], int)


def test_events_off_the_sensor_are_counted(scene: Path, tmp_path: Path) -> None:
    """Width and height swapped, as a driver's bug had it: much of the picture lies outside."""
    good = summarize(BagReader(scene), count=True).event_topics[EVENT_TOPIC].counts
    assert good is not None
    assert good.off_sensor == 0
    bag = rewrite(
        scene, tmp_path / "bag", lambda packet, _: packet._replace(width=HEIGHT, height=WIDTH)
    )
    inside = sum(
        int((packet.events.x < HEIGHT).sum()) for packet in EventStream(BagReader(scene)).packets()
    )
    found = summarize(BagReader(bag), count=True)
    counts = found.event_topics[EVENT_TOPIC].counts
    assert counts is not None
    assert (counts.events, counts.off_sensor) == (inside, good.events - inside)
    assert f"{counts.off_sensor:,} events dropped" in info_text(found)
    quality = check_bag(BagReader(bag), mode="header_stamps")
    assert any("lie off its 48x64 pixels" in problem for problem in quality.problems)
    assert "PROBLEM" in quality_text(quality)


def test_counters_go_on_where_a_topic_changes_its_encoding(tmp_path: Path) -> None:
    """Two packets in EVT2, two in EVT3: of each five events two lie off the sensor."""
    x = np.array([1, 2, 700, 701, 3], np.uint16)
    t, p = np.arange(5, dtype=np.int64) * 1000, np.zeros(5, np.uint8)
    with BagWriter(tmp_path / "bag") as writer:
        writer.add_topic(EVENT_TOPIC, EVENT_PACKET)
        for index, encoding in enumerate(("evt2", "evt2", "evt3", "evt3")):
            batch = EventBatch(x, x % 400, t + index * 100_000, p, 1280, 480)
            payload = make_encoder(encoding).encode(batch)
            cdr = event_packet_cdr(index, payload, encoding=encoding)
            writer.write(EVENT_TOPIC, START_NS + index * 10_000_000, cdr)
    counts = summarize(BagReader(tmp_path / "bag"), count=True).event_topics[EVENT_TOPIC].counts
    assert counts is not None
    assert (counts.events, counts.off_sensor) == (12, 8)
    assert counts.decoder["events"] == 12


def test_a_packet_without_pixels_is_a_malformed_one(scene: Path, tmp_path: Path) -> None:
    bag = rewrite(
        scene,
        tmp_path / "bag",
        lambda packet, index: packet._replace(width=0, height=0) if index in (0, 7) else packet,
    )
    info = summarize(BagReader(bag), count=True).event_topics[EVENT_TOPIC]
    assert info.counts is not None
    assert (info.width, info.counts.malformed) == (WIDTH, 2)
    assert summarize(BagReader(bag)).event_topics[EVENT_TOPIC].width == WIDTH
    assert check_bag(BagReader(bag), mode="header_stamps").events.malformed == 2


def test_info_reads_the_index_and_one_chunk(tmp_path: Path) -> None:
    """The event topic of this bag of 240 MB begins at its end."""
    images = np.zeros(4_000_000, np.uint8).tobytes()
    with BagWriter(tmp_path / "bag", max_bytes=50_000_000) as writer:
        writer.add_topic("/other", "std_msgs/msg/UInt8MultiArray")
        writer.add_topic(EVENT_TOPIC, EVENT_PACKET)
        for index in range(60):
            writer.write("/other", START_NS + index * 10**7, images)
        packet = serialize_event_packet(EventPacketView(0, "", 9, 9, 0, 0, "evt3", False, b""))
        writer.write(EVENT_TOPIC, START_NS + 5 * 10**9, packet)
    start = time.perf_counter()
    read = _bytes_read()
    info = summarize(BagReader(tmp_path / "bag"))
    assert info.event_topics[EVENT_TOPIC].encoding == "evt3"
    assert _bytes_read() - read < 20e6
    assert time.perf_counter() - start < 2
    assert info.messages == 61


def _bytes_read() -> int:
    with Path("/proc/self/io").open() as file:
        return int(next(file).split()[1])
