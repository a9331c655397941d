"""The objective of a depth run: a student and its head learn how far each pixel is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaleevent_ros.tasks.downstream import TaskObjective
from scaleevent_ros.tasks.losses import scale_invariant_log
from scaleevent_ros.tasks.metrics import depth_sums

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from scaleevent_ros.tasks.labelled import LabelledBatch


class Depth(TaskObjective):
    """Objective of metric depth: scale-invariant logarithmic loss, and RMSE as the metric.

    Depth at the head's maximum or beyond is ignored in loss and metrics, as in the evaluation of
    E2Depth, which clips at 80 m: a head cannot predict it.
    """

    task = "depth"
    metric = "rmse"
    better = -1

    def losses(self, model: nn.Module, batch: LabelledBatch) -> Mapping[str, Tensor]:
        """Compute the loss."""
        return {"total": scale_invariant_log(model(batch.events), self._known(batch.truth))}

    def measure(
        self, model: nn.Module, batch: LabelledBatch, pictures: int
    ) -> tuple[Mapping[str, Tensor], list[NDArray[np.uint8]]]:
        """Update the metrics of all pixels with known depth, and of those with events."""
        del pictures
        depth, truth = model(batch.events), self._known(batch.truth)
        known = truth.squeeze(1) > 0
        at_events = depth_sums(depth, truth, known & batch.at_events)
        sums = depth_sums(depth, truth, known)
        return {**sums, **{f"events/{name}": value for name, value in at_events.items()}}, []

    def _known(self, truth: Tensor) -> Tensor:
        """Set depths to 0 that are not known or too far."""
        maximum = float(self._header.heads[self.task]["maximum"])
        return truth.where((truth > 0) & (truth < maximum), 0)
