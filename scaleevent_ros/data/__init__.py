"""Bags and shards in, training samples out: alignment, windows, augmentation, order, shards.

In come recordings of pairs, a frame and the events before it each (`open_recordings`). Out go
tensors: the student's events, the teacher's frame, and the masks of patches that are active and
covered, in an order and with random changes that follow from a seed alone.
"""

from __future__ import annotations

from scaleevent_ros.data.bag_pairs import BagOptions, BagPairs
from scaleevent_ros.data.dataset import Pair, PairDataset, PairSource, SampleOptions
from scaleevent_ros.data.errors import DataError
from scaleevent_ros.data.recordings import open_recordings

__all__ = [
    "BagOptions",
    "BagPairs",
    "DataError",
    "Pair",
    "PairDataset",
    "PairSource",
    "SampleOptions",
    "open_recordings",
]
