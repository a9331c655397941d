"""rosbag2 in and out: messages, reader, writer, recovery, pairs, quality.

In come the bags of `ros2 bag record` and of our own recorder, in any storage and state; out go
views of their messages, pairs of frames and events on one clock, and a report on their quality.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scaleevent_ros.bags.errors import (
    BagError,
    BagExistsError,
    DiskFullError,
    ImageError,
    MessageError,
    SynchronizationError,
)
from scaleevent_ros.bags.metadata import Qos
from scaleevent_ros.bags.reader import BagReader
from scaleevent_ros.bags.recover import Recovery, recover
from scaleevent_ros.bags.writer import BagWriter

if TYPE_CHECKING:
    from scaleevent_ros.bags.pairing import FramePair, pairs

__all__ = [
    "BagError",
    "BagExistsError",
    "BagReader",
    "BagWriter",
    "DiskFullError",
    "FramePair",
    "ImageError",
    "MessageError",
    "Qos",
    "Recovery",
    "SynchronizationError",
    "pairs",
    "recover",
]


def __getattr__(name: str) -> Any:
    """Import pairing when it is asked for: it needs numba, 80 MB that a recorder spares."""
    if name in {"FramePair", "pairs"}:
        from scaleevent_ros.bags import pairing

        return getattr(pairing, name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
