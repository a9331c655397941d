from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaleevent_ros.sources import SourceError
from scaleevent_ros.sources.faults import Faults
from scaleevent_ros.sources.recording import MAX_TIME_NS, likely_unit, nanoseconds, rising


@pytest.mark.parametrize(
    ("times", "unit", "wanted"),
    [
        (np.array([3], np.uint32), "us", [3_000]),
        (np.array([4_000_000_000], np.uint32), "ms", [4 * 10**15]),
        (np.array([1_504_645_177.35]), "s", [1_504_645_177_350_000_000]),
        (np.array([0.0000014]), "s", [1_000]),
        (np.array([1499.9], np.float32), "ns", [1_000]),
    ],
)
def test_times_become_ns_and_fractions_whole_microseconds(
    times: np.ndarray, unit: str, wanted: list[int]
) -> None:
    assert nanoseconds(times, unit).tolist() == wanted


@pytest.mark.parametrize(
    ("times", "unit"),
    [
        (np.array([0, 10**16]), "us"),
        (np.array([1_700_000_000_000_000_000]), "ns"),
        (np.array([1_700_000_000_000_000_000], np.uint64), "ns"),
        (np.array([1.7e9]), "s"),
        (np.array([1.7e12]), "ms"),
        (np.array([1.7e15]), "us"),
        (np.array([1.7e18]), "ns"),
    ],
)
def test_units_that_nothing_tells_follow_from_the_size_of_times(
    times: np.ndarray, unit: str
) -> None:
    assert likely_unit(times) == unit


def test_times_that_no_header_holds_do_not_wrap() -> None:
    integers = nanoseconds(np.array([1_700_000_000_000_000_000, 5]), "us")
    assert integers[0] > MAX_TIME_NS
    assert integers[1] == 5_000
    floats = nanoseconds(np.array([np.nan, -3.0, np.inf, 1e30]), "s")
    assert (floats[:2] < 0).all()
    assert (floats[2:] > MAX_TIME_NS).all()


@given(st.lists(st.integers(-2, 12), min_size=1, max_size=9))
def test_as_many_pictures_as_possible_are_kept(times: list[int]) -> None:
    longest = max(
        size
        for size in range(len(times) + 1)
        for some in combinations([t for t in times if t >= 0], size)
        if all(a < b for a, b in pairwise(some))
    )
    wrong = len(times) - longest
    faults = Faults()
    if wrong > 1:
        with pytest.raises(SourceError, match=r"^here: time \d is"):
            rising(np.array(times), "here", faults)
        return
    chosen = rising(np.array(times), "here", faults)
    assert (np.diff(np.array(times)[chosen]) > 0).all()
    assert len(chosen) == longest
    assert sum(fault["count"] for fault in faults.summary().values()) == wrong
    if wrong:
        with pytest.raises(SourceError, match="here: time"):
            rising(np.array(times), "here", Faults(strict=True))
