"""Windows over a live stream of events: packets in, the tensor of the last window out.

Time is cut into slices. One plane of int64 cells, a pixel each, sums all events that ever came,
and is copied at each slice's end. The difference of two copies is what happened between them, so
that a window costs as many planes as it has bins, however many slices and events it spans, and an
event costs one addition. Sums are whole numbers that may wrap, because differences still come out
right: Crow's summed-area tables (SIGGRAPH 1984), over time.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from scaleevent_ros.events.activity import PATCH, THRESHOLD, count_patches, patch_index
from scaleevent_ros.events.compile import kernel
from scaleevent_ros.events.errors import EventsError
from scaleevent_ros.events.prefetch import DISTANCE, prefetch
from scaleevent_ros.events.representations import (
    COUNT_BITS,
    MAX_TIME,
    add_signed_moments,
    channel_count,
    part_moments,
    time_scale,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scaleevent_ros.events.batch import EventBatch

    Cells: TypeAlias = NDArray[np.int64]
    Floats: TypeAlias = NDArray[np.float32]

TILE = 1024  # pixels whose cells and bins stay in the first cache while a window is read
ACCUMULATED = ("voxel", "histogram", "stacked_histogram")


@dataclass(frozen=True, slots=True)
class ByTime:
    """Windows of one length.

    Attributes:
        length_ns: The length.
        slices_per_bin: How many slices make an interval between bins; windows end on slices, so
            more of them make a window more up to date, and cost a plane of memory each.
    """

    length_ns: int
    slices_per_bin: int = 2


@dataclass(frozen=True, slots=True)
class ByCount:
    """The shortest windows that hold a number of events.

    Attributes:
        events: The number.
        shortest_ns: The least length; lengths are whole multiples of it.
        longest_ns: The greatest, taken where the events are too few.
    """

    events: int
    shortest_ns: int
    longest_ns: int


@dataclass(frozen=True, slots=True)
class ByActivity:
    """The shortest windows in which a share of the patches is active: motion sets the length.

    Attributes:
        share: Of all patches, 0 to 1.
        shortest_ns: The least length; lengths are whole multiples of it.
        longest_ns: The greatest, taken where too little moves.
        threshold: How many events make a patch active (see `activity_mask`).
    """

    share: float
    shortest_ns: int
    longest_ns: int
    threshold: int = THRESHOLD


WindowRule: TypeAlias = "ByTime | ByCount | ByActivity"


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """The events of one window.

    Attributes:
        tensor: float32 [channels, height, width].
        t_start: The window's start, ns on the sensor's clock, included.
        t_end: Its end, excluded.
        events: How many events it holds.
        patch_counts: How many in each patch, int64 [ceil(height / patch), ceil(width / patch)].
    """

    tensor: Floats
    t_start: int
    t_end: int
    events: int
    patch_counts: Cells


@dataclass(frozen=True, slots=True)
class AccumulatorStats:
    """What came and what was lost, since the start.

    Attributes:
        events: Events taken.
        dropped_slices: Slices with events that went out of reach before any window ended at or
            after them: the consumer is too slow, or asks for none.
        dropped_events: The events in those slices.
        late_events: Events left out because they came after a slice that they belonged to.
        outside_events: Events left out because they lie off the sensor.
        restarts: How often time stepped back by more than what is kept, and all began anew.
    """

    events: int
    dropped_slices: int
    dropped_events: int
    late_events: int
    outside_events: int
    restarts: int


class _Boundary(NamedTuple):
    """The sums of everything before a slice's end: the plane's slot, by patch, and in all."""

    slot: int
    patches: Cells
    events: int


class _Knot(NamedTuple):
    """A boundary and its time, ns."""

    t: int
    slot: int
    patches: Cells
    events: int


class WindowAccumulator:
    """Keeps the last windows of a stream of events within reach, in bounded memory.

    One thread may push while another reads; neither waits for the other's arithmetic, and both
    run without the GIL. Windows start and end on multiples of `slice_ns`.

    A voxel grid equals `voxel_grid` of the same window to 2 ** -19 for each of a pixel's events,
    which is what rounding their times may do, and exactly in windows up to 1 ms. Histograms are
    exact. A pixel's sums are right for fewer than 2 ** 21 events of it in an interval.

    Args:
        height: Of the sensor, in pixels.
        width: Of the sensor, in pixels.
        bins: How many; for a histogram it is 1.
        rule: How long a window is.
        representation: ``voxel``, ``histogram`` or ``stacked_histogram``.
        patch: The side of a patch for the counts that come with each window.

    Raises:
        EventsError: If a size, a length or a share cannot be, or the representation is not one
            of these.
    """

    def __init__(
        self,
        height: int,
        width: int,
        *,
        bins: int = 5,
        rule: WindowRule = ByTime(50_000_000),
        representation: str = "voxel",
        patch: int = PATCH,
    ) -> None:
        if representation not in ACCUMULATED:
            msg = f"cannot accumulate {representation!r}; known: {', '.join(ACCUMULATED)}"
            raise EventsError(msg)
        if min(height, width, bins, patch) < 1 or max(height, width) > 1 << 16:
            msg = f"cannot accumulate {bins} bins of {width}x{height} in patches of {patch}"
            raise EventsError(msg)
        self.height, self.width, self.patch = height, width, patch
        self.representation = representation
        self.bins = 1 if representation == "histogram" else bins
        self._signed = representation == "voxel"
        self._intervals = max(self.bins - 1, 1) if self._signed else self.bins
        self._rule = rule
        self.slice_ns, self._longest = _slices(rule, self._intervals)
        self._kept = (self._longest + 1) * self._intervals + 1
        self._shift, _ = time_scale(self.slice_ns * self._longest)

        self._columns, self._rows = patch_index(width, patch), patch_index(height, patch)
        self._patches = np.zeros((-(-height // patch), -(-width // patch)), np.int64)
        self._cells = np.zeros(height * width, np.int64)
        # Kept boundaries, those that a window is read from, and the one that is being written.
        slots = self._kept + self._intervals + 2
        self._planes = np.empty((slots, height * width), np.int64)

        self._lock = threading.Lock()
        self._boundaries: deque[_Boundary] = deque(maxlen=self._kept)
        self._reading: frozenset[int] = frozenset()
        self._closed = 0  # the index of the newest boundary: its time over slice_ns
        self._read_to = 0  # the newest boundary that a window has ended at
        self._origin = 0
        self._events = self._dropped_slices = self._dropped_events = 0
        self._late = self._outside = self._restarts = 0
        _warm_up()

    @property
    def memory_bytes(self) -> int:
        """The most memory that the planes take, once all have been used."""
        return self._planes.nbytes + self._cells.nbytes

    @property
    def stats(self) -> AccumulatorStats:
        """What came and what was lost so far."""
        with self._lock:
            return AccumulatorStats(
                self._events, self._dropped_slices, self._dropped_events, self._late,
                self._outside, self._restarts,
            )  # fmt: skip

    @property
    def t_end(self) -> int | None:
        """The latest time at which a window can end, ns; None before the first event."""
        with self._lock:
            return self._closed * self.slice_ns if self._boundaries else None

    def push(self, batch: EventBatch) -> None:
        """Take the stream's next events.

        Raises:
            EventsError: If they are from a sensor of another size, or their times cannot be.
        """
        if (batch.width, batch.height) != (self.width, self.height):
            msg = (
                f"events of a {batch.width}x{batch.height} sensor do not fit windows of "
                f"{self.width}x{self.height}"
            )
            raise EventsError(msg)
        if not len(batch):
            return
        first, last = int(batch.t[0]), int(batch.t[-1])
        if not -MAX_TIME < first <= last < MAX_TIME:
            msg = f"events from {first} to {last} ns: times must be in order and below 2 ** 62"
            raise EventsError(msg)
        if not self._boundaries:
            self._start(first)
        elif first < (self._closed - self._kept) * self.slice_ns:
            self._restarts += 1
            self._start(first)
        at = 0
        if first < self._closed * self.slice_ns:
            at = int(np.searchsorted(batch.t, self._closed * self.slice_ns))
            self._late += at
        while at < len(batch):
            self._close(int(batch.t[at]) // self.slice_ns)
            start = at
            at, outside = _add(
                batch.x, batch.y, batch.t, batch.p, at, (self._closed + 1) * self.slice_ns,
                self.width, self.height, self._signed, self._origin, self._shift, self._cells,
                self._columns, self._rows, self._patches,
            )  # fmt: skip
            self._events += at - start - outside
            self._outside += outside

    def advance(self, t: int) -> None:
        """Say that all events before a time have been pushed, where nothing else would show it.

        Without it, a window cannot end after the slice that the last event fell into, however
        long nothing has moved since.

        Args:
            t: ns on the sensor's clock.
        """
        if self._boundaries:
            self._close(t // self.slice_ns)

    def window(self, t_end: int | None = None, out: Floats | None = None) -> Floats:
        """Make the tensor of the last window: `read` without what else is known of it."""
        return self.read(t_end, out).tensor

    def read(self, t_end: int | None = None, out: Floats | None = None) -> Window:
        """Make the last window that ends at or before a time.

        Args:
            t_end: ns on the sensor's clock; the latest window if None, or if later than that.
            out: A C-contiguous float32 [channels, height, width] to write the tensor into,
                instead of into new memory, which costs as much again.

        Returns:
            The window; what was before the stream began counts as empty.

        Raises:
            EventsError: If nothing was pushed yet, if the window is no longer within reach, or
                `out` does not fit.
        """
        shape = (channel_count(self.representation, self.bins), self.height, self.width)
        if out is None:
            out = np.empty(shape, np.float32)
        elif out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
            msg = f"a window needs a C-contiguous float32 {shape}, not {out.dtype} {out.shape}"
            raise EventsError(msg)
        with self._lock:
            knots = self._choose(t_end)
            self._reading = frozenset(knot.slot for knot in knots)
            origin = self._origin
        try:
            self._render(knots, origin, out)
        finally:
            self._reading = frozenset()
        old, new = knots[0], knots[-1]
        return Window(out, old.t, new.t, new.events - old.events, new.patches - old.patches)

    def _choose(self, t_end: int | None) -> list[_Knot]:
        """Find the boundaries that part a window's intervals, its start and its end included."""
        if not self._boundaries:
            msg = "there is no window: no event has been pushed yet"
            raise EventsError(msg)
        end = self._closed if t_end is None else min(t_end // self.slice_ns, self._closed)
        newest = len(self._boundaries) - 1 - (self._closed - end)
        length = self._length(newest)
        oldest = newest - length * self._intervals
        if oldest < 0:
            msg = (
                f"the window that ends at {end * self.slice_ns} ns is out of reach: "
                f"the latest ends at {self._closed * self.slice_ns} ns"
            )
            raise EventsError(msg)
        self._read_to = max(self._read_to, end)
        return [
            _Knot((end + i - newest) * self.slice_ns, *self._boundaries[i])
            for i in range(oldest, newest + 1, length)
        ]

    def _length(self, newest: int) -> int:
        """Choose how many slices an interval of the window has that ends at a boundary."""
        rule = self._rule
        if isinstance(rule, ByTime):
            return self._longest
        for length in range(1, self._longest):
            oldest = newest - length * self._intervals
            if oldest < 0:
                break
            new, old = self._boundaries[newest], self._boundaries[oldest]
            if isinstance(rule, ByCount):
                if new.events - old.events >= rule.events:
                    return length
            elif np.mean(new.patches - old.patches >= rule.threshold) >= rule.share:
                return length
        return self._longest

    def _render(self, knots: list[_Knot], origin: int, out: Floats) -> None:
        slots = np.array([knot.slot for knot in knots])
        grid = out.reshape(len(out), -1)
        if not self._signed:
            _read_counts(self._planes, slots, grid)
            return
        since = np.array([knot.t - origin for knot in knots[:-1]])
        span = knots[1].t - knots[0].t
        _read_moments(
            self._planes,
            slots,
            since >> self._shift,
            (since & ((1 << self._shift) - 1)) / span,
            (1 << self._shift) / span if self.bins > 1 else 0.0,
            grid,
        )

    def _start(self, first: int) -> None:
        """Begin at an event's slice, with nothing before it."""
        now = self._snapshot()
        with self._lock:
            self._closed = self._read_to = first // self.slice_ns
            self._origin = self._closed * self.slice_ns
            self._boundaries.extend([now] * self._kept)

    def _close(self, index: int) -> None:
        """Close the open slice, and empty ones after it, up to the boundary of that index."""
        if index <= self._closed:
            return
        last = self._boundaries[-1]
        if self._events > last.events:
            last = self._snapshot()
        with self._lock:
            for closed in range(self._closed, min(index, self._closed + self._kept)):
                gone = self._boundaries[1].events - self._boundaries[0].events
                if gone and closed + 2 - self._kept > self._read_to:
                    self._dropped_slices += 1
                    self._dropped_events += gone
                self._boundaries.append(last)
            self._closed = index

    def _snapshot(self) -> _Boundary:
        """Copy the sums as they are to planes that nobody reads."""
        with self._lock:
            taken = {boundary.slot for boundary in self._boundaries} | self._reading
        slot = next(slot for slot in range(len(self._planes)) if slot not in taken)
        self._planes[slot] = self._cells
        return _Boundary(slot, self._patches.copy(), self._events)


def _slices(rule: WindowRule, intervals: int) -> tuple[int, int]:
    """Find the length of a slice, and how many an interval of the longest window has."""
    if isinstance(rule, ByTime):
        if rule.length_ns < 1 or rule.slices_per_bin < 1:
            msg = f"no window can have this length: {rule}"
            raise EventsError(msg)
        return -(-rule.length_ns // (intervals * rule.slices_per_bin)), rule.slices_per_bin
    if not 1 <= rule.shortest_ns <= rule.longest_ns:
        msg = f"no window can have these lengths: {rule}"
        raise EventsError(msg)
    if isinstance(rule, ByActivity) and not 0 <= rule.share <= 1:
        msg = f"a share of patches is from 0 to 1, not {rule.share}"
        raise EventsError(msg)
    slice_ns = -(-rule.shortest_ns // intervals)
    return slice_ns, max(rule.longest_ns // (slice_ns * intervals), 1)


def _warm_up() -> None:
    """Compile the kernels, or load them from the disk, before a packet waits for it."""
    index, cells, grid = np.zeros(2, np.int64), np.zeros((2, 1), np.int64), np.zeros((2, 1), "f4")
    zero = np.zeros(1, np.uint16)
    for signed in (True, False):
        _add(zero, zero, index[:1], zero.astype(np.uint8), 0, 1, 1, 1, signed, 0, 0, cells[0],
             zero, zero, cells[:1])  # fmt: skip
    _read_moments(cells, index, index[:1], np.zeros(1), 0.0, grid)
    _read_counts(cells, index, grid)


@kernel
def _add(
    x: NDArray[np.uint16],
    y: NDArray[np.uint16],
    t: NDArray[np.int64],
    p: NDArray[np.uint8],
    start: int,
    t_end: int,
    width: int,
    height: int,
    signed: bool,
    origin: int,
    shift: int,
    cells: Cells,
    columns: NDArray[np.uint16],
    rows: NDArray[np.uint16],
    patches: Cells,
) -> tuple[int, int]:
    """Add events to their pixels and patches, until the first at or after a time.

    Returns:
        The index of that event, and how many before it lie off the sensor and were left out.
    """
    end = len(t)
    if t[end - 1] >= t_end:
        end = start + np.searchsorted(t[start:], t_end)
    x, y, t, p = x[start:end], y[start:end], t[start:end], p[start:end]
    outside = 0
    for i in range(len(x)):
        outside += (x[i] >= width) | (y[i] >= height)
    if outside:
        inside = (x < width) & (y < height)
        x, y, t, p = x[inside], y[inside], t[inside], p[inside]
    # In two passes, which a core overlaps better than one that waits for both tables.
    if signed:
        add_signed_moments(x, y, t, p, width, origin, 1, 0, shift, cells)
    else:
        _add_counts(x, y, p, width, cells)
    count_patches(x, y, columns, rows, patches.shape[1], patches.reshape(-1))
    return end, outside


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
def _read_moments(
    planes: Cells,
    slots: NDArray[np.int64],
    steps: NDArray[np.int64],
    fractions: NDArray[np.float64],
    scale: float,
    grid: Floats,
) -> None:
    """Make a voxel grid of the differences between planes.

    Args:
        planes: int64 [slots, pixels]; all sums up to a time, times being since an origin.
        slots: Which of them, in order, int64 [intervals + 1].
        steps: The time of each interval's start since the origin, in the planes' unit, rounded
            down, int64 [intervals] ...
        fractions: ... and what it was rounded by, as a share of the interval.
        scale: The unit, as a share of the interval.
        grid: Where to, float32 [bins, pixels].
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
                count, time = part_moments(new[i] - old[i])
                # Wrapped to the bits that a cell has for it.
                since = ((time - count * step) << COUNT_BITS) >> COUNT_BITS
                late = np.float32(since) * factor - np.float32(count) * fraction
                high[i] = late
                low[i] += np.float32(count) - late


@kernel
def _read_counts(planes: Cells, slots: NDArray[np.int64], grid: Floats) -> None:
    """Make a stacked histogram of the differences between planes (see `_read_moments`)."""
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
