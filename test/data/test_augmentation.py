from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaleevent_ros.data.augmentation import (
    AugmentationOptions,
    View,
    choose_view,
    move_events,
    move_state,
    perturb_events,
)
from scaleevent_ros.data.errors import DataError
from scaleevent_ros.events import EventBatch, LeakyState, leaky_integrals, patch_counts

MS = 1_000_000


def random_batch(count: int, width: int, height: int, seed: int = 0) -> EventBatch:
    rng = np.random.default_rng(seed)
    return EventBatch(
        rng.integers(width, size=count, dtype=np.uint16),
        rng.integers(height, size=count, dtype=np.uint16),
        np.sort(rng.integers(0, 50 * MS, size=count)),
        rng.integers(2, size=count, dtype=np.uint8),
        width,
        height,
    )


def test_the_defaults_change_nothing() -> None:
    batch = random_batch(500, 64, 48)
    rng = np.random.default_rng(0)
    view = choose_view((64, 48), (64, 48), AugmentationOptions(), rng)
    assert view.whole
    moved = move_events(batch, view, 1)
    assert perturb_events(moved, 0, 50 * MS, AugmentationOptions(), rng)[0].x is batch.x
    assert moved is batch


@settings(max_examples=40, deadline=None)
@given(
    left=st.integers(0, 20),
    top=st.integers(0, 20),
    scale=st.sampled_from([1, 2, 3]),
    flip=st.booleans(),
)
def test_magnified_events_fall_inside_the_block_of_their_pixel(
    left: int, top: int, scale: int, flip: bool
) -> None:
    """Against a slow definition: counts over the block of each sensor pixel are that pixel's."""
    batch = random_batch(3000, 40, 36)
    view = View(left, top, 12, 10, 12 * scale, 10 * scale, flip)
    moved = move_events(batch, view, 7)
    moved.validate()
    counts = patch_counts(moved, 1).reshape(10, scale, 12, scale).sum(axis=(1, 3))
    expected = patch_counts(batch, 1)[top : top + 10, left : left + 12]
    assert np.array_equal(counts, expected[:, ::-1] if flip else expected)
    if scale > 1 and len(moved) > 100:  # spread evenly in the block, not on a grid
        phases = np.bincount(moved.x % scale, minlength=scale)
        assert phases.min() > 0.6 * len(moved) / scale


