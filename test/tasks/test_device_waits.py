"""Training steps of all tasks wait for the device at most once before the trainer's check."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from device_waits import META, DeviceWaits

from scaleevent_ros.models import build_student
from scaleevent_ros.tasks import build_head, describe_head, losses_masks
from scaleevent_ros.tasks.downstream import Downstream
from scaleevent_ros.tasks.heads import HEAD_KINDS, task_of
from scaleevent_ros.tasks.labelled import LabelledSample
from scaleevent_ros.tasks.objectives import OBJECTIVES

if TYPE_CHECKING:
    from torch import Tensor

VIT = {"embed_dim": 24, "depth": 3, "num_heads": 2}
OPTIONS: dict[str, dict[str, Any]] = {
    "segmentation_linear": {"classes": 3},
    "segmentation_dpt": {"classes": 3, "channels": 8},
    "segmentation_eomt": {"classes": 3, "queries": 5, "blocks": 2},
    "depth_dpt": {"maximum": 80.0, "channels": 8},
    "flow_correlation": {"channels": 8, "radius": 2, "iterations": 2},
}
SIZE = (48, 64)


def on_device(task: str) -> LabelledSample:
    shape = {"segmentation": (), "depth": (1,), "flow": (2,)}[task]
    kind = torch.int64 if task == "segmentation" else torch.float32
    windows = (2,) if task == "flow" else ()
    return LabelledSample(
        torch.empty(2, *windows, 5, *SIZE, device=META),
        torch.empty(2, *shape, *SIZE, dtype=kind, device=META),
        torch.empty(2, *SIZE, dtype=torch.bool, device=META),
    )


@pytest.mark.parametrize("kind", HEAD_KINDS)
@pytest.mark.parametrize("points", [20, 10_000])
@pytest.mark.parametrize("architecture", ["vit_tiny_patch16_224", "vit_tiny_patch16_dinov3_qkvb"])
def test_losses_do_not_wait(
    kind: str, points: int, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = build_student(architecture, 5, "random", options=VIT)
    task, options = task_of(kind), OPTIONS[kind]
    described = {task: describe_head(kind, student.width, student.stride, **options)}
    student.header = replace(student.header, heads=described, classes=["a", "b", "c"])
    head = build_head(kind, student.width, student.stride, **options)
    objective = OBJECTIVES[task](Downstream(student, head, frozen=False).train())
    objective.model.to(META)
    objective.to(META)
    matched = 0

    def match(costs: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Stand in for the assignment on the CPU, which needs values of the device."""
        nonlocal matched
        matched += 1
        assert costs.shape == (3, 2, 5, 3)
        assert present.shape == (2, 3)
        found = torch.zeros(3, 2, 3, dtype=torch.int64, device=META)
        return found, found

    monkeypatch.setattr(losses_masks, "match", match)
    monkeypatch.setattr(losses_masks, "POINTS", points)
    for _ in range(2):
        matched = 0
        with DeviceWaits() as waits:
            objective.start_step(0.5)
            losses = objective.losses(objective.model, on_device(task))
            losses["total"].backward()  # type: ignore[no-untyped-call]
        assert matched == (kind == "segmentation_eomt")
    assert waits.found == []  # of the second step: in the first, positions may be copied
