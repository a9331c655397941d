"""Similarity of student and teacher, by metrics that do not depend on the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Mapping

# Of an image with more tokens, this many, evenly spaced, are compared.
_MOST_TOKENS = 1024


def cosine_sums(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Sum the cosine similarity of student and teacher over the tokens of a mask.

    Args:
        student: ``[B, N, D]``.
        teacher: ``[B, N, D]``.
        mask: bool ``[B, N]``.

    Returns:
        float64 [2]: the sum, and the number of tokens in the mask.
    """
    cosine = functional.cosine_similarity(student.float(), teacher.float(), dim=-1)
    return torch.stack([cosine[mask].double().sum(), mask.sum().double()])


def affinity_correlation_sums(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Sum over images the correlation of the student's affinity matrix with the teacher's.

    The affinity of two tokens is their cosine similarity; the correlation is Pearson's over all
    pairs of different tokens in the mask. It measures whether the same tokens are similar for
    student and teacher, independent of the directions of their features.

    Args:
        student: ``[B, N, D]``.
        teacher: ``[B, N, D]``; its width may differ from the student's.
        mask: bool ``[B, N]``.

    Returns:
        float64 [2]: the sum, and the number of images with at least three tokens.
    """
    total = torch.zeros(2, dtype=torch.float64, device=student.device)
    for student_tokens, teacher_tokens, valid in zip(student, teacher, mask, strict=True):
        (index,) = valid.nonzero(as_tuple=True)
        if len(index) < 3:
            continue
        if len(index) > _MOST_TOKENS:
            steps = torch.linspace(0, len(index) - 1, _MOST_TOKENS, device=index.device)
            index = index[steps.round().long()]
        pairs = [_affinities(tokens[index]) for tokens in (student_tokens, teacher_tokens)]
        total[0] += torch.corrcoef(torch.stack(pairs))[0, 1].nan_to_num()
        total[1] += 1
    return total


def _affinities(tokens: Tensor) -> Tensor:
    unit = functional.normalize(tokens.double(), dim=-1)
    rows, columns = torch.triu_indices(len(unit), len(unit), 1, device=unit.device)
    return (unit @ unit.T)[rows, columns]


def ratios(sums: Mapping[str, Tensor]) -> dict[str, float]:
    """Divide each sum by its weight, both in a float64 ``[2]``; 0 if the weight is 0."""
    return {name: float(pair[0] / pair[1]) if pair[1] else 0.0 for name, pair in sums.items()}
