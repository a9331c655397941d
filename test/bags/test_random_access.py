"""Random access yields exactly the events of one decoder that reads the topic from its start."""

from __future__ import annotations

import gc
import tracemalloc
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packet_bytes import WORD_BYTES, random_payload

from scaleevent_ros.bags import BagReader, BagWriter
from scaleevent_ros.bags.messages import (
    EVENT_PACKET,
    IMAGE,
    EventPacketView,
    ImageView,
    serialize_event_packet,
    serialize_image,
)
from scaleevent_ros.bags.timeline import Timeline, events_from, read_timeline
from scaleevent_ros.data.indexed_bag import BagOptions, IndexedBag
from scaleevent_ros.events import EventBatch, make_decoder, make_encoder

if TYPE_CHECKING:
    from pathlib import Path

EPOCH_NS = 1_700_000_000_000_000_000
WIDTH, HEIGHT = 300, 200
MS = 1_000_000


class Payload(NamedTuple):
    """The bytes of one packet, and what its times count from."""

    data: bytes
    time_base: int


def write_packets(path: Path, encoding: str, payloads: list[Payload], *, frames: int = 0) -> None:
    """Write a packet each 4 ms, and frames evenly among them, stamped by the host's clock."""
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30), np.uint8).tobytes()
    with BagWriter(path) as writer:
        writer.add_topic("/events", EVENT_PACKET)
        if frames:
            writer.add_topic("/image", IMAGE)
        every = max(len(payloads) // max(frames, 1), 1)
        for index, payload in enumerate(payloads):
            stamp = EPOCH_NS + index * 4 * MS
            packet = EventPacketView(
                stamp, "", HEIGHT, WIDTH, index, payload.time_base, encoding, False, payload.data
            )
            writer.write("/events", stamp + 4 * MS, serialize_event_packet(packet))
            if frames and index % every == 0:
                image = ImageView(stamp, "", 20, 30, "mono8", False, 30, pixels)
                writer.write("/image", stamp + 5 * MS, serialize_image(image))


def decode_all(encoding: str, payloads: list[Payload]) -> list[np.ndarray]:
    """Decode payloads with one decoder; columns x, y, t, p."""
    decoder = make_decoder(encoding, WIDTH, HEIGHT)
    batches = []
    for payload in payloads:
        batches.append(decoder.decode(payload.data, payload.time_base))
        decoder.flush()
    return columns(batches)


def columns(batches: list[EventBatch]) -> list[np.ndarray]:
    return [np.concatenate([getattr(batch, name) for batch in batches]) for name in "xytp"]


def restarted_evt2(rng: np.random.Generator) -> list[Payload]:
    """Encode a sensor whose driver restarts twice: its clock starts again from a random time."""
    payloads: list[Payload] = []
    for origin_ms in (5000, int(rng.integers(0, 4000)), int(rng.integers(0, 900))):
        encoder = make_encoder("evt2")
        for index in range(60):
            t = np.sort(rng.integers(0, 4 * MS, 50)) + (origin_ms + 4 * index) * MS
            x, y = rng.integers(0, WIDTH, 50), rng.integers(0, HEIGHT, 50)
            p = rng.integers(0, 2, 50)
            xy = x.astype(np.uint16), y.astype(np.uint16)
            batch = EventBatch(*xy, t, p.astype(np.uint8), WIDTH, HEIGHT)
            payloads.append(Payload(encoder.encode(batch), 0))
    return payloads


def stepped_libcaer(rng: np.random.Generator) -> list[Payload]:
    """Encode a camera that counts from the host's clock, which steps back by 1.3 s halfway."""
    payloads = []
    for index in range(180):
        base = EPOCH_NS + index * 4 * MS - (index >= 90) * 1300 * MS
        time = np.sort(rng.integers(0, 4000, 50))
        address = rng.integers(0, WIDTH, 50) << 17 | rng.integers(0, HEIGHT, 50) << 2
        words = np.stack([address | rng.integers(0, 2, 50) << 1, time], axis=1)
        payloads.append(Payload(words.astype("<u4").tobytes(), base))
    return payloads


@pytest.mark.parametrize("make", [restarted_evt2, stepped_libcaer])
def test_windows_by_index_are_those_in_sequence_after_a_clock_was_set_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: object
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    payloads = make(np.random.default_rng(7))  # type: ignore[operator]
    encoding = "evt2" if make is restarted_evt2 else "libcaer"
    write_packets(tmp_path / "bag", encoding, payloads, frames=45)
    truth = decode_all(encoding, payloads)
    bag = IndexedBag(tmp_path / "bag", BagOptions(clock="header_stamps"))
    chosen = bag.covered(20 * MS, 0)
    assert len(chosen) >= 35
    counts = []
    for frame in chosen.tolist():
        window = bag.window(frame, 20 * MS, 0)
        start, end = np.searchsorted(truth[2], (window.sensor_ns - 20 * MS, window.sensor_ns))
        for found, wanted in zip(columns([window.events]), truth, strict=True):
            assert np.array_equal(found, wanted[start:end])
        counts.append(end - start)
    assert np.median(counts) > 200


@settings(max_examples=30, deadline=None)
@given(
    encoding=st.sampled_from(sorted(WORD_BYTES)),
    seed=st.integers(0, 2**32),
    steps=st.lists(st.integers(-(10**10), 10**10), min_size=0, max_size=4),
)
def test_any_stream_is_read_alike_from_any_time(
    tmp_path_factory: pytest.TempPathFactory, encoding: str, seed: int, steps: list[int]
) -> None:
    """Random words hold roll-overs, resets, steps back, unknown words and cut packets."""
    rng = np.random.default_rng(seed)
    base = 10**12
    payloads = []
    for index in range(60):
        step = steps.pop() if steps and index % 12 == 11 else 0
        base += 4 * MS + step
        data = random_payload(encoding, int(rng.integers(0, 2**31)), int(rng.integers(0, 60)))
        payloads.append(Payload(data[: len(data) - int(rng.integers(0, 2))], base))
    truth = decode_all(encoding, payloads)
    if not len(truth[2]):
        return
    path = tmp_path_factory.mktemp("random") / "bag"
    write_packets(path, encoding, payloads)
    reader = BagReader(path)
    timeline = read_timeline(reader, with_frames=False)
    kept = Timeline.from_arrays(timeline.to_arrays())
    assert (timeline.start_ns, timeline.end_ns) == (truth[2][0], truth[2][-1])
    entries = timeline.packets.first
    for moment in {*entries.tolist(), *(entries + 1).tolist(), *rng.choice(truth[2], 5).tolist()}:
        found = columns([packet.events for packet in events_from(reader, kept, moment)])
        later = found[2] >= moment
        for some, all_of_them in zip(found, truth, strict=True):
            assert np.array_equal(some[later], all_of_them[truth[2] >= moment])


def test_packets_recorded_at_the_same_time_are_not_read_twice(tmp_path: Path) -> None:
    encoder = make_encoder("evt3")
    zero = np.zeros(9, np.uint16)
    with BagWriter(tmp_path / "bag") as writer:
        writer.add_topic("/events", EVENT_PACKET)
        for index in range(200):
            t = (np.arange(9) * 100_000 + index * MS).astype(np.int64)
            moved = EventBatch(zero, zero, t, zero.astype(np.uint8), 9, 9)
            packet = EventPacketView(
                EPOCH_NS + index * MS, "", 9, 9, index, 0, "evt3", False, encoder.encode(moved)
            )
            record_ns = EPOCH_NS + index // 30 * 30 * MS
            writer.write("/events", record_ns, serialize_event_packet(packet))
    reader = BagReader(tmp_path / "bag")
    timeline = read_timeline(reader, with_frames=False)
    assert len(timeline.packets.record) == 7
    for moment in range(0, 200 * MS, 7 * MS):
        t = columns([packet.events for packet in events_from(reader, timeline, moment)])[2]
        assert len(t[t >= moment]) == 9 * (199 - moment // MS) + max(9 - moment % MS // 100_000, 0)
        assert len(t) < 9 * 200 - 9 * 30 * (moment // (30 * MS)) + 9 * 61


def test_a_timeline_of_an_hour_at_1_khz_takes_less_than_100_mb(tmp_path: Path) -> None:
    """Ten seconds, scaled: what is left in the end, and the most on the way."""
    encoder = make_encoder("evt3")
    zero, dark = np.zeros(2, np.uint16), np.zeros(2, np.uint8)
    seconds = 10
    with BagWriter(tmp_path / "bag") as writer:
        writer.add_topic("/events", EVENT_PACKET)
        for index in range(seconds * 1000):
            batch = EventBatch(zero, zero, np.full(2, index * MS), dark, 9, 9)
            stamp = EPOCH_NS + index * MS
            payload = encoder.encode(batch) + encoder.encode_trigger(index * MS, 1, index & 1)
            packet = EventPacketView(stamp, "camera", 9, 9, index, 0, "evt3", False, payload)
            writer.write("/events", stamp, serialize_event_packet(packet))
    reader = BagReader(tmp_path / "bag")
    read_timeline(reader, with_frames=False)  # what is compiled and cached is not counted
    tracemalloc.start()
    timeline = read_timeline(reader, with_frames=False)
    _, most = tracemalloc.get_traced_memory()
    gc.collect()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(timeline.packets.record) == pytest.approx(seconds * 50, rel=0.05)
    assert kept * 3600 / seconds < 100e6
    # In a long recording, one fit of the clock takes no more than 100 bytes for each of 2**17
    # pairs, and reading no more than some blocks of the file.
    assert most < 15e6
