"""Images of the node, computed by numpy, are what PyTorch's own operations give."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from tiny_student import tiny_checkpoint
from torch.nn import functional

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from scaleevent_ros.models import load_student, save_student
from scaleevent_ros.models.active_tokens import ActiveTokens
from scaleevent_ros.nodes.parameters import PerceptionParameters
from scaleevent_ros.nodes.perception_outputs import (
    PatchAges,
    Products,
    Scene,
    resize_channels,
    topics_of,
)
from scaleevent_ros.nodes.perception_windows import BuiltWindow
from scaleevent_ros.runtime import Engine
from scaleevent_ros.visuals.events import polarity_picture

if TYPE_CHECKING:
    from pathlib import Path

S = 1_000_000_000


@pytest.mark.parametrize("channels", [1, 3, 7, 600])
def test_features_are_resized_bilinearly(channels: int) -> None:
    pixels = np.random.default_rng(0).standard_normal((4, 5, channels), np.float32)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    truth = functional.interpolate(tensor, (64, 80), mode="bilinear", align_corners=False)
    found = resize_channels(pixels, (80, 64))
    np.testing.assert_allclose(found, truth[0].permute(1, 2, 0), atol=1e-5)


DEVICES = ["numpy", "cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES)
def test_ages_are_the_time_since_a_patch_was_active(device: str) -> None:
    """Wherever the counts are; events below the threshold inform of nothing."""
    inf, ages = np.inf, PatchAges()
    for t_end, counts, expected in (
        (5 * S, [[5, 4, 0]], [[0, inf, inf]]),
        (6 * S, [[4, 9, 0]], [[1, 0, inf]]),
        (8 * S, [[0, 0, 0]], [[3, 2, inf]]),
        (8 * S - 1000, [[0, 0, 0]], [[3 - 1e-6, 2 - 1e-6, inf]]),  # asked for a time gone by
        (9 * S, [[5, 0, 5]], [[0, 3, 0]]),
    ):
        array = np.array(counts)
        held = array if device == "numpy" else torch.tensor(array, device=device)
        ages.add(BuiltWindow(np.zeros((1, 16, 48), np.float32), held, t_end), 5)
        found = ages.seconds(t_end)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    ages.reset()
    ages.add(BuiltWindow(np.zeros((1, 16, 48), np.float32), np.array([[0, 5, 0]]), 10 * S), 5)
    np.testing.assert_array_equal(ages.seconds(10 * S), [[inf, 0, inf]])


def test_colours_of_the_overlay_fade_with_the_age_of_their_patch(tmp_path: Path) -> None:
    """Fully at once, halfway through the time that is set, and gone after it."""
    engine = Engine(
        tiny_checkpoint(tmp_path / "tiny.safetensors"), "cpu", "fp32", "eager", size=(60, 90)
    )
    tensor = np.random.default_rng(0).standard_normal((5, 60, 90), np.float32)
    outputs = engine(tensor)
    drawn = []
    for fade in (0.0, 2.0):
        settings = PerceptionParameters(overlay_fade=fade, activity_threshold=5)
        products = Products(engine)
        for t_end, active in ((0, [2]), (S, [1]), (2 * S, [0])):
            counts = np.zeros((4, 6), np.int64)
            counts[:, active] = 5
            scene = Scene(BuiltWindow(tensor, counts, t_end), outputs, settings, (0, 0))
            (product,) = products.make(["overlay"], scene)
        drawn.append(product.pixels.astype(int))
    plain, faded = drawn
    events = polarity_picture(tensor).astype(int)
    np.testing.assert_allclose(faded[:, :16], plain[:, :16], atol=1)
    halfway = (plain + events) / 2
    np.testing.assert_allclose(faded[:, 16:32], halfway[:, 16:32], atol=2)
    np.testing.assert_allclose(faded[:, 32:], events[:, 32:], atol=1)
    assert np.abs(plain - events).max() > 50


def test_students_of_active_tokens_show_where_they_computed(tmp_path: Path) -> None:
    path = tiny_checkpoint(tmp_path / "tiny.safetensors")
    assert "computed" not in topics_of(Engine(path, "cpu", "fp32", "eager", size=(96, 128)))
    student = load_student(path)
    choice = ActiveTokens(anchors=0.1, dilation=0, pixels=10)
    student.header = replace(student.header, tokens=asdict(choice))
    save_student(path, student)
    engine = Engine(path, "cpu", "fp32", "eager", size=(96, 128))
    assert "computed" in topics_of(engine)
    tensor = np.zeros((5, 96, 128), np.float32)
    tensor[2, 16:32, 48:80] = 1  # the second row's fourth and fifth patch
    products = Products(engine)
    window = BuiltWindow(tensor, np.zeros((6, 8), np.int64), S)
    assert products.needed(["computed"]) == {"features"}
    scene = Scene(window, engine(tensor, {"features"}), PerceptionParameters(), (50, 20))
    topics = ["computed", "features", "features_pca", "similarity"]
    found = {product.topic: product for product in products.make(topics, scene)}
    assert found["computed"].encoding == "mono8"
    mask = found["computed"].pixels
    assert mask.shape == (6, 8)
    assert (mask[1, 3:5] == 255).all()
    assert set(np.unique(mask)) == {0, 255}
    features = found["features"].pixels
    np.testing.assert_array_equal(features.any(-1), mask == 255)
    assert all(product.pixels.any() for product in found.values())