def test_shrunk_events_gather_and_keep_time_and_polarity() -> None:
    batch = random_batch(4000, 64, 48)
    moved = move_events(batch, View(0, 0, 64, 48, 32, 24), 3)
    assert len(moved) == len(batch)
    assert np.array_equal(moved.t, batch.t)
    assert np.array_equal(moved.p, batch.p)
    assert np.array_equal(moved.x, batch.x // 2)
    assert np.array_equal(moved.y, batch.y // 2)


def test_view_and_events_agree_about_where_things_are() -> None:
    """The matrix that moves frames puts a pixel's centre into the middle of its block."""
    view = View(5, 3, 16, 12, 64, 48, flip=True)
    x, y, _ = view.matrix() @ (10, 7, 1)
    one = EventBatch(
        np.full(500, 10, np.uint16), np.full(500, 7, np.uint16), np.arange(500),
        np.ones(500, np.uint8), 32, 32,
    )  # fmt: skip
    moved = move_events(one, view, 5)
    assert moved.x.mean() == pytest.approx(x, abs=0.2)
    assert moved.y.mean() == pytest.approx(y, abs=0.2)
    assert moved.x.max() - moved.x.min() == 3


@pytest.mark.parametrize("size", [(640, 480), (346, 260), (1280, 720)])
def test_views_lie_on_the_sensor_and_keep_its_proportions(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    options = AugmentationOptions(zoom=(1, 2.5), crop=True, flip=0.5)
    views = [choose_view(size, (320, 240), options, rng) for _ in range(200)]
    for view in views:
        assert view.left >= 0
        assert view.top >= 0
        assert view.left + view.width <= size[0] + 1e-6
        assert view.top + view.height <= size[1] + 1e-6
        assert view.width / view.height == pytest.approx(320 / 240)
    assert 60 < sum(view.flip for view in views) < 140
    assert min(view.width for view in views) < 0.5 * max(view.width for view in views)


def test_dropout_swaps_and_noise_come_as_often_as_asked() -> None:
    batch = random_batch(20_000, 64, 48)
    drop = AugmentationOptions(event_dropout=0.5)
    kept = [
        len(perturb_events(batch, 0, 50 * MS, drop, np.random.default_rng(seed))[0]) / len(batch)
        for seed in range(60)
    ]
    assert min(kept) > 0.48
    assert np.mean(kept) == pytest.approx(0.75, abs=0.06)
    swap = AugmentationOptions(polarity_flip=0.5)
    swapped = [
        perturb_events(batch, 0, 50 * MS, swap, np.random.default_rng(seed))[0]
        for seed in range(60)
    ]
    share = np.mean([np.array_equal(each.p, 1 - batch.p) for each in swapped])
    assert share == pytest.approx(0.5, abs=0.2)
    assert all(
        np.array_equal(each.p, batch.p) or np.array_equal(each.p, 1 - batch.p) for each in swapped
    )
    noisy = AugmentationOptions(noise_hz=100)
    added = []
    for seed in range(60):
        result, _ = perturb_events(batch, 0, 50 * MS, noisy, np.random.default_rng(seed))
        result.validate()
        added.append(len(result) - len(batch))
    assert np.mean(added) == pytest.approx(50 * 64 * 48 * 0.05, rel=0.2)


@pytest.mark.parametrize(
    "arguments",
    [
        {"zoom": (0.5, 1)},
        {"flip": 2},
        {"event_dropout": 1},
        {"noise_hz": -1},
        {"polarity_flip": -0.1},
    ],
)
def test_options_that_cannot_be(arguments: dict[str, object]) -> None:
    with pytest.raises(DataError, match="augmentation"):
        AugmentationOptions(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("left", "top", "width", "height"), [(3.3, 2.6, 20.0, 15.0), (0, 0, 64.0, 48.0), (5, 4, 40, 30)]
)
def test_integrals_move_as_their_events_do_on_average(
    flip: bool, left: float, top: float, width: float, height: float
) -> None:
    batch = random_batch(3000, 64, 48)
    view = View(left, top, width, height, 40, 30, flip)
    state = LeakyState(leaky_integrals(batch, 50 * MS, (0.1, 2.0)), 50 * MS)
    found = move_state(state, view)
    assert found is not None
    assert (found.t, found.values.shape) == (50 * MS, (2, 30, 40))
    drawn = [leaky_integrals(move_events(batch, view, seed), 50 * MS, (0.1, 2.0))
             for seed in range(400)]  # fmt: skip
    spread = np.std(drawn, axis=0).max() / 20
    np.testing.assert_allclose(found.values, np.mean(drawn, axis=0), atol=5 * spread + 1e-4)


def test_a_view_of_the_whole_sensor_leaves_integrals_alone() -> None:
    values = np.random.default_rng(0).normal(size=(1, 6, 8)).astype(np.float32)
    state = LeakyState(values, 5)
    assert move_state(None, View(0, 0, 8, 6, 8, 6)) is None
    assert move_state(state, View(0, 0, 8, 6, 8, 6)) is state
    mirrored = move_state(state, View(0, 0, 8, 6, 8, 6, flip=True))
    assert mirrored is not None
    np.testing.assert_allclose(mirrored.values, values[:, :, ::-1], rtol=1e-6)


def test_integrals_are_perturbed_as_their_events_are() -> None:
    batch = random_batch(20_000, 64, 48)
    state = LeakyState(leaky_integrals(batch, 50 * MS, (0.1,)), 50 * MS)
    options = AugmentationOptions(event_dropout=0.5, polarity_flip=0.5)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        events, moved = perturb_events(batch, 0, 50 * MS, options, rng, state)
        assert moved is not None
        kept = len(events) / len(batch)
        ratio = moved.values.sum() / state.values.sum()
        sign = leaky_integrals(events, 50 * MS, (0.1,)).ravel() @ state.values.ravel()
        assert np.sign(ratio) == np.sign(sign)
        assert abs(ratio) == pytest.approx(kept, abs=0.02)
