"""The sensor's clock against synthetic truths, hostile streams, and a real recording."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import scaleevent_ros.events.clock as clock_module
from scaleevent_ros.bags import BagReader
from scaleevent_ros.events import ClockFit, EventsError, SensorClock, fit_clock, make_decoder
from scaleevent_ros.events.clock import MEMORY

if TYPE_CHECKING:
    from pathlib import Path

MS = 1_000_000
SECOND = 1_000_000_000
HOST_START = 1_675_956_550 * SECOND
SENSOR_START = 7 * SECOND


def pairs(
    rng: np.random.Generator,
    late_ms: np.ndarray,
    seconds: float = 10.0,
    drift: float = 0.0,
    sensor_start: int = SENSOR_START,
    host_start: int = HOST_START,
) -> tuple[np.ndarray, np.ndarray]:
    """Send packets at random times; each stamp is late by so many ms."""
    sensor = np.sort(rng.integers(0, int(seconds * SECOND), len(late_ms)))
    host = sensor + np.rint(sensor * drift).astype(np.int64) + (late_ms * MS).astype(np.int64)
    return sensor + sensor_start, host + host_start


def with_outliers(rng: np.random.Generator, late_ms: np.ndarray, reach_ms: float) -> np.ndarray:
    """Move every twentieth stamp at random, early or late."""
    strays = rng.random(len(late_ms)) < 0.05
    return np.where(strays, late_ms + rng.uniform(-reach_ms, reach_ms, len(late_ms)), late_ms)


def follow(sensor: np.ndarray, host: np.ndarray, clock: SensorClock | None = None) -> SensorClock:
    clock = clock or SensorClock()
    for pair in zip(sensor.tolist(), host.tolist(), strict=True):
        clock.add(*pair)
    return clock


def worst_error_ms(fit: ClockFit | SensorClock, drift: float, seconds: float = 10.0) -> float:
    """Compare the mapping with the truth of `pairs`, all along."""
    since = np.linspace(0, seconds * SECOND, 101).astype(np.int64)
    truth = HOST_START + since + np.rint(since * drift).astype(np.int64)
    return float(np.abs(fit.to_ros(since + SENSOR_START) - truth).max() / MS)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("reach_ms", [8, 50])
@pytest.mark.parametrize("shape", ["exponential", "uniform"])
def test_offset_and_drift_are_recovered(shape: str, reach_ms: float, seed: int) -> None:
    """0.1 ms and 1 ppm after 10 s of packets at 1 kHz that are late by 1.25 ms rms, 5 % wildly."""
    rng = np.random.default_rng(seed)
    drift = rng.uniform(-100e-6, 100e-6)
    late = rng.exponential(1.25, 10_000) if shape == "exponential" else rng.uniform(0, 4.33, 10_000)
    sensor, host = pairs(rng, with_outliers(rng, late, reach_ms), drift=drift)
    clock = follow(sensor, host)
    (segment,) = fit_clock(sensor, host)
    assert clock.segments == 1
    for fit in (clock.fit, segment.fit):
        assert worst_error_ms(fit, drift) < 0.1
        assert fit.drift == pytest.approx(drift, abs=1e-6)
        assert fit.residual_ns < 0.1 * MS
        assert 0.9 * MS < fit.jitter_ns < 1.6 * MS


@pytest.mark.parametrize("sensor_start", [0, SENSOR_START + 3 * SECOND, 99 * SECOND])
def test_a_clock_set_anew_starts_a_segment(sensor_start: int) -> None:
    """The sensor is restarted after 2 s and counts from 0, or goes on from where it was."""
    rng = np.random.default_rng(5)
    old = pairs(rng, rng.exponential(1.25, 500), seconds=2)
    new = pairs(rng, rng.exponential(1.25, 500), seconds=2, sensor_start=sensor_start,
                host_start=HOST_START + 3 * SECOND + 200 * MS)  # fmt: skip
    sensor, host = np.concatenate([old, new], axis=1)
    clock = follow(*old)
    assert clock.segments == 1
    follow(*new, clock)
    assert (clock.segments, clock.segment_first[0]) == (2, 500)
    truth = HOST_START + 3 * SECOND + 200 * MS
    assert abs(clock.to_ros(sensor_start) - truth) < 0.1 * MS
    first, second = fit_clock(sensor, host)
    assert (first.start, first.end, second.start, second.end) == (0, 500, 500, 1000)
    assert abs(first.fit.to_ros(SENSOR_START) - HOST_START) < 0.1 * MS
    assert abs(second.fit.to_ros(sensor_start) - truth) < 0.1 * MS


def test_a_long_recording_is_thinned_and_its_segments_begin_where_they_did(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clock_module, "MOST_PAIRS", 256)
    rng = np.random.default_rng(8)
    old = pairs(rng, rng.exponential(1.25, 5003), seconds=20)
    new = pairs(rng, rng.exponential(1.25, 3000), seconds=12, sensor_start=0,
                host_start=HOST_START + 30 * SECOND)  # fmt: skip
    first, second = fit_clock(*np.concatenate([old, new], axis=1))
    assert (first.start, first.end, second.start, second.end) == (0, 5003, 5003, 8003)
    assert (second.sensor_ns, second.host_ns) == (new[0][0], new[1][0])
    assert (first.fit.pairs, second.fit.pairs) == (5003, 3000)
    assert abs(first.fit.to_ros(SENSOR_START) - HOST_START) < 0.1 * MS
    assert abs(second.fit.to_ros(0) - (HOST_START + 30 * SECOND)) < 0.1 * MS


def test_a_host_clock_set_back_starts_a_segment() -> None:
    rng = np.random.default_rng(5)
    sensor, host = pairs(rng, rng.exponential(1.25, 2000))
    host[1000:] -= 20 * MS
    clock = follow(sensor, host)
    assert (clock.segments, clock.segment_first[0]) == (2, 1000)
    assert abs(clock.to_ros(SENSOR_START) - (HOST_START - 20 * MS)) < 0.1 * MS


def test_a_busy_host_does_not() -> None:
    """200 packets wait up to 800 ms and then come at once; one packet overtakes another."""
    rng = np.random.default_rng(6)
    sensor, host = pairs(rng, rng.exponential(1.25, 2500))
    stall = slice(1000, 1200)
    host[stall] = host[1200]
    sensor[[2000, 2001]], host[[2000, 2001]] = sensor[[2001, 2000]], host[[2001, 2000]]
    clock = follow(sensor, host)
    assert clock.segments == 1
    assert worst_error_ms(clock, 0) < 0.1


def test_stamps_never_step_back() -> None:
    rng = np.random.default_rng(7)
    clock, stamps, lines = SensorClock(), [], set()
    for start in (SENSOR_START, 0):
        sensor, host = pairs(rng, rng.exponential(1.25, 600), 3, sensor_start=start)
        for pair in zip(sensor.tolist(), host.tolist(), strict=True):
            clock.add(*pair)
            stamps.append(clock.stamp(pair[0]))
            lines.add(clock.fit)
    assert len(lines) > 50
    assert (np.diff(stamps) >= 0).all()


def test_memory_is_bounded_and_the_line_follows_a_changing_drift() -> None:
    rng = np.random.default_rng(8)
    count = 3 * MEMORY
    sensor = np.arange(count, dtype=np.int64) * MS
    truth = HOST_START + sensor + (2e-16 * (sensor - sensor[-1]).astype(float) ** 2).astype(int)
    clock = follow(sensor, truth + (rng.exponential(1.25, count) * MS).astype(np.int64))
    assert clock.fit.pairs <= MEMORY
    assert abs(clock.to_ros(int(sensor[-1])) - truth[-1]) < 0.1 * MS


@pytest.mark.parametrize("count", [1, 2, 9, 40])
def test_few_pairs_give_an_offset(count: int) -> None:
    sensor = np.arange(count) * MS + SENSOR_START
    fit = follow(sensor, sensor + HOST_START).fit
    assert (fit.pairs, fit.drift) == (count, 0)
    assert fit.to_ros(SENSOR_START) == SENSOR_START + HOST_START
    assert (fit.to_ros(sensor) == sensor + HOST_START).all()


def test_pairs_all_at_one_time_are_survived() -> None:
    clock = follow(np.full(500, 5), np.full(500, HOST_START))
    assert clock.to_ros(5) == HOST_START


def test_wrong_input_is_refused() -> None:
    with pytest.raises(EventsError, match="no packet has come yet"):
        SensorClock().to_ros(0)
    with pytest.raises(EventsError, match="no packet has come yet"):
        fit_clock(np.empty(0, np.int64), np.empty(0, np.int64))
    with pytest.raises(EventsError, match="2 sensor times, 1 stamps"):
        fit_clock(np.zeros(2, np.int64), np.zeros(1, np.int64))


def test_a_real_recording(test_data: Path) -> None:
    """The line through real stamps is known much better than the stamps are steady."""
    reader = BagReader(test_data / "bags" / "evt3_640x480")
    decoder = make_decoder("evt3", 640, 480)
    sensor, host = [], []
    for _, packet in reader.events("/event_camera/events"):
        sensor.append(int(decoder.decode(packet.payload).t[0]))
        host.append(packet.stamp_ns)
    raw_jitter = np.std(np.subtract(host, sensor))
    (segment,) = fit_clock(np.array(sensor), np.array(host))
    assert raw_jitter == pytest.approx(1.25 * MS, rel=0.01)
    assert segment.fit.residual_ns < raw_jitter / 4
    assert (segment.fit.to_ros(np.array(sensor)) <= np.array(host) + segment.fit.residual_ns).all()
