"""Images of the node, computed by numpy, are what PyTorch's own operations give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from scaleevent_ros.nodes.perception_outputs import events_picture, resize_channels


@pytest.mark.parametrize("channels", [1, 3, 7, 600])
def test_features_are_resized_bilinearly(channels: int) -> None:
    pixels = np.random.default_rng(0).standard_normal((4, 5, channels), np.float32)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    truth = functional.interpolate(tensor, (64, 80), mode="bilinear", align_corners=False)
    found = resize_channels(pixels, (80, 64))
    np.testing.assert_allclose(found, truth[0].permute(1, 2, 0), atol=1e-5)


@pytest.mark.parametrize("scale", [0, 1, 50])
def test_events_are_red_above_zero_and_blue_below(scale: float) -> None:
    window = np.random.default_rng(0).standard_normal((5, 20, 30), np.float32) * np.float32(scale)
    total = torch.from_numpy(window).sum(0)
    full = total.abs().sum() / (total != 0).sum().clamp(min=1) * 3
    share = (total / full.clamp(min=1e-6)).clamp(-1, 1)
    above, below = share.clamp(min=0), (-share).clamp(min=0)
    truth = torch.stack([1 - below, 1 - above - below, 1 - above], -1) * 255
    assert np.abs(events_picture(window) - truth.numpy()).max() <= 1
