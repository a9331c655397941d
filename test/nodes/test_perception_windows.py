"""Windows of the node: those of the host and those of a device are what offline tools compute."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from random_events import random_batch

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from scaleevent_ros.events import EventBatch, EventsError, InputSpec, patch_counts
from scaleevent_ros.events.windows import WindowOptions, window_start
from scaleevent_ros.models import Header
from scaleevent_ros.nodes.parameters import PerceptionParameters
from scaleevent_ros.nodes.perception_pipeline import Pipeline
from scaleevent_ros.nodes.perception_windows import DeviceWindows, make_windows, window_options
from scaleevent_ros.runtime.arrays import CPU, to_host

if TYPE_CHECKING:
    from scaleevent_ros.nodes.perception_windows import Windows

TORCH_CPU = torch.device("cpu")
SIZE = (24, 40)
MS = 1_000_000


def stream(seed: int = 0, packets: int = 40) -> list[EventBatch]:
    rng = np.random.default_rng(seed)
    return [
        random_batch(
            rng, int(rng.integers(20, 400)), SIZE[1], SIZE[0], start * 5 * MS, (start + 1) * 5 * MS
        )
        for start in range(packets)
    ]


LEAKY = (0.02, 0.5)
SPECS = [
    InputSpec("voxel", 5, leaky=LEAKY), InputSpec("stacked_histogram", 3), InputSpec("histogram"),
    InputSpec("time_surface", leaky=(2.0,)),
]  # fmt: skip
FIXED = WindowOptions()
MOTION = WindowOptions("motion", 50, 5, 1.3)


def windows_of(spec: InputSpec, options: WindowOptions, *, on_device: bool) -> Windows:
    if on_device:
        return DeviceWindows(spec, SIZE, 16, options, TORCH_CPU)
    return make_windows(spec, SIZE, 16, options, CPU)


@pytest.mark.parametrize("options", [FIXED, MOTION])
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("on_device", [False, True])
def test_a_window_is_that_of_training(
    spec: InputSpec, options: WindowOptions, on_device: bool
) -> None:
    """Rule, representation and leaky integrals, at each moment of a stream."""
    windows = windows_of(spec, options, on_device=on_device)
    assert windows.t_end is None
    batches = stream(packets=60)
    everything = EventBatch.concatenate(batches)
    lengths = set()
    for index, batch in enumerate(batches):
        windows.push(batch)
        if index < 12 or index % 7:
            continue
        for t_end in (None, (index - 1) * 5 * MS + 77):
            window = windows.read(t_end)
            assert window.t_end <= (t_end or everything.t[-1] + 1)
            start = window_start(everything, window.t_end, options)
            lengths.add(window.t_end - start)
            expected = spec.build(everything, start, window.t_end)
            np.testing.assert_allclose(to_host(window.tensor), expected, atol=1e-4, rtol=1e-4)
            counts = patch_counts(everything.between(start, window.t_end), 16)
            assert (to_host(window.patch_counts) == counts).all()
    assert lengths == {50 * MS} if options is FIXED else len(lengths) > 1


@pytest.mark.parametrize("on_device", [False, True])
def test_integrals_begin_anew_where_the_clock_jumps_back(on_device: bool) -> None:
    spec = InputSpec(leaky=LEAKY)
    windows = windows_of(spec, FIXED, on_device=on_device)
    first, second = stream(0, 60), stream(1, 30)
    for batch in first:
        windows.push(replace(batch, t=batch.t + 10**10))
    for batch in second:
        windows.push(batch)
    window = windows.read()
    everything = EventBatch.concatenate(second)
    expected = spec.build(everything, window.t_end - 50 * MS, window.t_end)
    np.testing.assert_allclose(to_host(window.tensor), expected, atol=1e-4, rtol=1e-4)


def test_device_windows_keep_no_more_than_they_need() -> None:
    windows = DeviceWindows(InputSpec(), SIZE, 16, WindowOptions(length_ms=20), TORCH_CPU)
    for batch in stream(packets=40):
        windows.push(batch)
        windows.push(EventBatch.empty(SIZE[1], SIZE[0]))
    assert len(windows._parts) <= 14
    with pytest.raises(EventsError, match="no event"):
        DeviceWindows(InputSpec(), SIZE, 16, FIXED, TORCH_CPU).read()


def test_parameters_win_over_the_window_of_training(caplog: pytest.LogCaptureFixture) -> None:
    unknown, own = Header("any", 5), Header("any", 5, window=WindowOptions("motion", 30, 3, 0.7))
    untold = PerceptionParameters()
    assert window_options(untold, unknown) == WindowOptions()
    assert window_options(untold, own) == own.window
    told = PerceptionParameters(window="motion", window_ms=40.0, shortest_ms=4.0)
    assert window_options(told, own) == WindowOptions("motion", 40, 4, 0.7)
    assert window_options(PerceptionParameters(window="fixed"), own).mode == "fixed"
    engine = SimpleNamespace(header=own)
    pipeline = Pipeline(cast("Any", engine), cast("Any", None))
    pipeline.warn_window(untold)
    assert not caplog.records
    pipeline.warn_window(told)
    assert "trained on WindowOptions(mode='motion', length_ms=30" in caplog.text
