"""Faults of a recording: skipped or repaired, and counted; strict reading stops at the first."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, TypedDict, TypeVar

import numpy as np

from scaleevent_ros.sources.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

T = TypeVar("T")

MAX_LOST_SHARE = 0.01
"""Maximum share of dropped events; a recording that loses more is probably misread."""

_ENOUGH_EVENTS = 1 << 20  # before the end of a recording, the share is not checked with fewer
_SECOND = 1_000_000_000


UNREADABLE = "pictures that cannot be read"
"""Kind of fault that all formats share."""


class Fault(TypedDict):
    """Faults of one kind: how many, and a message about the first."""

    count: int
    first: str


class Faults:
    """Counter of the faults of one recording, by kind.

    Args:
        strict: Raise a `SourceError` at the first fault.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict
        self._start_ns, self._end_ns = 0, 1 << 63
        self._earlier: dict[str, Fault] = {}
        self._first: dict[str, str] = {}
        self._by_second: Counter[tuple[str, int]] = Counter()
        self._of_files: dict[str, set[str]] = {}
        self._events = 0
        self._lost = 0
        self._lost_first = ""

    def resume(self, earlier: dict[str, Fault], start_ns: int) -> None:
        """Continue the counts of an interrupted run; faults before a time (ns) are in `earlier`."""
        self._earlier = earlier
        self._start_ns = max(self._start_ns, start_ns)

    def limit(self, start_ns: int, end_ns: int) -> None:
        """Count faults of events and pictures from a time to another (ns), the end excluded."""
        self._start_ns, self._end_ns = start_ns, end_ns

    def add(self, kind: str, message: str, times: NDArray[np.int64] | None = None) -> None:
        """Count faults.

        Args:
            kind: Name of the kind in the plural: ``events outside the sensor``.
            message: Place and description of the first of them.
            times: Time of each in ns, int64 [N]; None for one fault of a file, which is counted
                once, however often the file is read.

        Raises:
            SourceError: With the message, if reading is strict.
        """
        if times is not None:
            times = times[(times >= self._start_ns) & (times < self._end_ns)]
            if not len(times):
                return
        if self._strict:
            raise SourceError(message)
        self._first.setdefault(kind, message)
        if times is None:
            self._of_files.setdefault(kind, set()).add(message)
        else:
            for second, count in zip(*np.unique(times // _SECOND, return_counts=True), strict=True):
                self._by_second[kind, int(second)] += int(count)

    def attempt(
        self,
        kind: str,
        read: Callable[[], T],
        times: NDArray[np.int64] | None = None,
    ) -> T | None:
        """Call a function and return its result; count a `SourceError` and return None.

        Args:
            kind: Kind of the fault; see `add`.
            read: Function to call.
            times: Time of the fault in ns, int64 [1]; see `add`.

        Raises:
            SourceError: If reading is strict.
        """
        try:
            return read()
        except SourceError as error:
            self.add(kind, str(error), times)
            return None

    def count_events(self, read: int, lost: int = 0, first_lost: str = "") -> None:
        """Count events that were read, and those of them that were dropped.

        Args:
            read: Number of events that were read.
            lost: Number of these that were dropped.
            first_lost: Place and description of the first dropped event.

        Raises:
            SourceError: If more than 1 % of the events were dropped, of a million or more.
        """
        self._events += read
        self._lost += lost
        if lost and not self._lost_first:
            self._lost_first = first_lost
        if self._events >= _ENOUGH_EVENTS:
            self.check_share()

    def check_share(self) -> None:
        """Check the share of dropped events; called at the end of a recording.

        Raises:
            SourceError: If it is more than 1 %.
        """
        if self._lost > MAX_LOST_SHARE * self._events:
            msg = f"{self._lost_first} ({self._lost:,} of {self._events:,} events are wrong)"
            raise SourceError(msg)

    def summary(self, before_ns: int | None = None) -> dict[str, Fault]:
        """Sum up the faults by kind, including those of earlier runs.

        Args:
            before_ns: Time in ns from which faults of events and pictures are left out; None for
                all faults.
        """
        counts: Counter[str] = Counter()
        for (kind, second), count in self._by_second.items():
            if before_ns is None or second * _SECOND < before_ns:
                counts[kind] += count
        for kind, messages in self._of_files.items():
            known = self._earlier.get(kind)
            counts[kind] += len(messages - {known["first"]} if known else messages)
        merged = {kind: fault.copy() for kind, fault in self._earlier.items()}
        for kind, count in counts.items():
            fault = merged.setdefault(kind, Fault(count=0, first=self._first[kind]))
            fault["count"] += count
        return {kind: fault for kind, fault in merged.items() if fault["count"]}


def faults_text(faults: dict[str, Fault]) -> str:
    """Format faults as one line: ``3 events outside the sensor (first: …)``."""
    return "; ".join(
        f"{fault['count']:,} {kind} (first: {fault['first']})" for kind, fault in faults.items()
    )
