"""Flow runs: which window is which, what counts, and that a student learns where things go."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from labelled_memory import HEIGHT, WIDTH, SlidingDots, tiny_model, train

from scaleevent_ros.distill.validation import ratios
from scaleevent_ros.models import load_student
from scaleevent_ros.tasks import load_heads
from scaleevent_ros.tasks.labelled import LabelledSample
from scaleevent_ros.tasks.objectives import Flow

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS = {"channels": 12, "radius": 2, "iterations": 3}


def test_a_run_learns_flow_and_leaves_a_head(tmp_path: Path) -> None:
    objective = Flow(tiny_model("flow_correlation", **OPTIONS))
    log = train(objective, SlidingDots, tmp_path, epochs=12)
    losses = [entry["total"] for entry in log if entry["kind"] == "train"]
    first, last = (entry for entry in log if entry["kind"] == "validation")
    assert losses[-1] < 0.7 * losses[0]
    for name in ("epe", "angular", "events/epe", "events/angular"):
        assert last[name] < 0.7 * first[name], name
    assert objective.score(last) > objective.score(first)
    path = tmp_path / "best.safetensors"
    features = load_student(path)(torch.zeros(2, 1, HEIGHT, WIDTH))
    flow = load_heads(path)["flow"](features[:1], features[1:], (HEIGHT, WIDTH))
    assert flow.shape == (1, 2, HEIGHT, WIDTH)


def test_the_first_window_is_the_one_before() -> None:
    model = tiny_model("flow_correlation", **OPTIONS).eval()
    events = torch.randn(3, 2, 1, HEIGHT, WIDTH)
    with torch.no_grad():
        before, after = model.student(events[:, 0]), model.student(events[:, 1])
        expected = model.head(before, after, (HEIGHT, WIDTH))
        assert (expected - model.head(after, before, (HEIGHT, WIDTH))).abs().max() > 1e-3
        torch.testing.assert_close(model(events), expected, atol=1e-4, rtol=1e-4)
        steps = model.train()(events)
    assert len(steps) == 3
    torch.testing.assert_close(steps[-1], expected, atol=1e-4, rtol=1e-4)


def test_what_is_not_known_does_not_count() -> None:
    objective = Flow(tiny_model("flow_correlation", **OPTIONS))
    model = objective.model.eval()
    events = torch.randn(2, 2, 1, HEIGHT, WIDTH)
    truth = 5 * torch.randn(2, 2, HEIGHT, WIDTH)
    truth[:, 0, 5:] = float("nan")
    truth[1] = float("inf")
    at_events = torch.rand(2, HEIGHT, WIDTH) < 0.5
    batch = LabelledSample(events, truth, at_events)
    with torch.no_grad():
        found = ratios(objective.measure(model, batch, 0)[0])
        error = (model(events) - truth)[0, :, :5].norm(dim=0)
    assert found["epe"] == pytest.approx(float(error.mean()), rel=1e-5)
    assert found["events/epe"] == pytest.approx(float(error[at_events[0, :5]].mean()), rel=1e-5)
    model.train()
    loss = objective.losses(model, batch)["total"]
    loss.backward()  # type: ignore[no-untyped-call] # torch's own has no types
    assert bool(torch.isfinite(loss))
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
