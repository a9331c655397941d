"""The objective of pretraining: distil an image teacher into an event student."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import torch
from torch.nn import functional

from scaleevent_ros.data.dataset import move_cells
from scaleevent_ros.distill.losses import build_loss, to_device
from scaleevent_ros.distill.validation import affinity_correlation_sums, cosine_sums, ratios
from scaleevent_ros.models import tokens
from scaleevent_ros.models.checkpoints import git_revision, write_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from scaleevent_ros.data.dataset import Batch
    from scaleevent_ros.data.sequences import SequenceBatch
    from scaleevent_ros.distill.losses import DistillLoss, LossTerms
    from scaleevent_ros.models import Student, Teacher
    from scaleevent_ros.models.feature_statistics import FeatureStatistics


class FeatureSource(Protocol):
    """A teacher, or a cache of its features."""

    def __call__(self, frames: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """Compute the features of frames; see `Teacher.forward`."""


class Panel(NamedTuple):
    """Validation sample for a picture, on the CPU.

    Attributes:
        events: The event tensor, float32 [bins, H, W].
        frame: uint8 [3, H', W'], RGB.
        teacher: Teacher features, float32 [D, h, w], without their mean over the training set.
        student: Student features in the same space, float32 [D, h, w].
        active: Active tokens, bool [h, w].
    """

    events: Tensor
    frame: Tensor
    teacher: Tensor
    student: Tensor
    active: Tensor


class Compared(NamedTuple):
    """Features of student and teacher for a batch, and the loss between them.

    Attributes:
        student: Projected student features, ``[B, D, h, w]``, with a gradient; in standardized
            space if ``student.header.standardized``.
        teacher: Teacher features, ``[B, D, h, w]``, not standardized.
        terms: Terms of the loss.
    """

    student: Tensor
    teacher: Tensor
    terms: LossTerms


def dilate_mask(active: Tensor, dilation: int) -> Tensor:
    """Add the tokens that are at most ``dilation`` rows and columns away from an active one.

    Args:
        active: bool ``[B, h, w]``.
        dilation: 0 adds none.
    """
    if dilation == 0:
        return active
    dilated = active.float()
    for reach in ((dilation, 0), (0, dilation)):  # rows, then columns
        size = (2 * reach[0] + 1, 2 * reach[1] + 1)
        dilated = functional.max_pool2d(dilated, size, stride=1, padding=reach)
    return dilated > 0


def draw_kept(active: Tensor, count: int) -> Tensor:
    """Choose the patch tokens of each image that are kept, by PyTorch's generator.

    The trainer seeds it for each step, so that a resumed run makes the same choice.

    Args:
        active: Tokens that are kept before all others, bool ``[B, N]`` on the CPU.
        count: Number of tokens to keep; if more than the active ones, others are drawn at random.

    Returns:
        Indices of the kept tokens, int64 ``[B, count]`` on the CPU, ascending.
    """
    rank = torch.rand(active.shape).masked_fill(active, -1)
    return rank.argsort(dim=1)[:, :count].sort(dim=1).values


def _mask_of(kept: Tensor, like: Tensor) -> Tensor:
    """Mark kept tokens, int64 ``[B, K]``, in a mask of the shape of another, bool ``[B, h, w]``."""
    return torch.zeros_like(like).flatten(1).scatter(1, kept, value=True).view_as(like)


def _shares(batch: Batch, kept: Tensor | None) -> dict[str, Tensor]:
    """Return the share of tokens that are active and, if not all are, of those computed."""
    shares = {"active": (batch.active & batch.covered).float().mean()}
    if kept is not None:
        shares["computed"] = torch.tensor(kept.shape[1] / batch.active[0].numel())
    return shares


def teacher_features(source: FeatureSource, batch: Batch) -> Tensor:
    """Return the teacher's features of a batch: those stored in its samples, else computed ones.

    Returns:
        ``[B, D, h, w]``, float32, shifted and flipped by ``batch.moves``.
    """
    features = batch.features.float()
    if not len(features):
        grid = (batch.active.shape[-2], batch.active.shape[-1])
        size = (batch.events.shape[-2], batch.events.shape[-1])
        features = source(batch.frames, grid, size)
    return move_cells(features, batch.moves)


class Distillation:
    """The objective of pretraining, for `Trainer`.

    Attributes:
        model: The student.
    """

    def __init__(
        self,
        student: Student,
        teacher: Teacher,
        loss: DistillLoss,
        *,
        dilation: int = 0,
        final_dilation: int | None = None,
        patch_dropout: float = 0.0,
        features: FeatureSource | None = None,
        statistics: FeatureStatistics | None = None,
        autocast: Callable[[], AbstractContextManager[Any]] | None = None,
        draw: Callable[[Panel], NDArray[np.uint8]] | None = None,
    ) -> None:
        """Combine student, teacher and loss.

        Args:
            student: Student whose projected features have the teacher's width.
            teacher: Frozen teacher.
            loss: Distillation loss.
            dilation: Dilation of the mask of active tokens, see `dilate_mask`.
            final_dilation: Dilation at the end of training, reached linearly; None keeps it.
            patch_dropout: Share of the student's patch tokens that are dropped in training (Li et
                al., "Scaling Language-Image Pre-training via Masking", CVPR 2023).
            features: Source of the teacher's features, such as a cache; the teacher if None.
            statistics: Statistics of the teacher's features: needed for a standardized target
                (``student.header.standardized``); with them, cosines are of centred features.
            autocast: Context in which the teacher's features are computed.
            draw: Function that draws a validation sample, uint8 [H, W, 3]; no pictures if None.
        """
        self.model = cast("nn.Module", student)
        self._student = student
        self._teacher = teacher
        self._features = teacher if features is None else features
        self._loss = loss
        self._dilation = dilation
        self._dilations = (dilation, dilation if final_dilation is None else final_dilation)
        self._patch_dropout = patch_dropout
        self._statistics = statistics
        self._standardized = student.header.standardized
        self._autocast = autocast
        self._draw = draw

    def to(self, device: torch.device) -> None:
        """Move the teacher and its statistics to a device."""
        self._teacher.to(device)
        if self._statistics is not None:
            self._statistics = self._statistics.to(device)

    def start_step(self, progress: float) -> None:
        """Set the dilation of the mask; ``progress`` is the share of the run that is done."""
        first, last = self._dilations
        self._dilation = round(first + (last - first) * progress)

    def compare(self, model: nn.Module, batch: Batch, kept: Tensor | None = None) -> Compared:
        """Compute features of student and teacher, and the loss between them.

        Args:
            model: Student.
            batch: Pairs.
            kept: Patch tokens that the student computes and that enter the loss, int64 ``[B, K]``
                on the CPU; all if None.
        """
        with nullcontext() if self._autocast is None else self._autocast():
            of_teacher = teacher_features(self._features, batch)
        mask = (dilate_mask(batch.active, self._dilation) & batch.covered).flatten(1)
        covered = batch.covered.flatten(1)
        if kept is None:
            of_student = model(batch.events, project=True)
        else:
            computed = _mask_of(kept, batch.covered).flatten(1)
            mask, covered = mask & computed, covered & computed
            moved = to_device(kept, batch.events.device)
            of_student = model(batch.events, project=True, kept=moved)
        terms = self._loss(
            tokens(of_student),
            tokens(self._target(of_teacher)),
            mask,
            covered=covered,
        )
        return Compared(of_student, of_teacher, terms)

    def _target(self, of_teacher: Tensor) -> Tensor:
        """Return the target of the student's features, ``[B, D, h, w]``."""
        if self._statistics is not None and self._standardized:
            return self._statistics.standardize(of_teacher)
        return of_teacher

    def _centered(self, compared: Compared) -> tuple[Tensor, Tensor]:
        """Transform both features to the teacher's space, without its mean, ``[B, D, h, w]``."""
        statistics, student, teacher = self._statistics, compared.student, compared.teacher
        if statistics is None:
            return student, teacher
        scaled = statistics.scale(student) if self._standardized else statistics.center(student)
        return scaled, statistics.center(teacher)

    def losses(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Compute the terms of the loss, and the share of active tokens (``active``)."""
        kept = self._draw_tokens(batch.active)
        terms = self.compare(model, batch, kept).terms._asdict()
        return {**terms, **_shares(batch, kept)}

    def _draw_tokens(self, active: Tensor) -> Tensor | None:
        """Choose the tokens of a training step, given the active ones ``[B, h, w]``; None for all.

        Images have equally many: where fewer are active, more anchors are drawn.
        """
        total = active[0].numel()
        choice = self._student.header.active_tokens
        if choice is not None:
            active = dilate_mask(active, choice.dilation).flatten(1)
            return draw_kept(active, choice.count(int(active.sum(1).max()), total))
        if self._patch_dropout:
            keep = max(1, round(total * (1 - self._patch_dropout)))
            return draw_kept(torch.zeros_like(active.flatten(1)), keep)
        return None

    def measure(
        self, model: nn.Module, batch: Batch, pictures: int
    ) -> tuple[Mapping[str, Tensor], list[NDArray[np.uint8]]]:
        """Compare features with the teacher's, on active and on all covered tokens.

        The teacher's mean is removed from both first, where its statistics are known. A student of
        active tokens computes those that it would in the runtime. Only these and active ones are
        compared, the latter also with its own features of all tokens (``cosine_full``).
        """
        kept = self._student.choose_tokens(batch.events)
        compared = self.compare(model, batch, kept)
        if kept is None:
            return self._measure(compared, batch, pictures)
        computed = _mask_of(kept, batch.covered)
        batch = batch._replace(covered=batch.covered & (computed | batch.active))
        sums, drawn = self._measure(compared, batch, pictures)
        student, full = tokens(compared.student), tokens(model(batch.events, project=True))
        active = (batch.active & batch.covered).flatten(1).to(student.device)
        return {**sums, "cosine_full": cosine_sums(student, full, active)}, drawn

    def _measure(
        self, compared: Compared, batch: Batch, pictures: int
    ) -> tuple[Mapping[str, Tensor], list[NDArray[np.uint8]]]:
        maps = self._centered(compared)
        student, teacher = tokens(maps[0]), tokens(maps[1])
        masks = (batch.active & batch.covered, batch.covered)
        active, covered = (mask.flatten(1).to(student.device) for mask in masks)
        images = covered.any(dim=1).sum().double()
        sums = {
            "cosine_active": cosine_sums(student, teacher, active),
            "cosine_all": cosine_sums(student, teacher, covered),
            "affinity_correlation": affinity_correlation_sums(student, teacher, active),
            "active": torch.stack([active.sum().double(), covered.sum().double()]),
        }
        for name, value in compared.terms._asdict().items():
            # The mean is over all images; those that pad the batch add nothing to its sum.
            sums[name] = torch.stack([value.double() * len(student), images])
        return sums, self._pictures(batch, *maps, pictures)

    def summarize(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Compute each metric, given its sum and the sum's weight as float64 ``[2]``."""
        return ratios(sums)

    def score(self, metrics: Mapping[str, float]) -> float:
        """Return the mean cosine on active tokens, which does not depend on the loss."""
        return metrics["cosine_active"]

    def write(self, path: Path, tensors: dict[str, Tensor], extra: dict[str, Any]) -> None:
        """Write the student with its header."""
        header = self._student.header
        header = replace(header, git_revision=git_revision(), extra={**header.extra, **extra})
        write_checkpoint(path, tensors, header)

    def _pictures(
        self, batch: Batch, student: Tensor, teacher: Tensor, count: int
    ) -> list[NDArray[np.uint8]]:
        if self._draw is None:
            return []
        return [
            self._draw(
                Panel(
                    batch.events[i].float().cpu(),
                    batch.frames[i].cpu(),
                    teacher[i].float().cpu(),
                    student[i].detach().float().cpu(),
                    batch.active[i].cpu(),
                )
            )
            for i in range(min(count, len(batch.events)))
        ]


class SequenceDistillation(Distillation):
    """The objective of a student with memory, on sequences of windows.

    The features of each window alone are trained as without memory. Those of the memory are trained
    on all covered tokens, since the memory has features where a window has no events. Metrics
    compare the memory's features with the teacher's.
    """

    def __init__(self, *arguments: Any, memory_weight: float = 1.0, **options: Any) -> None:
        """Combine student, teacher and losses.

        Args:
            arguments: Positional arguments of `Distillation`.
            memory_weight: Weight of the memory's loss.
            options: Keyword arguments of `Distillation`.
        """
        super().__init__(*arguments, **options)
        self._memory_weight = memory_weight
        self._memory_loss = build_loss("patch")

    def losses(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        """Compute the loss terms of windows and memory, and the share of active tokens."""
        windows = batch.windows
        kept = self._draw_tokens(windows.active)
        compared, memory = self._compare_sequences(model, batch, kept)
        values = compared.terms._asdict()
        total = values["total"] + self._memory_weight * memory.total
        return {**values, "memory": memory.total, "total": total, **_shares(windows, kept)}

    def measure(
        self, model: nn.Module, batch: Any, pictures: int
    ) -> tuple[Mapping[str, Tensor], list[NDArray[np.uint8]]]:
        """Compare the memory's features with the teacher's."""
        kept = self._student.choose_tokens(batch.windows.events)
        compared, memory = self._compare_sequences(model, batch, kept)
        return self._measure(compared._replace(terms=memory), batch.windows, pictures)

    def _compare_sequences(
        self, model: nn.Module, batch: SequenceBatch, kept: Tensor | None
    ) -> tuple[Compared, LossTerms]:
        """Return the memory's features with the loss terms of windows alone, and the memory's."""
        windows = batch.windows
        with nullcontext() if self._autocast is None else self._autocast():
            of_teacher = teacher_features(self._features, windows)
        target = tokens(self._target(of_teacher))
        events, elapsed_s = batch.in_order
        mask = (dilate_mask(windows.active, self._dilation) & windows.covered).flatten(1)
        covered = windows.covered.flatten(1)
        computed = covered
        if kept is not None:
            computed = covered & _mask_of(kept, windows.covered).flatten(1)
            kept = torch.unflatten(kept, 0, batch.elapsed_s.shape).flip(0).transpose(0, 1)
            kept = to_device(kept.contiguous(), events.device)
        both = model(events, project=True, elapsed_s=elapsed_s, kept=kept)
        alone, remembered = (each.transpose(0, 1).flip(0).flatten(0, 1) for each in both)
        terms = self._loss(tokens(alone), target, mask & computed, covered=computed)
        memory = self._memory_loss(tokens(remembered), target, covered, covered=covered)
        return Compared(remembered, of_teacher, terms), memory
