"""Running sums of events by pixel, and the tensors of windows from differences of them.

See `accumulator`, whose compiled loops these are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from scaleevent_ros.events.activity import count_patches
from scaleevent_ros.events.compile import kernel
from scaleevent_ros.events.prefetch import DISTANCE, prefetch
from scaleevent_ros.events.representations import COUNT_BITS, add_signed_moments, split_moments

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Cells: TypeAlias = NDArray[np.int64]
    Floats: TypeAlias = NDArray[np.float32]

TILE = 1024  # pixels whose cells and bins stay in the first cache while a window is read


def warm_up() -> None:
    """Compile the kernels, or load them from the disk, before the first packet comes."""
    index, cells, grid = np.zeros(2, np.int64), np.zeros((2, 1), np.int64), np.zeros((2, 1), "f4")
    zero = np.zeros(1, np.uint16)
    for signed in (True, False):
        sum_events(zero, zero, index[:1], zero.astype(np.uint8), 0, 1, 1, signed, 0, 0, cells[0],
             zero, zero, cells[:1])  # fmt: skip
    read_moments(cells, index, index[:1], np.zeros(1), 0.0, grid)
    read_counts(cells, index, grid)


@kernel
def sum_events(
    x: NDArray[np.uint16],
    y: NDArray[np.uint16],
    t: NDArray[np.int64],
    p: NDArray[np.uint8],
    start: int,
    t_end: int,
    width: int,
    signed: bool,
    origin: int,
    shift: int,
    cells: Cells,
    columns: NDArray[np.uint16],
    rows: NDArray[np.uint16],
    patches: Cells,
) -> int:
    """Add events to their pixels and patches, until the first at or after a time.

    Returns:
        The index of that event.
    """
    end = len(t)
    if t[end - 1] >= t_end:
        end = start + np.searchsorted(t[start:], t_end)
    x, y, t, p = x[start:end], y[start:end], t[start:end], p[start:end]
    # Two passes are faster than one that waits for both tables.
    if signed:
        add_signed_moments(x, y, t, p, width, origin, 1, 0, shift, cells)
    else:
        _add_counts(x, y, p, width, cells)
    count_patches(x, y, columns, rows, patches.shape[1], patches.reshape(-1))
    return end


@kernel
def _add_counts(
    x: NDArray[np.uint16], y: NDArray[np.uint16], p: NDArray[np.uint8], width: int, cells: Cells
) -> None:
    """Count each event in its pixel: a darker one in the low 32 bits, a brighter in the high."""
    columns, count = np.uint64(width), np.uint64(x.shape[0])
    for i in range(count):
        ahead = min(i + np.uint64(DISTANCE), count - np.uint64(1))
        prefetch(cells, np.uint64(y[ahead]) * columns + np.uint64(x[ahead]))
        value = np.int64(1) << (np.int64(p[i] & 1) << 5)
        cells[np.uint64(y[i]) * columns + np.uint64(x[i])] += value


@kernel
def read_moments(
    planes: Cells,
    slots: NDArray[np.int64],
    steps: NDArray[np.int64],
    fractions: NDArray[np.float64],
    scale: float,
    grid: Floats,
) -> None:
    """Build a voxel grid from the differences between planes.

    Args:
        planes: Sums of all events up to a time, int64 [slots, pixels].
        slots: Indices of the planes in order, int64 [intervals + 1].
        steps: Start of each interval since the planes' origin, in the planes' unit of time, rounded
            down, int64 [intervals].
        fractions: Rounding errors of ``steps``, as a share of the interval, float64 [intervals].
        scale: Unit of time, as a share of the interval.
        grid: Output, float32 [bins, pixels].
    """
    pixels = planes.shape[1]
    factor = np.float32(scale)
    for start in range(0, pixels, TILE):
        end = min(start + TILE, pixels)
        grid[0, start:end] = 0
        for interval in range(len(steps)):
            low = grid[interval, start:end]
            high = grid[min(interval + 1, len(grid) - 1), start:end]
            old = planes[slots[interval], start:end]
            new = planes[slots[interval + 1], start:end]
            step = steps[interval]
            fraction = np.float32(fractions[interval])
            for i in range(len(low)):
                count, time = split_moments(new[i] - old[i])
                # Wrapped to the bits that a cell has for times.
                since = ((time - count * step) << COUNT_BITS) >> COUNT_BITS
                late = np.float32(since) * factor - np.float32(count) * fraction
                high[i] = late
                low[i] += np.float32(count) - late


@kernel
def read_counts(planes: Cells, slots: NDArray[np.int64], grid: Floats) -> None:
    """Build a stacked histogram from the differences between planes (see `read_moments`)."""
    bins = len(slots) - 1
    for start in range(0, planes.shape[1], TILE):
        end = min(start + TILE, planes.shape[1])
        for index in range(bins):
            off, on = grid[index, start:end], grid[bins + index, start:end]
            old = planes[slots[index], start:end]
            new = planes[slots[index + 1], start:end]
            for i in range(len(off)):
                cell = new[i] - old[i]
                low = cell & 0xFFFFFFFF
                off[i] = np.float32(low)
                on[i] = np.float32((cell - low) >> 32)
