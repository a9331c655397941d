"""Interpolation from the grid of a student's features to the pixels of its input."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor


def to_pixels(values: Tensor, grid: tuple[int, int], stride: int, size: tuple[int, int]) -> Tensor:
    """Resize maps bilinearly to the pixels that a grid of features covers, and crop the padding.

    A student pads its input at the right and the bottom to whole cells. So the grid covers
    ``grid * stride`` pixels, of which the first ``size`` are the input's.

    Args:
        values: Maps over the whole grid, ``[B, C, *, *]``, at any resolution.
        grid: Height and width h, w of the features.
        stride: Pixels per feature s.
        size: Height and width H, W of the student's input, at most h * s and w * s.

    Returns:
        ``[B, C, H, W]``.
    """
    padded = (grid[0] * stride, grid[1] * stride)
    if tuple(values.shape[-2:]) != padded:
        values = functional.interpolate(values, padded, mode="bilinear", align_corners=False)
    return values[..., : size[0], : size[1]]
