"""Task losses against slow references, pixel by pixel in plain Python."""

from __future__ import annotations

import math

import pytest
import torch

from scaleevent_ros.tasks.losses import (
    IGNORED,
    cross_entropy,
    dice,
    scale_invariant_log,
    sequence_flow,
)


def labelled(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, 4, 3, 5, generator=generator)
    truth = torch.randint(0, 3, (2, 3, 5), generator=generator)  # class 3 never occurs
    truth[torch.rand(truth.shape, generator=generator) < 0.3] = IGNORED
    return logits, truth


def probabilities(logits: torch.Tensor, at: tuple[int, int, int]) -> list[float]:
    values = [math.exp(float(logits[at[0], c, at[1], at[2]])) for c in range(logits.shape[1])]
    return [value / sum(values) for value in values]


def pixels(truth: torch.Tensor, image: int) -> list[tuple[int, int, int]]:
    return [(image, y, x) for y, x in (truth[image] != IGNORED).nonzero().tolist()]


@pytest.mark.parametrize("seed", range(3))
def test_cross_entropy_against_a_loop(seed: int) -> None:
    logits, truth = labelled(seed)
    wanted = 0.0
    for image in range(2):
        at = pixels(truth, image)
        wanted += sum(-math.log(probabilities(logits, p)[int(truth[p])]) for p in at) / len(at)
    assert float(cross_entropy(logits, truth)) == pytest.approx(wanted / 2, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_dice_against_a_loop(seed: int) -> None:
    logits, truth = labelled(seed)
    wanted = 0.0
    for image in range(2):
        coefficients = []
        for c in range(4):
            overlap = squares = present = 0.0
            for at in pixels(truth, image):
                p, g = probabilities(logits, at)[c], float(truth[at] == c)
                overlap, squares, present = overlap + p * g, squares + p * p, present + g
            if present:
                coefficients.append(2 * overlap / (squares + present))
        wanted += 1 - sum(coefficients) / len(coefficients)
    assert float(dice(logits, truth)) == pytest.approx(wanted / 2, rel=1e-5)


def test_right_labels_cost_nothing_and_wrong_ones_all() -> None:
    truth = torch.tensor([[[0, 1], [1, IGNORED]]])
    right = 100.0 * torch.nn.functional.one_hot(truth.clamp(max=1), 2).movedim(-1, 1)
    assert float(dice(right, truth)) == pytest.approx(0, abs=1e-6)
    assert float(cross_entropy(right, truth)) == pytest.approx(0, abs=1e-6)
    assert float(dice(-right, truth)) == pytest.approx(1)
    assert float(cross_entropy(-right, truth)) == pytest.approx(100)


def test_scale_invariant_log_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    depth = 1 + 20 * torch.rand(2, 1, 3, 4, generator=generator)
    truth = 1 + 20 * torch.rand(2, 1, 3, 4, generator=generator)
    truth[0, 0, 0, :3] = torch.tensor([0.0, float("nan"), float("inf")])
    wanted = 0.0
    for image, count in ((0, 9), (1, 12)):
        differences = [
            math.log(float(t)) - math.log(float(d))
            for t, d in zip(truth[image].flatten(), depth[image].flatten(), strict=True)
            if 0 < float(t) < math.inf
        ]
        assert len(differences) == count
        mean = sum(differences) / count
        wanted += math.sqrt(sum(d * d for d in differences) / count - 0.5 * mean**2)
    assert float(scale_invariant_log(depth, truth)) == pytest.approx(wanted / 2, rel=1e-5)
    doubled = scale_invariant_log(2 * truth, truth, balance=1.0)
    assert float(doubled) == pytest.approx(0, abs=2e-3)
    assert float(scale_invariant_log(2 * truth, truth)) == pytest.approx(
        math.log(2) * math.sqrt(0.5), rel=1e-5
    )


def test_sequence_flow_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    steps = list(torch.randn(3, 1, 2, 2, 3, generator=generator))
    truth = torch.randn(1, 2, 2, 3, generator=generator)
    known = torch.tensor([[[True, False, True], [True, True, False]]])
    truth[0, :, 0, 1] = float("nan")
    wanted = 0.0
    for i, step in enumerate(steps):
        errors = [
            abs(float(step[0, 0, y, x] - truth[0, 0, y, x]))
            + abs(float(step[0, 1, y, x] - truth[0, 1, y, x]))
            for y in range(2)
            for x in range(3)
            if known[0, y, x]
        ]
        wanted += 0.8 ** (2 - i) * sum(errors) / 4
    assert float(sequence_flow(steps, truth, known)) == pytest.approx(wanted, rel=1e-5)


def test_a_batch_in_parts_costs_the_mean_of_its_parts() -> None:
    """Images with different numbers of known pixels: processes and accumulation change nothing."""
    logits, truth = labelled(0)
    logits, truth = torch.cat([logits, logits.flip(0)]), torch.cat([truth, truth])
    truth[0] = IGNORED
    truth[1, :2] = IGNORED
    generator = torch.Generator().manual_seed(1)
    depth, true_depth = 1 + torch.rand(2, 4, 1, 3, 5, generator=generator)
    true_depth[0, 0, :2] = 0
    flow, true_flow = torch.randn(2, 4, 2, 3, 5, generator=generator)
    known = torch.rand(4, 3, 5, generator=generator) < 0.5

    def costs(part: slice) -> torch.Tensor:
        return torch.stack(
            [
                cross_entropy(logits[part], truth[part]),
                dice(logits[part], truth[part]),
                scale_invariant_log(depth[part], true_depth[part]),
                sequence_flow([flow[part]], true_flow[part], known[part]),
            ]
        )

    parts = (costs(slice(0, 2)) + costs(slice(2, 4))) / 2
    torch.testing.assert_close(costs(slice(0, 4)), parts)


def test_nothing_known_costs_nothing_and_leaves_finite_gradients() -> None:
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    nowhere = torch.full((1, 2, 2), IGNORED)
    depth = torch.ones(1, 1, 2, 2, requires_grad=True)
    flow = torch.randn(1, 2, 2, 2, requires_grad=True)
    losses = [
        cross_entropy(logits, nowhere),
        dice(logits, nowhere),
        scale_invariant_log(depth, torch.full((1, 1, 2, 2), float("nan"))),
        sequence_flow([flow], torch.full((1, 2, 2, 2), float("nan")), nowhere < 0),
    ]
    assert [float(loss.detach()) for loss in losses] == [0.0] * 4
    gradients = torch.autograd.grad(torch.stack(losses).sum(), (logits, depth, flow))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_a_perfect_depth_has_a_finite_gradient() -> None:
    depth = torch.full((1, 1, 2, 2), 3.0, requires_grad=True)
    loss = scale_invariant_log(depth, torch.full((1, 1, 2, 2), 3.0))
    assert torch.autograd.grad(loss, depth)[0].isfinite().all()
