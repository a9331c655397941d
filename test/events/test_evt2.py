"""EVT2 and EVT2.1 by examples and against a real recording."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from packet_bytes import as_tuples, evt2_recording

from scaleevent_ros.events import Decoder, make_decoder

if TYPE_CHECKING:
    from pathlib import Path


def evt2_word(kind: int, low: int, x: int, y: int) -> int:
    return kind << 28 | low << 22 | x << 11 | y


def high_word(high: int) -> int:
    return 8 << 28 | high


def decode_all(decoder: Decoder, words: list[int]) -> list[tuple[int, ...]]:
    batch = decoder.decode(np.array(words, "<u4").tobytes())
    return as_tuples(batch.x, batch.y, batch.t // 1000, batch.p)


def test_events_and_triggers() -> None:
    decoder = make_decoder("evt2", 640, 480)
    early = [evt2_word(1, 5, 1, 1), 10 << 28 | 1]
    words = [high_word(3), evt2_word(1, 5, 639, 479), 10 << 28 | 9 << 22 | 7 << 8 | 1]
    words += [evt2_word(0, 10, 0, 2), evt2_word(0, 11, 640, 2), 0x99999999, 14 << 28, 15 << 28]
    words += [3 << 28]
    assert decode_all(decoder, early + words) == [(639, 479, 197, 1), (0, 2, 202, 0)]
    triggers = decoder.triggers()
    assert as_tuples(triggers.t, triggers.id, triggers.edge) == [(201_000, 7, 1)]
    stats = decoder.stats
    assert (stats.before_time, stats.out_of_range) == (2, 1)
    assert (stats.padding, stats.skipped, stats.unknown) == (1, 2, 1)


def test_a_roll_over_of_34_bits() -> None:
    decoder = make_decoder("evt2", 10, 10)
    end = (1 << 28) - 1
    words = [high_word(end), evt2_word(0, 63, 1, 1), high_word(0), evt2_word(0, 0, 1, 1)]
    assert [event[2] for event in decode_all(decoder, words)] == [(1 << 34) - 1, 1 << 34]
    assert decoder.stats.roll_overs == 1


def test_a_clock_that_was_set_anew_goes_on_from_where_it_was() -> None:
    decoder = make_decoder("evt2", 10, 10)
    words = [high_word(1 << 20), evt2_word(0, 0, 1, 1)]
    words += [high_word(0), evt2_word(0, 9, 1, 1), high_word(1), evt2_word(0, 9, 1, 1)]
    start = 1 << 26
    assert [event[2] for event in decode_all(decoder, words)] == [start, start, start + 64]
    assert (decoder.stats.resets, decoder.stats.backward) == (1, 0)


def test_a_clock_a_little_behind_stands_still() -> None:
    decoder = make_decoder("evt2", 10, 10)
    words = [high_word(9), evt2_word(0, 0, 1, 1), high_word(8), evt2_word(0, 0, 1, 1)]
    words += [evt2_word(0, 1, 1, 1), high_word(10), evt2_word(0, 0, 1, 1)]
    assert [event[2] for event in decode_all(decoder, words)] == [576, 576, 576, 640]
    assert (decoder.stats.resets, decoder.stats.backward) == (0, 2)


# From the maker's documentation: 0x0102030405060708 travels as 08 07 ... 01 from a GenX320, and
# as 04 03 02 01 08 07 06 05 from an IMX636.
ORDERS = {"little": [1, 0], "legacy": [0, 1]}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("told", [True, False])
def test_evt21_in_both_word_orders(order: str, told: bool) -> None:
    pairs = [
        (high_word(3), 0),
        (evt2_word(1, 5, 608, 479), 1 << 31 | 0b101),
        (evt2_word(0, 6, 32, 2), 0xFFFFFFFF),
        (10 << 28 | 9 << 22 | 1 << 8, 0),
        (evt2_word(0, 7, 620, 2), 0xFFFFFFFF),
        (high_word(4), 0),
        (evt2_word(0, 0, 0, 480), 1),
    ]
    decoder = make_decoder("evt21", 640, 480, word_order=order if told else None)
    words = np.array(pairs, "<u4")[:, ORDERS[order]]
    expected = [(x, 479, 197, 1) for x in (608, 610, 639)]
    expected += [(x, 2, 198, 0) for x in range(32, 64)]
    expected += [(x, 2, 199, 0) for x in range(620, 640)]
    assert decode_all(decoder, words.ravel().tolist()) == expected
    assert decoder.stats.out_of_range == 12 + 1
    triggers = decoder.triggers()
    assert as_tuples(triggers.t, triggers.id, triggers.edge) == [(201_000, 1, 0)]


def test_evt21_bytes_as_documented() -> None:
    word = 0x1102030405060708
    high = high_word(0) << 32
    little = b"".join(value.to_bytes(8, "little") for value in (high, word))
    legacy = bytes.fromhex("0000008000000000") + bytes.fromhex("0403021108070605")
    events = [
        as_tuples(batch.x, batch.y, batch.t, batch.p)
        for batch in (make_decoder("evt21", 2048, 2048).decode(data) for data in (little, legacy))
    ]
    bits = [bit for bit in range(32) if 0x05060708 >> bit & 1]
    x, y, low = word >> 43 & 0x7FF, word >> 32 & 0x7FF, word >> 54 & 0x3F
    assert events == [[(x + bit, y, low * 1000, 1) for bit in bits]] * 2


def test_real_recording(test_data: Path) -> None:
    payload = evt2_recording(test_data)
    decoder = make_decoder("evt2", 640, 480)
    batch = decoder.decode(payload)
    batch.validate()
    assert len(batch) == 521_252
    assert (batch.t[-1] - batch.t[0]) / 1e6 == pytest.approx(95.9, abs=0.05)
    stats = decoder.stats
    dropped = stats.out_of_range, stats.before_time, stats.unknown, stats.backward, stats.resets
    assert not any(dropped)
