"""Distillation between regions of an image instead of tokens: the baseline of earlier work.

The tokens of student and teacher are averaged over superpixels, and the averages are compared by
their distance or by a contrastive loss, as in SLidR for images and point clouds (Sautier et al.,
CVPR 2022, arXiv 2203.16258).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from scaleevent_ros.distill.losses_affinity import product

# Lloyd's iterations; assignments hardly change after these.
_ITERATIONS = 8


def pool_regions(features: Tensor, regions: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Average tokens over regions, without waiting for a GPU.

    Args:
        features: ``[n, D]``.
        regions: Region ids, int64 ``[n]``, below ``count``; negative for none.
        count: Number of regions R, some of which may be empty.

    Returns:
        Averages ``[R, D]``, zero for regions without tokens; and whether a region has tokens, bool
        ``[R]``.
    """
    slots = regions.where(regions >= 0, count)
    sums = features.new_zeros(count + 1, features.shape[1]).index_add(0, slots, features)[:count]
    sizes = _sizes(slots, count + 1, features)[:count]
    return sums / sizes.clamp_min(1)[:, None], sizes > 0


def _sizes(groups: Tensor, count: int, like: Tensor) -> Tensor:
    """Count the tokens of each group, ``[count]``; `torch.bincount` would wait for a GPU."""
    return like.new_zeros(count).index_add_(0, groups, like.new_ones(len(groups)))


def contrast(student: Tensor, teacher: Tensor, filled: Tensor, temperature: float) -> Tensor:
    """InfoNCE: match each region of the student to the teacher's.

    Args:
        student: Averages of regions, ``[R, D]``.
        teacher: Averages of the same regions.
        filled: Regions to compare, bool ``[R]``.
        temperature: Divisor of the cosine similarities in the softmax.

    Returns:
        The mean cross-entropy, a scalar; zero where there is no region.
    """
    logits = product(functional.normalize(student, dim=-1), functional.normalize(teacher, dim=-1).T)
    logits = (logits / temperature).masked_fill(~filled, torch.finfo(logits.dtype).min)
    targets = torch.arange(len(student), device=student.device)
    each = functional.cross_entropy(logits, targets, reduction="none")
    return each.where(filled, 0).sum() / filled.sum().clamp_min(1)


@torch.no_grad()
def cluster_tokens(teacher: Tensor, count: int) -> Tensor:
    """Group tokens by cosine similarity (spherical k-means), deterministically.

    Args:
        teacher: ``[n, D]``.
        count: Largest number of groups; some may stay empty.

    Returns:
        Group ids, int64 ``[n]``, from 0 to ``count - 1``.
    """
    unit = functional.normalize(teacher, dim=-1)
    count = min(count, len(unit))
    # Tokens come row by row, so that equal steps through them spread over the image.
    centres = unit[torch.linspace(0, len(unit) - 1, count, device=unit.device).round().long()]
    groups = torch.zeros(len(unit), dtype=torch.int64, device=unit.device)
    for _ in range(_ITERATIONS if count else 0):
        groups = (unit @ centres.T).argmax(dim=1)
        sums = torch.zeros_like(centres).index_add_(0, groups, unit)
        empty = _sizes(groups, count, unit) == 0
        centres = torch.where(empty[:, None], centres, functional.normalize(sums, dim=-1))
    return groups
