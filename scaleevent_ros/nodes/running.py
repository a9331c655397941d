"""Runs one node until it is done, or until SIGINT or SIGTERM asks it to end."""

from __future__ import annotations

import gc
import signal
import threading
from typing import TYPE_CHECKING, Protocol, cast

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.signals import SignalHandlerOptions

from scaleevent_ros.errors import ScaleEventError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rclpy.node import Node


class RunnableNode(Protocol):
    """A `rclpy.node.Node` that knows when it is done, and how to leave nothing open."""

    @property
    def finished(self) -> bool:
        """Whether it has nothing more to do; raises what made it fail."""

    def close(self) -> None:
        """Finish what is open. Called once, before the node is destroyed."""

    def destroy_node(self) -> object:
        """Leave the graph."""


def run(name: str, build: Callable[[], RunnableNode], args: Sequence[str] | None = None) -> int:
    """Run a node.

    A signal does not shut the context down, as it does with rclpy's own handlers, so `close` can
    still take from the middleware what has arrived.

    Args:
        name: For messages about a node that could not be built.
        build: Makes the node.
        args: Command line, by default the process's.

    Returns:
        The exit code: 0, or 1 where a `ScaleEventError` ended the node.
    """
    asked_to_end = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked_to_end.set())
    rclpy.init(
        args=None if args is None else list(args), signal_handler_options=SignalHandlerOptions.NO
    )
    # What was imported lives as long as the process: no collection needs to look through it, which
    # with PyTorch takes longer on a busy machine than the 5 s after which launch sends SIGTERM.
    gc.freeze()
    node = None
    executor = SingleThreadedExecutor()
    try:
        node = build()
        executor.add_node(cast("Node", node))
        while not asked_to_end.is_set() and not node.finished:
            executor.spin_once(timeout_sec=0.1)
    except ScaleEventError as error:
        get_logger(name).fatal(str(error))
        return 1
    finally:
        if node is not None:
            node.close()
            node.destroy_node()
        executor.shutdown()
        rclpy.shutdown()
        # The middleware gives its shared memory back once nothing holds the node any more.
        del node, executor
        gc.collect()
        gc.freeze()
    return 0
