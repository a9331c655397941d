"""Messages of `/diagnostics` and their contents.

`diagnostic_updater` is not used, since it has no Python package on some supported systems.
"""

from __future__ import annotations

import re
import threading
import time
from collections import defaultdict, deque
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from builtin_interfaces.msg import Time

OK: bytes = DiagnosticStatus.OK
WARN: bytes = DiagnosticStatus.WARN
ERROR: bytes = DiagnosticStatus.ERROR

_KEPT = 2000  # durations kept for each name, to bound the memory if no report is taken


def status(
    name: str, level: bytes, message: str, values: Mapping[str, object], hardware_id: str = ""
) -> DiagnosticStatus:
    """Build one status.

    Args:
        name: Name of the component, such as `/namespace/node` or `/namespace/node: part`.
        level: `OK`, `WARN` or `ERROR`.
        message: Message in one line.
        values: Values by key, in order; floats are written with at least four significant digits.
        hardware_id: Id of the component's device, if it has one.
    """
    return DiagnosticStatus(
        name=name,
        level=level,
        message=message,
        hardware_id=hardware_id,
        values=[KeyValue(key=key, value=_written(value)) for key, value in values.items()],
    )


def array(stamp: Time, statuses: Sequence[DiagnosticStatus]) -> DiagnosticArray:
    """Build the message of `/diagnostics` from statuses."""
    message = DiagnosticArray(status=list(statuses))
    message.header.stamp = stamp
    return message


def _written(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
    return str(value)


class Remarks:
    """Collects warnings for the log and the next report; any thread may add.

    Warnings that differ only in their numbers are of one kind. The log has each kind at most once a
    second; the report has the latest warning of each kind and how often it came.

    Args:
        log: Function that writes a warning to the log.
    """

    def __init__(self, log: Callable[[str], object]) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._logged: dict[str, float] = {}
        self._latest: dict[str, tuple[str, int]] = {}

    def add(self, text: str) -> None:
        """Add a warning."""
        kind, now = re.sub(r"[\d.]+", "#", text), time.monotonic()
        with self._lock:
            _, times = self._latest.get(kind, ("", 0))
            self._latest[kind] = text, times + 1
            if now - self._logged.get(kind, -1.0) < 1:
                return
            self._logged[kind] = now
        self._log(text)

    def take(self) -> tuple[str, ...]:
        """Return the latest warning of each kind since the last call, and reset them."""
        with self._lock:
            taken, self._latest = self._latest, {}
        return tuple(f"{text} ({n} times)" if n > 1 else text for text, n in taken.values())


class Rates:
    """Rates of counters between two calls."""

    def __init__(self) -> None:
        self._before: tuple[float, tuple[int, ...]] | None = None

    def take(self, now: float, *totals: int) -> tuple[float, ...]:
        """Return each counter's rate since the last call, per second.

        Args:
            now: Time in s.
            *totals: Values of the counters.

        Returns:
            The rates; 0 in the first call, and for counters that were reset.
        """
        then, before = self._before or (now, totals)
        self._before = now, totals
        seconds = max(now - then, 1e-3)
        return tuple(max(new - old, 0) / seconds for new, old in zip(totals, before, strict=True))


class Percentiles(NamedTuple):
    """Median and 99th percentile of durations, in ms."""

    p50: float
    p99: float


class Timings:
    """Collects durations by name; any thread may call `add`, only one thread `take`."""

    def __init__(self) -> None:
        self._ms: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_KEPT))

    def add(self, name: str, ms: float) -> None:
        """Add a duration, in ms."""
        self._ms[name].append(ms)

    def take(self) -> dict[str, Percentiles]:
        """Return the percentiles of the durations since the last call, by name, and reset them."""
        taken, self._ms = self._ms, defaultdict(lambda: deque(maxlen=_KEPT))
        return {
            name: Percentiles(*np.percentile(list(values), (50, 99)).tolist())
            for name, values in sorted(taken.items())
            if values
        }
