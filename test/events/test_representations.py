"""Representations against slow float64 references, on the CPU and on every torch device here."""

from __future__ import annotations

import sys
from fractions import Fraction
from math import exp
from subprocess import run

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_events import batches, random_batch, windows

from scaleevent_ros.events import (
    REPRESENTATIONS,
    EventBatch,
    EventsError,
    channel_count,
    histogram,
    represent,
    stacked_histogram,
    time_surface,
    voxel_grid,
)
from scaleevent_ros.events.device import DeviceEvents, EventUploader, to_device

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
BINS = st.integers(1, 7)


def voxel_reference(batch: EventBatch, t_start: int, t_end: int, bins: int) -> np.ndarray:
    grid = np.zeros((bins, batch.height, batch.width))
    for x, y, t, p in zip(batch.x, batch.y, batch.t.tolist(), batch.p, strict=True):
        if t_start <= t < t_end:
            place = float(Fraction((bins - 1) * (t - t_start), t_end - t_start))
            for index in range(bins):
                grid[index, y, x] += (1 if p else -1) * max(0.0, 1 - abs(index - place))
    return grid


def stacked_reference(batch: EventBatch, t_start: int, t_end: int, bins: int) -> np.ndarray:
    counts = np.zeros((2, bins, batch.height, batch.width))
    for x, y, t, p in zip(batch.x, batch.y, batch.t.tolist(), batch.p, strict=True):
        if t_start <= t < t_end:
            counts[p, (t - t_start) * bins // (t_end - t_start), y, x] += 1
    return counts.reshape(2 * bins, batch.height, batch.width)


def surface_reference(batch: EventBatch, t_start: int, t_end: int, decay: int) -> np.ndarray:
    surface = np.zeros((2, batch.height, batch.width))
    for x, y, t, p in zip(batch.x, batch.y, batch.t.tolist(), batch.p, strict=True):
        if t_start <= t < t_end:
            surface[p, y, x] = exp(-(t_end - t) / decay)
    return surface


def assert_both(
    name: str, batch: EventBatch, window: tuple[int, int], bins: int, expected: np.ndarray
) -> None:
    """Check the CPU path against a reference, and every torch device against the CPU path."""
    ours = represent(name, batch, *window, bins)
    assert ours.dtype == np.float32
    assert ours.shape == (channel_count(name, bins), batch.height, batch.width)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
    for device in DEVICES:
        theirs = represent(name, to_device(batch, device), *window, bins)
        assert theirs.device.type == device
        np.testing.assert_allclose(theirs.cpu().numpy(), ours, rtol=1e-6, atol=1e-6)


@given(st.data(), batches(), BINS)
@settings(max_examples=60, deadline=None)
def test_voxel_grid_is_bilinear_in_time(data: st.DataObject, batch: EventBatch, bins: int) -> None:
    window = data.draw(windows(batch))
    assert_both("voxel", batch, window, bins, voxel_reference(batch, *window, bins))


@given(st.data(), batches(), BINS)
@settings(max_examples=60, deadline=None)
def test_stacked_histogram_counts(data: st.DataObject, batch: EventBatch, bins: int) -> None:
    window = data.draw(windows(batch))
    expected = stacked_reference(batch, *window, bins)
    assert_both("stacked_histogram", batch, window, bins, expected)
    np.testing.assert_array_equal(stacked_histogram(batch, *window, bins), expected)


@given(st.data(), batches())
@settings(max_examples=40, deadline=None)
def test_histogram_counts(data: st.DataObject, batch: EventBatch) -> None:
    window = data.draw(windows(batch))
    assert_both("histogram", batch, window, 1, stacked_reference(batch, *window, 1))


@given(st.data(), batches())
@settings(max_examples=40, deadline=None)
def test_time_surface_fades(data: st.DataObject, batch: EventBatch) -> None:
    window = data.draw(windows(batch))
    span = window[1] - window[0]
    assert_both("time_surface", batch, window, 1, surface_reference(batch, *window, span))
    np.testing.assert_allclose(
        time_surface(batch, *window, decay=max(span // 3, 1)),
        surface_reference(batch, *window, max(span // 3, 1)),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("device", DEVICES)
def test_a_pixel_that_never_stops_is_counted_in_full(device: str) -> None:
    """More events on one pixel than the shared cell of two sums and the bytes of counts hold."""
    count = 5_000_000
    batch = EventBatch(
        np.full(count, 3, np.uint16),
        np.full(count, 1, np.uint16),
        np.arange(count, dtype=np.int64) * 20,
        np.ones(count, np.uint8),
        5,
        4,
    )
    end = count * 20
    expected = np.zeros((3, 4, 5))
    expected[:, 1, 3] = count / 4, count / 2, count / 4
    events = to_device(batch, device)
    np.testing.assert_allclose(voxel_grid(batch, 0, end, 3), expected, rtol=1e-6)
    np.testing.assert_allclose(represent("voxel", events, 0, end, 3).cpu(), expected, rtol=1e-6)
    assert histogram(batch, 0, end)[1, 1, 3] == count
    assert represent("histogram", events, 0, end)[1, 1, 3] == count
    assert histogram(batch, 0, end).sum() == count


def test_windows_cut_at_knots_add_up() -> None:
    """Every event of a window is in one of the windows that it is cut into."""
    batch = random_batch(np.random.default_rng(1), 5000, 20, 10, 0, 10_007)
    parts = [histogram(batch, start, start + 1001) for start in range(0, 10_010, 1001)]
    np.testing.assert_array_equal(sum(parts), histogram(batch, 0, 10_010))


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_empty_batches_and_single_instants(name: str) -> None:
    empty = EventBatch.empty(6, 4)
    assert not represent(name, empty, 0, 10, 3).any()
    assert not represent(name, to_device(empty, "cpu"), 0, 10, 3).any()
    batch = random_batch(np.random.default_rng(0), 50, 6, 4, 7, 8)
    assert represent(name, batch, 7, 8, 3).any()
    assert not represent(name, batch, 8, 9, 3).any()


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_what_cannot_be_right_is_refused(name: str) -> None:
    batch = random_batch(np.random.default_rng(0), 50, 6, 4, 0, 100)
    for window in ((5, 5), (5, 4)):
        with pytest.raises(EventsError, match="is empty"):
            represent(name, batch, *window)
    with pytest.raises(EventsError, match="too long"):
        represent(name, batch, 0, 1 << 62)
    outside = EventBatch(batch.x, batch.y + np.uint16(1), batch.t, batch.p, 6, 4)
    with pytest.raises(EventsError, match="outside the height"):
        represent(name, outside, 0, 100)
    with pytest.raises(EventsError, match="outside the height"):
        to_device(outside, "cpu")
    loud = EventBatch(batch.x, batch.y, batch.t, batch.p + np.uint8(1), 6, 4)
    with pytest.raises(EventsError, match="neither 0 nor 1"):
        represent(name, loud, 0, 100)


def test_names_bins_and_decays_are_checked() -> None:
    batch = EventBatch.empty(6, 4)
    with pytest.raises(EventsError, match=r"'frame'; known: voxel, histogram"):
        represent("frame", batch, 0, 1)
    with pytest.raises(EventsError, match="'frame'"):
        channel_count("frame", 3)
    for function in (voxel_grid, stacked_histogram):
        with pytest.raises(EventsError, match="at least 1 bin"):
            function(batch, 0, 1, 0)
    with pytest.raises(EventsError, match="positive decay"):
        time_surface(batch, 0, 1, 0)
    with pytest.raises(EventsError, match="16-bit"):
        to_device(EventBatch.empty(40_000, 4), "cpu")


@pytest.mark.parametrize("device", DEVICES)
def test_uploads_keep_their_order_and_values(device: str) -> None:
    rng = np.random.default_rng(3)
    uploader = EventUploader(device, capacity=10)
    sent = [random_batch(rng, count, 7, 5, 0, 1000) for count in (0, 8, 300, 20, 5)]
    for batch, events in zip(sent, [uploader.upload(batch) for batch in sent], strict=True):
        assert isinstance(events, DeviceEvents)
        assert (events.width, events.height, len(events)) == (7, 5, len(batch))
        for name in ("x", "y", "t", "p"):
            np.testing.assert_array_equal(getattr(events, name).cpu().numpy(), getattr(batch, name))


def test_an_upload_to_the_cpu_owns_its_memory() -> None:
    batch = random_batch(np.random.default_rng(3), 9, 7, 5, 0, 1000)
    events = to_device(batch, "cpu")
    batch.p[:] = 7
    assert events.p.max() <= 1


def test_events_import_without_torch() -> None:
    """The robot's decoders and the CPU's representations need no torch."""
    code = (
        "import sys; sys.modules['torch'] = None; import numpy as np; "
        "from scaleevent_ros.events import EventBatch, InputSpec, REPRESENTATIONS; "
        "specs = [InputSpec(n, 3, 'mean_std', (0.1, 2.0)) for n in REPRESENTATIONS]; "
        "[s.normalize(s.build(EventBatch.empty(3, 2), 0, 9)) for s in specs]"
    )
    done = run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
