"""Windows of the node: those of the host and those of a device are what offline tools compute."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from random_events import random_batch

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from scaleevent_ros.events import ByCount, ByTime, EventBatch, EventsError, patch_counts, represent
from scaleevent_ros.events.windows import WindowOptions
from scaleevent_ros.models import Header
from scaleevent_ros.nodes.perception_parameters import PerceptionParameters
from scaleevent_ros.nodes.perception_windows import DeviceWindows, make_windows, window_rule

CPU = torch.device("cpu")
SIZE = (24, 40)
MS = 1_000_000


def stream(seed: int = 0, packets: int = 40) -> list[EventBatch]:
    rng = np.random.default_rng(seed)
    return [
        random_batch(rng, 200, SIZE[1], SIZE[0], start * 5 * MS, (start + 1) * 5 * MS)
        for start in range(packets)
    ]


def header(representation: str, channels: int) -> Header:
    return Header("any", channels, representation=representation)


@pytest.mark.parametrize(
    ("representation", "channels", "bins"),
    [("voxel", 5, 5), ("stacked_histogram", 6, 3), ("histogram", 2, 1), ("time_surface", 2, 1)],
)
@pytest.mark.parametrize("on_device", [False, True])
def test_a_window_is_what_represent_makes_of_its_events(
    representation: str, channels: int, bins: int, on_device: bool
) -> None:
    rule = ByTime(50 * MS)
    windows = (
        DeviceWindows(representation, SIZE, bins, 16, rule, CPU)
        if on_device
        else make_windows(header(representation, channels), SIZE, 16, rule, CPU)
    )
    assert windows.t_end is None
    batches = stream()
    for batch in batches:
        windows.push(batch)
    everything = EventBatch.concatenate(batches)
    for t_end in (None, 170 * MS):
        window = windows.read(t_end)
        assert window.t_end <= (t_end or 200 * MS)
        start = window.t_end - 50 * MS
        expected = represent(representation, everything, start, window.t_end, bins)
        torch.testing.assert_close(window.tensor, torch.from_numpy(expected), atol=1e-3, rtol=0)
        counts = patch_counts(everything.between(start, window.t_end), 16)
        assert (window.patch_counts.numpy() == counts).all()


def test_device_windows_keep_no_more_than_they_need() -> None:
    windows = DeviceWindows("voxel", SIZE, 5, 16, ByTime(20 * MS), CPU)
    for batch in stream(packets=40):
        windows.push(batch)
        windows.push(EventBatch.empty(SIZE[1], SIZE[0]))
    assert len(windows._parts) <= 10
    with pytest.raises(EventsError, match="no event"):
        DeviceWindows("voxel", SIZE, 5, 16, ByTime(20 * MS), CPU).read()


def test_windows_that_follow_motion_hold_the_number_of_events() -> None:
    windows = DeviceWindows("histogram", SIZE, 1, 16, ByCount(1000, 5 * MS, 100 * MS), CPU)
    for batch in stream():
        windows.push(batch)
    held = int(windows.read().patch_counts.sum())
    assert 1000 <= held < 1200  # they start with a packet


def test_rules_are_those_of_training() -> None:
    fixed = PerceptionParameters()
    assert window_rule(fixed, header("voxel", 5), SIZE) == ByTime(50 * MS, 2)
    own = Header("any", 5, window=WindowOptions(length_ms=30))
    assert window_rule(fixed, own, SIZE) == ByTime(30 * MS, 2)
    motion = PerceptionParameters(window="motion", window_ms=40.0, shortest_ms=4.0)
    assert window_rule(motion, own, SIZE) == ByCount(288, 4 * MS, 40 * MS)


def test_channels_that_do_not_fit_the_representation() -> None:
    with pytest.raises(EventsError, match="3 channels cannot be those of its representation"):
        make_windows(header("stacked_histogram", 3), SIZE, 16, ByTime(MS), CPU)
