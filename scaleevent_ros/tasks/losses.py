"""Losses of heads. Pixels without ground truth are ignored.

A loss is the mean over images of a loss of each, one without truth counting as 0. So neither the
number of processes nor of accumulated parts changes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

IGNORED = 255
"""The class id of pixels that have no class."""


def cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """Compute the mean cross-entropy over the pixels of each image that have a class.

    Args:
        logits: ``[B, C, H, W]``.
        truth: Class ids, int64 ``[B, H, W]``; `IGNORED` where there is none.

    Returns:
        A scalar.
    """
    each = functional.cross_entropy(logits.float(), truth, ignore_index=IGNORED, reduction="none")
    return _over_images(each, truth != IGNORED).mean()


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
    """Compare logarithms of depths, half forgiving a common factor.

    With ``d = log(truth) - log(depth)`` over the pixels of an image that have a truth it is
    ``sqrt(mean(d ** 2) - balance * mean(d) ** 2)``: Eigen, Puhrsch and Fergus, "Depth Map
    Prediction from a Single Image", NIPS 2014, equation 4, under the root that Depth Anything V2
    takes for its metric models.

    Args:
        depth: ``[B, 1, H, W]`` in m, above 0.
        truth: ``[B, 1, H, W]`` in m; 0, or not finite, where it is not known.
        balance: 0 forgives nothing, 1 a common factor.

    Returns:
        A scalar.
    """
    known = torch.isfinite(truth) & (truth > 0)
    difference = truth.where(known, 1).log() - depth.float().clamp(min=1e-3).where(known, 1).log()
    mean = _over_images(difference, known)
    spread = _over_images(difference.square(), known) - balance * mean.square()
    # The root has no slope at 0, where nothing is left to learn.
    return (spread.clamp(min=1e-12).sqrt() * known.flatten(1).any(1)).mean()


def sequence_flow(steps: Sequence[Tensor], truth: Tensor, known: Tensor) -> Tensor:
    """Compare each step's flow with the truth by its L1 distance; later steps weigh more.

    Step i of n weighs ``0.8 ** (n - 1 - i)``: Teed and Deng, "RAFT", ECCV 2020, equation 7. L1
    grows only linearly with an error, so that outliers of the truth do not rule.

    Args:
        steps: The flow after each step of refinement, ``[B, 2, H, W]`` in pixels.
        truth: Ground-truth flow, as the predictions.
        known: Pixels with known ground truth, bool ``[B, H, W]``.

    Returns:
        A scalar.
    """
    goal = truth.where(known.unsqueeze(1), 0)
    distances = [
        _over_images((step.float() - goal).abs().sum(dim=1), known).mean() for step in steps
    ]
    weights = [0.8 ** (len(steps) - 1 - i) for i in range(len(steps))]
    return torch.stack([w * d for w, d in zip(weights, distances, strict=True)]).sum()


def _over_images(values: Tensor, known: Tensor) -> Tensor:
    """Average over the known pixels of each image, ``[B, ...]`` to ``[B]``; 0 if none is known."""
    count = known.flatten(1).sum(1).clamp(min=1)
    return values.where(known, 0).flatten(1).sum(1) / count
