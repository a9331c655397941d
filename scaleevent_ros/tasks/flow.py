"""The objective of a flow run: a student and its head learn where each pixel goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from scaleevent_ros.tasks.downstream import TaskObjective
from scaleevent_ros.tasks.losses import sequence_flow
from scaleevent_ros.tasks.metrics import flow_sums

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from scaleevent_ros.tasks.labelled import LabelledBatch


class Flow(TaskObjective):
    """Objective of flow: L1 loss of each refinement step, and EPE as the metric."""

    task = "flow"
    metric = "epe"
    better = -1

    def losses(self, model: nn.Module, batch: LabelledBatch) -> Mapping[str, Tensor]:
        """Compute the loss."""
        return {"total": sequence_flow(model(batch.events), batch.truth, _known(batch.truth))}

    def measure(
        self, model: nn.Module, batch: LabelledBatch, pictures: int
    ) -> tuple[Mapping[str, Tensor], list[NDArray[np.uint8]]]:
        """Update the metrics of all pixels with known flow, and of those with events."""
        del pictures
        flow, known = model(batch.events), _known(batch.truth)
        at_events = flow_sums(flow, batch.truth, known & batch.at_events)
        sums = flow_sums(flow, batch.truth, known)
        return {**sums, **{f"events/{name}": value for name, value in at_events.items()}}, []


def _known(truth: Tensor) -> Tensor:
    return torch.isfinite(truth).all(dim=1)
