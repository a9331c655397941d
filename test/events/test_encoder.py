"""Round trip: decoding encoded events returns them, packet by packet, over any silence."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packet_bytes import as_tuples, evt3_words
from reference_codecs import decode

from scaleevent_ros.events import (
    EventBatch,
    EventsError,
    UnknownEncodingError,
    encode_evt2,
    encode_evt3,
    make_decoder,
    make_encoder,
)

ENCODE = {"evt3": encode_evt3, "evt2": encode_evt2}
DAY = 24 * 3600 * 10**9
YEAR = 365 * DAY
encodings = pytest.mark.parametrize("encoding", ENCODE)


def make_batch(x: object, y: object, t: object, p: object, size: int = 2048) -> EventBatch:
    return EventBatch(
        np.asarray(x, np.uint16),
        np.asarray(y, np.uint16),
        np.asarray(t, np.int64),
        np.asarray(p, np.uint8),
        size,
        size,
    )


@st.composite
def edges(draw: st.DrawFn) -> EventBatch:
    """Draw events as moving edges make them: runs in a row, of any density, and silences."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    size = draw(st.sampled_from([1, 40, 640, 2048]))
    count = draw(st.integers(0, 400))
    density = draw(st.sampled_from([1, 2, 8]))
    row = np.cumsum(rng.random(count) < 0.1)
    step = draw(st.sampled_from([0, 1, 1000, 20_000_000, 40_000_000]))
    pause = rng.integers(0, step * 1000 + 1, count)
    pause[rng.random(count) < 0.9] = 0
    t = draw(st.sampled_from([0, 123_456, DAY - 1])) + np.cumsum(pause)
    x = np.cumsum(rng.integers(1, 2 * density, count)) % size
    p = np.cumsum(rng.random(count) < 0.05) % 2
    return make_batch(x, row * 7 % size, t, p, size)


