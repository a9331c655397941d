"""The losses written from their equations, pair by pair in float64, slow and plain."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Terms = tuple[Tensor, Tensor, Tensor]


def _zero() -> Tensor:
    return torch.zeros((), dtype=torch.float64)


def _absolute(student: Tensor, teacher: Tensor, tokens: list[int]) -> Tensor:
    """(1 / nD) sum over tokens and channels of |k - q|."""
    total = _zero()
    for i in tokens:
        total = total + (student[i] - teacher[i]).abs().sum()
    return total / max(1, len(tokens) * student.shape[1])


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    cosine: Tensor = torch.dot(a, b) / (torch.linalg.norm(a) * torch.linalg.norm(b))
    return cosine


def _residuals(student: Tensor, teacher: Tensor, tokens: list[int], power: int) -> Terms:
    intra, cross = _zero(), _zero()
    for i in tokens:
        for j in tokens:
            wanted = _cosine(teacher[i], teacher[j])
            intra = intra + (_cosine(student[i], student[j]) - wanted).abs() ** power
            cross = cross + (_cosine(student[i], teacher[j]) - wanted).abs() ** power
    pairs = max(1, len(tokens) ** 2)
    return _absolute(student, teacher, tokens), intra / pairs, cross / pairs


def _released(student: Tensor, teacher: Tensor, mask: Tensor) -> Terms:
    """Follow the released criterion step by step: mask, normalize, clip, threshold, average."""
    student, teacher = student * mask[:, None], teacher * mask[:, None]
    feature = torch.nn.L1Loss()(teacher, student)
    teacher = torch.nn.functional.normalize(teacher, dim=-1)
    student = torch.nn.functional.normalize(student, dim=-1)
    image_sim = teacher @ teacher.T
    event_sim = student @ student.T
    mm_sim = teacher @ student.T
    for similarity in (image_sim, event_sim, mm_sim):
        similarity[similarity < 0] = 0.0
    low = image_sim <= 0.1
    for similarity in (image_sim, event_sim, mm_sim):
        similarity[low] = 0.0
    mse = torch.nn.MSELoss()
    return feature, mse(event_sim, image_sim), mse(mm_sim, image_sim)


def _pooled(features: Tensor, regions: Tensor, tokens: list[int]) -> list[Tensor]:
    ids = sorted({int(regions[i]) for i in tokens if regions[i] >= 0})
    return [
        torch.stack([features[i] for i in tokens if regions[i] == region]).mean(0) for region in ids
    ]


def _contrastive(student: list[Tensor], teacher: list[Tensor], temperature: float) -> Tensor:
    total = _zero()
    for i, own in enumerate(student):
        logits = torch.stack([_cosine(own, other) for other in teacher]) / temperature
        total = total - torch.log_softmax(logits, dim=0)[i]
    return total / max(1, len(student))


def image_terms(
    name: str, student: Tensor, teacher: Tensor, mask: Tensor, regions: Tensor | None = None
) -> Terms:
    """Compute the three unweighted terms of one image, ``[N, D]`` with mask ``[N]``."""
    tokens = [i for i in range(len(mask)) if mask[i]]
    if name == "patch":
        every = list(range(len(mask)))
        return _absolute(student, teacher, every), _zero(), _zero()
    if name == "patch_mask":
        return _absolute(student, teacher, tokens), _zero(), _zero()
    if name in {"superpixel", "superpixel_l1"}:
        assert regions is not None
        ours, theirs = (_pooled(features, regions, tokens) for features in (student, teacher))
        if name == "superpixel":
            return _contrastive(ours, theirs, 0.07), _zero(), _zero()
        if not ours:
            return _zero(), _zero(), _zero()
        distance = torch.stack(
            [(a - b).abs().mean() for a, b in zip(ours, theirs, strict=True)]
        ).mean()
        return distance, _zero(), _zero()
    if name == "structure_released":
        return _released(student, teacher, mask.to(student.dtype))
    power = 2 if name == "structure_active" else 1
    feature, intra, cross = _residuals(student, teacher, tokens, power)
    if name == "structure_intra":
        cross = _zero()
    if name == "structure_cross":
        intra = _zero()
    return feature, intra, cross


WEIGHTS = {
    "patch": (1, 0, 0),
    "patch_mask": (1, 0, 0),
    "superpixel": (1, 0, 0),
    "superpixel_l1": (1, 0, 0),
    "structure_intra": (1, 10, 0),
    "structure_cross": (1, 0, 4),
    "structure": (1, 10, 4),
    "structure_released": (1, 10, 4),
    "structure_active": (1, 10, 4),
}


def reference(
    name: str, student: Tensor, teacher: Tensor, mask: Tensor, regions: Tensor | None = None
) -> tuple[tuple[float, float, float, float], Tensor]:
    """Compute (total, feature, intra, cross) of a batch and the student's gradient, in float64."""
    student = student.detach().double().requires_grad_()
    teacher = teacher.detach().double()
    images = [
        image_terms(name, student[b], teacher[b], mask[b], None if regions is None else regions[b])
        for b in range(len(student))
    ]
    terms = [torch.stack([image[i] for image in images]).mean() for i in range(3)]
    total = sum((w * t for w, t in zip(WEIGHTS[name], terms, strict=True)), _zero())
    gradient = torch.zeros_like(student)
    if total.requires_grad:
        (gradient,) = torch.autograd.grad(total, student)
    feature, intra, cross = (float(term.detach()) for term in terms)
    values = (float(total.detach()), feature, intra, cross)
    assert all(math.isfinite(value) for value in values)
    return values, gradient
