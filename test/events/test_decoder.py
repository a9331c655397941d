"""Properties of all decoders: cuts do not matter, losses are counted, corrupt input is safe."""

from __future__ import annotations

import array
import itertools
import os
import subprocess
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packet_bytes import WORD_BYTES, as_tuples, evt3_words, random_payload
from reference_codecs import decode

from scaleevent_ros.events import (
    EventBatch,
    EventsError,
    Triggers,
    UnknownEncodingError,
    make_decoder,
    warm_up,
)
from scaleevent_ros.events.decoder import CODECS

if TYPE_CHECKING:
    from pathlib import Path

WIDTH, HEIGHT = 300, 200
TIME_BASE = 1_700_000_000_000_000_000

encodings = pytest.mark.parametrize("encoding", WORD_BYTES)
streams = st.one_of(
    st.binary(max_size=400),
    st.tuples(st.integers(0, 1 << 32), st.integers(0, 3000)),
)


def bytes_of(encoding: str, stream: bytes | tuple[int, int]) -> bytes:
    return stream if isinstance(stream, bytes) else random_payload(encoding, *stream)


def assert_same(batch: EventBatch, other: EventBatch) -> None:
    for name in "xytp":
        np.testing.assert_array_equal(getattr(batch, name), getattr(other, name), name)


def assert_same_triggers(triggers: Triggers, other: Triggers) -> None:
    for name in ("t", "id", "edge"):
        np.testing.assert_array_equal(getattr(triggers, name), getattr(other, name), name)


@encodings
@settings(max_examples=60, deadline=None)
@given(stream=streams, cuts=st.lists(st.integers(0, 24_000), max_size=12))
def test_cuts_do_not_matter(
    encoding: str, stream: bytes | tuple[int, int], cuts: list[int]
) -> None:
    payload = bytes_of(encoding, stream)
    whole = make_decoder(encoding, WIDTH, HEIGHT)
    expected = whole.decode(payload, TIME_BASE)
    decoder = make_decoder(encoding, WIDTH, HEIGHT)
    edges = [0, *sorted(cut % (len(payload) + 1) for cut in cuts), len(payload)]
    batches = [
        decoder.decode(payload[start:end], TIME_BASE) for start, end in itertools.pairwise(edges)
    ]
    assert_same(EventBatch.concatenate(batches), expected)
    assert_same_triggers(decoder.triggers(), whole.triggers())
    assert decoder.stats == whole.stats


@encodings
@settings(max_examples=60, deadline=None)
@given(stream=streams)
def test_decodes_as_specified_and_counts_what_it_drops(
    encoding: str, stream: bytes | tuple[int, int]
) -> None:
    payload = bytes_of(encoding, stream)
    decoder = make_decoder(encoding, WIDTH, HEIGHT)
    batch = decoder.decode(payload, TIME_BASE)
    batch.validate()
    triggers = decoder.triggers()
    expected = decode(encoding, payload, WIDTH, HEIGHT, TIME_BASE)
    assert as_tuples(batch.x, batch.y, batch.t, batch.p) == expected.events
    assert as_tuples(triggers.t, triggers.id, triggers.edge) == expected.triggers
    stats = asdict(decoder.stats)
    assert stats == {
        "words": len(payload) // WORD_BYTES[encoding],
        "events": len(expected.events),
        "triggers": len(expected.triggers),
        "triggers_lost": 0,
        "truncated_bytes": 0,
    } | {
        name: getattr(expected, name)
        for name in stats.keys()
        - {"words", "events", "triggers", "triggers_lost", "truncated_bytes"}
    }


@encodings
def test_times_never_decrease_across_packets(encoding: str) -> None:
    decoder = make_decoder(encoding, WIDTH, HEIGHT)
    bases = [TIME_BASE, 5, (1 << 64) - 1, 0, -(1 << 70), 1 << 62, TIME_BASE]
    batches = [
        decoder.decode(random_payload(encoding, seed, 2000), base)
        for seed, base in enumerate(bases)
    ]
    joined = EventBatch.concatenate(batches)
    assert len(joined) > 1000
    joined.validate()


@encodings
def test_two_packets_are_independent_of_each_others_arrays(encoding: str) -> None:
    decoder = make_decoder(encoding, WIDTH, HEIGHT)
    first = decoder.decode(random_payload(encoding, 1, 2000), TIME_BASE)
    assert len(first)
    copy = EventBatch(first.x.copy(), first.y.copy(), first.t.copy(), first.p.copy(), WIDTH, HEIGHT)
    decoder.decode(random_payload(encoding, 2, 2000), TIME_BASE + 1)
    assert_same(first, copy)


@encodings
def test_takes_any_buffer_wherever_it_lies(encoding: str) -> None:
    payload = random_payload(encoding, 7, 500)
    expected = make_decoder(encoding, WIDTH, HEIGHT).decode(payload)
    shifted = memoryview(b"\0" + payload)[1:]
    buffers = (
        bytearray(payload),
        memoryview(payload),
        shifted,
        array.array("B", payload),
        np.frombuffer(payload, np.uint8),
    )
    for buffer in buffers:
        assert_same(make_decoder(encoding, WIDTH, HEIGHT).decode(buffer), expected)


