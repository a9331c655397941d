"""The pace of a replay: order of what is due, holding, ending."""

from __future__ import annotations

import threading
import time

import pytest

from scaleevent_ros.nodes.playback import Pace


def test_what_is_over_is_due_at_once_and_what_is_ahead_is_not() -> None:
    pace = Pace(2.0)
    pace.begin(1_000_000_000)
    assert pace.wait(500_000_000)
    start = time.monotonic()
    assert pace.wait(1_100_000_000)
    assert time.monotonic() - start >= 0.04


def test_a_rate_of_zero_waits_for_the_beginning_alone() -> None:
    pace = Pace(0.0)
    pace.begin(0, delay_s=0.05)
    start = time.monotonic()
    assert pace.wait(10**15)
    assert time.monotonic() - start >= 0.04
    assert pace.wait(2 * 10**15)


def test_time_stands_still_while_it_is_held() -> None:
    pace = Pace(1.0)
    pace.hold()
    pace.begin(0)
    arrived = threading.Event()

    def wait() -> None:
        if pace.wait(0):
            arrived.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    assert not arrived.wait(0.1)
    held = pace.position()
    time.sleep(0.05)
    assert pace.position() == held == 0
    pace.release()
    assert arrived.wait(10)
    waiter.join()
    pace.hold()
    first = pace.position()
    time.sleep(0.02)
    assert pace.position() == first


def test_stop_ends_the_waiting() -> None:
    pace = Pace(1.0)
    pace.begin(0)
    results: list[bool] = []
    waiter = threading.Thread(target=lambda: results.append(pace.wait(10**18)))
    waiter.start()
    pace.stop()
    waiter.join(10)
    assert results == [False]
    assert not pace.wait(0)


@pytest.mark.parametrize(("rate", "expected"), [(1.0, 10**17 + 1), (2.0, 5 * 10**16), (0.0, 0)])
def test_times_map_to_the_clock_alike_however_long_it_takes(rate: float, expected: int) -> None:
    pace = Pace(rate)
    before = time.time_ns()
    pace.begin(7, delay_s=1.0)
    after = time.time_ns()
    begun = pace.to_clock(7)
    assert before <= begun - 10**9 <= after
    time.sleep(0.01)
    assert pace.to_clock(7) == begun
    assert pace.to_clock(10**17 + 8) - begun == pytest.approx(expected, abs=0 if rate == 1 else 8)


def test_times_map_later_by_as_long_as_it_was_held() -> None:
    ticks = iter([0, 1000, 1000 + 10**10])
    pace = Pace(1.0, lambda: next(ticks))
    pace.begin(0)
    assert pace.to_clock(0) == 1000
    pace.hold()
    assert pace.to_clock(0) == 1000
    pace.release()
    # Whatever was played before it was held took next to no time.
    assert pace.to_clock(0) == pytest.approx(1000 + 10**10, abs=1e9)
