"""Synchronization of frames and events: the time of each frame on the sensor's clock."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scaleevent_ros.bags.errors import BagError, SynchronizationError
from scaleevent_ros.bags.shift import Shift, estimate_shift
from scaleevent_ros.bags.timeline import unset_stamps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scaleevent_ros.bags.reader import BagReader
    from scaleevent_ros.bags.timeline import Timeline, Times

logger = logging.getLogger(__name__)

MODES = ("auto", "hardware_trigger", "sensor_time", "header_stamps", "estimated")

_MS = 1_000_000
# Declared methods by which the stamps of frames and packets share one clock exactly.
_EXACT = ("hardware_trigger", "sensor_time")
# Real clocks agree to 0.05 %; a driver's wrong unit or divider is off by more than this.
_MAX_RATE_ERROR = 0.01
_MIN_RATE_SPAN_NS = 1_000_000_000
# Stamps that lie further apart than this, the delay of a busy recording host, are of two clocks.
_SAME_CLOCK_NS = 1_000_000_000
_MAX_LAG_NS = 200 * _MS
# As a share of the period: random stamps lie a quarter from the nearest edge, in the median.
_MAX_SCATTER = 0.1
# A shift estimated from motion takes precedence over the stamps if it exceeds MIN_SHIFT_MS and
# SIGMAS times its standard error.
MIN_SHIFT_MS = 2.0
SIGMAS = 3.0


@dataclass(frozen=True)
class Synchronization:
    """Times of the frames on the sensor's clock.

    Attributes:
        mode: Clock mode: `hardware_trigger`, `sensor_time`, `header_stamps`, `estimated`.
        frame_ns: Times of the frames on the sensor's clock in ns, int64 [F], in the bag's order.
        known: Frames with a known time, bool [F]; a frame without its trigger edge has none.
        shift_ms: Mean delay of frames after their stamps, in ms.
        residual_ms: Scatter of the stamps about this delay, in ms.
        reason: Reason for this mode, as text.
        estimate: Shift from motion, relative to the stamps; None if it was not estimated or motion
            is not sufficient.
    """

    mode: str
    frame_ns: Times
    known: NDArray[np.bool_]
    shift_ms: float
    residual_ms: float
    reason: str
    estimate: Shift | None = None


def synchronize(reader: BagReader, timeline: Timeline, mode: str = "auto") -> Synchronization:
    """Determine the time of each frame on the sensor's clock.

    Args:
        reader: Open bag.
        timeline: Timeline of the bag.
        mode: `hardware_trigger`: by the edges on the sensor's trigger input. `sensor_time`: frames
            are stamped by the sensor's own clock. `header_stamps`: frames and packets are stamped
            by one host. `estimated`: by the frames' stamps, plus the shift at which brightness
            changes correlate best with events. `auto`: the exact clock that the bag's metadata
            declares (`clock_method`); else the first of hardware trigger and sensor time that the
            bag supports; else stamps, corrected by the estimated shift if that is reliable and
            exceeds its uncertainty.

    Raises:
        SynchronizationError: If the mode is unknown, the bag does not support it or has no frames,
            or clocks run at different rates, so that no shift brings them together.
    """
    if mode not in MODES:
        msg = f"synchronization mode {mode!r} is none of {', '.join(MODES)}"
        raise SynchronizationError(msg)
    if not len(timeline.frames.stamp):
        msg = f"{timeline.image_topic} of {reader.path} has no frames"
        raise SynchronizationError(msg)
    _check_rates(timeline)
    if mode == "auto":
        return _automatic(reader, timeline)
    if mode == "hardware_trigger":
        return _by_trigger(reader, timeline)
    if mode == "sensor_time":
        return _by_sensor_time(timeline)
    if mode == "header_stamps":
        return _by_header_stamps(timeline)
    return _by_estimate(reader, timeline)


def _check_rates(timeline: Timeline) -> None:
    """Check that all stamps advance at the same rate.

    Rates are relative to the messages' arrival, which is timed by one clock, that of the recording
    host. Without this check, stamps at twice the rate of others could agree in their medians.

    Raises:
        SynchronizationError: If rates differ; the message lists them.
    """
    packets, frames = timeline.packets, timeline.frames
    stamped = ~unset_stamps(frames.stamp)
    # Few pairs of stamps may span a step of a clock.
    parts = 2 if len(timeline.clock.segments) == 1 else 8
    rates = {
        f"stamps of {timeline.image_topic}": _rate(
            frames.stamp[stamped], frames.record[stamped], parts
        ),
        f"stamps of {timeline.event_topic}": _rate(packets.stamp, packets.record, parts),
        "the sensor's clock": _rate(packets.first, packets.record, parts),
    }
    known = {name: rate for name, rate in rates.items() if rate is not None}
    for (_, one), (_, other) in combinations(known.items(), 2):
        allowed = _MAX_RATE_ERROR + 3 * (one.error + other.error)
        if abs(one.rate - other.rate) > allowed * max(abs(one.rate), abs(other.rate)):
            listed = ", ".join(f"{name} {rate.rate:.3f}" for name, rate in known.items())
            msg = f"clocks run at different rates, in seconds per second of arrival: {listed}"
            raise SynchronizationError(msg)


class _Rate(NamedTuple):
    """Rate of one clock relative to another, with its standard error."""

    rate: float
    error: float


def _rate(times: Times, arrival: Times, parts: int) -> _Rate | None:
    """Measure the rate of a clock over parts of a recording; None if it is too short."""
    apart = len(times) // parts
    if apart < 2 or arrival[-1] - arrival[0] < _MIN_RATE_SPAN_NS:
        return None
    elapsed = arrival[apart:] - arrival[:-apart]
    slopes = (times[apart:] - times[:-apart])[elapsed > 0] / elapsed[elapsed > 0]
    if not len(slopes):
        return None
    # Messages may arrive in bunches, each of which is one arrival.
    bunch = np.percentile(np.diff(np.unique(arrival)), 90)
    error = _scatter(slopes) / math.sqrt(parts) + 0.5 * bunch / np.median(elapsed[elapsed > 0])
    return _Rate(float(np.median(slopes)), float(error))


def _automatic(reader: BagReader, timeline: Timeline) -> Synchronization:
    reasons = []
    declared = reader.custom_data.get("clock_method", "")
    if declared in _EXACT:
        try:
            declaration = _by_header_stamps(timeline)
            detail = reader.custom_data.get("clock_detail", "")
            reason = f"the bag declares {declared}: {detail}".removesuffix(": ")
            return replace(declaration, mode=declared, reason=reason)
        except SynchronizationError as error:
            reasons.append(f"the bag declares {declared}, but {error}")
    try:
        return _by_trigger(reader, timeline)
    except SynchronizationError as error:
        reasons.append(str(error))
    by_stamps: Synchronization | None = None
    try:
        by_stamps = _by_header_stamps(timeline)
    except SynchronizationError as error:
        reasons.append(str(error))
    try:
        by_sensor = _by_sensor_time(timeline)
        # If both fit, only frames of the event sensor itself are taken to be stamped by its clock.
        if by_stamps is None or timeline.same_device:
            return by_sensor
    except SynchronizationError as error:
        reasons.append(str(error))
    try:
        estimated = _by_estimate(reader, timeline)
        limit = max(MIN_SHIFT_MS, SIGMAS * estimated.residual_ms)
        if by_stamps is None or abs(estimated.shift_ms) > limit:
            return estimated
        reasons.append(
            f"motion agrees with the stamps to {estimated.shift_ms:.1f} ms, within its uncertainty "
            f"of {limit:.1f} ms"
        )
        by_stamps = replace(by_stamps, estimate=estimated.estimate)
    except BagError as error:
        reasons.append(str(error))
    if by_stamps is None:
        raise SynchronizationError("; ".join(reasons))
    return replace(by_stamps, reason="; ".join(reasons))


def _by_sensor_time(timeline: Timeline) -> Synchronization:
    packets, frames = timeline.packets, timeline.frames
    inside = (frames.stamp > timeline.start_ns - _SAME_CLOCK_NS) & (
        frames.stamp < timeline.end_ns + _SAME_CLOCK_NS
    )
    delay = frames.record - timeline.clock.to_host(frames.stamp)
    packet_delay = np.median(packets.record - packets.stamp)
    if inside.mean() < 0.9 or abs(np.median(delay) - packet_delay) > _SAME_CLOCK_NS:
        msg = "the frames' stamps are not times of the sensor's clock"
        raise SynchronizationError(msg)
    return Synchronization(
        "sensor_time",
        frames.stamp,
        np.ones(len(frames.stamp), np.bool_),
        0.0,
        _scatter(delay) / _MS,
        "frames are stamped by the sensor's clock",
    )


def _by_header_stamps(timeline: Timeline) -> Synchronization:
    apart = _clock_offset(timeline)
    if abs(apart) > _SAME_CLOCK_NS:
        msg = f"the stamps of frames and of events are {apart / 1e9:.1f} s apart"
        raise SynchronizationError(msg)
    stamps = timeline.frames.stamp
    return Synchronization(
        "header_stamps",
        timeline.clock.to_sensor(stamps),
        np.ones(len(stamps), np.bool_),
        0.0,
        timeline.clock.residual_ms,
        "frames and packets are stamped by one clock",
    )


def _by_estimate(reader: BagReader, timeline: Timeline) -> Synchronization:
    frame_ns = timeline.clock.to_sensor(_host_stamps(timeline))
    shift = estimate_shift(reader, timeline, frame_ns)
    return Synchronization(
        "estimated",
        frame_ns + round(shift.shift_ms * _MS),
        np.ones(len(frame_ns), np.bool_),
        shift.shift_ms,
        shift.residual_ms,
        f"motion in frames and events agrees, with a correlation of {shift.correlation:.2f}",
        shift,
    )


def _by_trigger(reader: BagReader, timeline: Timeline) -> Synchronization:
    triggers = timeline.triggers
    if not len(triggers):
        msg = "the events hold no trigger edges"
        raise SynchronizationError(msg)
    stamps = _host_stamps(timeline)
    trains = []
    for channel, edge in sorted(
        set(zip(triggers.id.tolist(), triggers.edge.tolist(), strict=True))
    ):
        times = triggers.t[(triggers.id == channel) & (triggers.edge == edge)]
        lags = _find_lags(timeline.clock.to_host(times), stamps)
        trains += [(lag, channel, edge, times) for lag in lags]
    if not trains:
        msg = f"the {len(triggers)} trigger edges do not match the times of the frames"
        raise SynchronizationError(msg)
    expected_ns = _expected_lag(reader, timeline) if len(trains) > 1 else 0
    nearest = min(abs(lag.lag_ns - expected_ns) + lag.period_ns / 4 for lag, *_ in trains)
    # Rising edges are preferred if both fit.
    lag, channel, edge, times = min(
        (train for train in trains if abs(train[0].lag_ns - expected_ns) <= nearest),
        key=lambda train: (-train[2], abs(train[0].lag_ns - expected_ns)),
    )
    index, known = _assign(timeline.clock.to_host(times), stamps - lag.lag_ns, lag.period_ns / 4)
    name = "rising" if edge else "falling"
    return Synchronization(
        "hardware_trigger",
        times[index],
        known,
        -lag.lag_ns / _MS,
        lag.scatter_ns / _MS,
        f"{int(known.sum())} of {len(stamps)} frames have {name} edges of trigger {channel}",
    )


class _Lag(NamedTuple):
    """Delay of the frames' stamps after the edges of a pulse train, its scatter, and the period."""

    lag_ns: int
    scatter_ns: float
    period_ns: int


