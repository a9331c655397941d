"""The step of pretraining: a student of events is drawn to a teacher of frames."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import torch
from torch.nn import functional

from scaleevent_ros.data.dataset import move_cells
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
    from scaleevent_ros.distill.losses import DistillLoss, LossTerms
    from scaleevent_ros.models import Student, Teacher
    from scaleevent_ros.models.feature_statistics import FeatureStatistics


class FeatureSource(Protocol):
    """A teacher, or a memory of one."""

    def __call__(self, frames: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """See `Teacher.forward`."""


class Panel(NamedTuple):
    """What there is to see of one validation sample, on the CPU.

    Attributes:
        events: The event tensor, float32 [bins, H, W].
        frame: uint8 [3, H', W'], RGB.
        teacher: Features, float32 [D, h, w], without their mean over the training set.
        student: Features in the teacher's space, likewise, float32 [D, h, w].
        active: bool [h, w].
    """

    events: Tensor
    frame: Tensor
    teacher: Tensor
    student: Tensor
    active: Tensor


class Compared(NamedTuple):
    """A batch seen by both.

    Attributes:
        student: Projected features, ``[B, D, h, w]``, with a gradient; standardized if the
            student's header says so.
        teacher: Features, ``[B, D, h, w]``, not standardized.
        terms: Of the loss.
    """

    student: Tensor
    teacher: Tensor
    terms: LossTerms


def grow(active: Tensor, margin: int) -> Tensor:
    """Add the tokens that are at most ``margin`` away from an active one, rows and columns alike.

    Args:
        active: bool ``[B, h, w]``.
        margin: 0 adds none.
    """
    if margin == 0:
        return active
    return functional.max_pool2d(active.float(), 2 * margin + 1, stride=1, padding=margin) > 0


def teacher_features(source: FeatureSource, batch: Batch) -> Tensor:
    """Take the teacher's features of a batch from its samples, or else from their source.

    Returns:
        ``[B, D, h, w]``, float32, moved as the batch says.
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
        margin: int = 0,
        features: FeatureSource | None = None,
        statistics: FeatureStatistics | None = None,
        autocast: Callable[[], AbstractContextManager[Any]] | None = None,
        draw: Callable[[Panel], NDArray[np.uint8]] | None = None,
    ) -> None:
        """Put student, teacher and loss together.

        Args:
            student: With a projection to the teacher's width where theirs differ.
            teacher: Whose features are to be had.
            loss: What is minimized.
            margin: Of tokens around active ones that the loss looks at too.
            features: Where the teacher's features come from instead of the teacher itself.
            statistics: Of the teacher's features, if the student learns them standardized
                (``student.header.standardized``) or cosines are to be centred.
            autocast: In which the teacher computes.
            draw: Makes a picture of a validation sample, uint8 [H, W, 3].
        """
        self.model = cast("nn.Module", student)
        self._student = student
        self._teacher = teacher
        self._features = teacher if features is None else features
        self._loss = loss
        self._margin = margin
        self._statistics = statistics
        self._standardized = student.header.standardized
        self._autocast = autocast
        self._draw = draw

    def to(self, device: torch.device) -> None:
        """Move the teacher and its statistics."""
        self._teacher.to(device)
        if self._statistics is not None:
            self._statistics = self._statistics.to(device)

    def start_step(self, progress: float) -> None:
        """Do nothing: the loss is the same throughout a run."""

    def compare(self, model: nn.Module, batch: Batch) -> Compared:
        """Let both see a batch."""
        with nullcontext() if self._autocast is None else self._autocast():
            taught = teacher_features(self._features, batch)
        learned = model(batch.events, project=True)
        target = taught
        if self._statistics is not None and self._standardized:
            target = self._statistics.standardize(taught)
        terms = self._loss(
            tokens(learned),
            tokens(target),
            (grow(batch.active, self._margin) & batch.covered).flatten(1),
            covered=batch.covered.flatten(1),
        )
        return Compared(learned, taught, terms)

    def _centered(self, compared: Compared) -> tuple[Tensor, Tensor]:
        """Bring both features to the teacher's space with its mean removed, ``[B, D, h, w]``."""
        statistics, learned, taught = self._statistics, compared.student, compared.teacher
        if statistics is None:
            return learned, taught
        scaled = statistics.scale(learned) if self._standardized else statistics.center(learned)
        return scaled, statistics.center(taught)

    def losses(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Compute the terms of the loss, and the share of active tokens."""
        terms = self.compare(model, batch).terms._asdict()
        return {**terms, "active": (batch.active & batch.covered).float().mean()}

    def measure(
        self, model: nn.Module, batch: Batch, pictures: int
    ) -> tuple[Mapping[str, Tensor], list[NDArray[np.uint8]]]:
        """Compare features with the teacher's, on active and on all covered tokens.

        The teacher's mean is removed from both first, where its statistics are known.
        """
        compared = self.compare(model, batch)
        maps = self._centered(compared)
        learned, taught = tokens(maps[0]), tokens(maps[1])
        active, covered = (batch.active & batch.covered).flatten(1), batch.covered.flatten(1)
        images = covered.any(dim=1).sum().double()
        sums = {
            "cosine_active": cosine_sums(learned, taught, active),
            "cosine_all": cosine_sums(learned, taught, covered),
            "affinity_correlation": affinity_correlation_sums(learned, taught, active),
            "active": torch.stack([active.sum().double(), covered.sum().double()]),
        }
        for name, value in compared.terms._asdict().items():
            # The mean is over all images; those that pad the batch add nothing to its sum.
            sums[name] = torch.stack([value.double() * len(learned), images])
        return sums, self._pictures(batch, *maps, pictures)

    def summarize(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Divide each sum by its weight; the two are float64 [2]."""
        return ratios(sums)

    def score(self, metrics: Mapping[str, float]) -> float:
        """Judge by the cosine on active tokens, which no choice of loss can flatter by scale."""
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
