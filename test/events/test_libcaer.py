"""The encodings of libcaer cameras by examples and against a real recording."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from packet_bytes import as_tuples, evt3_words, libcaer_cmp_recording

from scaleevent_ros.events import EventBatch, make_decoder

if TYPE_CHECKING:
    from pathlib import Path

BASE = 1_702_669_729_854_452_000


def test_compressed_words() -> None:
    decoder = make_decoder("libcaer_cmp", 346, 260)
    words = [(2, 5), (3, 0x807), (1, 3), (3, 8), (0, 1), (3, 9), (4, 0x802), (5, 0b101), (5, 1)]
    batch = decoder.decode(evt3_words(*words, (3, 260), (2, 346), (3, 1), (7, 0)), BASE)
    assert as_tuples(batch.x, batch.y, batch.t - BASE, batch.p) == [
        (5, 7, 0, 1),
        (5, 8, 3000, 0),
        (5, 9, 4_099_000, 0),
        (5, 2, 4_099_000, 1),
        (5, 4, 4_099_000, 1),
        (5, 10, 4_099_000, 1),
    ]
    assert (decoder.stats.out_of_range, decoder.stats.unknown) == (2, 1)


def test_each_compressed_packet_starts_at_its_time_base() -> None:
    decoder = make_decoder("libcaer_cmp", 346, 260)
    decoder.decode(evt3_words((2, 5), (0, 1), (1, 3), (3, 7)), BASE)
    batch = decoder.decode(evt3_words((3, 8)), BASE + 10_000_000)
    assert as_tuples(batch.x, batch.y, batch.t) == [(5, 8, BASE + 10_000_000)]


def test_uncompressed_events_and_a_roll_over_within_a_packet() -> None:
    decoder = make_decoder("libcaer", 640, 480)
    end = (1 << 31) - 1
    halves = [(639 << 17 | 479 << 2 | 3, end), (1 << 17 | 2 << 2, 5), (640 << 17 | 1, 6)]
    batch = decoder.decode(np.array(halves, "<u4").tobytes(), BASE)
    expected = [(639, 479, end * 1000, 1), (1, 2, ((1 << 31) + 5) * 1000, 0)]
    assert as_tuples(batch.x, batch.y, batch.t - BASE, batch.p) == expected
    assert (decoder.stats.roll_overs, decoder.stats.out_of_range) == (1, 1)


@pytest.mark.parametrize("step", [-1_000_000, -(10**12)])
def test_a_time_base_that_steps_back(step: int) -> None:
    decoder = make_decoder("libcaer_cmp", 346, 260)
    words = evt3_words((2, 5), (1, 3), (3, 7), (1, 13), (3, 7))
    before = decoder.decode(words, BASE)
    after = decoder.decode(words, BASE + step)
    small = step == -1_000_000
    assert (decoder.stats.backward, decoder.stats.resets) == (2 * small, not small)
    ahead = 0 if small else 10_000
    assert (after.t - before.t[-1]).tolist() == [0, ahead]


def test_real_recording(test_data: Path) -> None:
    packets = list(libcaer_cmp_recording(test_data))
    assert len(packets) == 100
    decoder = make_decoder("libcaer_cmp", 346, 260)
    batches = [decoder.decode(packet.payload, packet.time_base) for packet in packets]
    joined = EventBatch.concatenate(batches)
    joined.validate()
    assert len(joined) == 571_266
    assert (joined.t[-1] - joined.t[0]) / 1e9 == pytest.approx(1.0, abs=0.01)
    assert all(
        packet.time_base <= batch.t[0] < packet.time_base + 1_000_000
        for packet, batch in zip(packets, batches, strict=True)
    )
    stats = decoder.stats
    dropped = stats.out_of_range, stats.unknown, stats.backward, stats.resets
    assert not any(dropped)
