"""Normalizations against numpy's own statistics, and torch against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scaleevent_ros.events import NORMALIZATIONS, EventsError, InputSpec, normalize_tensor
from scaleevent_ros.events.normalization import SAMPLE, normalize_into, scaleevent_picture

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@st.composite
def tensors(draw: st.DrawFn) -> np.ndarray:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = 3, draw(st.integers(1, 12)), draw(st.integers(1, 12))
    sparse = rng.random(shape) < draw(st.sampled_from([0.0, 0.03, 0.5, 1.0]))
    values = rng.normal(draw(st.floats(-5, 5)), draw(st.sampled_from([0.0, 0.5, 30])), shape)
    return (values * sparse).astype(np.float32)


@given(tensors())
@settings(max_examples=100, deadline=None)
def test_statistics_are_of_the_active_values(tensor: np.ndarray) -> None:
    before = tensor.copy()
    active = tensor[tensor != 0].astype(float)
    standard, scaled = normalize_tensor(tensor, "mean_std"), normalize_tensor(tensor, "percentile")
    assert normalize_tensor(tensor, "none") is tensor
    np.testing.assert_array_equal(tensor, before)
    for result in (standard, scaled):
        assert result.dtype == np.float32
        assert not result[tensor == 0].any()
    if len(active):
        spread = active.std() if len(np.unique(active)) > 1 else 1
        expected = (active - active.mean()) / spread
        np.testing.assert_allclose(standard[tensor != 0], expected, rtol=1e-4, atol=1e-5)
        scale = np.percentile(np.abs(active), 99, method="inverted_cdf")
        np.testing.assert_allclose(scaled, tensor / scale, rtol=1e-6)
    else:
        scale = 1
    for device in DEVICES:
        found = InputSpec(bins=3).scales(torch.tensor(tensor, device=device))
        np.testing.assert_array_equal(found.cpu().numpy(), np.array([scale], np.float32))
    np.testing.assert_array_equal(InputSpec(bins=3).scales(tensor), np.array([scale], np.float32))


@given(tensors(), st.sampled_from(NORMALIZATIONS))
@settings(max_examples=100, deadline=None)
def test_torch_agrees(tensor: np.ndarray, how: str) -> None:
    expected = normalize_tensor(tensor, how)
    for device in DEVICES:
        result = normalize_tensor(torch.tensor(tensor, device=device), how)
        assert result.dtype == torch.float32
        assert result.device.type == device
        np.testing.assert_allclose(result.cpu().numpy(), expected, rtol=1e-5, atol=1e-5)


@given(tensors(), st.sampled_from(NORMALIZATIONS))
@settings(max_examples=100, deadline=None)
def test_memory_that_was_used_before_leaves_no_trace(tensor: np.ndarray, how: str) -> None:
    before, memory = tensor.copy(), np.full_like(tensor, np.nan)
    normalize_into(tensor, how, memory)
    np.testing.assert_array_equal(memory, normalize_tensor(tensor, how))
    np.testing.assert_array_equal(tensor, before)


@pytest.mark.parametrize("kind", ["voxel", "counts", "sparse", "one value", "misleading sample"])
def test_a_percentile_of_many_values_is_exact(kind: str) -> None:
    """A sample of the values sets the threshold of a first selection."""
    rng = np.random.default_rng(0)
    values = rng.normal(0, 2, 200_000).astype(np.float32)
    if kind == "counts":
        values = rng.poisson(0.3, len(values)).astype(np.float32)
    elif kind == "sparse":
        values[rng.random(len(values)) < 0.999] = 0
    elif kind == "one value":
        values = np.full_like(values, -1.5)
    elif kind == "misleading sample":
        seen = values[:: len(values) // SAMPLE | 1]
        seen[:] = rng.uniform(90, 100, len(seen))
    magnitudes = np.abs(values[values != 0])
    scale = np.percentile(magnitudes, 99, method="inverted_cdf")
    assert scale in magnitudes
    tensor = values.reshape(2, 250, 400)
    np.testing.assert_array_equal(normalize_tensor(tensor, "percentile"), tensor / scale)


def test_hot_pixels_do_not_set_the_scale() -> None:
    tensor = np.zeros((1, 20, 20), np.float32)
    tensor[0, :10] = np.linspace(-3, -1, 200).reshape(10, 20)
    tensor[0, 0, 0] = 1e6
    assert normalize_tensor(tensor, "percentile")[0, 0, 1] == pytest.approx(-1, abs=0.02)


def test_picture_runs_from_black_to_white() -> None:
    grid = np.zeros((3, 2, 2), np.float32)
    grid[0, 0, 0], grid[2, 1, 1] = -2, 6
    picture = scaleevent_picture(grid)
    assert picture.dtype == np.uint8
    assert (picture[0, 0, 0], picture[1, 0, 0], picture[2, 1, 1]) == (0, 63, 255)
    assert (scaleevent_picture(np.zeros((3, 2, 2), np.float32)) == 127).all()
    # White in the red channel, as every torchvision transform maps it.
    normalized = normalize_tensor(grid[::-1].copy(), "scaleevent_picture")
    assert normalized[0, 1, 1] == pytest.approx((1 - 0.485) / 0.229, rel=1e-5)


def test_wrong_input_is_refused() -> None:
    array, tensor = np.ones((3, 2, 2), np.float32), torch.ones(3, 2, 2)
    for unknown in (lambda: normalize_tensor(array, "a"), lambda: normalize_tensor(tensor, "a")):
        with pytest.raises(EventsError, match="'a'; known: none, mean_std"):
            unknown()
    with pytest.raises(EventsError, match=r"3 bins .* not \(2, 2, 2\)"):
        normalize_tensor(array[:2], "scaleevent_picture")
    with pytest.raises(EventsError, match=r"3 bins .* not \(2, 2, 2\)"):
        normalize_tensor(tensor[:2], "scaleevent_picture")
