"""Loss of a head that predicts masks and their classes.

Source: Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation"
(Mask2Former), CVPR 2022, section 3.3, with the weights that Kerssies et al., "Your ViT is Secretly
an Image Segmentation Model" (EoMT), CVPR 2025, use too. Each class of an image is one true mask.
Masks are compared at sampled points only. Unlike there, points are pixels with a known class, and
all images have the same weight, so that the numbers of processes and of accumulated parts do not
change a loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from scaleevent_ros.distill.losses import to_device
from scaleevent_ros.tasks.losses import IGNORED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

MASK_WEIGHT, DICE_WEIGHT, CLASS_WEIGHT = 5.0, 5.0, 2.0
NO_OBJECT_WEIGHT = 0.1
"""Weight of queries without a mask in the cross-entropy of classes."""

POINTS = 112 * 112
"""Number of points at which masks are compared; fewer known pixels are used completely."""
_OVERSAMPLING, _UNCERTAIN = 3, 0.75  # PointRend's, as in Mask2Former


class MaskPrediction(NamedTuple):
    """Output of a mask head.

    Attributes:
        masks: Logits of each query's mask, ``[B, Q, h, w]``.
        classes: Logits of each query's class, ``[B, Q, C + 1]``; the last is that of no class.
    """

    masks: Tensor
    classes: Tensor


class MaskTerms(NamedTuple):
    """Unweighted terms of the loss, scalars.

    Attributes:
        mask: Binary cross-entropy of the matched masks.
        dice: Dice loss of the matched masks.
        classes: Cross-entropy of the queries' classes.
    """

    mask: Tensor
    dice: Tensor
    classes: Tensor

    @property
    def total(self) -> Tensor:
        """Weighted sum of the terms."""
        return MASK_WEIGHT * self.mask + DICE_WEIGHT * self.dice + CLASS_WEIGHT * self.classes


class _KnownPixels(NamedTuple):
    """Pixels of a batch that have a class.

    Attributes:
        labels: Class ids, int64 ``[B, H * W]``.
        order: Pixel numbers, those with a class first, int64 ``[B, H * W]``.
        number: Number of pixels with a class, int64 ``[B, 1, 1]``.
        width: Width W of the images.
    """

    labels: Tensor
    order: Tensor
    number: Tensor
    width: int


class _Points(NamedTuple):
    """Pixels at which masks are compared.

    Attributes:
        numbers: Pixel numbers, int64 ``[B, M, P]``.
        weights: 1, or 0 for padding where an image has fewer known pixels, ``[B, 1, P]``.
    """

    numbers: Tensor
    weights: Tensor


def mask_losses(
    predictions: Sequence[MaskPrediction], truth: Tensor, covered: tuple[int, int]
) -> list[MaskTerms]:
    """Match queries with the classes of each image, and compare masks and classes.

    It waits for the device once, to match the costs of all predictions and images on the CPU. The
    trainer's check of the previous step has arrived by then, and causes no further wait.

    Args:
        predictions: Outputs of a mask head.
        truth: Class ids, int64 ``[B, H, W]``; `IGNORED` where there is none.
        covered: Height and width of the pixels that the masks cover: H and W with padding.

    Returns:
        Terms of each prediction: means over images, where an image without any class has 0.
    """
    known = _known_pixels(truth)
    with torch.no_grad():
        classes = predictions[0].classes.shape[2] - 1
        labels = known.labels.where(known.labels != IGNORED, classes)
        present = truth.new_zeros(len(truth), classes + 1).scatter_(1, labels, 1)[:, :classes] > 0
        points = _draw(known, 1, POINTS)
        names = torch.arange(classes, device=truth.device)
        goals = (_labels(known, points) == names[:, None]).float()
        costs = [
            matching_cost(
                read_masks(one.masks.float(), _places(known, points)[:, 0], covered),
                one.classes.float(),
                goals,
                points.weights,
            )
            for one in predictions
        ]
        queries, wanted = match(torch.stack(costs), present)
    return [
        _terms(*each, known, covered) for each in zip(predictions, queries, wanted, strict=True)
    ]


def _terms(
    prediction: MaskPrediction,
    queries: Tensor,
    wanted: Tensor,
    known: _KnownPixels,
    covered: tuple[int, int],
) -> MaskTerms:
    """Compute the terms of one prediction, given its matches: queries and classes ``[B, M]``."""
    masks, classes = prediction.masks.float(), prediction.classes.float()
    matched = queries >= 0
    index = queries.clamp_min(0)[:, :, None, None].expand(-1, -1, *masks.shape[2:])
    chosen = masks.gather(1, index)
    with torch.no_grad():
        points = _uncertain_points(chosen, known, covered)
    logits = _read_each(chosen, _places(known, points), covered)
    goals = (_labels(known, points) == wanted[:, :, None]).float()
    weights = points.weights * matched[:, :, None]
    entropy = functional.binary_cross_entropy_with_logits(logits, goals, reduction="none")
    mask = (entropy * weights).sum((1, 2)) / weights.sum((1, 2)).clamp_min(1)
    dice = (mask_dice(logits, goals, points.weights) * matched).sum(1)
    # Queries without a mask write into a slot behind the last query.
    count, none = classes.shape[1], classes.shape[2] - 1
    goal = queries.new_full((len(queries), count + 1), none)
    goal.scatter_(1, queries.where(matched, count), wanted.clamp_min(0))
    goal = goal[:, :count]
    weights = torch.where(goal == none, NO_OBJECT_WEIGHT, 1.0)
    entropy = functional.cross_entropy(classes.mT, goal, reduction="none")
    class_term = (entropy * weights).sum(1) / weights.sum(1)
    return MaskTerms(
        mask.mean(),
        (dice / matched.sum(1).clamp_min(1)).mean(),
        class_term.where(known.number[:, 0, 0] > 0, 0).mean(),
    )


def mask_dice(logits: Tensor, goals: Tensor, weights: Tensor) -> Tensor:
    """Compute one minus the Dice coefficient of each mask.

    With probabilities p and ground truth g at P points it is ``1 - (2 * sum(p * g) + 1) / (sum(p) +
    sum(g) + 1)``, as in MaskFormer (Cheng, Schwing and Kirillov, NeurIPS 2021). The added ones
    limit the weight of small masks.

    Args:
        logits: Predicted logits of M masks, ``[..., M, P]``.
        goals: True masks, ``[..., M, P]``, 0 or 1.
        weights: Weights of the points, ``[..., 1, P]``, 0 or 1.

    Returns:
        ``[..., M]``.
    """
    probable, goals = logits.sigmoid() * weights, goals * weights
    overlap = 2 * (probable * goals).sum(-1) + 1
    return 1 - overlap / (probable.sum(-1) + goals.sum(-1) + 1)


def matching_cost(logits: Tensor, classes: Tensor, goals: Tensor, weights: Tensor) -> Tensor:
    """Compute the matching cost between queries and classes: the loss of each pair.

    The cost of a class is its negative probability, not the cross-entropy (Mask2Former; DETR).

    Args:
        logits: Logits of the queries' masks at the points, ``[B, Q, P]``.
        classes: Logits of the queries' classes and of no class, ``[B, Q, C + 1]``.
        goals: True mask of each class at the points, ``[B, C, P]``, 0 or 1.
        weights: Weights of the points, ``[B, 1, P]``, 0 or 1.

    Returns:
        ``[B, Q, C]``.
    """
    likely = classes.softmax(dim=2)[..., :-1]
    inside, outside = goals * weights, (1 - goals) * weights
    entropy = functional.softplus(-logits) @ inside.mT + functional.softplus(logits) @ outside.mT
    entropy = entropy / weights.sum(2, keepdim=True).clamp_min(1)
    probable = logits.sigmoid() * weights
    overlap = 2 * probable @ inside.mT + 1
    dice = 1 - overlap / (probable.sum(2)[:, :, None] + inside.sum(2)[:, None] + 1)
    return MASK_WEIGHT * entropy + DICE_WEIGHT * dice - CLASS_WEIGHT * likely


def match(costs: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Assign to each true mask another query, with the least total cost (Hungarian algorithm).

    Args:
        costs: Costs of L predictions, ``[L, B, Q, C]``.
        present: Whether an image has a class, bool ``[B, C]``.

    Returns:
        Matched queries and their classes, int64 ``[L, B, M]``, padded with -1; M is the largest
        number of matches in an image, at least 1.
    """
    from scipy.optimize import linear_sum_assignment

    # A cost that is not finite would raise here, before the trainer reports the loss.
    marked = costs.nan_to_num().where(present[:, None, :], torch.inf).cpu()  # the only wait
    images = marked.flatten(0, 1).numpy()
    pairs = []
    for image in images:
        columns = np.flatnonzero(np.isfinite(image[0]))
        queries, numbers = linear_sum_assignment(image[:, columns])
        pairs.append((queries, columns[numbers]))
    most = max(1, *(len(queries) for queries, _ in pairs))
    found = torch.full((2, len(pairs), most), -1)
    for number, pair in enumerate(pairs):
        found[:, number, : len(pair[0])] = torch.from_numpy(np.stack(pair))
    queries, classes = to_device(found, costs.device).view(2, *costs.shape[:2], most)
    return queries, classes


