"""How long things take: the median and the 99th percentile since the last report."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

_KEPT = 2000  # of each name, which bounds the memory of a report that nobody takes


class Percentiles(NamedTuple):
    """Of times in ms."""

    p50: float
    p99: float


class Timings:
    """Collects times by name; any thread may add, one takes."""

    def __init__(self) -> None:
        self._ms: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_KEPT))

    def add(self, name: str, ms: float) -> None:
        """Take one time, in ms."""
        self._ms[name].append(ms)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Time a block."""
        start = time.perf_counter()
        yield
        self.add(name, (time.perf_counter() - start) * 1e3)

    def take(self) -> dict[str, Percentiles]:
        """Return the percentiles of what was added since the last call, by name."""
        taken, self._ms = self._ms, defaultdict(lambda: deque(maxlen=_KEPT))
        return {
            name: Percentiles(*np.percentile(list(values), (50, 99)).tolist())
            for name, values in sorted(taken.items())
            if values
        }
