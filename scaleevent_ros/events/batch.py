"""Events and triggers as arrays, returned by decoders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scaleevent_ros.events.errors import EventsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class EventBatch:
    """Events of one sensor, in order of time.

    Attributes:
        x: Columns, uint16 [N], 0 at the left, below ``width``.
        y: Rows, uint16 [N], 0 at the top, below ``height``.
        t: Times, int64 [N], in ns on the sensor's clock, non-decreasing.
        p: Polarities, uint8 [N]: 1 where it became brighter, 0 where darker.
        width: Sensor width in pixels.
        height: Sensor height in pixels.
    """

    x: NDArray[np.uint16]
    y: NDArray[np.uint16]
    t: NDArray[np.int64]
    p: NDArray[np.uint8]
    width: int
    height: int

    def __post_init__(self) -> None:
        """Check dtypes and lengths, which costs nothing; values are trusted (see `validate`)."""
        for name, dtype in (("x", np.uint16), ("y", np.uint16), ("t", np.int64), ("p", np.uint8)):
            array = getattr(self, name)
            if array.dtype != dtype or array.ndim != 1 or len(array) != len(self.t):
                msg = (
                    f"EventBatch.{name} is {array.dtype} {array.shape}, "
                    f"not {np.dtype(dtype)} ({len(self.t)},)"
                )
                raise EventsError(msg)

    def __len__(self) -> int:
        """Count the events."""
        return len(self.t)

    def __getitem__(self, index: slice) -> EventBatch:
        """Slice a range of events, as views."""
        return EventBatch(
            self.x[index], self.y[index], self.t[index], self.p[index], self.width, self.height
        )

    def between(self, t_start: int, t_end: int) -> EventBatch:
        """Return the events with ``t_start <= t < t_end`` (ns), as views. O(log N)."""
        start, end = np.searchsorted(self.t, (t_start, t_end))
        return self[int(start) : int(end)]

    def validate(self) -> None:
        """Check the values too: coordinates inside the sensor, times in order, polarity 0 or 1.

        Raises:
            EventsError: If an event is invalid; the message gives the first one.
        """
        wrong = (
            ("x", self.x >= self.width, f"outside the width {self.width}"),
            ("y", self.y >= self.height, f"outside the height {self.height}"),
            ("p", self.p > 1, "neither 0 nor 1"),
            ("t", np.diff(self.t, prepend=self.t[:1]) < 0, "earlier than the event before it"),
        )
        for name, bad, what in wrong:
            if bad.any():
                index = int(bad.argmax())
                msg = f"event {index}: {name} = {getattr(self, name)[index]} is {what}"
                raise EventsError(msg)

    @staticmethod
    def empty(width: int, height: int) -> EventBatch:
        """Return a batch without events."""
        return EventBatch(
            np.empty(0, np.uint16),
            np.empty(0, np.uint16),
            np.empty(0, np.int64),
            np.empty(0, np.uint8),
            width,
            height,
        )

    @staticmethod
    def concatenate(batches: Sequence[EventBatch]) -> EventBatch:
        """Join batches of one sensor, given in order of time.

        Raises:
            EventsError: If there is none, geometries differ, or a batch starts before the end of
                the one before it.
        """
        if not batches:
            msg = "nothing to concatenate: give at least one batch"
            raise EventsError(msg)
        width, height = batches[0].width, batches[0].height
        last = None
        for batch in batches:
            if (batch.width, batch.height) != (width, height):
                msg = f"cannot join batches of {width}x{height} and {batch.width}x{batch.height}"
                raise EventsError(msg)
            if len(batch):
                if last is not None and batch.t[0] < last:
                    msg = f"a batch starts at {batch.t[0]} ns, before the last one ends, {last} ns"
                    raise EventsError(msg)
                last = batch.t[-1]
        return EventBatch(
            np.concatenate([batch.x for batch in batches]),
            np.concatenate([batch.y for batch in batches]),
            np.concatenate([batch.t for batch in batches]),
            np.concatenate([batch.p for batch in batches]),
            width,
            height,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Triggers:
    """Edges on the sensor's external trigger inputs.

    Attributes:
        t: Times, int64 [M], in ns on the sensor's clock.
        id: Channels, uint8 [M].
        edge: uint8 [M]: 1 rising, 0 falling.
    """

    t: NDArray[np.int64]
    id: NDArray[np.uint8]
    edge: NDArray[np.uint8]

    def __len__(self) -> int:
        """Count the edges."""
        return len(self.t)
