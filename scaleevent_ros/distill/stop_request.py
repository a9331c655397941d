"""Signals that ask a run to stop, stored until the run can save its state."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

SAME_S = 1.0  # a signal repeated within this time is the same one, passed on by torchrun
_NOTICE = b"\nstopping: this step is finished and saved first; Ctrl-C again stops at once\n"


@contextmanager
def stop_requests() -> Iterator[Callable[[], int]]:
    """Store the first SIGINT or SIGTERM within the context, for a caller that polls it.

    Further SIGTERMs are ignored, since batch systems and torchrun both send it, followed by
    SIGKILL. A further SIGINT later than `SAME_S` has its usual effect. A signal that was ignored
    before stays ignored, as SIGINT is for background jobs of a shell. Only the main thread can
    handle signals: in any other, none is stored.

    Yields:
        A function that returns the number of the stored signal, or 0.
    """
    came, moment = 0, 0.0
    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM)
        if threading.current_thread() is threading.main_thread()
        and signal.getsignal(number) is not signal.SIG_IGN
    }

    def keep(number: int, frame: FrameType | None) -> None:
        nonlocal came, moment
        del frame
        if not came:
            came, moment = number, time.monotonic()
            if os.environ.get("RANK", "0") == "0":  # the first of torchrun's processes
                os.write(2, _NOTICE)  # Python's streams must not be used in a signal handler
        elif number == signal.SIGINT and time.monotonic() - moment > SAME_S:
            give_back()
            signal.raise_signal(number)

    def give_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, keep)
    try:
        yield lambda: came
    finally:
        give_back()
