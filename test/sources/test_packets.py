from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from bag_contents import assert_same_events
from hypothesis import given, settings
from hypothesis import strategies as st
from random_events import random_batch
from recording_events import SECOND, recorded_events

from scaleevent_ros.events import EventBatch, Triggers, make_decoder
from scaleevent_ros.sources.packets import PACKET_EVENTS, PACKET_NS, Packet, encode_packets

if TYPE_CHECKING:
    from collections.abc import Sequence


def make_triggers(times: Sequence[int]) -> Triggers:
    count = len(times)
    return Triggers(
        np.array(times, np.int64), np.arange(count, dtype=np.uint8) % 16, np.ones(count, np.uint8)
    )


def decode(packets: list[Packet]) -> tuple[EventBatch, Triggers]:
    """Decode packets with one decoder; put each on its stamp, which must fit every packet."""
    decoder = make_decoder("evt3", 64, 48)
    batches, edges, offsets = [], [], set()
    for packet in packets:
        batch = decoder.decode(packet.payload)
        some = decoder.triggers()
        offsets.add(packet.stamp_ns - int((batch if len(batch) else some).t[0]))
        assert len(batch) == packet.events
        batches.append(batch)
        edges.append(some)
    (offset,) = offsets
    events = EventBatch.concatenate(batches)
    return (
        EventBatch(events.x, events.y, events.t + offset, events.p, 64, 48),
        Triggers(
            np.concatenate([e.t for e in edges]) + offset,
            np.concatenate([e.id for e in edges]),
            np.concatenate([e.edge for e in edges]),
        ),
    )


@given(
    seed=st.integers(0, 2**32),
    start_s=st.sampled_from([0, 1, 16, 17, 1_600_000_000]),
    length_s=st.sampled_from([0.001, 0.3, 40.0, 900.0]),
    trigger_count=st.integers(0, 30),
    cut=st.integers(0, 300),
)
@settings(max_examples=60, deadline=None)
def test_events_and_triggers_survive_whatever_the_silences(
    seed: int, start_s: int, length_s: float, trigger_count: int, cut: int
) -> None:
    rng = np.random.default_rng(seed)
    start, end = start_s * SECOND, int((start_s + length_s) * SECOND)
    events = random_batch(rng, 300, 64, 48, start, end)
    times = np.sort(rng.integers(start, end + SECOND, trigger_count))
    triggers = make_triggers(times.tolist())
    batches = [events[:cut], events[cut:]]
    packets = list(encode_packets(batches, [triggers]))
    found, edges = decode(packets)
    assert_same_events(found, events)
    assert np.array_equal(edges.t, times // 1000 * 1000)
    assert np.array_equal(edges.id, triggers.id)
    stamps = [p.stamp_ns for p in packets]
    assert stamps == sorted(stamps)
    assert all(p.stamp_ns // PACKET_NS == p.last_ns // PACKET_NS for p in packets)


def test_triggers_alone_make_packets() -> None:
    packets = encode_packets([], [make_triggers([5_000, 7_000_000])])
    decoder = make_decoder("evt3", 64, 48)
    for packet in packets:
        decoder.decode(packet.payload)
    assert decoder.triggers().t.tolist() == [5_000, 7_000_000]


def test_a_packet_holds_no_more_than_its_share() -> None:
    count = PACKET_EVENTS * 2 + 5
    zeros = np.zeros(count, np.uint16)
    events = EventBatch(
        np.arange(count, dtype=np.uint16) % 64,
        zeros,
        np.full(count, SECOND),
        zeros.astype("u1"),
        64,
        48,
    )
    sizes = [packet.events for packet in encode_packets([events], [])]
    assert sizes == [PACKET_EVENTS, PACKET_EVENTS, 5]


def test_a_stream_goes_on_where_it_stopped() -> None:
    # 40 s of sparse events: the wire's 24 bits of µs roll over twice.
    events = recorded_events(64, 48, 500, start_s=1_600_000_000.0, length_s=40.0)
    # And then none for 40 s.
    late = recorded_events(64, 48, 10, start_s=1_600_000_080.0)
    events = EventBatch.concatenate([events, late])
    for stop in (1, 100, 250, 499, 500):
        before = list(encode_packets([events[:stop]], []))
        rest = list(encode_packets([events[stop:]], [], after_ns=before[-1].last_ns))
        found, _ = decode(before + rest)
        assert_same_events(found, events)
