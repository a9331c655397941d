"""Colours of a stream of features: those of principal components, and they stay."""

from __future__ import annotations

import numpy as np

from scaleevent_ros.visuals.features import pca_basis
from scaleevent_ros.visuals.palette import class_colours
from scaleevent_ros.visuals.stable_basis import StableBasis

SPREAD = np.array([9.0, 5.0, 3.0] + [0.3] * 13, np.float32)


def scene(seed: int) -> np.ndarray:
    """Draw tokens [16, 12, 16] whose directions of largest variance are the first axes."""
    tokens = np.random.default_rng(seed).standard_normal((16, 12, 16), np.float32)
    return tokens * SPREAD[:, None, None]


def test_the_first_window_has_its_principal_components() -> None:
    basis = StableBasis()
    features = scene(0)
    basis.picture(features)
    expected = pca_basis(features).directions
    agreement = np.abs((expected * basis._directions).sum(0))
    np.testing.assert_allclose(agreement, 1, atol=1e-4)


def test_colours_stay_from_window_to_window() -> None:
    basis = StableBasis()
    basis.picture(scene(0))
    shown = scene(99)
    before = basis.picture(shown).astype(float)
    for seed in range(1, 60):
        basis.picture(scene(seed))
    after = basis.picture(shown).astype(float)
    # A direction that flips or swaps would move colours by a third of the range on average.
    assert np.abs(after - before).mean() < 12
    first = basis._directions
    for seed in range(60, 400):
        basis.picture(scene(seed) * (1 + seed % 3))
    assert ((first * basis._directions).sum(0) > 0.98).all()


def test_it_follows_a_scene_that_changes() -> None:
    basis = StableBasis()
    basis.picture(scene(0))
    for seed in range(400):
        basis.picture(scene(seed)[::-1])
    assert (np.square(basis._directions[-3:]).sum(0) > 0.9).all()


def test_only_active_positions_count() -> None:
    features = scene(0)
    features[15, :, :8] = np.random.default_rng(1).standard_normal((12, 8)) * 100
    mask = np.zeros((12, 16), bool)
    mask[:, 8:] = True
    basis = StableBasis()
    basis.picture(features, mask)
    assert (np.abs(basis._directions[15]) < 0.2).all()
    assert StableBasis().picture(features, np.zeros_like(mask)).shape == (12, 16, 3)


def test_classes_have_colours_of_their_own() -> None:
    colours = class_colours(256)
    assert len(np.unique(colours, axis=0)) == 256
    assert colours[[0, 1, 2, 15]].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [192, 128, 128]]
