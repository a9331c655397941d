"""Windows of events that end when a frame was taken: length and start."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from scaleevent_ros.errors import ABOVE_ZERO, check_ranges
from scaleevent_ros.events.errors import EventsError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scaleevent_ros.events.batch import EventBatch

NS_PER_MS = 1_000_000

Mode = Literal["fixed", "motion"]


@dataclass(frozen=True)
class WindowOptions:
    """Length of the windows of events.

    Attributes:
        mode: ``fixed``: always ``length_ms``. ``motion``: as short as motion allows, so that slow
            scenes gather enough events and fast ones do not smear.
        length_ms: Length in ms; with ``motion``, the maximum length.
        shortest_ms: Minimum length with ``motion``, in ms.
        events_per_pixel: Wanted events with ``motion``: the window is the shortest multiple of
            ``shortest_ms`` that holds so many events for each pixel of the sensor, on average.
    """

    mode: Mode = "fixed"
    length_ms: float = 50.0
    shortest_ms: float = 5.0
    events_per_pixel: float = 0.3

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            EventsError: If a value is out of range.
        """
        if self.mode not in {"fixed", "motion"}:
            msg = f"window.mode is {self.mode!r}, it must be 'fixed' or 'motion'"
            raise EventsError(msg)
        limits = {"length_ms": (ABOVE_ZERO, 10_000.0), "events_per_pixel": (ABOVE_ZERO, math.inf)}
        if self.mode == "motion":
            limits["shortest_ms"] = (ABOVE_ZERO, self.length_ms)
        check_ranges(vars(self), limits, EventsError, "window.")

    @property
    def length_ns(self) -> int:
        """Maximum length in ns; so much must be read to cut any window out of it."""
        return round(self.length_ms * NS_PER_MS)

    @property
    def unit_ns(self) -> int:
        """Unit of the lengths with ``motion``, in ns."""
        return round(self.shortest_ms * NS_PER_MS)

    @property
    def units(self) -> int:
        """Maximum length with ``motion``, in units."""
        return self.length_ns // self.unit_ns

    def wanted_events(self, width: int, height: int) -> int:
        """Return the number of events that a window with ``motion`` should hold."""
        return max(round(self.events_per_pixel * width * height), 1)


def window_start(batch: EventBatch, t_end: int, options: WindowOptions) -> int:
    """Choose where the window that ends at ``t_end`` (ns, excluded) starts.

    Mode ``motion`` is motion-adaptive sampling as in ScaleEvent (arXiv 2603.03969, section on
    data): a number of events stands for an amount of motion. Training, `WindowAccumulator` and the
    perception node share this rule.

    Args:
        batch: Events of at least the maximum length before ``t_end``.
        t_end: End of the window on the events' clock, in ns.
        options: Length of the window.

    Returns:
        The first ns of the window.
    """
    if options.mode == "fixed":
        return t_end - options.length_ns
    starts = t_end - options.unit_ns * np.arange(1, options.units + 1)
    counts = np.searchsorted(batch.t, t_end) - np.searchsorted(batch.t, starts)
    return int(starts[choose_units(counts, options.wanted_events(batch.width, batch.height)) - 1])


def choose_units(counts: NDArray[np.int64], wanted: int) -> int:
    """Choose the length of a window that follows motion, in units.

    Args:
        counts: Events in windows of 1, 2, ... units with the same end.
        wanted: Events that the window should hold.

    Returns:
        The smallest number of units that hold the wanted events; all units if none do.
    """
    enough = np.flatnonzero(counts >= wanted)
    return int(enough[0]) + 1 if len(enough) else len(counts)
