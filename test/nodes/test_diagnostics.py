"""Contents of reports: percentiles since the last one, and warnings without a flood."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from scaleevent_ros.nodes.diagnostics import Remarks, Timings


def test_percentiles_are_of_what_came_since_the_last_report() -> None:
    timings = Timings()
    for ms in range(1, 101):
        timings.add("publish", float(ms))
    taken = timings.take()
    assert taken["publish"] == pytest.approx(np.percentile(np.arange(1, 101), (50, 99)))
    assert timings.take() == {}


def test_a_flood_of_one_warning_is_logged_once_a_second() -> None:
    logged: list[str] = []
    remarks = Remarks(logged.append)
    for seq in range(1000):
        remarks.add(f"seq steps back from {seq + 500} to {seq}")
        if seq == 500:
            remarks.add("the camera is back")
    assert len(logged) == 2
    assert remarks.take() == (
        "seq steps back from 1499 to 999 (1000 times)",
        "the camera is back",
    )
    assert remarks.take() == ()
