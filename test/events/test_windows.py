from __future__ import annotations

import numpy as np
import pytest

from scaleevent_ros.events import EventBatch, EventsError
from scaleevent_ros.events.windows import WindowOptions, window_start

MS = 1_000_000


def evenly(count: int, span_ms: int, width: int = 10, height: int = 10) -> EventBatch:
    t = np.linspace(0, span_ms * MS, count, endpoint=False).astype(np.int64)
    zeros = np.zeros(count, np.uint16)
    return EventBatch(zeros, zeros, t, np.zeros(count, np.uint8), width, height)


def test_a_fixed_window_does_not_look_at_events() -> None:
    options = WindowOptions(length_ms=20)
    assert window_start(EventBatch.empty(4, 4), 100 * MS, options) == 80 * MS


@pytest.mark.parametrize(
    ("rate_per_ms", "length_ms"),
    [(10, 10.0), (1, 50.0), (1000, 5.0)],
    ids=["holds what is wanted", "no longer than allowed", "no shorter than allowed"],
)
def test_a_window_that_follows_motion(rate_per_ms: int, length_ms: float) -> None:
    options = WindowOptions("motion", length_ms=50, shortest_ms=5, events_per_pixel=1.0)
    batch = evenly(rate_per_ms * 100, 100)
    start = window_start(batch, 100 * MS, options)
    assert 100 * MS - start == pytest.approx(length_ms * MS, rel=1e-6)
    if length_ms == 10.0:
        assert len(batch.between(start, 100 * MS)) == 100


def test_events_after_the_frame_do_not_count() -> None:
    options = WindowOptions("motion", length_ms=50, shortest_ms=1, events_per_pixel=1.0)
    batch = evenly(1000, 100)
    assert len(batch.between(window_start(batch, 60 * MS, options), 60 * MS)) == 100


@pytest.mark.parametrize(
    "arguments", [{"length_ms": 0}, {"shortest_ms": 60, "mode": "motion"}, {"events_per_pixel": 0}]
)
def test_windows_that_cannot_be(arguments: dict[str, object]) -> None:
    with pytest.raises(EventsError, match="window"):
        WindowOptions(**arguments)  # type: ignore[arg-type]
