"""The losses of distillation, by name. Equations and reasons: docs/losses.md.

Every loss is a mean over the images of a batch, each image normalized by itself. So the gradient
of a batch is the mean of the gradients of its parts of equal size: processes (DDP, FSDP) and
accumulated steps give what one process gives with the whole batch. An image without tokens to learn
from adds zero to the mean, and is counted in it.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch.nn import functional

from scaleevent_ros.distill.errors import DistillError
from scaleevent_ros.distill.losses_affinity import (
    blocked_residuals,
    exact_products,
    squared_residuals,
)
from scaleevent_ros.distill.losses_superpixel import cluster_tokens, contrast, pool_regions

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class LossTerms(NamedTuple):
    """Terms of a loss: scalars in float32.

    Attributes:
        total: Weighted sum, which is minimized.
        feature: Distance between features, unweighted.
        intra: Distance between the student's affinities and the teacher's, unweighted.
        cross: Distance between student-teacher affinities and the teacher's, unweighted.
    """

    total: Tensor
    feature: Tensor
    intra: Tensor
    cross: Tensor


@dataclass(frozen=True, slots=True)
class ImageTokens:
    """Tokens of one image that a loss uses.

    Attributes:
        student: ``[n, D]``, float32 at least.
        teacher: ``[n, D]``, the same dtype.
        regions: Superpixel ids, int64 ``[n]``, negative for no superpixel; None if unknown.
        region_count: Number of superpixels, above every id.
        total: Tokens N of the image, of which n are here.
    """

    student: Tensor
    teacher: Tensor
    regions: Tensor | None
    region_count: int
    total: int


@dataclass(frozen=True, slots=True)
class DistillLoss:
    """A loss between a student's tokens and a teacher's.

    Attributes:
        name: Name in the registry.
        image_terms: Function that computes the terms feature, intra and cross of one image.
        weights: Weights of these terms in the total.
        every_token: Use all tokens covered by a frame, not only active ones.
    """

    name: str
    image_terms: Callable[[ImageTokens], tuple[Tensor, Tensor, Tensor]]
    weights: tuple[float, float, float]
    every_token: bool = False

    def __call__(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor,
        *,
        regions: Tensor | None = None,
        covered: Tensor | None = None,
    ) -> LossTerms:
        """Compute the loss in float32, independent of autocast, and never in TF32.

        Args:
            student: ``[B, N, D]``, any floating dtype.
            teacher: ``[B, N, D]``; gets no gradient.
            mask: Active tokens, bool or 0/1 ``[B, N]``, on any device. A mask on the CPU avoids
                waiting for a GPU.
            regions: Superpixel ids, int64 ``[B, N]``, negative for none, on the mask's device. Only
                ``superpixel`` uses them; without them it clusters the teacher's tokens.
            covered: Tokens that a frame covers, bool ``[B, N]``; all if None. Only ``patch`` uses
                it, in place of the mask.

        Returns:
            The terms. The total has a gradient to the student, which is zero for unused tokens.

        Raises:
            DistillError: If shapes do not agree.
        """
        _check_shapes(student, teacher, mask, regions, covered)
        used = mask.bool()
        if self.every_token:
            used = torch.ones_like(used) if covered is None else covered.bool()
        # For the whole batch at once. This waits for a GPU if the masks are on it.
        counts = used.sum(dim=1).tolist()
        indices = torch.split(to_device(used.nonzero()[:, 1], student.device), counts)
        numbered: list[tuple[Tensor | None, int]] = [(None, 0)] * len(student)
        if regions is not None:
            numbered = [_number(ids, student.device) for ids in torch.split(regions[used], counts)]
        dtype = torch.promote_types(student.dtype, torch.float32)
        # Unbound at once: the gradient of each `student[b]` would be as large as the batch.
        images = zip(student.unbind(), teacher.detach().unbind(), indices, numbered, strict=True)
        with exact_products(student.device):
            terms = [
                self.image_terms(
                    ImageTokens(
                        of_student.index_select(0, index).to(dtype),
                        of_teacher.index_select(0, index).to(dtype),
                        *superpixels,
                        student.shape[1],
                    )
                )
                for of_student, of_teacher, index, superpixels in images
            ]
            feature, intra, cross = (torch.stack(term).mean() for term in zip(*terms, strict=True))
            weights = self.weights
            total = weights[0] * feature + weights[1] * intra + weights[2] * cross
        return LossTerms(total, feature, intra, cross)


def to_device(index: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the CPU to a device, without waiting for the copy."""
    if index.device == device:
        return index
    return (index.pin_memory() if device.type == "cuda" else index).to(device, non_blocking=True)


