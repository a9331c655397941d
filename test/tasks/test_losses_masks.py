"""Losses of masks against slow references: loops, resized maps and every assignment there is."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn import functional

from scaleevent_ros.tasks import losses_masks
from scaleevent_ros.tasks.losses import IGNORED
from scaleevent_ros.tasks.losses_masks import (
    MaskPrediction,
    mask_losses,
    match,
    matching_cost,
    read_masks,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def entropy(logits: Sequence[float], goals: Sequence[int]) -> float:
    told = [sigmoid(value) for value in logits]
    terms = [-math.log(p if g else 1 - p) for p, g in zip(told, goals, strict=True)]
    return sum(terms) / len(terms)


def dice(logits: Sequence[float], goals: Sequence[int]) -> float:
    told = [sigmoid(value) for value in logits]
    overlap = sum(p * g for p, g in zip(told, goals, strict=True))
    return 1 - (2 * overlap + 1) / (sum(told) + sum(goals) + 1)


def log_softmax(logits: Sequence[float]) -> list[float]:
    total = math.log(sum(math.exp(value) for value in logits))
    return [value - total for value in logits]


def slow_losses(
    masks: torch.Tensor, classes: torch.Tensor, truth: torch.Tensor, covered: tuple[int, int]
) -> tuple[float, float, float]:
    """Reference for one image: resize all masks, try every assignment."""
    fine = functional.interpolate(masks[None], covered, mode="bilinear", align_corners=False)[0]
    at = [(y, x) for y, x in (truth != IGNORED).nonzero().tolist()]
    present = sorted({int(truth[p]) for p in at})
    read = [[float(mask[p]) for p in at] for mask in fine]
    goals = [[int(truth[p] == c) for p in at] for c in present]
    told = [log_softmax(row) for row in classes.tolist()]

    def cost(query: int, number: int) -> float:
        return (
            5 * entropy(read[query], goals[number])
            + 5 * dice(read[query], goals[number])
            - 2 * math.exp(told[query][present[number]])
        )

    best = min(
        itertools.permutations(range(len(masks)), len(present)),
        key=lambda queries: sum(cost(q, n) for n, q in enumerate(queries)),
    )
    weights, total = 0.0, 0.0
    for query in range(len(masks)):
        none = query not in best
        wanted = classes.shape[1] - 1 if none else present[best.index(query)]
        weight = 0.1 if none else 1.0
        weights, total = weights + weight, total - weight * told[query][wanted]
    count = len(present)
    return (
        sum(entropy(read[q], goals[n]) for n, q in enumerate(best)) / count,
        sum(dice(read[q], goals[n]) for n, q in enumerate(best)) / count,
        total / weights,
    )


@pytest.mark.parametrize("seed", range(4))
def test_against_loops_and_every_assignment(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    masks = 2 * torch.randn(2, 4, 3, 4, generator=generator)
    classes = 2 * torch.randn(2, 4, 6, generator=generator)
    truth = torch.randint(0, 3, (2, 10, 15), generator=generator)
    truth[torch.rand(truth.shape, generator=generator) < 0.3] = IGNORED
    covered = (12, 16)  # the truth is of the first 10 rows and 15 columns
    slow = [slow_losses(masks[i], classes[i], truth[i], covered) for i in range(2)]
    (found,) = mask_losses([MaskPrediction(masks, classes)], truth, covered)
    for value, one, other in zip(found, *slow, strict=True):
        assert float(value) == pytest.approx((one + other) / 2, rel=1e-5)
    weighed = 5 * found.mask + 5 * found.dice + 2 * found.classes
    assert float(found.total) == pytest.approx(float(weighed))


def test_the_assignment_is_the_cheapest_whichever_are_more() -> None:
    generator = torch.Generator().manual_seed(0)
    for queries, masks in ((5, 3), (3, 5), (4, 4)):
        cost = torch.randn(queries, masks, generator=generator)
        (((rows,),), ((columns,),)) = match(cost[None, None], torch.ones(1, masks) > 0)
        assert len(rows) == min(queries, masks)
        square = cost if queries >= masks else cost.T
        cheapest = min(
            sum(float(square[q, n]) for n, q in enumerate(chosen))
            for chosen in itertools.permutations(range(len(square)), square.shape[1])
        )
        assert float(cost[rows, columns].sum()) == pytest.approx(cheapest, rel=1e-5)


def test_costs_of_matching_against_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(3, 7, generator=generator)
    classes = torch.randn(3, 5, generator=generator)
    goals = (torch.rand(2, 7, generator=generator) < 0.4).float()
    # Of four classes, the masks of two; and two points more that have no weight.
    padded = functional.pad(logits, (0, 2), value=9.0)
    every = torch.zeros(4, 9)
    every[[1, 3], :7], every[1, 7] = goals, 1
    weights = torch.tensor([7 * [1.0] + 2 * [0.0]])
    found = matching_cost(*(each[None] for each in (padded, classes, every, weights)))[0, :, [1, 3]]
    for query, number in itertools.product(range(3), range(2)):
        row, goal = logits[query].tolist(), [int(g) for g in goals[number].tolist()]
        likely = math.exp(log_softmax(classes[query].tolist())[(1, 3)[number]])
        wanted = 5 * entropy(row, goal) + 5 * dice(row, goal) - 2 * likely
        assert float(found[query, number]) == pytest.approx(wanted, rel=1e-5)


def test_masks_are_read_as_a_resized_map_is() -> None:
    masks = torch.randn(2, 3, 5)
    fine = functional.interpolate(masks[None], (12, 20), mode="bilinear", align_corners=False)[0]
    pixels = torch.cartesian_prod(torch.arange(12), torch.arange(20)).expand(2, -1, -1)
    found = read_masks(masks.unsqueeze(1), pixels, (12, 20)).squeeze(1)
    torch.testing.assert_close(found, fine.flatten(1))


def test_pixels_without_a_class_have_no_say() -> None:
    masks = torch.randn(1, 4, 6, 8, requires_grad=True)
    classes = torch.randn(1, 4, 3, requires_grad=True)
    truth = torch.randint(0, 2, (1, 6, 8))
    truth[:, :, 5:] = IGNORED
    total = mask_losses([MaskPrediction(masks, classes)], truth, (6, 8))[0].total
    total.backward()  # type: ignore[no-untyped-call] # torch's own has no types
    assert masks.grad is not None
    assert masks.grad[..., 5:].abs().max() == 0
    assert masks.grad[..., :5].abs().max() > 0


def test_an_image_without_any_class_adds_nothing() -> None:
    prediction = MaskPrediction(torch.randn(2, 4, 3, 4), torch.randn(2, 4, 3))
    truth = torch.randint(0, 2, (2, 12, 16))
    first = MaskPrediction(*(value[:1] for value in prediction))
    (alone,) = mask_losses([first], truth[:1], (12, 16))
    truth[1] = IGNORED
    (both,) = mask_losses([prediction], truth, (12, 16))
    torch.testing.assert_close(torch.stack(both), torch.stack(alone) / 2)
    (neither,) = mask_losses([prediction], torch.full_like(truth, IGNORED), (12, 16))
    assert torch.stack(neither).tolist() == [0, 0, 0]


def test_predictions_and_images_together_are_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses_masks, "POINTS", 60)  # of 192 pixels; an image has fewer known
    torch.manual_seed(0)
    predictions = [MaskPrediction(torch.randn(2, 5, 3, 4), torch.randn(2, 5, 4)) for _ in range(3)]
    truth = torch.randint(0, 3, (2, 12, 16))
    truth[0, 3:] = IGNORED  # 48 pixels are known
    truth[1] = torch.where(truth[0] == IGNORED, IGNORED, 2)
    together = mask_losses(predictions, truth, (12, 16))
    for number, terms in enumerate(together):
        alone = [
            mask_losses(
                [MaskPrediction(*(value[one : one + 1] for value in predictions[number]))],
                truth[one : one + 1],
                (12, 16),
            )[0]
            for one in range(2)
        ]
        torch.testing.assert_close(torch.stack(terms), torch.tensor(alone).mean(0))
    monkeypatch.setattr(losses_masks, "POINTS", 192)
    exact = mask_losses(predictions, truth, (12, 16))
    torch.testing.assert_close(torch.tensor(together), torch.tensor(exact))


def test_of_many_pixels_uncertain_ones_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses_masks, "POINTS", 400)
    masks = torch.full((2, 64, 64), 9.0)
    masks[0, :, 30:34] = 0.1  # a sixteenth of the image
    masks[1, 30:34] = 0.1
    named = torch.zeros(1, 64, 64, dtype=torch.int64)
    named[:, 31] = IGNORED
    known = losses_masks._known_pixels(named)
    torch.manual_seed(0)
    points = losses_masks._uncertain_points(masks[None], known, (64, 64))
    assert bool((points.weights == 1).all())
    (drawn,) = losses_masks._places(known, points)
    assert drawn.shape == (2, 400, 2)
    assert not (drawn[..., 0] == 31).any()
    # Of 1,200 drawn, 75 lie there on average: all are kept, besides a sixteenth of 100 others.
    for number, line in enumerate((drawn[0, :, 1], drawn[1, :, 0])):
        assert ((line >= 30) & (line < 34)).sum() > 50, number
    # Such points cost more than others, and change nothing of the classes.
    truth = torch.randint(0, 2, (1, 8, 8)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    near = torch.stack([2.0 * (truth[0] == 0) - 1, 2.0 * (truth[0] == 1) - 1, torch.zeros(64, 64)])
    near = functional.avg_pool2d(near, 4) + 0.3 * torch.randn(3, 16, 16)
    prediction = MaskPrediction(near[None], torch.randn(1, 3, 4))
    (terms,) = mask_losses([prediction], truth, (64, 64))
    monkeypatch.setattr(losses_masks, "POINTS", 64 * 64)
    (exact,) = mask_losses([prediction], truth, (64, 64))
    assert 1.05 * float(exact.mask) < float(terms.mask) < 2 * float(exact.mask)
    assert float(terms.classes) == pytest.approx(float(exact.classes))