def read_masks(masks: Tensor, pixels: Tensor, covered: tuple[int, int]) -> Tensor:
    """Read masks bilinearly at the centres of pixels.

    Args:
        masks: ``[N, M, h, w]``.
        pixels: Rows and columns, int64 ``[N, P, 2]``.
        covered: Height and width of the pixels that a mask covers.

    Returns:
        ``[N, M, P]``: values of the masks, resized to ``covered``, at these pixels.
    """
    rows, columns = pixels.unbind(-1)
    places = [2 * (columns + 0.5) / covered[1] - 1, 2 * (rows + 0.5) / covered[0] - 1]
    return functional.grid_sample(
        masks, torch.stack(places, -1).unsqueeze(1), padding_mode="border", align_corners=False
    )[:, :, 0]


def _read_each(masks: Tensor, pixels: Tensor, covered: tuple[int, int]) -> Tensor:
    """Read masks ``[B, M, h, w]``, each at its own pixels, ``[B, M, P, 2]``."""
    found = read_masks(masks.flatten(0, 1).unsqueeze(1), pixels.flatten(0, 1), covered)
    return found.view(*masks.shape[:2], -1)


def _known_pixels(truth: Tensor) -> _KnownPixels:
    labels = truth.flatten(1)
    known = labels != IGNORED
    order = known.int().argsort(dim=1, descending=True, stable=True)
    return _KnownPixels(labels, order, known.sum(1)[:, None, None], truth.shape[2])