def _number(ids: Tensor, device: torch.device) -> tuple[Tensor, int]:
    """Renumber the superpixels of an image from 0, negative ids to -1; return ids and count."""
    negative = int((ids < 0).any())
    known, numbers = torch.unique(ids.clamp_min(-1), return_inverse=True)
    return to_device(numbers - negative, device), len(known) - negative


def _check_shapes(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor,
    regions: Tensor | None,
    covered: Tensor | None,
) -> None:
    if student.ndim != 3 or len(student) == 0 or student.shape != teacher.shape:
        msg = (
            f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} must both be "
            "[B, N, D]; the student's `project=True` brings it to the teacher's width"
        )
        raise DistillError(msg)
    for name, tensor in (("mask", mask), ("regions", regions), ("covered", covered)):
        if tensor is not None and tensor.shape != student.shape[:2]:
            msg = f"{name} {tuple(tensor.shape)} is not [B, N] = {tuple(student.shape[:2])}"
            raise DistillError(msg)


def _mean_absolute(tokens: ImageTokens) -> Tensor:
    total = functional.l1_loss(tokens.student, tokens.teacher, reduction="sum")
    return total / max(1, tokens.student.numel())


def _unit(tokens: ImageTokens) -> tuple[Tensor, Tensor]:
    return functional.normalize(tokens.student, dim=-1), functional.normalize(
        tokens.teacher, dim=-1
    )


def _features_alone(tokens: ImageTokens) -> tuple[Tensor, Tensor, Tensor]:
    zero = tokens.student.new_zeros(())
    return _mean_absolute(tokens), zero, zero


def _absolute_terms(
    tokens: ImageTokens, *, intra: bool, cross: bool
) -> tuple[Tensor, Tensor, Tensor]:
    pairs = max(1, len(tokens.student)) ** 2
    sums = blocked_residuals(*_unit(tokens), "absolute", intra=intra, cross=cross)
    return _mean_absolute(tokens), sums[0] / pairs, sums[1] / pairs


def _released_terms(tokens: ImageTokens) -> tuple[Tensor, Tensor, Tensor]:
    # The released code takes means over all tokens, where inactive ones add zeros.
    total = functional.l1_loss(tokens.student, tokens.teacher, reduction="sum")
    feature = total / (tokens.total * tokens.student.shape[1])
    intra, cross = blocked_residuals(*_unit(tokens), "released")
    return feature, intra / tokens.total**2, cross / tokens.total**2


def _active_terms(tokens: ImageTokens) -> tuple[Tensor, Tensor, Tensor]:
    pairs = max(1, len(tokens.student)) ** 2
    intra, cross = squared_residuals(*_unit(tokens))
    return _mean_absolute(tokens), intra / pairs, cross / pairs


