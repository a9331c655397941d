"""Training samples from bags and shards: alignment, windows, augmentation, order, shards.

Input: recordings of pairs of a frame and the events before it (`open_recordings`). Output: tensors
of the student's events and the teacher's frame, and masks of active and covered patches. Their
order and their random augmentation follow from a seed alone.
"""

from __future__ import annotations

from scaleevent_ros.data.bag_pairs import BagPairs
from scaleevent_ros.data.dataset import Pair, PairDataset, PairSource, SampleOptions
from scaleevent_ros.data.errors import DataError
from scaleevent_ros.data.indexed_bag import BagOptions
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
