"""What heads are trained to minimize. Pixels without truth count nowhere."""

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
    """Compute the mean cross-entropy over pixels that have a class.

    Args:
        logits: ``[B, C, H, W]``.
        truth: Class ids, int64 ``[B, H, W]``; `IGNORED` where there is none.

    Returns:
        A scalar, 0 if no pixel has a class.
    """
    total = functional.cross_entropy(logits.float(), truth, ignore_index=IGNORED, reduction="sum")
    return total / (truth != IGNORED).sum().clamp(min=1)


def dice(logits: Tensor, truth: Tensor) -> Tensor:
    """Compute one minus the Dice coefficient, averaged over the classes that are there.

    Of a class with probabilities p and truth g over the pixels of the batch it is
    ``2 * sum(p * g) / (sum(p * p) + sum(g))``: Milletari, Navab and Ahmadi, "V-Net", 3DV 2016,
    equation 3 (g * g = g). A class of which no pixel is in the batch has no say.

    Args:
        logits: ``[B, C, H, W]``.
        truth: Class ids, int64 ``[B, H, W]``; `IGNORED` where there is none.

    Returns:
        A scalar from 0 to 1, 0 if no pixel has a class.
    """
    classes = logits.shape[1]
    known = truth != IGNORED
    chosen = functional.one_hot(truth.where(known, 0), classes).movedim(-1, 1).float()
    chosen = chosen * known.unsqueeze(1)
    probable = logits.float().softmax(dim=1) * known.unsqueeze(1)
    over = (0, 2, 3)
    overlap = 2 * (probable * chosen).sum(over)
    present = chosen.sum(over)
    coefficients = overlap / (probable.square().sum(over) + present).clamp(min=1e-12)
    there = present > 0
    return ((1 - coefficients) * there).sum() / there.sum().clamp(min=1)


def scale_invariant_log(depth: Tensor, truth: Tensor, balance: float = 0.5) -> Tensor:
    """Compare logarithms of depths, half forgiving a common factor.

    With ``d = log(truth) - log(depth)`` over all pixels that have a truth it is
    ``sqrt(mean(d ** 2) - balance * mean(d) ** 2)``: Eigen, Puhrsch and Fergus, "Depth Map
    Prediction from a Single Image", NIPS 2014, equation 4, under the root that Depth Anything V2
    takes for its metric models.

    Args:
        depth: ``[B, 1, H, W]`` in m, above 0.
        truth: ``[B, 1, H, W]`` in m; 0, or not finite, where it is not known.
        balance: 0 forgives nothing, 1 a common factor.

    Returns:
        A scalar, 0 if no pixel has a truth.
    """
    known = torch.isfinite(truth) & (truth > 0)
    count = known.sum().clamp(min=1)
    difference = truth.where(known, 1).log() - depth.float().clamp(min=1e-3).where(known, 1).log()
    spread = difference.square().sum() / count - balance * (difference.sum() / count).square()
    # The root has no slope at 0, where nothing is left to learn.
    return spread.clamp(min=1e-12).sqrt() * known.any()


def sequence_flow(steps: Sequence[Tensor], truth: Tensor, known: Tensor) -> Tensor:
    """Compare each step's flow with the truth by its L1 distance; later steps weigh more.

    Step i of n weighs ``0.8 ** (n - 1 - i)``: Teed and Deng, "RAFT", ECCV 2020, equation 7. L1
    grows only linearly with an error, so that outliers of the truth do not rule.

    Args:
        steps: The flow after each step of refinement, ``[B, 2, H, W]`` in pixels.
        truth: Likewise.
        known: Where the truth is known, bool ``[B, H, W]``.

    Returns:
        A scalar, 0 if the truth is known nowhere.
    """
    count = known.sum().clamp(min=1)
    goal = truth.where(known.unsqueeze(1), 0)
    distances = [
        (step.float() - goal).abs().sum(dim=1).where(known, 0).sum() / count for step in steps
    ]
    weights = [0.8 ** (len(steps) - 1 - i) for i in range(len(steps))]
    return torch.stack([w * d for w, d in zip(weights, distances, strict=True)]).sum()
