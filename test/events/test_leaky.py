"""Leaky integrals against the definition, in double precision, and against each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_events import batches, random_batch

from scaleevent_ros.events import (
    EventBatch,
    EventsError,
    InputSpec,
    LeakyIntegrator,
    LeakyState,
    leaky_integrals,
    represent,
)
from scaleevent_ros.events.device import DeviceState, to_device
from scaleevent_ros.events.device import leaky_integrals as on_device
from scaleevent_ros.events.normalization import LEAKY_FLOOR, LEAKY_LIMIT

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
S = 1_000_000_000
DECAYS = (0.1, 0.5, 2.0)
CHOSEN = st.lists(st.floats(0.01, 100), min_size=1, max_size=4)


def reference(batch: EventBatch, t_end: int, decays: tuple[float, ...]) -> np.ndarray:
    """Sum the definition, event by event, in double precision."""
    values = np.zeros((len(decays), batch.height, batch.width))
    for x, y, t, p in zip(batch.x, batch.y, batch.t, batch.p, strict=True):
        if t < t_end:
            age = (t_end - int(t)) / S
            values[:, y, x] += (2 * int(p) - 1) * np.exp(-age / np.array(decays))
    return values


@given(st.data(), batches(), CHOSEN)
@settings(max_examples=60, deadline=None)
def test_integrals_are_the_definition_s(
    data: st.DataObject, batch: EventBatch, decays: list[float]
) -> None:
    first, last = (int(batch.t[0]), int(batch.t[-1])) if len(batch) else (0, 0)
    t_end = data.draw(st.integers(first - 5, last + 3 * S))
    expected = reference(batch, t_end, tuple(decays))
    found = leaky_integrals(batch, t_end, decays)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    for device in DEVICES:
        theirs = on_device(to_device(batch, device), t_end, decays).cpu().numpy()
        np.testing.assert_allclose(theirs, found, rtol=1e-5, atol=1e-5)


@given(st.integers(0, 2**32), st.lists(st.floats(0.0001, 30), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_a_stream_in_parts_gives_the_same(seed: int, gaps: list[float]) -> None:
    """However the stream is cut, and however long nothing happens in between."""
    rng = np.random.default_rng(seed)
    integrator = LeakyIntegrator(4, 6, DECAYS)
    start, parts = int(rng.integers(-S, 100 * S)), []
    for gap in gaps:
        parts.append(random_batch(rng, 40, 6, 4, start, start + int(gap * S) + 1))
        integrator.add(parts[-1])
        start += int(gap * S) + 1
    whole = EventBatch.concatenate(parts)
    for t_end in (start, start + S):
        expected = reference(whole, t_end, DECAYS)
        np.testing.assert_allclose(integrator.values(t_end), expected, rtol=1e-5, atol=1e-5)


def test_a_state_continues() -> None:
    batch = random_batch(np.random.default_rng(0), 3000, 8, 5, 0, 4 * S)
    middle = S + 7
    state = LeakyState(leaky_integrals(batch, middle, DECAYS), middle)
    rest = batch.between(middle, 4 * S)
    expected = reference(batch, 3 * S, DECAYS)
    found = leaky_integrals(rest, 3 * S, DECAYS, state)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    for device in DEVICES:
        theirs = DeviceState(torch.tensor(state.values, device=device), middle)
        found = on_device(to_device(rest, device), 3 * S, DECAYS, theirs).cpu().numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_state_that_does_not_fit_is_refused() -> None:
    batch = random_batch(np.random.default_rng(0), 100, 8, 5, S, 2 * S)
    values = np.zeros((len(DECAYS), 5, 8), np.float32)
    for wrong, t, message in (
        (values, 3 * S + 1, "cannot be continued at 3000000000 ns"),
        (values[:, :4], S, r"a state of leaky integrals is \(\d, 5, 8\), not \(\d, 4, 8\)"),
    ):
        with pytest.raises(EventsError, match=message):
            leaky_integrals(batch, 3 * S, DECAYS, LeakyState(wrong, t))
        for device in DEVICES:
            theirs = DeviceState(torch.tensor(wrong, device=device), t)
            with pytest.raises(EventsError, match=message):
                on_device(to_device(batch, device), 3 * S, DECAYS, theirs)


def test_events_that_are_taken_back_leave_no_trace() -> None:
    batch = random_batch(np.random.default_rng(0), 5000, 8, 5, 0, S)
    integrator = LeakyIntegrator(5, 8, DECAYS)
    integrator.add(batch)
    integrator.add(batch[4000:], -1)
    t_end = int(batch.t[4000])
    expected = reference(batch[:4000], t_end, DECAYS)
    np.testing.assert_allclose(integrator.values(t_end), expected, rtol=1e-5, atol=1e-5)


def test_sums_stay_exact_over_hours() -> None:
    """Ten hours of one pixel at 10 Hz: the stationary value of a geometric series."""
    step, count = S // 10, 360_000
    t = np.arange(count, dtype=np.int64) * step
    zeros = np.zeros(count, np.uint16)
    batch = EventBatch(zeros, zeros, t, np.ones(count, np.uint8), 1, 1)
    integrator = LeakyIntegrator(1, 1, (0.1, 0.5, 2.0, 100.0))
    for start in range(0, count, 1000):
        integrator.add(batch[start : start + 1000])
    q = np.exp(-0.1 / np.array([0.1, 0.5, 2.0, 100.0]))
    expected = q * (1 - q**count) / (1 - q)
    found = integrator.values(count * step)[:, 0, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert not integrator.values(count * step + 10_000 * S)[:3].any()


def test_hot_pixels_set_no_scale_and_are_bounded() -> None:
    spec = InputSpec(bins=2, leaky=(0.5,))
    rng = np.random.default_rng(0)
    scene = random_batch(rng, 3000, 40, 30, 0, S)
    hot = np.full(200_000, 3, np.uint16)
    t = np.linspace(0, S - 1, len(hot)).astype(np.int64)
    merged = np.argsort(np.concatenate([scene.t, t]), kind="stable")
    loud = EventBatch(
        np.concatenate([scene.x, hot])[merged],
        np.concatenate([scene.y, hot])[merged],
        np.concatenate([scene.t, t])[merged],
        np.concatenate([scene.p, np.ones(len(hot), np.uint8)])[merged],
        40,
        30,
    )
    quiet_tensor = spec.normalize(spec.build(scene, S - 50_000_000, S))[2]
    tensor = spec.normalize(spec.build(loud, S - 50_000_000, S))[2]
    assert tensor[3, 3] == LEAKY_LIMIT
    tensor[3, 3] = quiet_tensor[3, 3] = 0
    np.testing.assert_allclose(tensor, quiet_tensor, rtol=0.1)


@pytest.mark.parametrize("still_s", [0.0, 0.3, 2.0])
def test_a_scene_stays_visible_after_the_camera_stops(still_s: float) -> None:
    """Normalization undoes decay, up to the floor."""
    spec = InputSpec(leaky=(0.1, 2.0))
    batch = random_batch(np.random.default_rng(0), 5000, 20, 20, 0, S)
    t_end = S + int(still_s * S)
    tensor = spec.normalize(spec.build(batch, t_end - 50_000_000, t_end))
    assert np.abs(tensor[6]).max() >= 1
    fast = np.abs(spec.build(batch, t_end - 50_000_000, t_end)[5]).max()
    assert np.abs(tensor[5]).max() >= 1 if fast > LEAKY_FLOOR else np.abs(tensor[5]).max() <= 1
    assert spec.channels == len(tensor) == 7
    assert np.abs(tensor).max() <= max(LEAKY_LIMIT, np.abs(tensor[:5]).max())


@pytest.mark.parametrize("normalization", ["none", "mean_std", "percentile"])
def test_torch_builds_and_normalizes_the_same(normalization: str) -> None:
    spec = InputSpec("voxel", 5, normalization, DECAYS)
    batch = random_batch(np.random.default_rng(0), 20_000, 30, 20, 0, 3 * S)
    window = 3 * S - 50_000_000, 3 * S
    tensor = spec.build(batch, *window)
    np.testing.assert_array_equal(tensor[:5], represent("voxel", batch, *window, 5))
    normalized = spec.normalize(tensor)
    assert normalized.shape == (spec.channels, 20, 30)
    memory = np.full_like(tensor, np.nan)
    spec.normalize_into(tensor, memory)
    np.testing.assert_array_equal(memory, normalized)
    if normalization == "percentile":
        assert spec.scales(tensor).dtype == np.float32
        scales = np.repeat(spec.scales(tensor), [5, 1, 1, 1])[:, None, None]
        limit = np.array([np.inf] * 5 + [LEAKY_LIMIT] * 3)[:, None, None]
        np.testing.assert_allclose((tensor / scales).clip(-limit, limit), normalized, rtol=1e-6)
    for device in DEVICES:
        theirs = spec.build(to_device(batch, device), *window)
        np.testing.assert_allclose(theirs.cpu().numpy(), tensor, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(spec.normalize(theirs).cpu(), normalized, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(
            spec.scales(theirs).cpu().numpy(), spec.scales(tensor), rtol=1e-4
        )


def test_what_cannot_be_integrated_is_refused() -> None:
    batch = random_batch(np.random.default_rng(0), 50, 6, 4, 0, 100)
    for decays in ((0.0,), (float("nan"),), (1e9,)):
        with pytest.raises(EventsError, match=r"must be 0\.01 to 100 s"):
            InputSpec(leaky=decays)
        with pytest.raises(EventsError, match=r"must be 0\.01"):
            leaky_integrals(batch, 100, decays)
    with pytest.raises(EventsError, match="at most 4"):
        InputSpec(leaky=(1.0,) * 5)
    late = LeakyState(np.zeros((1, 4, 6), np.float32), 101)
    with pytest.raises(EventsError, match="cannot be continued at 100 ns"):
        leaky_integrals(batch, 100, (1.0,), late)
    with pytest.raises(EventsError, match=r"\(2, 4, 6\)"):
        leaky_integrals(batch, 200, (1.0, 2.0), late)
    outside = EventBatch(batch.x, batch.y + np.uint16(1), batch.t, batch.p, 6, 4)
    with pytest.raises(EventsError, match="outside the height"):
        leaky_integrals(outside, 100, (1.0,))
