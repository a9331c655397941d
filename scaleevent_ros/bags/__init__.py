"""Reading, writing, recovery and quality checks of rosbag2 bags.

Input: bags of `ros2 bag record` and of this project's recorder, in any storage format, also
damaged ones. Output: views of their messages, pairs of frames and events on one clock, and quality
reports.
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