def _places(known: _KnownPixels, points: _Points) -> Tensor:
    """Return rows and columns of points, int64 ``[B, M, P, 2]``."""
    numbers, width = points.numbers, known.width
    return torch.stack([numbers.div(width, rounding_mode="floor"), numbers % width], -1)


def _labels(known: _KnownPixels, points: _Points) -> Tensor:
    """Return the class ids of points, int64 ``[B, M, P]``."""
    return known.labels.gather(1, points.numbers.flatten(1)).view_as(points.numbers)


def _draw(known: _KnownPixels, masks: int, points: int) -> _Points:
    """Draw known pixels for each of M masks; if an image has no more than the points, use all."""
    batch, pixels = known.order.shape
    first = torch.arange(min(points, pixels), device=known.order.device)
    ranks = first.expand(batch, masks, -1)
    weights = (first < known.number).float()
    if pixels > points:
        drawn = torch.rand(batch, masks, points, device=first.device) * known.number
        drawn = drawn.long().minimum(known.number - 1).clamp_min(0)  # rounding may reach the count
        ranks = drawn.where(known.number > points, ranks)
    return _Points(known.order.gather(1, ranks.flatten(1)).view_as(ranks), weights)


def _uncertain_points(masks: Tensor, known: _KnownPixels, covered: tuple[int, int]) -> _Points:
    """Draw points for each mask ``[B, M, h, w]``, most of them where the mask is least certain.

    Source: Kirillov et al., "PointRend", CVPR 2020, section 3.1.
    """
    points = _draw(known, masks.shape[1], POINTS)
    if known.order.shape[1] <= POINTS:
        return points
    drawn = _draw(known, masks.shape[1], _OVERSAMPLING * POINTS)
    certainty = _read_each(masks, _places(known, drawn), covered).abs()
    certainty = certainty.where(drawn.weights > 0, torch.inf)
    uncertain = int(_UNCERTAIN * POINTS)
    best = certainty.topk(min(uncertain, certainty.shape[2]), dim=2, largest=False).indices
    numbers = torch.cat(
        [drawn.numbers.gather(2, best), points.numbers[..., best.shape[2] :]], dim=2
    )
    return points._replace(numbers=numbers.where(known.number > POINTS, points.numbers))
