"""The objective of a segmentation run: a student and its head learn to name pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scaleevent_ros.tasks.downstream import TaskObjective
from scaleevent_ros.tasks.eomt import EomtSegmentation
from scaleevent_ros.tasks.losses import IGNORED, cross_entropy, dice
from scaleevent_ros.tasks.losses_masks import mask_losses
from scaleevent_ros.tasks.metrics import confusion_matrix, segmentation_scores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from scaleevent_ros.tasks.labelled import LabelledBatch
    from scaleevent_ros.tasks.losses_masks import MaskPrediction


class Segmentation(TaskObjective):
    """Objective of segmentation, with the mean IoU of the header's classes as the metric.

    The loss is cross-entropy plus dice, as in Sun et al., "ESS", ECCV 2022; for a head of queries
    and masks, `mask_losses` of each of its predictions.
    """

    task = "segmentation"
    metric = "miou"
    better = 1

    def losses(self, model: nn.Module, batch: LabelledBatch) -> Mapping[str, Tensor]:
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
        self, predictions: Sequence[MaskPrediction], batch: LabelledBatch
    ) -> Mapping[str, Tensor]:
        """Sum the total over predictions; return the terms of the last one, which is used."""
        stride = self._header.heads[self.task]["stride"]
        height, width = (length + -length % stride for length in batch.truth.shape[-2:])
        found = mask_losses(predictions, batch.truth, (height, width))
        total = sum((terms.total for terms in found[1:]), found[0].total)
        return {"total": total, **found[-1]._asdict()}

    def measure(
        self, model: nn.Module, batch: LabelledBatch, pictures: int
    ) -> tuple[Mapping[str, Tensor], list[NDArray[np.uint8]]]:
        """Count pixels by true and predicted class: all, and those with events; draw nothing."""
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
        """Update one confusion matrix over the set; ``events/`` is of pixels with events."""
        at_events = segmentation_scores(sums["events"])
        return {
            **segmentation_scores(sums["all"], self._header.classes),
            **{f"events/{name}": value for name, value in at_events.items()},
        }
