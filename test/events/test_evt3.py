"""EVT3 by examples, against another decoder, and against a real recording."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from packet_bytes import as_tuples, evt3_recording, evt3_words

from scaleevent_ros.events import EventBatch, make_decoder

if TYPE_CHECKING:
    from pathlib import Path

TIME = [(8, 1), (6, 2)]
US = 4096 + 2


def events_of(*words: tuple[int, int], width: int = 2048, height: int = 2048) -> list[object]:
    batch = make_decoder("evt3", width, height).decode(evt3_words(*words))
    return list(as_tuples(batch.x, batch.y, batch.t // 1000, batch.p))


def test_single_events() -> None:
    words = [*TIME, (0, 7), (2, 0x805), (2, 6), (6, 3), (2, 9), (0, 0x808), (2, 1)]
    expected = [(5, 7, US, 1), (6, 7, US, 0), (9, 7, US + 1, 0), (1, 8, US + 1, 0)]
    assert events_of(*words) == expected


def test_vectors_advance_the_base() -> None:
    words = [*TIME, (0, 7), (3, 0x80A), (4, 0x801), (5, 0xF81), (4, 3)]
    assert events_of(*words) == [(x, 7, US, 1) for x in (10, 21, 22, 29, 30, 31)]


def test_vectors_that_leave_the_widest_sensor() -> None:
    words = [*TIME, (3, 2040), (4, 0xFFF), (4, 0xFFF), (5, 0xFF), (3, 0), (4, 1)]
    assert [event[0] for event in events_of(*words)] == [*range(2040, 2048), 0]  # type: ignore[index]
    exact = [*TIME, (3, 2036), (4, 0xFFF), (5, 0xFF)]
    assert [event[0] for event in events_of(*exact)] == [*range(2036, 2048)]  # type: ignore[index]


def test_nothing_comes_before_a_high_and_a_low_time() -> None:
    decoder = make_decoder("evt3", 100, 100)
    line = [(0, 3), (2, 5), (3, 1), (4, 7), (10, 1)]
    for word in ((6, 1), (8, 1)):
        assert len(decoder.decode(evt3_words(word, *line))) == 0
    assert len(decoder.triggers()) == 0
    assert decoder.stats.before_time == 10
    batch = decoder.decode(evt3_words((6, 2), (2, 9), (4, 1)))
    assert as_tuples(batch.x, batch.y, batch.t) == [(9, 3, US * 1000), (13, 3, US * 1000)]


def test_a_new_high_time_clears_the_low_one() -> None:
    words = [*TIME, (8, 1), (2, 0), (8, 2), (2, 1), (6, 5), (2, 2)]
    assert [event[2] for event in events_of(*words)] == [US, 8192, 8197]  # type: ignore[index]


@pytest.mark.parametrize(("drop", "t"), [(10, 100 << 12), (11, (1 << 24) + (89 << 12))])
def test_a_drop_of_more_than_ten_is_a_roll_over(drop: int, t: int) -> None:
    decoder = make_decoder("evt3", 10, 10)
    words = [(8, 100), (6, 0), (2, 1), (8, 100 - drop), (6, 0), (2, 2), (8, 101), (6, 0), (2, 3)]
    batch = decoder.decode(evt3_words(*words))
    assert batch.t[1] == t * 1000
    held = drop == 10
    assert (decoder.stats.backward, decoder.stats.roll_overs) == (held, not held)


def test_a_low_time_that_steps_back_holds_only_what_follows_an_event() -> None:
    words = [(8, 0), (6, 9), (6, 5), (2, 1), (6, 3), (2, 2), (6, 6), (2, 3)]
    assert [event[2] for event in events_of(*words)] == [5, 5, 6]  # type: ignore[index]


def test_triggers_and_words_without_events() -> None:
    decoder = make_decoder("evt3", 10, 10)
    words = [
        *TIME,
        (10, 0x601),
        (9, 0x999),
        (14, 0x20),
        (7, 1),
        (15, 2),
        (6, 7),
        (10, 0x600),
        (1, 1),
    ]
    assert len(decoder.decode(evt3_words(*words))) == 0
    triggers = decoder.triggers()
    times = [US * 1000, (US + 5) * 1000]
    assert as_tuples(triggers.t, triggers.id, triggers.edge) == [(times[0], 6, 1), (times[1], 6, 0)]
    stats = decoder.stats
    assert (stats.padding, stats.skipped, stats.unknown) == (1, 3, 1)


def sensor_words(seed: int, count: int) -> bytes:
    """Create the stream of a sensor of 2048x2048: a TIME_LOW behind every TIME_HIGH.

    Without long silences: decoders differ in how far a clock drops that rolls over.
    """
    rng = np.random.default_rng(seed)
    words: list[tuple[int, int]] = [(8, 0), (6, 0)]
    us = 0
    for kind in rng.choice([0, 2, 3, 4, 5, 6, 8], count).tolist():
        value = int(rng.integers(0, 4096))
        if kind == 3:
            words += [(3, value & 0xC00), (4, value)]
        elif kind in (4, 5):
            words += [(3, value & 0xBFF), (4, value), (5, value >> 4), (4, value ^ 0xFFF)]
        elif kind == 6:
            us += int(rng.integers(0, 3))
        elif kind == 8:
            us += int(rng.choice([0, 4096, 20_000]))
        else:
            words.append((kind, value))
        if kind in (6, 8):
            words += [(8, us >> 12 & 0xFFF), (6, us & 0xFFF)]
    return evt3_words(*words)


@pytest.mark.parametrize("seed", range(8))
def test_agrees_with_a_decoder_in_rust(seed: int) -> None:
    evt3 = pytest.importorskip("evt3")
    payload = sensor_words(seed, 20_000)
    theirs = evt3.Decoder(sensor_width=2048, sensor_height=2048)
    ours = make_decoder("evt3", 2048, 2048)
    for start in range(0, len(payload), 7777):
        expected = theirs.feed(payload[start : start + 7777])
        batch = ours.decode(payload[start : start + 7777])
        np.testing.assert_array_equal(batch.x, expected.x)
        np.testing.assert_array_equal(batch.y, expected.y)
        np.testing.assert_array_equal(batch.t, expected.t.astype(np.int64) * 1000)
        np.testing.assert_array_equal(batch.p, expected.p)
    assert ours.stats.events > 50_000
    assert ours.stats.roll_overs


def test_real_recording(test_data: Path) -> None:
    packets = list(evt3_recording(test_data))
    assert len(packets) == 517
    decoder = make_decoder("evt3", 640, 480)
    batch = EventBatch.concatenate([decoder.decode(packet.payload) for packet in packets])
    triggers = decoder.triggers()
    assert np.bincount(batch.p).tolist() == [218_291, 125_183]
    # Sums that the ROS drivers' own decoder finds, too.
    sums = [int(array.astype(np.int64).sum()) for array in (batch.x, batch.y)]
    assert sums == [116_731_888, 80_879_209]
    assert len(triggers) == 4157
    assert set(triggers.id.tolist()) == {6}
    rising = triggers.t[triggers.edge == 1]
    assert abs(np.diff(rising) - 1_000_000).max() <= 2000
    assert (batch.t[-1] - batch.t[0]) / 1e9 == pytest.approx(2.076, abs=0.005)
    stats = decoder.stats
    assert (stats.out_of_range, stats.before_time, stats.unknown, stats.backward) == (0, 0, 0, 0)
