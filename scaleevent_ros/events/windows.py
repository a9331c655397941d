"""Which events belong to a frame: the window that ends when the frame was taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from scaleevent_ros.events.errors import EventsError

if TYPE_CHECKING:
    from scaleevent_ros.events.batch import EventBatch

NS_PER_MS = 1_000_000


@dataclass(frozen=True)
class WindowOptions:
    """How long a window is.

    Attributes:
        mode: ``fixed``: always ``length_ms``. ``motion``: as short as motion allows, so that slow
            scenes gather enough events and fast ones do not smear.
        length_ms: The length, and with ``motion`` the greatest length, in ms.
        shortest_ms: With ``motion``, the least length, in ms.
        events_per_pixel: With ``motion``, the window is the shortest that holds so many events
            for each pixel of the sensor, on average.
    """

    mode: Literal["fixed", "motion"] = "fixed"
    length_ms: float = 50.0
    shortest_ms: float = 5.0
    events_per_pixel: float = 0.3

    def __post_init__(self) -> None:
        """Check that such a window exists."""
        if not 0 < self.length_ms <= 10_000:
            msg = f"window: length_ms is {self.length_ms}, it must be above 0 and at most 10000"
            raise EventsError(msg)
        if self.mode == "motion" and not 0 < self.shortest_ms <= self.length_ms:
            msg = (
                f"window: shortest_ms is {self.shortest_ms}, it must be above 0 and at most "
                f"length_ms, {self.length_ms}"
            )
            raise EventsError(msg)
        if not self.events_per_pixel > 0:
            msg = f"window: events_per_pixel is {self.events_per_pixel}, it must be above 0"
            raise EventsError(msg)

    @property
    def length_ns(self) -> int:
        """Give the greatest length in ns: what must be read to cut a window out of it."""
        return round(self.length_ms * NS_PER_MS)


def window_start(batch: EventBatch, t_end: int, options: WindowOptions) -> int:
    """Choose where the window that ends at ``t_end`` (ns, excluded) starts.

    The length that follows motion is the idea of motion-adaptive sampling, as ScaleEvent takes it
    over (arXiv 2603.03969, section on data): a number of events stands for an amount of motion.

    Args:
        batch: Events of at least the greatest length before ``t_end``.
        t_end: When the frame was taken, on the events' clock.
        options: See `WindowOptions`.

    Returns:
        The first ns of the window.
    """
    earliest = t_end - options.length_ns
    if options.mode == "fixed":
        return earliest
    wanted = round(options.events_per_pixel * batch.width * batch.height)
    end = int(np.searchsorted(batch.t, t_end))
    start = int(batch.t[end - wanted]) if 0 < wanted <= end else earliest
    latest = t_end - round(options.shortest_ms * NS_PER_MS)
    return min(max(start, earliest), latest)
