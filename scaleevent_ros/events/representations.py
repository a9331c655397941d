"""Event tensors: voxel grids, histograms and time surfaces of a window of events.

Each representation has one definition and two implementations: here by numba from an `EventBatch`,
and in `events.device` by torch from `DeviceEvents`; `events.represent` takes either. Sums are
formed in integers, so a result does not depend on the order of the additions, and both agree to the
last few bits of a float32.

A window is ``[t_start, t_end)`` in ns on the sensor's clock; events outside it are not counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scaleevent_ros.events.compile import kernel
from scaleevent_ros.events.errors import EventsError
from scaleevent_ros.events.prefetch import DISTANCE, prefetch

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import NDArray

    from scaleevent_ros.events.batch import EventBatch

    Floats: TypeAlias = NDArray[np.float32]

REPRESENTATIONS = ("voxel", "histogram", "stacked_histogram", "time_surface")

# One int64 per pixel holds two sums of a block of events: the signed count in the low bits, the
# signed times above it. One addition per event updates both, and they can be split exactly as long
# as a block has fewer than 2 ** 21 events and times are at most 2 ** 20.
COUNT_BITS = 22
TIME_BITS = 20
BLOCK = (1 << 21) - 1

MAX_TIME = 1 << 62
"""Bound of the magnitude of times in ns: 146 years, so that the sum of two fits an int64."""


def voxel_grid(
    batch: EventBatch,
    t_start: int,
    t_end: int,
    bins: int,
) -> Floats:
    """Sum polarities into time bins, bilinear in time.

    ``V[b, y, x] = sum of s_i * max(0, 1 - |b - t*_i|)`` over the pixel's events, with the sign
    ``s_i`` +1 for brighter and -1 for darker and ``t* = (bins - 1) (t - t_start) / (t_end -
    t_start)``: Zhu et al., "Unsupervised Event-based Learning of Optical Flow, Depth, and
    Egomotion", CVPR 2019, with the window's bounds in the place of the first and last event, so
    that a silent start or end of the window shifts nothing. With one bin it is the sum of signs.
    Times enter the weights rounded to 2 ** -20 of an interval between bins.

    Args:
        batch: Events; those outside the window are left out.
        t_start: Start of the window in ns, included.
        t_end: End of the window in ns, excluded.
        bins: Number of time bins, 1 or more.

    Returns:
        float32 [bins, height, width].

    Raises:
        EventsError: If the window is empty or there is no bin, or an event lies off the sensor.
    """
    check_window(t_start, t_end, bins)
    check_values(batch)
    pixels = batch.width * batch.height
    grid = np.zeros((bins, pixels), np.float32)
    cells = np.zeros(pixels, np.int64)
    intervals = max(bins - 1, 1)
    span = t_end - t_start
    shift, scale = time_scale(span)
    starts = np.searchsorted(batch.t, window_knots(t_start, t_end, intervals))
    for interval in range(intervals):
        end = int(starts[interval + 1])
        for start in range(int(starts[interval]), end, BLOCK):
            block = batch[start : min(start + BLOCK, end)]
            # In units of span / (bins - 1), an event's time in its interval is a whole number.
            add_signed_moments(
                block.x, block.y, block.t, block.p, batch.width,
                t_start, bins - 1, interval * span, shift, cells,
            )  # fmt: skip
            spread_moments(cells, scale, grid[interval], grid[min(interval + 1, bins - 1)])
    return grid.reshape(bins, batch.height, batch.width)


def stacked_histogram(
    batch: EventBatch,
    t_start: int,
    t_end: int,
    bins: int,
) -> Floats:
    """Count events by polarity and time bin.

    Channel ``p * bins + b`` counts the pixel's events of polarity ``p`` with ``b = floor(bins *
    (t - t_start) / (t_end - t_start))``: Gehrig and Scaramuzza, "Recurrent Vision Transformers
    for Object Detection with Event Cameras", CVPR 2023, without their cut at 10 events. Counts
    are exact up to 2 ** 24 a cell, where float32 ends.

    Args:
        batch: Events; those outside the window are left out.
        t_start: Start of the window in ns, included.
        t_end: End of the window in ns, excluded.
        bins: Number of time bins of each polarity, 1 or more.

    Returns:
        float32 [2 * bins, height, width]: bins of darker events, then of brighter ones.

    Raises:
        EventsError: If the window is empty or there is no bin, or an event lies off the sensor.
    """
    check_window(t_start, t_end, bins)
    check_values(batch)
    pixels = batch.width * batch.height
    counts = np.zeros((2, bins, pixels), np.float32)
    cells = np.zeros(2 * pixels, np.uint8)
    starts = np.searchsorted(batch.t, window_knots(t_start, t_end, bins))
    for index in range(bins):
        part = batch[int(starts[index]) : int(starts[index + 1])]
        if len(part):
            off, on = counts[0, index], counts[1, index]
            _count(part.x, part.y, part.p, batch.width, pixels, cells, off, on)
            _drain(cells[:pixels], off)
            _drain(cells[pixels:], on)
    return counts.reshape(2 * bins, batch.height, batch.width)


def histogram(batch: EventBatch, t_start: int, t_end: int) -> Floats:
    """Count events by polarity.

    Maqueda et al., "Event-based Vision meets Deep Learning on Steering Prediction for
    Self-driving Cars", CVPR 2018: the stacked histogram of one bin.

    Args:
        batch: Events; those outside the window are left out.
        t_start: Start of the window in ns, included.
        t_end: End of the window in ns, excluded.

    Returns:
        float32 [2, height, width]: counts of darker events, then of brighter ones.

    Raises:
        EventsError: If the window is empty, or an event lies off the sensor.
    """
    return stacked_histogram(batch, t_start, t_end, 1)


def time_surface(
    batch: EventBatch,
    t_start: int,
    t_end: int,
    decay: int | None = None,
) -> Floats:
    """Compute how recently each pixel fired, by polarity.

    ``S[p, y, x] = exp(-(t_end - t_last) / decay)`` with the time of the pixel's last event of
    that polarity in the window, 0 where there is none: Lagorce et al., "HOTS: A Hierarchy of
    Event-Based Time-Surfaces for Pattern Recognition", TPAMI 2017.

    Args:
        batch: Events; those outside the window are left out.
        t_start: Start of the window in ns, included.
        t_end: End of the window in ns, excluded.
        decay: Time constant in ns; the window's length if None, so that an event at its start
            still counts exp(-1).

    Returns:
        float32 [2, height, width]: darker events, then brighter ones.

    Raises:
        EventsError: If the window is empty, the decay not positive, or an event off the sensor.
    """
    check_window(t_start, t_end)
    decay = t_end - t_start if decay is None else decay
    if decay <= 0:
        msg = f"a time surface needs a positive decay in ns, not {decay}"
        raise EventsError(msg)
    check_values(batch)
    part = batch.between(t_start, t_end)
    # In ns since the window's start, plus one, so that 0 marks a pixel that never fired.
    last = np.zeros(2 * batch.width * batch.height, np.int64)
    _keep_last(part.x, part.y, part.t, part.p, batch.width, batch.width * batch.height,
               t_start - 1, last)  # fmt: skip
    surface = np.empty(len(last), np.float32)
    _fade(last, t_end - t_start + 1, 1.0 / decay, surface)
    return surface.reshape(2, batch.height, batch.width)


def channel_count(name: str, bins: int) -> int:
    """Return the number of channels of a representation.

    Raises:
        EventsError: If the name is unknown.
    """
    counts = {"voxel": bins, "histogram": 2, "stacked_histogram": 2 * bins, "time_surface": 2}
    if name not in counts:
        raise unknown_representation(name)
    return counts[name]


def check_window(t_start: int, t_end: int, bins: int = 1) -> None:
    """Check a window and its number of bins.

    Raises:
        EventsError: If the window is empty or too long for the arithmetic, or there is no bin.
    """
    if t_end <= t_start:
        msg = f"the window [{t_start}, {t_end}) ns is empty: its end must be after its start"
        raise EventsError(msg)
    if bins < 1:
        msg = f"a representation needs at least 1 bin, not {bins}"
        raise EventsError(msg)
    if max(-t_start, t_end, (t_end - t_start) * bins) >= MAX_TIME:
        msg = f"the window [{t_start}, {t_end}) ns with {bins} bins is too long; are these ns?"
        raise EventsError(msg)


def check_values(batch: EventBatch) -> None:
    """Check coordinates and polarities, but not the order of times, in a fraction of a ns an event.

    Raises:
        EventsError: If an event is invalid; the message gives the first one.
    """
    if len(batch) and (
        batch.x.max() >= batch.width or batch.y.max() >= batch.height or batch.p.max() > 1
    ):
        batch.validate()


def window_knots(t_start: int, t_end: int, intervals: int) -> NDArray[np.int64]:
    """Cut a window into equal intervals: int64 [intervals + 1], the starts and the end in ns."""
    span = t_end - t_start
    return np.array([t_start - (-i * span // intervals) for i in range(intervals + 1)], np.int64)


def time_scale(span: int) -> tuple[int, float]:
    """Choose the bits to drop from times below ``span``, and the factor that makes them 0 to 1."""
    shift = max(0, span.bit_length() - TIME_BITS)
    return shift, (1 << shift) / span


@kernel
def signed_moment(time: int, polarity: int) -> int:
    """Pack an event's sign (low bits) and its sign times its time (high bits) into one integer."""
    value = (time << COUNT_BITS) + 1
    sign = int(polarity) - 1  # 0 or all ones: negates without a branch
    return (value ^ sign) - sign


