"""Percentiles since the last report, and requests that become one."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from scaleevent_ros.nodes.timings import Timings
from scaleevent_ros.nodes.wake_up import WakeUp


def test_percentiles_are_of_what_came_since_the_last_report() -> None:
    timings = Timings()
    for ms in range(1, 101):
        timings.add("publish", float(ms))
    with timings.measure("decode"):
        pass
    taken = timings.take()
    assert taken["publish"] == pytest.approx(np.percentile(np.arange(1, 101), (50, 99)))
    assert 0 <= taken["decode"].p50 < 100
    assert timings.take() == {}


def test_requests_while_busy_become_one() -> None:
    wake_up = WakeUp()
    for _ in range(3):
        wake_up.request()
    assert wake_up.wait() == 3
    taken: list[int] = []
    thread = threading.Thread(target=lambda: taken.append(wake_up.wait()))
    thread.start()
    wake_up.stop()
    thread.join(10)
    assert taken == [0]