@encodings
def test_reset_forgets_everything(encoding: str) -> None:
    payload = random_payload(encoding, 3, 1000) + b"\1"
    decoder = make_decoder(encoding, WIDTH, HEIGHT)
    expected = decoder.decode(payload, TIME_BASE)
    stats = decoder.stats
    decoder.reset()
    assert not any(asdict(decoder.stats).values())
    assert len(decoder.triggers()) == 0
    assert_same(decoder.decode(payload, TIME_BASE), expected)
    assert decoder.stats == stats


@encodings
def test_flush_keeps_a_truncated_packet_from_shifting_the_next(encoding: str) -> None:
    payload = random_payload(encoding, 4, 1000)
    whole = make_decoder(encoding, WIDTH, HEIGHT)
    expected = [whole.decode(payload, TIME_BASE) for _ in range(2)]
    decoder = make_decoder(encoding, WIDTH, HEIGHT)
    assert_same(decoder.decode(payload + b"\x80", TIME_BASE), expected[0])
    decoder.flush()
    assert_same(decoder.decode(payload, TIME_BASE), expected[1])
    assert decoder.stats.truncated_bytes == 1


@pytest.mark.parametrize("encoding", ["libcaer", "libcaer_cmp", "mono"])
def test_a_new_time_base_ends_a_truncated_packet(encoding: str) -> None:
    payload = random_payload(encoding, 5, 1000)
    decoder = make_decoder(encoding, WIDTH, HEIGHT)
    expected = decoder.decode(payload, TIME_BASE)
    decoder.reset()
    assert len(decoder.decode(b"\1", TIME_BASE - 1)) == 0
    assert_same(decoder.decode(payload, TIME_BASE), expected)
    assert decoder.stats.truncated_bytes == 1


def test_resize_changes_the_geometry_and_keeps_the_clock() -> None:
    decoder = make_decoder("evt3", 100, 100)
    line = [(0, 150), (2, 150)]
    assert len(decoder.decode(evt3_words((8, 1), (6, 2), *line))) == 0
    decoder.resize(200, 160)
    batch = decoder.decode(evt3_words(*line))
    assert (batch.width, batch.height) == (decoder.width, decoder.height) == (200, 160)
    assert as_tuples(batch.x, batch.y, batch.t) == [(150, 150, 4_098_000)]
    decoder.resize(150, 160)
    assert len(decoder.decode(evt3_words(*line))) == 0
    assert (decoder.stats.events, decoder.stats.out_of_range) == (1, 2)


def test_a_full_queue_loses_the_oldest_triggers() -> None:
    decoder = make_decoder("evt3", WIDTH, HEIGHT)
    decoder.decode(evt3_words((8, 0), (6, 0)))
    count = (1 << 16) + 100
    edges = np.full((count, 2), 10 << 12, "<u2")
    edges[:, 0] = 6 << 12 | np.arange(count) % 4096
    edges[:, 1] |= (np.arange(count) % 2).astype("<u2")
    decoder.decode(edges.tobytes())
    triggers = decoder.triggers()
    assert (len(triggers), decoder.stats.triggers) == (1 << 16, count)
    assert decoder.stats.triggers_lost == 100
    assert triggers.edge[0] == 0
    assert len(decoder.triggers()) == 0


def test_an_unknown_encoding_names_the_known_ones() -> None:
    with pytest.raises(UnknownEncodingError, match=r"'evt9'.*evt3, evt2, evt21, libcaer"):
        make_decoder("evt9", WIDTH, HEIGHT)


@pytest.mark.parametrize(("encoding", "order"), [("evt21", "big"), ("evt3", "little")])
def test_an_unknown_word_order_is_refused(encoding: str, order: str) -> None:
    with pytest.raises(UnknownEncodingError, match="word order"):
        make_decoder(encoding, WIDTH, HEIGHT, word_order=order)


@pytest.mark.parametrize("size", [(0, 10), (10, 0), (-1, 5), (1 << 17, 10)])
def test_an_impossible_geometry_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(EventsError, match="sides must be in 1 to 65536"):
        make_decoder("evt3", *size)


@encodings
def test_no_packet_compiles_anything_after_warming_up(encoding: str) -> None:
    warm_up([encoding])
    kernel: Any = CODECS[encoding].decode
    compiled = list(kernel.signatures)
    payload = random_payload(encoding, 1, 100)
    decoder = make_decoder(encoding, WIDTH, HEIGHT)
    for buffer in (payload, bytearray(payload), memoryview(b"\0" + payload)[1:], b"", b"\1"):
        for time_base in (0, TIME_BASE, 1 << 64, np.uint64(5)):
            decoder.decode(buffer, time_base)
    assert kernel.signatures == compiled


def test_no_kernel_reads_or_writes_out_of_bounds(tmp_path: Path, repository: Path) -> None:
    run = subprocess.run(
        [sys.executable, repository / "test/support/codecs_within_bounds.py"],
        env=os.environ
        | {
            "NUMBA_BOUNDSCHECK": "1",
            "NUMBA_CACHE_DIR": str(tmp_path),
            "PYTHONPATH": str(repository),
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "bounds were checked and kept"
