from __future__ import annotations

import numpy as np
import pytest

from scaleevent_ros.sources import SourceError
from scaleevent_ros.sources.faults import Faults, faults_text

SECOND = 1_000_000_000


def test_a_run_that_goes_on_counts_nothing_twice() -> None:
    times = np.array([1, 2, 30, 31]) * SECOND
    whole = Faults()
    whole.add("odd events", "first of all", times)
    whole.add("truncated files", "a.raw is torn")
    whole.add("truncated files", "a.raw is torn")  # by another pass over the file
    earlier = whole.summary(30 * SECOND)
    assert earlier["odd events"] == {"count": 2, "first": "first of all"}

    later = Faults()
    later.resume(earlier, 30 * SECOND)
    later.add("odd events", "first of the second run", times)
    later.add("truncated files", "a.raw is torn")
    assert later.summary() == whole.summary()
    assert faults_text(later.summary()) == (
        "4 odd events (first: first of all); 1 truncated files (first: a.raw is torn)"
    )


def test_faults_outside_a_part_do_not_count() -> None:
    part = Faults()
    part.limit(SECOND, 3 * SECOND)
    part.resume({}, 0)
    part.add("odd events", "place: what", np.array([0, 1, 2, 3]) * SECOND)
    assert part.summary() == {"odd events": {"count": 2, "first": "place: what"}}


def test_strict_reading_stops_at_the_first_fault() -> None:
    strict = Faults(strict=True)
    strict.resume({}, SECOND)
    strict.add("odd events", "seen by an earlier run", np.array([0]))
    with pytest.raises(SourceError, match=r"^place: what$"):
        strict.add("odd events", "place: what", np.array([SECOND]))
    with pytest.raises(SourceError, match=r"^torn$"):
        strict.add("truncated files", "torn")


def test_one_percent_of_lost_events_is_the_limit() -> None:
    faults = Faults()
    faults.count_events(9_900)
    faults.count_events(100, 100, "place: event 9,900")
    faults.check_share()
    faults.count_events(1, 1, "later")
    with pytest.raises(SourceError, match=r"^place: event 9,900 \(101 of 10,001 events are wrong"):
        faults.check_share()
