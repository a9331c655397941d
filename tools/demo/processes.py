"""Commands of a stage, each with a log; they end with the stage."""

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
# A separate domain for this run, so that it does not interfere with a robot or another demo. Above
# 101, the ports of a domain overlap with those that Linux assigns to clients.
ROS = {
    "ROS_DOMAIN_ID": str(10 + os.getpid() % 90),
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
}
_LAST_LINES = 12
_GRACE_S = 20


class CommandError(Exception):
    """A command failed; the message gives the command and the end of its log."""


class Command:
    """A running command that writes its output to a log.

    Args:
        log: Path of the log; its name without suffix stands for the command in messages.
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
        """Wait for the command to end.

        Args:
            seconds: Time limit in s.

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
        """Wait until the command has written a text to its log.

        Args:
            word: Text to wait for.
            seconds: Time limit in s.

        Raises:
            CommandError: If it ends before, or takes longer.
        """
        deadline = time.monotonic() + seconds
        while word not in self._log.read_text(errors="replace"):
            if self._process.poll() is not None or time.monotonic() > deadline:
                what = f"did not write {word!r}"
                raise self._error(what)
            time.sleep(0.2)

    def interrupt(self) -> None:
        """Send SIGINT to the process, if it is still running."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def end(self) -> None:
        """Interrupt the process, and kill it if it does not end within 20 s."""
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
    """Start a command, and end it when the `with` block ends."""
    command = Command(log, *words)
    try:
        yield command
    finally:
        command.end()


def run(log: Path, *words: str | Path) -> None:
    """Run a command to its end; see `Command.wait`."""
    with started(log, *words) as command:
        command.wait()
