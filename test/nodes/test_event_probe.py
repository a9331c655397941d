"""Counting and dating events without decoding: against whole decodings of real recordings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from scaleevent_ros.bags import BagReader
from scaleevent_ros.bags.messages import EventPacketView
from scaleevent_ros.events import encode_evt2, encode_evt3
from scaleevent_ros.events.batch import EventBatch
from scaleevent_ros.nodes.event_probe import WRAP_NS, ClockResidual, count_events, first_time

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def packets(bag: Path) -> list[EventPacketView]:
    reader = BagReader(bag)
    return [packet for _, packet in reader.events(reader.event_topic())]


def packet(encoding: str, payload: bytes, time_base: int = 0) -> EventPacketView:
    return EventPacketView(0, "", 480, 640, 0, time_base, encoding, False, payload)


def some_events(count: int, start_ns: int) -> EventBatch:
    rng = np.random.default_rng(3)
    return EventBatch(
        rng.integers(0, 640, count).astype(np.uint16),
        rng.integers(0, 480, count).astype(np.uint16),
        start_ns + np.sort(rng.integers(0, 10_000, count)) * 1000,
        rng.integers(0, 2, count).astype(np.uint8),
        640,
        480,
    )


@pytest.mark.parametrize(
    ("name", "events"), [("evt3_640x480", 343_474), ("libcaer_cmp_346x260", 571_266)]
)
def test_counts_those_of_real_recordings(test_data: Path, name: str, events: int) -> None:
    counted = [count_events(packet) for packet in packets(test_data / "bags" / name)]
    assert sum(counts for counts in counted if counts is not None) == events


@pytest.mark.parametrize(("encode", "encoding"), [(encode_evt3, "evt3"), (encode_evt2, "evt2")])
def test_counts_and_dates_what_was_encoded(
    encode: Callable[[EventBatch], bytes], encoding: str
) -> None:
    batch = some_events(5000, 3_000_000_000)
    encoded = packet(encoding, encode(batch))
    assert count_events(encoded) == 5000
    first = first_time(encoded)
    assert first is not None
    assert abs(first - int(batch.t[0])) <= 64_000  # EVT2 names the upper bits alone


def test_time_bases_are_times() -> None:
    assert first_time(packet("libcaer", bytes(80), 7_000)) == 7_000
    assert count_events(packet("libcaer", bytes(80), 7_000)) == 10
    assert count_events(packet("mono", bytes(83))) == 10


@pytest.mark.parametrize("payload", [b"", b"\x01", bytes(6), b"\x00\x80"])
def test_a_payload_without_a_time_has_none(payload: bytes) -> None:
    assert first_time(packet("evt3", payload)) is None
    assert count_events(packet("evt3", payload)) == 0


def test_an_unknown_encoding_has_no_figures() -> None:
    assert count_events(packet("evt9", bytes(8))) is None
    assert first_time(packet("evt9", bytes(8))) is None


def test_residual_of_a_clock_that_wraps_drifts_and_jitters() -> None:
    rng = np.random.default_rng(1)
    wrap = WRAP_NS["evt3"]
    residual = ClockResidual(wrap, length=4000)
    assert residual.ms is None
    # 40 s at 100 Hz: the clock starts again twice. 50 ppm of drift is no residual.
    for i in range(4000):
        sensor = i * 10_000_000
        host = 10**18 + int(sensor * 1.00005) + int(rng.normal(0, 500_000))
        residual.add((sensor + 5_000_000_000) % wrap, host)
    assert residual.ms == pytest.approx(0.5, rel=0.05)


def test_residual_starts_anew_with_the_sensor() -> None:
    residual = ClockResidual(0)
    for i in range(100):
        residual.add(i * 1_000_000, i * 1_000_000)
    for i in range(100):
        residual.add(i * 1_000_000, 50_000_000_000 + i * 1_000_000)
    assert residual.ms == pytest.approx(0.0, abs=1e-3)


def test_residual_of_a_real_recording(test_data: Path) -> None:
    residual = ClockResidual(WRAP_NS["evt3"], length=10_000)
    for real in packets(test_data / "bags" / "evt3_640x480"):
        sensor = first_time(real)
        assert sensor is not None
        residual.add(sensor, real.stamp_ns)
    assert residual.ms is not None
    assert 0.3 < residual.ms < 2.0
