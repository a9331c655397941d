"""Distillation between regions of an image instead of tokens: the baseline of earlier work.

Tokens are averaged over superpixels, the student's and the teacher's alike, and the averages are
compared, directly or by contrast, as SLidR does between images and point clouds (Sautier et al.,
CVPR 2022, arXiv 2203.16258).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from scaleevent_ros.distill.losses_affinity import product

# Lloyd's iterations; assignments hardly change after these.
_ITERATIONS = 8


def pool_regions(features: Tensor, regions: Tensor) -> Tensor:
    """Average tokens over regions: ``[n, D]``, ids ``[n]`` from 0 to R - 1, to ``[R, D]``."""
    count = int(regions.max()) + 1 if len(regions) else 0
    sums = features.new_zeros(count, features.shape[1]).index_add(0, regions, features)
    sizes = torch.bincount(regions, minlength=count).clamp_min(1)
    return sums / sizes[:, None].to(features.dtype)


def contrast(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """InfoNCE: match each region of the student to the teacher's.

    Args:
        student: Averages of regions, ``[R, D]``.
        teacher: Teacher features of the same regions.
        temperature: Temperature of the softmax over cosine similarities.

    Returns:
        The cross-entropy, a scalar, zero where there is no region.
    """
    logits = product(functional.normalize(student, dim=-1), functional.normalize(teacher, dim=-1).T)
    targets = torch.arange(len(student), device=student.device)
    total = functional.cross_entropy(logits / temperature, targets, reduction="sum")
    return total / max(1, len(student))


@torch.no_grad()
def cluster_tokens(teacher: Tensor, count: int) -> Tensor:
    """Group tokens by cosine similarity (spherical k-means), the same way each time.

    Args:
        teacher: ``[n, D]``.
        count: Maximum number of groups.

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
        empty = torch.bincount(groups, minlength=count) == 0
        centres = torch.where(empty[:, None], centres, functional.normalize(sums, dim=-1))
    return groups