def assert_equal_in_us(batch: EventBatch, other: EventBatch) -> None:
    for name in "xyp":
        np.testing.assert_array_equal(getattr(batch, name), getattr(other, name), name)
    np.testing.assert_array_equal(batch.t, other.t // 1000 * 1000)


@encodings
@settings(max_examples=150, deadline=None)
@given(batch=edges())
def test_decodes_to_the_batch(encoding: str, batch: EventBatch) -> None:
    payload = ENCODE[encoding](batch)
    decoder = make_decoder(encoding, batch.width, batch.height)
    assert_equal_in_us(decoder.decode(payload), batch)
    stats = decoder.stats
    assert stats.events == len(batch)
    dropped = stats.out_of_range, stats.before_time, stats.unknown, stats.backward, stats.resets
    assert not any(dropped)
    reference = decode(encoding, payload, batch.width, batch.height, 0)
    assert reference.events == as_tuples(batch.x, batch.y, batch.t // 1000 * 1000, batch.p)


@encodings
@settings(max_examples=60, deadline=None)
@given(batch=edges(), cuts=st.lists(st.integers(0, 400), max_size=6), origin=st.integers(0, DAY))
def test_packets_decode_in_a_row_and_from_any_on(
    encoding: str, batch: EventBatch, cuts: list[int], origin: int
) -> None:
    encoder = make_encoder(encoding, origin)
    shifted = make_batch(batch.x, batch.y, batch.t + origin, batch.p, batch.width)
    bounds = [0, *sorted(cuts), len(batch)]
    parts = [shifted[start:end] for start, end in pairwise(bounds)]
    packets = [encoder.encode(part) for part in parts]
    whole = make_decoder(encoding, batch.width, batch.height)
    decoded = EventBatch.concatenate([whole.decode(packet) for packet in packets])
    assert_equal_in_us(decoded, make_batch(batch.x, batch.y, decoded.t, batch.p))
    np.testing.assert_array_equal(decoded.t, (shifted.t - origin) // 1000 * 1000)
    for part, packet in zip(parts, packets, strict=True):
        late = make_decoder(encoding, batch.width, batch.height)
        joined = late.decode(packet)
        assert late.stats.before_time == 0
        np.testing.assert_array_equal(joined.x, part.x)
        np.testing.assert_array_equal(joined.y, part.y)
        steps = np.diff((part.t - origin) // 1000 * 1000)
        np.testing.assert_array_equal(np.diff(joined.t), steps)


@settings(max_examples=30, deadline=None)
@given(batch=edges())
def test_evt3_is_understood_by_a_decoder_in_rust(batch: EventBatch) -> None:
    evt3 = pytest.importorskip("evt3")
    events = evt3.decode_bytes(encode_evt3(batch), batch.width, batch.height)
    assert_equal_in_us(
        make_batch(events.x, events.y, events.t.astype(np.int64) * 1000, events.p), batch
    )


def test_triggers_keep_their_place_among_events() -> None:
    encoder = make_encoder("evt3")
    events = make_batch([1, 2], [3, 3], [5_000, 20_000_000_000], [0, 1])
    later = 40_000_000_000
    parts = [
        encoder.encode(events[:1]),
        encoder.encode_trigger(9_000, 15, 1),
        encoder.encode(events[1:]),
        encoder.encode_trigger(later, 0, 0),
    ]
    decoder = make_decoder("evt3", 2048, 2048)
    assert_equal_in_us(decoder.decode(b"".join(parts)), events)
    triggers = decoder.triggers()
    edges = as_tuples(triggers.t, triggers.id, triggers.edge)
    assert edges == [(9_000, 15, 1), (later, 0, 0)]


def test_refuses_triggers_that_it_cannot_write() -> None:
    with pytest.raises(EventsError, match="only be encoded as evt3"):
        make_encoder("evt2").encode_trigger(0, 0, 0)
    encoder = make_encoder("evt3")
    for channel, edge in ((16, 0), (-1, 0), (0, 2)):
        with pytest.raises(EventsError, match="0 to 15"):
            encoder.encode_trigger(0, channel, edge)
    encoder.encode_trigger(1000, 0, 0)
    with pytest.raises(EventsError, match="in order of time"):
        encoder.encode_trigger(999, 0, 1)
    with pytest.raises(EventsError, match="origin"):
        encoder.encode_trigger(1001 + YEAR, 0, 1)


def test_evt3_uses_vectors_where_they_are_shorter() -> None:
    columns = np.array([3, 4, 5, 14, 15, 27, 34, 40])
    four = make_batch(columns[:4], [9] * 4, [0] * 4, [1] * 4)
    singles = [(8, 0), (6, 0), (0, 9), *((2, 0x800 | x) for x in columns[:4])]
    assert encode_evt3(four) == evt3_words(*singles)
    seven = make_batch(columns, [9] * 8, [0] * 8, [1] * 8)
    groups = [(3, 0x803), (4, 0b1000_0000_0111), (4, 0b1), (5, 0b1000_0001), (2, 0x800 | 40)]
    assert encode_evt3(seven)[6:] == evt3_words(*groups)


def test_evt3_writes_few_words_for_a_full_row() -> None:
    batch = make_batch(np.arange(640), [5] * 640, [7000] * 640, [0] * 640)
    assert len(encode_evt3(batch)) == 2 * (3 + 1 + 3 * 20)


@encodings
def test_no_events_are_no_bytes(encoding: str) -> None:
    assert ENCODE[encoding](EventBatch.empty(64, 48)) == b""


@encodings
def test_refuses_what_it_cannot_write(encoding: str) -> None:
    one = make_batch([1], [1], [DAY], [1])
    with pytest.raises(EventsError, match="a side has at most 2048"):
        ENCODE[encoding](EventBatch.empty(2049, 10))
    with pytest.raises(EventsError, match="give an origin near the first event"):
        ENCODE[encoding](make_batch([1], [1], [YEAR + 1], [1]))
    with pytest.raises(EventsError, match="encode in order of time"):
        ENCODE[encoding](make_batch([1], [1], [-1], [1]))
    encoder = make_encoder(encoding)
    encoder.encode(one)
    with pytest.raises(EventsError, match="encode in order of time"):
        encoder.encode(make_batch([1], [1], [DAY - 1], [1]))
    with pytest.raises(EventsError, match="event 0: x = 70 is outside"):
        ENCODE[encoding](make_batch([70], [1], [1], [1], 60))


def test_an_unknown_encoding_names_the_known_ones() -> None:
    with pytest.raises(UnknownEncodingError, match="'mono': known are evt3, evt2"):
        make_encoder("mono")
