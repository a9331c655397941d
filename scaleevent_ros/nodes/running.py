"""Runs a node until it is finished, or until a signal stops it."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import re
import signal
import sys
import tempfile
import threading
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from scaleevent_ros.errors import ScaleEventError
from scaleevent_ros.nodes.parameters import described, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rclpy.node import Node

_asked_to_end = threading.Event()

_SEGMENT_LOCK = re.compile(r"(/dev/shm/fastdds_[0-9a-f]{16})_el")


class RunnableNode(Protocol):
    """A `rclpy.node.Node` that `run` can run and close."""

    @property
    def finished(self) -> bool:
        """Whether the node has nothing more to do; raises the error that ended its work."""

    @property
    def busy(self) -> bool:
        """Whether a thread is working that cannot be interrupted."""

    def close(self) -> None:
        """Release resources; called once, before the node is destroyed."""

    def destroy_node(self) -> object:
        """Destroy the node and its topics, services and timers."""


def handle_signals() -> None:
    """Make SIGINT, SIGTERM and SIGHUP end `run`, even if SIGINT was ignored.

    A shell without job control makes background processes ignore SIGINT. SIGHUP stays ignored
    under `nohup`.
    """
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    for number in numbers:
        signal.signal(number, lambda *_: _asked_to_end.set())


def run(
    name: str,
    build: Callable[[], RunnableNode],
    parameters: type[object],
    args: Sequence[str] | None = None,
    *,
    threads: int = 1,
) -> int:
    """Run a node.

    Unlike rclpy's own handlers, a signal does not shut down the context, so that `close` can still
    receive messages that have arrived.

    Args:
        name: Name of the node, for messages before it exists.
        build: Class of the node, or a function that builds it.
        parameters: Dataclass of the node's parameters, for its help.
        args: Command line without the program's name; the process's if None.
        threads: Number of threads that serve callbacks.

    Returns:
        The exit code: 0, or 1 if a `ScaleEventError` ended the node.

    Raises:
        SystemExit: For `--help`, or if an argument is unknown.
    """
    handle_signals()
    log_folder = _replace_log_folder()
    import rclpy
    from rclpy.executors import MultiThreadedExecutor, SingleThreadedExecutor
    from rclpy.logging import get_logger
    from rclpy.signals import SignalHandlerOptions
    from rclpy.utilities import remove_ros_args

    args = sys.argv[1:] if args is None else list(args)
    _parser(name, build, parameters).parse_args(remove_ros_args(args))
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    _log_through_ros(get_logger(name))
    if log_folder:
        get_logger(name).warning(f"ROS cannot write log files in HOME; they are in {log_folder}")
    # Imported objects live as long as the process. A garbage collection over them takes, with
    # PyTorch on a busy machine, longer than the 5 s after which launch sends SIGTERM.
    gc.freeze()
    node, busy = None, False
    executor = MultiThreadedExecutor(threads) if threads > 1 else SingleThreadedExecutor()
    try:
        node = build()
        executor.add_node(cast("Node", node))
        while not _asked_to_end.is_set() and not node.finished:
            executor.spin_once(timeout_sec=0.1)
    except ScaleEventError as error:
        get_logger(name).fatal(str(error))
        return 1
    finally:
        if node is not None:
            busy = node.busy
            node.close()
        if not busy:
            executor.shutdown()  # after it has sent the responses to service calls
        if node is not None:
            node.destroy_node()
        rclpy.shutdown()
        if busy:
            # An engine may be built for minutes, and Python would wait for that thread.
            _remove_shared_memory()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
        # The middleware releases its shared memory once there is no reference to the node.
        del node, executor
        gc.collect()
        gc.freeze()
    return 0


def _remove_shared_memory() -> None:
    """Remove this process's shared memory segments of Fast DDS, which would remain after `_exit`.

    The participant removes them only when there is no reference to the node, but a thread that
    builds an engine has one. A process owns the segments whose lock files (``_el``) it has open.
    """
    for descriptor in Path("/proc/self/fd").glob("*"):
        try:
            lock = descriptor.readlink()
        except OSError:
            continue
        if match := _SEGMENT_LOCK.fullmatch(str(lock)):
            Path(match[1]).unlink(missing_ok=True)
            lock.unlink(missing_ok=True)


def _parser(
    name: str, build: Callable[[], RunnableNode], parameters: type[object]
) -> argparse.ArgumentParser:
    """Build the parser of a node's command line, with the parameters in its help."""
    lines = [
        f"  {parameter.name} (default: {shown(parameter.default)})\n      {parameter.description}"
        for parameter in described(parameters)
    ]
    return argparse.ArgumentParser(
        prog=name,
        usage=(
            "%(prog)s [-h] [--ros-args [-p NAME:=VALUE ...] [-r FROM:=TO ...] [--params-file FILE]]"
        ),
        description=(build.__doc__ or "").partition("\n")[0],
        epilog="\n".join(["parameters:", *lines]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _replace_log_folder() -> str:
    """Set ROS_LOG_DIR to a new folder if ROS cannot create its own, so that nodes can start.

    Returns:
        The new folder; empty if ROS's own can be used.
    """
    named = os.environ.get("ROS_LOG_DIR") or os.environ.get("ROS_HOME")
    home = os.environ.get("HOME")
    if not named and home:
        try:
            folder = Path(home) / ".ros" / "log"
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                return ""
        except OSError:
            pass
    elif named:
        return ""
    os.environ["ROS_LOG_DIR"] = tempfile.mkdtemp(prefix="ros_log_")
    return os.environ["ROS_LOG_DIR"]


class _RosHandler(logging.Handler):
    """Log handler that passes the package's log to ROS.

    Args:
        logger: Logger of rclpy.
    """

    def __init__(self, logger: Any) -> None:
        super().__init__(logging.INFO)
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record with ROS."""
        text = self.format(record)
        # rclpy requires each call in the source to have always the same severity.
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        else:
            self._logger.info(text)


def _log_through_ros(logger: Any) -> None:
    """Send the package's log to ROS's log: the console, files and /rosout."""
    package = logging.getLogger("scaleevent_ros")
    package.addHandler(_RosHandler(logger))
    package.setLevel(logging.INFO)
    package.propagate = False


def _main(module: str) -> int:
    # Signals are handled before the import, which takes a while.
    handle_signals()
    return int(import_module(f"scaleevent_ros.nodes.{module}").main())


def perception() -> int:
    """Entry point of `scaleevent_perception`."""
    return _main("perception")


def recorder() -> int:
    """Entry point of `scaleevent_recorder`."""
    return _main("recorder")


def replay() -> int:
    """Entry point of `scaleevent_replay`."""
    return _main("replay")


def simulate() -> int:
    """Entry point of `scaleevent_simulate`."""
    return _main("simulate")
