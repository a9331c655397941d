"""Random events and pictures for recordings that tests write."""

from __future__ import annotations

import cv2
import numpy as np
from random_events import random_batch

from scaleevent_ros.events import EventBatch

SECOND = 1_000_000_000


def recorded_events(
    width: int,
    height: int,
    count: int = 2000,
    start_s: float = 1.0,
    length_s: float = 0.5,
    seed: int = 0,
) -> EventBatch:
    """Draw events with times of whole microseconds."""
    rng = np.random.default_rng(seed)
    start, end = int(start_s * SECOND), int((start_s + length_s) * SECOND)
    batch = random_batch(rng, count, width, height, start, end)
    return EventBatch(batch.x, batch.y, batch.t // 1000 * 1000, batch.p, width, height)


def photographs(count: int, height: int, width: int, *, colour: bool = False) -> np.ndarray:
    """Draw smooth uint8 pictures [count, height, width] or [count, height, width, 3]."""
    coarse = np.random.default_rng(1).integers(0, 256, (count, 3, 4, 3), np.uint8)
    pictures = [cv2.resize(one, (width, height), interpolation=cv2.INTER_CUBIC) for one in coarse]
    return np.stack(pictures) if colour else np.stack(pictures)[..., 0]
