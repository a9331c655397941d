"""Tensors of the latest windows of a live stream of events.

Time is cut into slices. One plane of int64 cells, one for each pixel, sums all events since the
start, and is copied at the end of each slice. The difference of two copies holds the events between
them. So a window costs as many planes as it has bins, however many slices and events it spans, and
an event costs one addition. Sums are integers that may wrap, because differences remain correct:
Crow's summed-area tables (SIGGRAPH 1984), over time.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from scaleevent_ros.events.activity import PATCH, patch_index
from scaleevent_ros.events.batch import EventBatch
from scaleevent_ros.events.errors import EventsError
from scaleevent_ros.events.leaky import LeakyIntegrator
from scaleevent_ros.events.representations import (
    MAX_TIME,
    time_scale,
)
from scaleevent_ros.events.tensors import InputSpec
from scaleevent_ros.events.window_sums import read_counts, read_moments, sum_events, warm_up
from scaleevent_ros.events.windows import WindowOptions, choose_units

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Cells: TypeAlias = NDArray[np.int64]
    Floats: TypeAlias = NDArray[np.float32]

VOXEL, FIXED = InputSpec(), WindowOptions()
ACCUMULATED = ("voxel", "histogram", "stacked_histogram")
RECENT_EVENTS = 2_000_000
"""Maximum number of latest events kept for leaky integrals that end before them."""


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Tensor and event counts of one window.

    Attributes:
        tensor: float32 [channels, height, width].
        t_start: Start of the window in ns on the sensor's clock, included.
        t_end: End of the window in ns on the sensor's clock, excluded.
        events: Number of events.
        patch_counts: Number of events in each patch, int64 [ceil(height / patch), ceil(width /
            patch)].
    """

    tensor: Floats
    t_start: int
    t_end: int
    events: int
    patch_counts: Cells


@dataclass(frozen=True, slots=True)
class AccumulatorStats:
    """Counters of events since the start.

    Attributes:
        events: Events added.
        late_events: Events left out because their slice had ended when they came.
        outside_events: Events left out because they lie off the sensor.
        restarts: Number of resets, where time stepped back by more than the kept duration.
    """

    events: int
    late_events: int
    outside_events: int
    restarts: int


