from __future__ import annotations

import numpy as np
import pytest

from scaleevent_ros.sources import SourceError
from scaleevent_ros.sources.recording import event_batch, nanoseconds, ordered_times


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


@pytest.mark.parametrize("times", [[5, 5], [5, 4], [-1, 4]])
def test_times_of_pictures_must_increase_from_zero(times: list[int]) -> None:
    with pytest.raises(SourceError, match=r"^here: time \d is"):
        ordered_times(np.array(times), "here")


def test_a_batch_may_not_start_before_the_end_of_the_one_before() -> None:
    columns = np.array([1]), np.array([1]), np.array([4_000]), np.array([1])
    assert event_batch(*columns, 8, 8, place="here", first=70, after=4_000).t.tolist() == [4_000]
    with pytest.raises(SourceError, match="here: event 70: t in ns = 4000 is earlier"):
        event_batch(*columns, 8, 8, place="here", first=70, after=4_001)


def test_coordinates_beyond_16_bits_do_not_wrap() -> None:
    columns = np.array([65_536 + 3]), np.array([1]), np.array([0]), np.array([1])
    with pytest.raises(SourceError, match="x = 65539 is outside the sensor's 8x8"):
        event_batch(*columns, 8, 8, place="here")