def _find_lags(edges: Times, stamps: Times) -> list[_Lag]:
    """Find the lags at which frames and edges (both on the host's clock, in ns) fit best.

    Regular edges fit at several lags, whole periods apart; then all of them are returned. The
    median distance tolerates missing and additional edges and frames.
    """
    if len(edges) < 3 or len(stamps) < 3:
        return []
    period = int(np.median(np.diff(edges)))
    interval = np.median(np.diff(np.sort(stamps)))
    if period <= 0 or period < interval / 8:
        return []
    middle = len(stamps) // 2
    sample = stamps[max(middle - 500, 0) : middle + 500]
    sample = sample[(sample > edges[0]) & (sample < edges[-1])]
    if len(sample) < 3:
        return []
    lags = np.arange(-_MAX_LAG_NS, _MAX_LAG_NS, max(period // 20, _MS // 10))
    distances = np.array([np.median(np.abs(_residuals(edges, sample - lag))) for lag in lags])
    found = []
    for index in range(1, len(lags) - 1):
        here = distances[index]
        if here > 2 * _MAX_SCATTER * period or here > distances[index - 1 : index + 2].min():
            continue
        lag = lags[index] + round(np.median(_residuals(edges, sample - lags[index])))
        scatter = _scatter(_residuals(edges, sample - lag))
        if scatter <= _MAX_SCATTER * period:
            found.append(_Lag(int(lag), scatter, period))
    if not found:
        return []
    best = min(lag.scatter_ns for lag in found)
    return [lag for lag in found if lag.scatter_ns <= 1.5 * best + 0.1 * _MS]


def _expected_lag(reader: BagReader, timeline: Timeline) -> int:
    """Estimate the trigger's lag in ns from motion; 0, for the smallest lag, if that fails."""
    try:
        return -round(_by_estimate(reader, timeline).shift_ms * _MS)
    except BagError as error:
        logger.info("the trigger's lag is assumed to be the smallest possible: %s", error)
        return 0


def _assign(edges: Times, times: Times, limit_ns: float) -> tuple[Times, NDArray[np.bool_]]:
    """Match each time to its nearest edge, and each edge to one time at most.

    Returns:
        Index of the edge [F], and whether there is one within the limit [F].
    """
    index = _nearest(edges, times)
    distance = np.abs(times - edges[index])
    order = np.lexsort((distance, index))
    is_first = np.ones(len(order), np.bool_)
    is_first[1:] = np.diff(index[order]) > 0
    known = np.zeros(len(order), np.bool_)
    known[order] = is_first
    return index, known & (distance <= limit_ns)


def _nearest(edges: Times, times: Times) -> Times:
    """Return the index of each time's nearest edge."""
    after = np.clip(np.searchsorted(edges, times), 1, len(edges) - 1)
    return after - (times - edges[after - 1] < edges[after] - times)


def _residuals(edges: Times, times: Times) -> Times:
    """Return each time minus its nearest edge."""
    return times - edges[_nearest(edges, times)]


def _clock_offset(timeline: Timeline) -> int:
    """Estimate the packets' clock minus the frames' clock in ns, from stamps and record times."""
    packets, frames = timeline.packets, timeline.frames
    return int(np.median(frames.record - frames.stamp) - np.median(packets.record - packets.stamp))


def _host_stamps(timeline: Timeline) -> Times:
    """Return the frames' stamps, moved to the packets' clock if they are of another one."""
    apart = _clock_offset(timeline)
    stamps = timeline.frames.stamp
    return stamps + apart if abs(apart) > _SAME_CLOCK_NS else stamps


def _scatter(values: Times) -> float:
    """Estimate a standard deviation that outliers do not change."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))