class _Boundary(NamedTuple):
    """Sums of all events before a slice's end.

    Attributes:
        slot: Index of the plane with the sums by pixel.
        patches: Counts by patch.
        events: Number of events.
    """

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
    """Tensors of the latest windows of a stream of events, in bounded memory.

    One thread may push while another reads; both run without the GIL and do not wait for each
    other, except for leaky integrals, which are updated and copied under a lock, in less than a
    millisecond. Windows start and end on multiples of `slice_ns`.

    A voxel grid differs from `voxel_grid` of the same window because times are rounded: by at most
    2 ** -19 for each of a pixel's events, times the longest window's length over this one's; in
    windows up to 1 ms it is exact. Histograms are exact. A pixel's sums are correct for fewer than
    2 ** 21 of its events in an interval. Leaky integrals are those of all events since the first,
    or since time stepped back; they equal `leaky_integrals` to 1e-5 of the weights. A window that
    ends more than `RECENT_EVENTS` events before the newest one has the integrals of a slightly
    later time.

    Args:
        height: Sensor height in pixels.
        width: Sensor width in pixels.
        spec: Specification of the tensor: ``voxel``, ``histogram`` or ``stacked_histogram``, and
            leaky integrals. It is not normalized.
        window: Length of the windows, rounded up by less than one ns for each of its slices.
        slices_per_bin: Slices in each interval between bins of a fixed window. Windows end on
            slices, so more slices make windows more up to date, and cost a plane of memory each.
        patch: Side of a patch for the counts that come with each window, in pixels.

    Raises:
        EventsError: If a size is out of range, or the representation is not one of these.
    """

    def __init__(
        self,
        height: int,
        width: int,
        spec: InputSpec = VOXEL,
        window: WindowOptions = FIXED,
        *,
        slices_per_bin: int = 2,
        patch: int = PATCH,
    ) -> None:
        if spec.representation not in ACCUMULATED:
            msg = f"cannot accumulate {spec.representation!r}; known: {', '.join(ACCUMULATED)}"
            raise EventsError(msg)
        bins = 1 if spec.representation == "histogram" else spec.bins
        if min(height, width, bins, patch, slices_per_bin) < 1 or max(height, width) > 1 << 16:
            msg = (
                f"cannot accumulate {bins} bins of {slices_per_bin} slices of {width}x{height} in "
                f"patches of {patch}"
            )
            raise EventsError(msg)
        self.height, self.width, self.patch = height, width, patch
        self.spec = spec
        self.bins = bins
        self._signed = spec.representation == "voxel"
        self._intervals = max(bins - 1, 1) if self._signed else bins
        self._wanted = window.wanted_events(width, height)
        unit_ns, units = (
            (window.length_ns, 1) if window.mode == "fixed" else (window.unit_ns, window.units)
        )
        per_unit = self._intervals * (slices_per_bin if window.mode == "fixed" else 1)
        self.slice_ns = -(-unit_ns // per_unit)
        self._unit = per_unit // self._intervals  # slices of an interval of the shortest window
        self._longest = self._unit * units
        self._kept = (self._longest + 1) * self._intervals + 1
        self._shift, _ = time_scale(self.slice_ns * self._longest)

        self._columns, self._rows = patch_index(width, patch), patch_index(height, patch)
        self._patches = np.zeros((-(-height // patch), -(-width // patch)), np.int64)
        self._cells = np.zeros(height * width, np.int64)
        # Kept boundaries, those that a window is read from, and the one that is being written.
        slots = self._kept + self._intervals + 2
        self._planes = np.empty((slots, height * width), np.int64)

        self._leaky = LeakyIntegrator(height, width, spec.leaky) if spec.leaky else None
        self._open: list[EventBatch] = []  # events of the open slice
        self._recent: deque[EventBatch] = deque()  # events that a window may end before

        self._lock = threading.Lock()
        self._boundaries: deque[_Boundary] = deque(maxlen=self._kept)
        self._reading: frozenset[int] = frozenset()
        self._closed = 0  # the index of the newest boundary: its time over slice_ns
        self._origin = 0
        self._events = self._late = self._outside = self._restarts = 0
        warm_up()

    @property
    def memory_bytes(self) -> int:
        """Maximum memory of the sums in bytes, reached once all planes have been used."""
        leaky = self._leaky.memory_bytes if self._leaky else 0
        return self._planes.nbytes + self._cells.nbytes + leaky

    @property
    def stats(self) -> AccumulatorStats:
        """Counters since the start."""
        with self._lock:
            return AccumulatorStats(self._events, self._late, self._outside, self._restarts)

    @property
    def t_end(self) -> int | None:
        """The latest time at which a window can end, ns; None before the first event."""
        with self._lock:
            return self._closed * self.slice_ns if self._boundaries else None

    def push(self, batch: EventBatch) -> None:
        """Add the stream's next events.

        Raises:
            EventsError: If they are from a sensor of another size, or their times are out of order
                or out of range.
        """
        if (batch.width, batch.height) != (self.width, self.height):
            msg = (
                f"events of a {batch.width}x{batch.height} sensor do not fit windows of "
                f"{self.width}x{self.height}"
            )
            raise EventsError(msg)
        if len(batch) and (batch.x.max() >= self.width or batch.y.max() >= self.height):
            inside = (batch.x < self.width) & (batch.y < self.height)
            self._outside += len(batch) - int(np.count_nonzero(inside))
            batch = EventBatch(
                batch.x[inside], batch.y[inside], batch.t[inside], batch.p[inside],
                self.width, self.height,
            )  # fmt: skip
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
        if first < self._closed * self.slice_ns:
            late = int(np.searchsorted(batch.t, self._closed * self.slice_ns))
            self._late += late
            batch = batch[late:]
        at = 0
        while at < len(batch):
            self._close(int(batch.t[at]) // self.slice_ns)
            start = at
            at = sum_events(
                batch.x, batch.y, batch.t, batch.p, at, (self._closed + 1) * self.slice_ns,
                self.width, self._signed, self._origin, self._shift, self._cells,
                self._columns, self._rows, self._patches,
            )  # fmt: skip
            self._events += at - start
            if self._leaky is not None:
                self._open.append(batch[start:at])

    def _integrate(self) -> None:
        """Add the events of the open slice to the leaky integrals; called with the lock held."""
        if self._leaky is None:
            return
        for batch in self._open:
            self._leaky.add(batch)
        self._recent += self._open
        self._open.clear()
        reach = (self._closed - self._kept) * self.slice_ns
        events = sum(map(len, self._recent))
        while self._recent and (events > RECENT_EVENTS or self._recent[0].t[-1] < reach):
            events -= len(self._recent.popleft())

    def window(self, t_end: int | None = None, out: Floats | None = None) -> Floats:
        """Return the tensor of the latest window: `read` without times and counts."""
        return self.read(t_end, out).tensor

    def read(self, t_end: int | None = None, out: Floats | None = None) -> Window:
        """Build the latest window that ends at or before a time.

        Args:
            t_end: Time in ns on the sensor's clock; None for the latest window.
            out: C-contiguous float32 [channels, height, width] to write the tensor into. New
                memory costs as much again as the arithmetic.

        Returns:
            The window; the time before the first event counts as empty.

        Raises:
            EventsError: If nothing was pushed yet, if the window is no longer within reach, or
                `out` does not fit.
        """
        shape = (self.spec.channels, self.height, self.width)
        if out is None:
            out = np.empty(shape, np.float32)
        elif out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
            msg = f"a window needs a C-contiguous float32 {shape}, not {out.dtype} {out.shape}"
            raise EventsError(msg)
        with self._lock:
            knots = self._choose(t_end)
            self._reading = frozenset(knot.slot for knot in knots)
            origin = self._origin
            self._read_leaky(knots[-1].t, out[self.spec.represented :])
        try:
            self._render(knots, origin, out[: self.spec.represented])
        finally:
            self._reading = frozenset()
        old, new = knots[0], knots[-1]
        return Window(out, old.t, new.t, new.events - old.events, new.patches - old.patches)

    def _read_leaky(self, t_end: int, out: Floats) -> None:
        """Write the leaky integrals at a slice's end; later events are subtracted meanwhile."""
        if self._leaky is None:
            return
        later = [
            batch[int(np.searchsorted(batch.t, t_end)) :]
            for batch in self._recent
            if batch.t[-1] >= t_end
        ]
        for batch in later:
            self._leaky.add(batch, -1)
        self._leaky.values(t_end, out)
        for batch in later:
            self._leaky.add(batch)

    def _choose(self, t_end: int | None) -> list[_Knot]:
        """Find the boundaries of a window's intervals, including its start and its end."""
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
        return [
            _Knot((end + i - newest) * self.slice_ns, *self._boundaries[i])
            for i in range(oldest, newest + 1, length)
        ]

    def _length(self, newest: int) -> int:
        """Choose the number of slices in each interval of a window, by the rule of `window_start`.

        Args:
            newest: Index of the boundary at which the window ends.
        """
        if self._longest == self._unit:
            return self._longest
        until = self._boundaries[newest].events
        starts = range(newest - self._intervals, newest - self._longest * self._intervals - 1,
                       -self._intervals)  # fmt: skip
        counts = [until - self._boundaries[max(start, 0)].events for start in starts]
        return choose_units(np.array(counts), self._wanted)

    def _render(self, knots: list[_Knot], origin: int, out: Floats) -> None:
        slots = np.array([knot.slot for knot in knots])
        grid = out.reshape(len(out), -1)
        if not self._signed:
            read_counts(self._planes, slots, grid)
            return
        since = np.array([knot.t - origin for knot in knots[:-1]])
        span = knots[1].t - knots[0].t
        read_moments(
            self._planes,
            slots,
            since >> self._shift,
            (since & ((1 << self._shift) - 1)) / span,
            (1 << self._shift) / span if self.bins > 1 else 0.0,
            grid,
        )

    def _start(self, first: int) -> None:
        """Start at an event's slice, without history."""
        now = self._snapshot()
        with self._lock:
            if self._leaky is not None:
                self._leaky.reset()
                self._recent.clear()
                self._open.clear()
            self._closed = first // self.slice_ns
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
            self._boundaries.extend([last] * min(index - self._closed, self._kept))
            self._closed = index
            self._integrate()

    def _snapshot(self) -> _Boundary:
        """Copy the current sums to an unused plane."""
        with self._lock:
            taken = {boundary.slot for boundary in self._boundaries} | self._reading
        slot = next(slot for slot in range(len(self._planes)) if slot not in taken)
        self._planes[slot] = self._cells
        return _Boundary(slot, self._patches.copy(), self._events)
