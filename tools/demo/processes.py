"""The commands of a stage: started with a log each, waited for, and ended with the stage."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

BIN = Path(sys.executable).parent
# A domain of this run's own, so that it neither hears nor disturbs a robot or a demo beside it.
# Above 101 the ports of a domain reach into those that Linux hands out by itself.
ROS = {
    "ROS_DOMAIN_ID": str(10 + os.getpid() % 90),
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
}
_LAST_LINES = 12
_GRACE_S = 20


class CommandError(Exception):
    """A command failed; the message says which, and how its log ends."""


class Command:
    """A command that runs, its output in a log.

    Args:
        log: The log's file; its name without suffix is the command's in messages.
        words: Executable of the environment, and its arguments.
    """

    def __init__(self, log: Path, *words: str | Path) -> None:
        name, *arguments = (str(word) for word in words)
        print(f"    $ {shlex.join([name, *arguments])}", flush=True)
        self._log = log
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                [str(BIN / name), *arguments],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, **ROS},
            )

    def wait(self, seconds: float = 1800) -> None:
        """Wait for it to end.

        Raises:
            CommandError: If it fails, or takes longer.
        """
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            what = f"took longer than {seconds:.0f} s"
            raise self._error(what) from None
        if code:
            what = f"ended with {code}"
            raise self._error(what)

    def wait_for(self, word: str, seconds: float) -> None:
        """Wait until it has written a word.

        Raises:
            CommandError: If it ends before, or takes longer.
        """
        deadline = time.monotonic() + seconds
        while word not in self._log.read_text(errors="replace"):
            if self._process.poll() is not None or time.monotonic() > deadline:
                what = f"never said {word!r}"
                raise self._error(what)
            time.sleep(0.2)

    def interrupt(self) -> None:
        """Send SIGINT; finished processes are left alone."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def end(self) -> None:
        """Ensure that the process ends with the stage."""
        self.interrupt()
        try:
            self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _error(self, what: str) -> CommandError:
        tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-_LAST_LINES:])
        return CommandError(f"{self._log.stem} {what}; the end of {self._log}:\n{tail}")


@contextmanager
def started(log: Path, *words: str | Path) -> Iterator[Command]:
    """Start a command that ends with the block, however that ends."""
    command = Command(log, *words)
    try:
        yield command
    finally:
        command.end()


def run(log: Path, *words: str | Path) -> None:
    """Run a command to its end; see `Command.wait`."""
    with started(log, *words) as command:
        command.wait()
