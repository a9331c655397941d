"""When messages of a recording are due: at its own pace, faster, slower, or held."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Pace:
    """Maps a recording's time to this machine's, and waits for it.

    Args:
        rate: Seconds of the recording a second; 0 for no waiting at all.
        clock: Current time in ns of the clock that `to_clock` maps to.
    """

    def __init__(self, rate: float, clock: Callable[[], int] = time.time_ns) -> None:
        self._rate = rate
        self._clock = clock
        self._changed = threading.Condition()
        self._start_ns = 0
        self._begun_at = time.monotonic()
        self._begun_ns = clock()
        self._held_at: float | None = None
        self._stopped = False

    def begin(self, start_ns: int, delay_s: float = 0.0) -> None:
        """Let a time of the recording be due now, or after a while."""
        with self._changed:
            now = time.monotonic()
            self._start_ns = start_ns
            self._begun_at = now + delay_s
            self._begun_ns = self._clock() + round(delay_s * 1e9)
            if self._held_at is not None:
                self._held_at = now

    def wait(self, due_ns: int) -> bool:
        """Wait until a time of the recording is due.

        Returns:
            False where it was stopped before.
        """
        with self._changed:
            while not self._stopped:
                if self._held_at is not None:
                    self._changed.wait()
                elif (left := self._seconds_until(due_ns)) > 0:
                    self._changed.wait(left)
                else:
                    return True
            return False

    def position(self) -> int:
        """Return the time of the recording that is due now, in ns."""
        with self._changed:
            now = time.monotonic() if self._held_at is None else self._held_at
            elapsed = max(0.0, now - self._begun_at)
            return self._start_ns + round(elapsed * self._rate * 1e9)

    def to_clock(self, time_ns: int) -> int:
        """Map a time of the recording to the clock, both in ns.

        The mapping changes in `begin` and `release` only: in between, equal times stay equal and
        distances are the recording's, divided by the rate.
        """
        with self._changed:
            since_ns = time_ns - self._start_ns
            # An integer as it is: float64 is exact to a nanosecond for 104 days only.
            scaled_ns = since_ns if self._rate == 1 else round(since_ns / (self._rate or math.inf))
            return self._begun_ns + scaled_ns

    def hold(self) -> None:
        """Let nothing be due from now on."""
        with self._changed:
            if self._held_at is None:
                self._held_at = time.monotonic()

    def release(self) -> None:
        """Go on where `hold` stopped."""
        with self._changed:
            if self._held_at is not None:
                elapsed = self._held_at - self._begun_at
                self._begun_at = time.monotonic() - elapsed
                self._begun_ns = self._clock() - round(elapsed * 1e9)
                self._held_at = None
                self._changed.notify_all()

    def stop(self) -> None:
        """End all waiting for good."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _seconds_until(self, due_ns: int) -> float:
        elapsed = (due_ns - self._start_ns) / 1e9 / self._rate if self._rate else 0.0
        return self._begun_at + elapsed - time.monotonic()