def _superpixel_terms(
    tokens: ImageTokens, *, objective: str, count: int, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    regions, number = tokens.regions, tokens.region_count
    if regions is None:
        number = min(count, len(tokens.teacher))
        regions = cluster_tokens(tokens.teacher, number)
    student, filled = pool_regions(tokens.student, regions, number)
    teacher, _ = pool_regions(tokens.teacher, regions, number)
    zero = student.new_zeros(())
    if objective == "contrastive":
        return contrast(student, teacher, filled, temperature), zero, zero
    distances = (student - teacher).abs().mean(dim=1)  # empty regions are zero on both sides
    return distances.sum() / filled.sum().clamp_min(1), zero, zero


def _patch(*, feature: float = 1.0) -> DistillLoss:
    return DistillLoss("patch", _features_alone, (feature, 0.0, 0.0), every_token=True)


def _patch_mask(*, feature: float = 1.0) -> DistillLoss:
    return DistillLoss("patch_mask", _features_alone, (feature, 0.0, 0.0))


def _superpixel(
    *,
    feature: float = 1.0,
    objective: Literal["contrastive", "l1"] = "contrastive",
    count: int = 100,
    temperature: float = 0.07,
) -> DistillLoss:
    if objective not in {"contrastive", "l1"}:
        msg = f"the objective of superpixel is 'contrastive' or 'l1', not {objective!r}"
        raise DistillError(msg)
    if count < 1 or temperature <= 0:
        msg = f"superpixel needs count >= 1 and temperature > 0, not {count} and {temperature}"
        raise DistillError(msg)
    terms = partial(_superpixel_terms, objective=objective, count=count, temperature=temperature)
    return DistillLoss("superpixel", terms, (feature, 0.0, 0.0))


def _structure_intra(*, feature: float = 1.0, intra: float = 10.0) -> DistillLoss:
    terms = partial(_absolute_terms, intra=True, cross=False)
    return DistillLoss("structure_intra", terms, (feature, intra, 0.0))


def _structure_cross(*, feature: float = 1.0, cross: float = 4.0) -> DistillLoss:
    terms = partial(_absolute_terms, intra=False, cross=True)
    return DistillLoss("structure_cross", terms, (feature, 0.0, cross))


def _structure(*, feature: float = 1.0, intra: float = 10.0, cross: float = 4.0) -> DistillLoss:
    terms = partial(_absolute_terms, intra=True, cross=True)
    return DistillLoss("structure", terms, (feature, intra, cross))


def _structure_released(
    *, feature: float = 1.0, intra: float = 10.0, cross: float = 4.0
) -> DistillLoss:
    return DistillLoss("structure_released", _released_terms, (feature, intra, cross))


def _structure_active(
    *, feature: float = 1.0, intra: float = 10.0, cross: float = 4.0
) -> DistillLoss:
    return DistillLoss("structure_active", _active_terms, (feature, intra, cross))


_BUILDERS: dict[str, Callable[..., DistillLoss]] = {
    "patch": _patch,
    "patch_mask": _patch_mask,
    "superpixel": _superpixel,
    "structure_intra": _structure_intra,
    "structure_cross": _structure_cross,
    "structure": _structure,
    "structure_released": _structure_released,
    "structure_active": _structure_active,
}
LOSS_NAMES = tuple(_BUILDERS)
DEFAULT_LOSS = "structure_active"


def build_loss(name: str = DEFAULT_LOSS, **options: Any) -> DistillLoss:
    """Build a loss by name.

    Args:
        name: Name of the loss, one of `LOSS_NAMES`.
        options: Weights of the terms that the loss has (``feature``, ``intra``, ``cross``), and
            for ``superpixel`` its ``objective``, ``count`` and ``temperature``.

    Raises:
        DistillError: If there is no such loss, or an option is unknown or has an invalid value.
    """
    if name not in _BUILDERS:
        msg = f"no loss {name!r}; there are {', '.join(LOSS_NAMES)}"
        raise DistillError(msg)
    known = inspect.signature(_BUILDERS[name]).parameters
    for option in options:
        if option not in known:
            msg = f"the loss {name} has no option {option!r}; it has {', '.join(known)}"
            raise DistillError(msg)
    return _BUILDERS[name](**options)
