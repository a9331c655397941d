"""Losses of heads. Pixels without ground truth are ignored.

A loss is the mean of the losses of images; an image without ground truth has the loss 0. So neither
the number of processes nor that of accumulated parts changes a loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

IGNORED = 255
"""Class id of pixels that have no class."""


def cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """Compute the mean cross-entropy over the pixels of each image that have a class.

    Args:
        logits: ``[B, C, H, W]``.
        truth: Class ids, int64 ``[B, H, W]``; `IGNORED` where there is none.

    Returns:
        A scalar.
    """
    each = functional.cross_entropy(logits.float(), truth, ignore_index=IGNORED, reduction="none")
    return mean_by_image(each, truth != IGNORED).mean()


def dice(logits: Tensor, truth: Tensor) -> Tensor:
    """Compute one minus the Dice coefficient, averaged over the classes of each image.

    For a class with probabilities p and truth g over the pixels of the image it is
    ``2 * sum(p * g) / (sum(p * p) + sum(g))``: Milletari, Navab and Ahmadi, "V-Net", 3DV 2016,
    equation 3 (g * g = g). Classes without a pixel in the image are ignored.

    Args:
        logits: ``[B, C, H, W]``.
        truth: Class ids, int64 ``[B, H, W]``; `IGNORED` where there is none.

    Returns:
        A scalar from 0 to 1.
    """
    classes = logits.shape[1]
    known = truth != IGNORED
    chosen = functional.one_hot(truth.where(known, 0), classes).movedim(-1, 1).float()
    chosen = chosen * known.unsqueeze(1)
    probable = logits.float().softmax(dim=1) * known.unsqueeze(1)
    overlap = 2 * (probable * chosen).sum((2, 3))
    present = chosen.sum((2, 3))
    coefficients = overlap / (probable.square().sum((2, 3)) + present).clamp(min=1e-12)
    there = present > 0
    return (((1 - coefficients) * there).sum(1) / there.sum(1).clamp(min=1)).mean()


def scale_invariant_log(depth: Tensor, truth: Tensor, balance: float = 0.5) -> Tensor:
    """Compute the scale-invariant logarithmic error of depth.

    With ``d = log(truth) - log(depth)`` over the pixels of an image with ground truth it is
    ``sqrt(mean(d ** 2) - balance * mean(d) ** 2)``: Eigen, Puhrsch and Fergus, "Depth Map
    Prediction from a Single Image", NIPS 2014, equation 4, with the square root of Depth Anything
    V2's metric models.

    Args:
        depth: Predicted depth ``[B, 1, H, W]`` in m, above 0.
        truth: Ground truth ``[B, 1, H, W]`` in m; 0 or not finite where unknown.
        balance: Invariance to a common factor on the depths of an image: 0 for none, 1 for full.

    Returns:
        A scalar.
    """
    known = torch.isfinite(truth) & (truth > 0)
    difference = truth.where(known, 1).log() - depth.float().clamp(min=1e-3).where(known, 1).log()
    mean = mean_by_image(difference, known)
    spread = mean_by_image(difference.square(), known) - balance * mean.square()
    # Clamped, since the root's gradient is infinite at 0.
    return (spread.clamp(min=1e-12).sqrt() * known.flatten(1).any(1)).mean()


def sequence_flow(steps: Sequence[Tensor], truth: Tensor, known: Tensor) -> Tensor:
    """Compute the L1 distance of each refinement step's flow to the ground truth; return their sum.

    Step i of n has the weight ``0.8 ** (n - 1 - i)``: Teed and Deng, "RAFT", ECCV 2020, equation 7.
    The L1 distance limits the effect of outliers in the ground truth.

    Args:
        steps: Flow after each refinement step, ``[B, 2, H, W]`` in pixels.
        truth: Ground-truth flow, of the same shape.
        known: Pixels with known ground truth, bool ``[B, H, W]``.

    Returns:
        A scalar.
    """
    goal = truth.where(known.unsqueeze(1), 0)
    distances = [
        mean_by_image((step.float() - goal).abs().sum(dim=1), known).mean() for step in steps
    ]
    weights = [0.8 ** (len(steps) - 1 - i) for i in range(len(steps))]
    return torch.stack([w * d for w, d in zip(weights, distances, strict=True)]).sum()


def mean_by_image(values: Tensor, known: Tensor) -> Tensor:
    """Average over the known pixels of each image, ``[B, ...]`` to ``[B]``; 0 if none is known."""
    count = known.flatten(1).sum(1).clamp(min=1)
    return values.where(known, 0).flatten(1).sum(1) / count
