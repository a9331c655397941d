from __future__ import annotations

import numpy as np
import pytest
import torch

from scaleevent_ros.distill.distillation import Panel
from scaleevent_ros.visuals.events import polarity_picture
from scaleevent_ros.visuals.features import (
    choose_anchors,
    overlay,
    pca_basis,
    pca_picture,
    similarity_map,
    similarity_picture,
)
from scaleevent_ros.visuals.panels import draw_panel


@pytest.mark.parametrize(("depth", "side"), [(8, 12), (200, 5)], ids=["wide", "deep"])
def test_directions_are_those_of_the_singular_value_decomposition(depth: int, side: int) -> None:
    rng = np.random.default_rng(0)
    scales = np.linspace(5, 0.1, depth)[:, None, None]
    features = (rng.normal(size=(depth, side, side)) * scales).astype(np.float32)
    basis = pca_basis(features)
    tokens = features.reshape(depth, -1).T
    _, _, rows = np.linalg.svd(tokens - tokens.mean(axis=0), full_matrices=False)
    for direction, expected in zip(basis.directions.T, rows[:3], strict=True):
        assert abs(float(direction @ expected)) == pytest.approx(1, abs=1e-3)
        assert direction[np.abs(direction).argmax()] > 0


def test_equal_features_have_equal_colours_in_one_basis() -> None:
    rng = np.random.default_rng(1)
    teacher = rng.normal(size=(16, 6, 8)).astype(np.float32)
    student = teacher.copy()
    student[:, :3] = rng.normal(size=(16, 3, 8))
    basis = pca_basis(teacher)
    one, other = pca_picture(teacher, basis), pca_picture(student, basis)
    assert one.shape == (6, 8, 3)
    assert one.dtype == np.uint8
    assert np.array_equal(one[3:], other[3:])
    assert not np.array_equal(one[:3], other[:3])
    assert one.min() == 0
    assert one.max() == 255


def test_features_without_difference_have_a_picture() -> None:
    flat = np.ones((8, 4, 4), np.float32)
    assert pca_picture(flat, pca_basis(flat)).shape == (4, 4, 3)


def test_similarity_is_the_cosine() -> None:
    rng = np.random.default_rng(2)
    features = rng.normal(size=(8, 5, 6)).astype(np.float32)
    features[:, 4, 4] = 0
    found = similarity_map(features, (2, 3))
    for row in range(5):
        for column in range(6):
            a, b = features[:, row, column], features[:, 2, 3]
            length = np.linalg.norm(a) * np.linalg.norm(b)
            expected = a @ b / length if length else 0
            assert found[row, column] == pytest.approx(expected, abs=1e-5)
    heat = similarity_picture(found)
    assert heat[2, 3].sum() == heat.sum(axis=2).max()


def test_anchors_are_active_and_unlike_each_other() -> None:
    features = np.zeros((3, 4, 6), np.float32)
    features[0, :, :2] = features[1, :, 2:4] = features[2, :, 4:] = 1
    features += 0.01 * np.random.default_rng(0).normal(size=features.shape)
    mask = np.zeros((4, 6), bool)
    mask[1:3] = True
    anchors = choose_anchors(features, mask, 3)
    assert all(mask[anchor] for anchor in anchors)
    assert {column // 2 for _, column in anchors} == {0, 1, 2}
    assert len(choose_anchors(features, np.zeros_like(mask), 2)) == 2


def test_an_overlay_mixes_at_its_opacity() -> None:
    picture = np.full((4, 4, 3), 100, np.uint8)
    colours = np.full((2, 2, 3), 200, np.uint8)
    assert (overlay(picture, colours, 0.25) == 125).all()


@pytest.mark.parametrize("scale", [0, 1, 50])
def test_events_are_red_above_zero_and_blue_below(scale: float) -> None:
    window = np.random.default_rng(0).standard_normal((5, 20, 30), np.float32) * np.float32(scale)
    total = torch.from_numpy(window).sum(0)
    full = total.abs().sum() / (total != 0).sum().clamp(min=1) * 3
    share = (total / full.clamp(min=1e-6)).clamp(-1, 1)
    above, below = share.clamp(min=0), (-share).clamp(min=0)
    truth = torch.stack([1 - below, 1 - above - below, 1 - above], -1) * 255
    assert np.abs(polarity_picture(window) - truth.numpy()).max() <= 1


def test_a_panel_has_a_row_for_each_anchor() -> None:
    torch.manual_seed(0)
    panel = Panel(
        torch.randn(5, 48, 64),
        torch.randint(256, (3, 96, 128), dtype=torch.uint8),
        torch.randn(16, 3, 4),
        torch.randn(16, 3, 4),
        torch.ones(3, 4, dtype=torch.bool),
    )
    picture = draw_panel(panel)
    assert picture.shape == (4 * 244, 4 * 324, 3)
    teacher, student = picture[30:240, 648:968], picture[30:240, 972:1292]
    assert not np.array_equal(teacher, student)
    same = draw_panel(panel._replace(student=panel.teacher))
    assert np.array_equal(same[30:, 648:968], same[30:, 972:1292])
