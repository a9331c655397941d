"""How one thread asks another for work of which only the newest counts."""

from __future__ import annotations

import threading


class WakeUp:
    """Counts requests until a thread takes them all at once."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._requests = 0
        self._stopped = False

    def request(self) -> None:
        """Ask for work."""
        with self._changed:
            self._requests += 1
            self._changed.notify()

    def wait(self) -> int:
        """Wait for requests and take them: how many there were, or 0 once stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._requests or self._stopped)
            taken, self._requests = self._requests, 0
            return 0 if self._stopped else taken

    def stop(self) -> None:
        """Let the waiting thread end."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
