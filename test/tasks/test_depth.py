"""Depth runs: what counts, and that a student learns how far things are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from labelled_memory import HEIGHT, WIDTH, NearAndFar, tiny_model, train

from scaleevent_ros.distill.validation import ratios
from scaleevent_ros.models import load_student
from scaleevent_ros.tasks import load_heads
from scaleevent_ros.tasks.labelled import LabelledSample
from scaleevent_ros.tasks.objectives import Depth

if TYPE_CHECKING:
    from pathlib import Path


def test_a_run_learns_depth_and_leaves_a_head(tmp_path: Path) -> None:
    objective = Depth(tiny_model("depth_dpt", maximum=10.0, channels=8))
    log = train(objective, NearAndFar, tmp_path, epochs=12)
    losses = [entry["total"] for entry in log if entry["kind"] == "train"]
    first, last = (entry for entry in log if entry["kind"] == "validation")
    assert losses[-1] < 0.7 * losses[0]
    for name in ("rmse", "abs_rel", "events/rmse", "events/mean_10m"):
        assert last[name] < 0.7 * first[name], name
    assert last["delta1"] > first["delta1"] + 0.2
    assert objective.score(last) > objective.score(first)
    path = tmp_path / "best.safetensors"
    depth = load_heads(path)["depth"](load_student(path)(torch.zeros(1, 1, 32, 48)), (32, 48))
    assert depth.shape == (1, 1, 32, 48)


@pytest.mark.parametrize("unknown", [0.0, float("nan"), float("inf"), 10.0, 50.0])
def test_what_is_not_known_or_too_far_does_not_count(unknown: float) -> None:
    objective = Depth(tiny_model("depth_dpt", maximum=10.0, channels=8))
    model = objective.model.eval()
    events = torch.randn(2, 1, HEIGHT, WIDTH)
    truth = 1 + 8 * torch.rand(2, 1, HEIGHT, WIDTH)
    truth[:, :, 5:] = unknown
    at_events = torch.rand(2, HEIGHT, WIDTH) < 0.5
    with torch.no_grad():
        found = ratios(objective.measure(model, LabelledSample(events, truth, at_events), 0)[0])
        told = model(events)[:, :, :5]
    error = (told - truth[:, :, :5]).square()
    expected = torch.stack([image.mean().sqrt() for image in error]).mean()
    assert found["rmse"] == pytest.approx(float(expected), rel=1e-5)
    seen = [image[0][at[:5]].mean().sqrt() for image, at in zip(error, at_events, strict=True)]
    assert found["events/rmse"] == pytest.approx(float(torch.stack(seen).mean()), rel=1e-5)
    model.zero_grad()
    objective.losses(model, LabelledSample(events, truth, at_events))["total"].backward()  # type: ignore[no-untyped-call] # torch's own has no types
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
