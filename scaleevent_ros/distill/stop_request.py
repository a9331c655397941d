"""Signals that ask a run to end, kept until a moment at which nothing is lost."""

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

SAME_S = 1.0  # in which a signal that comes again is the same, passed on by torchrun
_NOTICE = b"\nasked to stop: the step is finished and saved first; Ctrl-C again ends at once\n"


@contextmanager
def stop_requests() -> Iterator[Callable[[], int]]:
    """Handler that stores the first SIGINT or SIGTERM, for a caller that polls it.

    SIGTERM has no more effect after that, since batch systems and torchrun both send it, and
    SIGKILL follows; SIGINT acts as ever when it comes again after `SAME_S`. A signal that is
    ignored stays so, as interrupts are in the background of a shell. In a thread other than the
    main one, which alone may handle signals, none is kept.

    Yields:
        A function that returns the number of the signal that came, 0 if none did.
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
                os.write(2, _NOTICE)  # a stream may be in the middle of a line: it must not be used
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
