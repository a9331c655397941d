"""Training objectives of task heads: segmentation, depth and optical flow."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch

from scaleevent_ros.distill.validation import ratios
from scaleevent_ros.models.checkpoints import git_revision, write_checkpoint
from scaleevent_ros.models.student import HEADS
from scaleevent_ros.tasks.eomt import EomtSegmentation
from scaleevent_ros.tasks.losses import (
    IGNORED,
    cross_entropy,
    dice,
    scale_invariant_log,
    sequence_flow,
)
from scaleevent_ros.tasks.losses_masks import mask_losses
from scaleevent_ros.tasks.metrics import (
    confusion_matrix,
    depth_sums,
    flow_sums,
    segmentation_scores,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from scaleevent_ros.tasks.downstream import Downstream, PictureDownstream
    from scaleevent_ros.tasks.labelled import LabelledSample
    from scaleevent_ros.tasks.losses_masks import MaskPrediction


class TaskObjective:
    """Base of all tasks' objectives, for `scaleevent_ros.distill.trainer.Trainer`.

    Attributes:
        task: Name of the task.
        metric: Name of the metric by which checkpoints are compared.
        better: 1 if a higher value of the metric is better, -1 if a lower one is.
        model: Student, or its teacher, with the head.
    """

    task: ClassVar[str]
    metric: ClassVar[str]
    better: ClassVar[int]

    def __init__(self, model: Downstream | PictureDownstream) -> None:
        """Create the objective of a model.

        Args:
            model: Student, or its teacher, with the head, which the student's header describes.
        """
        self.model = cast("nn.Module", model)
        self._head = model.head
        self._header = model.student.header

    def to(self, device: torch.device) -> None:
        """Do nothing: the objective has no tensors besides the model."""

    def start_step(self, progress: float) -> None:
        """Anneal the attention masks of `EomtSegmentation`; nothing for other heads."""
        if isinstance(self._head, EomtSegmentation):
            self._head.anneal(progress)

    def summarize(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Compute means over images; those in ``events/`` use only pixels with events."""
        return ratios(sums)

    def score(self, metrics: Mapping[str, float]) -> float:
        """Return the task's metric, negated if lower values are better."""
        return self.better * metrics[self.metric]

    def write(self, path: Path, tensors: dict[str, Tensor], extra: dict[str, Any]) -> None:
        """Write student and head to one checkpoint, which the runtime can load."""
        names = {"student.": "", "head.": f"{HEADS}{self.task}."}
        renamed = {
            new + name.removeprefix(old): value
            for name, value in tensors.items()
            for old, new in names.items()
            if name.startswith(old)
        }
        header = replace(self._header, git_revision=git_revision())
        write_checkpoint(path, renamed, replace(header, extra={**header.extra, **extra}))


class Segmentation(TaskObjective):
    """Objective of segmentation, with the mean IoU of the header's classes as the metric.

    The loss is cross-entropy plus dice, as in Sun et al., "ESS", ECCV 2022; for a head of queries
    and masks, `mask_losses` of each of its predictions.
    """

    task = "segmentation"
    metric = "miou"
    better = 1

    def losses(self, model: nn.Module, batch: LabelledSample) -> Mapping[str, Tensor]:
        """Compute the loss and its terms."""
        output: Any = model(batch.events)
        if isinstance(self._head, EomtSegmentation):
            return self._mask_terms(output, batch)
        terms = {
            "cross_entropy": cross_entropy(output, batch.truth),
            "dice": dice(output, batch.truth),
        }
        return {"total": terms["cross_entropy"] + terms["dice"], **terms}

    def _mask_terms(
        self, predictions: Sequence[MaskPrediction], batch: LabelledSample
    ) -> Mapping[str, Tensor]:
        """Return the loss, summed over all predictions, and the terms of the last prediction."""
        stride = self._header.heads[self.task]["stride"]
        height, width = (length + -length % stride for length in batch.truth.shape[-2:])
        found = mask_losses(predictions, batch.truth, (height, width))
        total = sum((terms.total for terms in found[1:]), found[0].total)
        return {"total": total, **found[-1]._asdict()}

    def measure(
        self, model: nn.Module, batch: LabelledSample, pictures: int
    ) -> tuple[Mapping[str, Tensor], list[NDArray[np.uint8]]]:
        """Compute confusion matrices of all pixels, and of those with events; no pictures."""
        del pictures
        predicted = model(batch.events).argmax(dim=1)
        classes = len(self._header.classes)
        at_events = batch.truth.where(batch.at_events, IGNORED)
        sums = {
            "all": confusion_matrix(predicted, batch.truth, classes),
            "events": confusion_matrix(predicted, at_events, classes),
        }
        return sums, []

    def summarize(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Compute scores from confusion matrices; those in ``events/`` use pixels with events."""
        at_events = segmentation_scores(sums["events"])
        return {
            **segmentation_scores(sums["all"], self._header.classes),
            **{f"events/{name}": value for name, value in at_events.items()},
        }


class Depth(TaskObjective):
    """Objective of metric depth: scale-invariant logarithmic loss, and RMSE as the metric.

    Depth at or beyond the head's maximum, which it cannot predict, is ignored in loss and metrics,
    as in the evaluation of E2Depth, which clips at 80 m.
    """

    task = "depth"
    metric = "rmse"
    better = -1

    def losses(self, model: nn.Module, batch: LabelledSample) -> Mapping[str, Tensor]:
        """Compute the loss."""
        return {"total": scale_invariant_log(model(batch.events), self._known(batch.truth))}

    def measure(
        self, model: nn.Module, batch: LabelledSample, pictures: int
    ) -> tuple[Mapping[str, Tensor], list[NDArray[np.uint8]]]:
        """Compute sums of metrics over all pixels with known depth, and over those with events."""
        del pictures
        depth, truth = model(batch.events), self._known(batch.truth)
        return _sums(depth_sums, depth, truth, truth.squeeze(1) > 0, batch), []

    def _known(self, truth: Tensor) -> Tensor:
        """Set unknown depths and those at or beyond the head's maximum to 0."""
        maximum = float(self._header.heads[self.task]["maximum"])
        return truth.where((truth > 0) & (truth < maximum), 0)


class Flow(TaskObjective):
    """Objective of flow: L1 loss of each refinement step, and EPE as the metric."""

    task = "flow"
    metric = "epe"
    better = -1

    def losses(self, model: nn.Module, batch: LabelledSample) -> Mapping[str, Tensor]:
        """Compute the loss."""
        known = torch.isfinite(batch.truth).all(dim=1)
        return {"total": sequence_flow(model(batch.events), batch.truth, known)}

    def measure(
        self, model: nn.Module, batch: LabelledSample, pictures: int
    ) -> tuple[Mapping[str, Tensor], list[NDArray[np.uint8]]]:
        """Compute sums of metrics over all pixels with known flow, and over those with events."""
        del pictures
        flow, known = model(batch.events), torch.isfinite(batch.truth).all(dim=1)
        return _sums(flow_sums, flow, batch.truth, known, batch), []


def _sums(
    measure: Callable[[Tensor, Tensor, Tensor], Mapping[str, Tensor]],
    output: Tensor,
    truth: Tensor,
    known: Tensor,
    batch: LabelledSample,
) -> dict[str, Tensor]:
    """Compute sums of metrics over all known pixels, and over those with events."""
    at_events = measure(output, truth, known & batch.at_events)
    events = {f"events/{name}": value for name, value in at_events.items()}
    return {**measure(output, truth, known), **events}


OBJECTIVES = {kind.task: kind for kind in (Segmentation, Depth, Flow)}
"""Objectives by task."""