@kernel
def split_moments(cell: int) -> tuple[int, int]:
    """Split a cell into its two sums: of signs, and of signs times times."""
    count = (cell << (64 - COUNT_BITS)) >> (64 - COUNT_BITS)
    return count, (cell - count) >> COUNT_BITS


@kernel
def add_signed_moments(
    x: NDArray[np.uint16],
    y: NDArray[np.uint16],
    t: NDArray[np.int64],
    p: NDArray[np.uint8],
    width: int,
    origin: int,
    factor: int,
    base: int,
    shift: int,
    cells: NDArray[np.int64],
) -> None:
    """Add each event's sign and sign times time, ``(t - origin) * factor - base``, to its pixel.

    Both sums share the pixel's int64 cell (see `COUNT_BITS`); times are shifted right by ``shift``
    bits, rounded.
    """
    columns, count = np.uint64(width), np.uint64(x.shape[0])
    zero = ((np.int64(1) << shift) >> 1) - base - origin * factor
    for i in range(count):
        ahead = min(i + np.uint64(DISTANCE), count - np.uint64(1))
        prefetch(cells, np.uint64(y[ahead]) * columns + np.uint64(x[ahead]))
        moment = signed_moment((t[i] * factor + zero) >> shift, p[i])
        cells[np.uint64(y[i]) * columns + np.uint64(x[i])] += moment


