"""The linear head, for linear probes."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from torch import nn

from scaleevent_ros.tasks.grid import to_pixels

if TYPE_CHECKING:
    from torch import Tensor


class LinearSegmentation(nn.Module):
    """Batch norm and a 1x1 convolution, the head of a linear probe.

    Source: the linear evaluation of Oquab et al., "DINOv2", TMLR 2024, section 7.4. In eval mode
    the norm is affine, so that the head is linear. With it, one learning rate suits features of any
    scale.

    Args:
        width: Channels D of the features.
        stride: Pixels per feature.
        classes: Number of classes C.
    """

    def __init__(self, width: int, stride: int, classes: int) -> None:
        super().__init__()
        self.stride = stride
        self.norm = nn.BatchNorm2d(width)
        self.classify = nn.Conv2d(width, classes, kernel_size=1)

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Compute logits ``[B, C, H, W]`` from features ``[B, D, h, w]``; ``size`` is (H, W)."""
        logits = cast("Tensor", self.classify(self.norm(features)))
        return to_pixels(logits, (features.shape[-2], features.shape[-1]), self.stride, size)
