"""rosbag2 in and out: messages, reader, writer, recovery, pairs, quality.

In come the bags of `ros2 bag record` and of our own recorder, in any storage and state; out go
views of their messages, pairs of frames and events on one clock, and a report on their quality.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaleevent_ros.bags.errors import (
    BagError,
    BagExistsError,
    DiskFullError,
    ImageError,
    MessageError,
    SynchronizationError,
)
from scaleevent_ros.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from scaleevent_ros.bags.metadata import Qos
    from scaleevent_ros.bags.pairing import FramePair, pairs
    from scaleevent_ros.bags.reader import BagReader
    from scaleevent_ros.bags.recovery import Recovery, recover
    from scaleevent_ros.bags.writer import BagWriter

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

__getattr__ = lazy_exports(
    __name__,
    {
        "BagReader": "reader",
        "BagWriter": "writer",
        "FramePair": "pairing",
        "Qos": "metadata",
        "Recovery": "recovery",
        "pairs": "pairing",
        "recover": "recovery",
    },
)
