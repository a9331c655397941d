"""Estimation of the time shift between frames and events from motion.

Between two frames, the logarithm of a pixel's brightness changes by the contrast threshold times
its ON events less its OFF events (Gallego et al., "Event-based Vision: A Survey", TPAMI 2022,
equation 2 and section 3.1). Sums over cells of a grid keep that relation and tolerate small
misalignment. So the shift is where the cells' changes of brightness agree best with the sums of
their events: the peak of the correlation over all cells and pairs of successive frames.

An event completes a change that began with the pixel's event before it, so that events lag behind
brightness, by 10 ms and more where motion is slow. Therefore each event counts evenly over the time
since the event before it. The delay by the pixels' bandwidth and dead time cannot be separated from
a shift. In simulations over all pixel models it stays below 1.8 times the lag that the spreading
removes (benchmarks/clock_shift.py), so a share of that lag is added to the residual.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import TYPE_CHECKING

import cv2
import numpy as np

from scaleevent_ros.bags.errors import SynchronizationError
from scaleevent_ros.bags.images import image_grey
from scaleevent_ros.bags.timeline import events_from
from scaleevent_ros.events.compile import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scaleevent_ros.bags.reader import BagReader
    from scaleevent_ros.bags.timeline import Timeline, Times

MAX_SHIFT_MS = 100
MAX_INTERVALS = 300
MAX_SECONDS = 15
MIN_INTERVALS = 8
ROWS, COLUMNS = 24, 32
# A finer grid gives a sharper peak, a coarser one tolerates the parallax of two lenses.
POOLINGS = (1, 2, 4)
_COST_OF_POOLING = 0.05  # of correlation: fewer cells correlate more by chance
MIN_CORRELATION = 0.2
MAX_SCATTER_MS = 3.0
MAX_RESIDUAL_MS = 15.0
LAG_SHARE = 0.6  # of the lag that is added to the residual: three residuals make 1.8
MAX_RIVAL = 0.9
MAX_STEP = 1.5

_MS = 1_000_000
# If a pixel was silent for longer, nothing moved there for a while, and its change began later.
_LONGEST_CHANGE_NS = 1000 * _MS
_SHORTEST_CHANGE_MS = 1e-3
_PARTS = 5
_DARK = 0.02  # added to brightness from 0 to 1, so that the noise of dark pixels stays small


@dataclass(frozen=True)
class Shift:
    """Estimated delay of frames after their stamps, on the clock of the events.

    Attributes:
        shift_ms: Delay to add to the stamps, in ms; negative where stamps are late.
        residual_ms: Standard error from parts of the recording, plus the uncertainty of the events'
            lag.
        scatter_ms: Standard error from parts alone.
        lag_ms: Correction, in ms, for the delay of events after the changes that they complete.
        correlation: Correlation of brightness changes and event sums at that shift.
        rival: Correlation at the second-best peak, which is high for periodic motion.
    """

    shift_ms: float
    residual_ms: float
    scatter_ms: float
    lag_ms: float
    correlation: float
    rival: float

    @property
    def is_clear(self) -> bool:
        """Whether the estimate is reliable."""
        return (
            self.correlation >= MIN_CORRELATION
            and self.scatter_ms <= MAX_SCATTER_MS
            and self.residual_ms <= MAX_RESIDUAL_MS
            and self.rival <= MAX_RIVAL * self.correlation
            and abs(self.shift_ms) < MAX_SHIFT_MS
        )


def estimate_shift(reader: BagReader, timeline: Timeline, frame_ns: Times) -> Shift:
    """Find the shift that best explains the differences of frames by events.

    Only the part with the most events is used: up to 300 successive frames, and 15 s.

    Args:
        reader: Open bag.
        timeline: Timeline of the bag.
        frame_ns: Times of the frames by their stamps, int64 [F], on the sensor's clock.

    Raises:
        SynchronizationError: If there are too few frames, or too little motion.
    """
    first, last = _busiest_frames(timeline, frame_ns)
    if last - first < MIN_INTERVALS:
        msg = f"{last - first + 1} frames are too few to estimate a shift from motion"
        raise SynchronizationError(msg)
    times = np.maximum.accumulate(frame_ns[first : last + 1])
    changes = _brightness_changes(reader, timeline, first, last)
    margin = (MAX_SHIFT_MS + 1) * _MS
    spread, late = _event_sums(
        reader, timeline, int(times[0]) - MAX_SHIFT_MS * _MS, int(times[-1]) + margin
    )
    peaks = {n: _find_peak(_pool(changes, n), _pool(spread, n), times) for n in POOLINGS}
    pooling = max(peaks, key=lambda n: peaks[n].correlation - _COST_OF_POOLING * n)
    best = peaks[pooling]
    by_events = _find_peak(_pool(changes, pooling), _pool(late, pooling), times)
    lag_ms = by_events.shift_ms - best.shift_ms
    best = replace(best, lag_ms=lag_ms, residual_ms=math.hypot(best.scatter_ms, LAG_SHARE * lag_ms))
    if not best.is_clear:
        msg = (
            f"motion does not show the shift: the best one, {best.shift_ms:.0f} ms, has a "
            f"correlation of {best.correlation:.2f} (the second best {best.rival:.2f}) and an "
            f"error of {best.residual_ms:.1f} ms"
        )
        raise SynchronizationError(msg)
    return best


def _busiest_frames(timeline: Timeline, frame_ns: Times) -> tuple[int, int]:
    """Find the successive frames with the most events between them.

    Returns:
        Indices of the first and the last of them.

    Raises:
        SynchronizationError: If no frame lies within the events.
    """
    inside = np.flatnonzero(
        (frame_ns > timeline.start_ns + MAX_SHIFT_MS * _MS)
        & (frame_ns < timeline.end_ns - MAX_SHIFT_MS * _MS)
    )
    if not len(inside):
        msg = "no frame was taken during the events"
        raise SynchronizationError(msg)
    first, last = int(inside[0]), int(inside[-1])
    interval_s = (frame_ns[last] - frame_ns[first]) / max(last - first, 1) / 1e9
    count = max(1, int(min(MAX_INTERVALS, MAX_SECONDS / max(interval_s, 1e-3))))
    if last - first > count:
        packets = timeline.packets
        seen = np.interp(frame_ns[first : last + 1], packets.first, packets.before)
        first += int(np.argmax(seen[count:] - seen[:-count]))
        last = first + count
    # A pause within the part must not make it too long.
    soon = frame_ns[first : last + 1] < frame_ns[first] + 2 * MAX_SECONDS * 1_000 * _MS
    return first, first + int(np.cumprod(soon).sum()) - 1


def _brightness_changes(
    reader: BagReader, timeline: Timeline, first: int, last: int
) -> NDArray[np.float32]:
    """Compute the change of log brightness by cell between frames, [N, ROWS, COLUMNS]."""
    record = timeline.frames.record
    images = reader.images(
        timeline.image_topic, start_ns=int(record[first]), end_ns=int(record[last]) + 1
    )
    skipped = first - int(np.searchsorted(record, record[first]))
    cells = [
        cv2.resize(
            np.log(image_grey(image) / np.float32(255) + np.float32(_DARK)),
            (COLUMNS, ROWS),
            interpolation=cv2.INTER_AREA,
        )
        for _, image in islice(images, skipped, skipped + last - first + 1)
    ]
    return np.diff(np.stack(cells), axis=0)


def _event_sums(
    reader: BagReader, timeline: Timeline, start_ns: int, end_ns: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Sum polarities by cell from `start_ns` up to each ms after it.

    Returns:
        Two arrays, float32 [T, ROWS, COLUMNS]: with each event spread over the change that it
        completes, and with each event at its own time.
    """
    shape = ((end_ns - start_ns) // _MS + 3, ROWS, COLUMNS)
    bends = np.zeros(shape)
    late = np.zeros(shape, np.float32)
    latest = np.zeros((0, 0), np.int64)
    for packet in events_from(reader, timeline, start_ns):
        events = packet.events
        if len(events) and events.t[0] > end_ns:
            break
        if latest.shape != (events.height, events.width):
            latest = np.full((events.height, events.width), start_ns << 1, np.int64)
        _add_polarities(events.x, events.y, events.t, events.p, latest, start_ns, bends, late)
    np.cumsum(np.cumsum(bends, axis=0, out=bends), axis=0, out=bends)
    return bends.astype(np.float32), np.cumsum(late, axis=0, out=late)


@kernel
def _add_polarities(
    x: NDArray[np.uint16],
    y: NDArray[np.uint16],
    t: NDArray[np.int64],
    p: NDArray[np.uint8],
    latest: NDArray[np.int64],
    start_ns: int,
    bends: NDArray[np.float64],
    late: NDArray[np.float32],
) -> None:
    """Add each event to its cell, as a change that begins with the pixel's event before it.

    If the polarity changed in between, the change begins halfway. `bends` is the second difference
    of the sums, which is not zero where a steady change begins or ends. `latest` holds, by pixel,
    the time of the last event in ns and, as lowest bit, its polarity.
    """
    height, width = latest.shape
    slots, rows, columns = late.shape
    for i in range(len(t)):
        before = latest[y[i], x[i]]
        since = min(t[i] - (before >> 1), _LONGEST_CHANGE_NS)
        if before & 1 != p[i]:
            since //= 2
        latest[y[i], x[i]] = t[i] << 1 | p[i]
        row = np.int64(y[i]) * rows // height
        column = np.int64(x[i]) * columns // width
        polarity = 2 * np.int64(p[i]) - 1
        end = (t[i] - start_ns) / _MS
        # Index 1 holds the first ms, so that after summation each index holds all events before it.
        slot = np.int64(end) + 1
        if 0 < slot < slots:
            late[slot, row, column] += polarity
        length = max(since / _MS, _SHORTEST_CHANGE_MS)
        if end > 0:
            _bend(bends, max(end - length, 0.0), polarity / length, row, column)
            _bend(bends, end, -polarity / length, row, column)


@kernel
def _bend(bends: NDArray[np.float64], at: float, slope: float, row: int, column: int) -> None:
    """Increase the sums of a cell by a slope from a time (ms) on."""
    slot = np.int64(at)
    within = at - slot
    if slot + 2 < len(bends):
        bends[slot + 1, row, column] += slope * (1 - within)
        bends[slot + 2, row, column] += slope * within


def _pool(grid: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Add up blocks of cells and flatten: [N, ROWS, COLUMNS] to [N, ROWS * COLUMNS / factor²]."""
    blocks = grid.reshape(len(grid), ROWS // factor, factor, COLUMNS // factor, factor)
    pooled: NDArray[np.float32] = blocks.sum(axis=(2, 4)).reshape(len(grid), -1)
    return pooled


def _find_peak(changes: NDArray[np.float32], sums: NDArray[np.float32], times: Times) -> Shift:
    """Find the shift at which changes [N, C] correlate best with events.

    Args:
        changes: Brightness changes between the times.
        sums: Sums of polarities up to each ms, [T, C], starting `MAX_SHIFT_MS` before the first
            time.
        times: Times of the frames, [N + 1].
    """
    position = (times - times[0]) / _MS + MAX_SHIFT_MS
    whole = position.astype(np.int64)
    fraction = (position - whole).astype(np.float32)[:, None]
    steps = np.diff(times)
    # Intervals with a gap are left out: too much may have changed.
    successive = steps <= MAX_STEP * np.median(steps)
    changes = _without_means(changes[successive])
    size = np.linalg.norm(changes, axis=1, keepdims=True)
    # No interval has much more weight than others: a flash, or a shutter, is not motion.
    changes *= np.minimum(1, 2 * np.median(size) / np.maximum(size, 1e-9))
    shifts = np.arange(-MAX_SHIFT_MS, MAX_SHIFT_MS + 1)
    products = np.empty((len(shifts), len(changes)))
    squares = np.empty_like(products)
    for row, candidate in enumerate(shifts):
        index = whole + candidate
        upto = sums[index] * (1 - fraction) + sums[index + 1] * fraction
        events = _without_means(np.diff(upto, axis=0)[successive])
        products[row] = (events * changes).sum(axis=1)
        squares[row] = np.square(events).sum(axis=1)
    energy = np.square(changes).sum(axis=1)

    def correlate(chosen: slice) -> NDArray[np.float64]:
        norm = np.sqrt(squares[:, chosen].sum(axis=1) * energy[chosen].sum())
        scores: NDArray[np.float64] = products[:, chosen].sum(axis=1) / np.maximum(norm, 1e-9)
        return scores

    scores = correlate(slice(None))
    bounds = np.linspace(0, len(changes), _PARTS + 1).astype(int)
    parts = [_peak_position(correlate(slice(start, end))) for start, end in pairwise(bounds)]
    top = int(np.argmax(scores))
    higher = scores >= np.maximum(np.roll(scores, 1), np.roll(scores, -1))
    peaks = np.flatnonzero(higher & (np.arange(len(scores)) != top))
    scatter_ms = float(np.std(parts) / np.sqrt(_PARTS))
    return Shift(
        _peak_position(scores) - MAX_SHIFT_MS,
        scatter_ms,
        scatter_ms,
        0.0,
        float(scores[top]),
        float(scores[peaks].max(initial=0.0)),
    )


def _without_means(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Subtract means over pixels (exposure) and over time (bias)."""
    centred: NDArray[np.float32] = values - values.mean(axis=1, keepdims=True)
    centred -= centred.mean(axis=0)
    return centred


def _peak_position(scores: NDArray[np.float64]) -> float:
    """Return the index of the highest score, refined by a parabola through its neighbours."""
    top = int(np.argmax(scores))
    if not 0 < top < len(scores) - 1:
        return float(top)
    before, at, after = scores[top - 1 : top + 2]
    curvature = before - 2 * at + after
    return float(top + 0.5 * (before - after) / curvature) if curvature else float(top)
