"""Random event batches, small enough for slow references, for property tests."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from scaleevent_ros.events import EventBatch


def random_batch(
    rng: np.random.Generator, count: int, width: int, height: int, t_start: int, t_end: int
) -> EventBatch:
    """Draw events uniformly over the sensor and over ``[t_start, t_end)``."""
    return EventBatch(
        rng.integers(0, width, count).astype(np.uint16),
        rng.integers(0, height, count).astype(np.uint16),
        np.sort(rng.integers(t_start, t_end, count)),
        rng.integers(0, 2, count).astype(np.uint8),
        width,
        height,
    )


@st.composite
def batches(draw: st.DrawFn) -> EventBatch:
    """Draw a batch of 0 to 200 events over tiny sensors and over time spans of every size."""
    width, height = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    count = draw(st.integers(0, 200))
    t_start = draw(st.integers(-(10**15), 10**18))
    span = draw(st.one_of(st.integers(1, 30), st.integers(1, 10**12)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return random_batch(rng, count, width, height, t_start, t_start + span)


@st.composite
def windows(draw: st.DrawFn, batch: EventBatch) -> tuple[int, int]:
    """Draw a window that holds all, some or none of a batch's events."""
    first, last = (int(batch.t[0]), int(batch.t[-1])) if len(batch) else (0, 1000)
    margin = max(last - first, 10)
    t_start = draw(st.integers(first - margin, last + margin))
    return t_start, t_start + draw(st.integers(1, 2 * margin))