@kernel
def spread_moments(cells: NDArray[np.int64], scale: float, low: Floats, high: Floats) -> None:
    """Split each cell's sums, add them to the two adjacent bins, and clear the cell."""
    factor = np.float32(scale)
    for i in range(np.uint64(cells.shape[0])):
        cell = cells[i]
        cells[i] = 0
        count, time = split_moments(cell)
        late = np.float32(time) * factor
        low[i] += np.float32(count) - late
        high[i] += late


@kernel
def _count(
    x: NDArray[np.uint16],
    y: NDArray[np.uint16],
    p: NDArray[np.uint8],
    width: int,
    pixels: int,
    cells: NDArray[np.uint8],
    off: Floats,
    on: Floats,
) -> None:
    """Count events in bytes, which stay in the cache; each overflow adds 256 to the result."""
    columns, plane = np.uint64(width), np.uint64(pixels)
    for i in range(np.uint64(x.shape[0])):
        pixel = np.uint64(y[i]) * columns + np.uint64(x[i])
        cell = np.uint64(p[i]) * plane + pixel
        count = np.uint8(cells[cell] + np.uint8(1))
        cells[cell] = count
        if count == 0:
            if p[i]:
                on[pixel] += np.float32(256)
            else:
                off[pixel] += np.float32(256)


@kernel
def _drain(cells: NDArray[np.uint8], counts: Floats) -> None:
    """Add the byte counters to the counts, and clear them."""
    for i in range(np.uint64(cells.shape[0])):
        counts[i] += np.float32(cells[i])
        cells[i] = 0


@kernel
def _keep_last(
    x: NDArray[np.uint16],
    y: NDArray[np.uint16],
    t: NDArray[np.int64],
    p: NDArray[np.uint8],
    width: int,
    pixels: int,
    origin: int,
    last: NDArray[np.int64],
) -> None:
    columns, plane = np.uint64(width), np.uint64(pixels)
    for i in range(np.uint64(x.shape[0])):
        last[np.uint64(p[i]) * plane + np.uint64(y[i]) * columns + np.uint64(x[i])] = t[i] - origin


@kernel
def _fade(last: NDArray[np.int64], end: int, rate: float, surface: Floats) -> None:
    for i in range(np.uint64(last.shape[0])):
        age = np.float32((end - last[i]) * rate)
        surface[i] = np.exp(-age) if last[i] else np.float32(0)


def unknown_representation(name: str) -> EventsError:
    """Build the error of an unknown representation."""
    msg = f"unknown representation {name!r}; known: {', '.join(REPRESENTATIONS)}"
    return EventsError(msg)
