"""Loss of a head that predicts masks and their classes.

Source: Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation"
(Mask2Former), CVPR 2022, section 3.3, with the weights that Kerssies et al., "Your ViT is Secretly
an Image Segmentation Model" (EoMT), CVPR 2025, keep. Each class of an image is one true mask. Masks
are compared at some points only. Other than there, points are whole pixels, all of them of a known
class, and each image counts alike, so that neither processes nor accumulated parts change a loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional

from scaleevent_ros.tasks.losses import IGNORED

if TYPE_CHECKING:
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
        classes: Logits of each query's class, ``[B, Q, C + 1]``; the last: none.
    """

    masks: Tensor
    classes: Tensor


class MaskTerms(NamedTuple):
    """Terms of the loss, unweighted: scalars."""

    mask: Tensor
    dice: Tensor
    classes: Tensor

    @property
    def total(self) -> Tensor:
        """Weigh them."""
        return MASK_WEIGHT * self.mask + DICE_WEIGHT * self.dice + CLASS_WEIGHT * self.classes


def mask_losses(prediction: MaskPrediction, truth: Tensor, covered: tuple[int, int]) -> MaskTerms:
    """Match queries with the classes of each image, and compare masks and classes.

    Args:
        prediction: Output of a mask head.
        truth: Class ids, int64 ``[B, H, W]``; `IGNORED` where there is none.
        covered: Height and width of the pixels that the masks span: H and W, and their padding.

    Returns:
        Means over images; one without any class counts as 0.
    """
    terms = [
        _of_image(masks.float(), classes.float(), labels, covered)
        for masks, classes, labels in zip(*prediction, truth, strict=True)
    ]
    return MaskTerms(*(torch.stack(values).mean() for values in zip(*terms, strict=True)))


def _of_image(masks: Tensor, classes: Tensor, truth: Tensor, covered: tuple[int, int]) -> MaskTerms:
    known = (truth != IGNORED).nonzero()
    if not len(known):
        nothing = 0 * (masks.sum() + classes.sum())
        return MaskTerms(nothing, nothing, nothing)
    labels = truth[known[:, 0], known[:, 1]]
    present = torch.unique(labels)
    with torch.no_grad():
        chosen = _some(len(known), 1, POINTS, known.device)[0]
        logits = read_masks(masks, known[chosen].expand(len(masks), -1, -1), covered)
        goals = (labels[chosen] == present[:, None]).float()
        queries, matched = match(matching_cost(logits, classes[:, present], classes, goals))
        points = _uncertain_points(masks[queries], known, covered)
    logits = read_masks(masks[queries], known[points], covered)
    goals = (labels[points] == present[matched, None]).float()
    wanted = torch.full((len(classes),), classes.shape[1] - 1, device=classes.device)
    wanted[queries] = present[matched]
    weights = torch.ones(classes.shape[1], device=classes.device)
    weights[-1] = NO_OBJECT_WEIGHT
    return MaskTerms(
        functional.binary_cross_entropy_with_logits(logits, goals),
        mask_dice(logits, goals).mean(),
        functional.cross_entropy(classes, wanted, weights),
    )


def mask_dice(logits: Tensor, goals: Tensor) -> Tensor:
    """Compute one minus the Dice coefficient of each mask.

    With probabilities p and truth g at its points it is ``1 - (2 * sum(p * g) + 1) / (sum(p) +
    sum(g) + 1)``, the form of MaskFormer (Cheng, Schwing and Kirillov, NeurIPS 2021), whose ones
    keep small masks from ruling.

    Args:
        logits: ``[M, P]``.
        goals: ``[M, P]``, 0 or 1.

    Returns:
        ``[M]``.
    """
    told = logits.sigmoid()
    overlap = 2 * (told * goals).sum(1) + 1
    return 1 - overlap / (told.sum(1) + goals.sum(1) + 1)


def matching_cost(
    logits: Tensor, present_logits: Tensor, all_logits: Tensor, goals: Tensor
) -> Tensor:
    """Matching cost between queries and ground-truth masks.

    Its class costs the negative probability in place of the cross-entropy (Mask2Former; DETR).

    Args:
        logits: Logits of the queries' masks at the points, ``[Q, P]``.
        present_logits: Logits of the ground-truth masks' classes, ``[Q, M]``.
        all_logits: Logits of all classes and none, ``[Q, C + 1]``.
        goals: The true masks at the points, ``[M, P]``, 0 or 1.

    Returns:
        ``[Q, M]``.
    """
    likely = (present_logits - all_logits.logsumexp(dim=1, keepdim=True)).exp()
    outside, inside = functional.softplus(logits), functional.softplus(-logits)
    entropy = (inside @ goals.T + outside @ (1 - goals).T) / goals.shape[1]
    told = logits.sigmoid()
    overlap = 2 * told @ goals.T + 1
    dice = 1 - overlap / (told.sum(1)[:, None] + goals.sum(1)[None] + 1)
    return MASK_WEIGHT * entropy + DICE_WEIGHT * dice - CLASS_WEIGHT * likely


def match(cost: Tensor) -> tuple[Tensor, Tensor]:
    """Match each ground-truth mask to a query at the least total cost (Hungarian matching).

    Args:
        cost: ``[Q, M]``.

    Returns:
        Queries and the masks that they get, int64 ``[min(Q, M)]``.
    """
    from scipy.optimize import linear_sum_assignment

    # Of a loss that is not finite the trainer tells, the assignment would stop before it.
    rows, columns = linear_sum_assignment(cost.nan_to_num().cpu().numpy())
    return (
        torch.from_numpy(rows).to(cost.device),
        torch.from_numpy(columns).to(cost.device),
    )


def read_masks(masks: Tensor, pixels: Tensor, covered: tuple[int, int]) -> Tensor:
    """Read masks bilinearly at the centres of pixels.

    Args:
        masks: ``[M, h, w]``.
        pixels: Row and column, int64 ``[M, P, 2]``.
        covered: Height and width of the pixels that a mask spans.

    Returns:
        ``[M, P]``: what the masks, resized to ``covered``, hold there.
    """
    size = torch.tensor(covered, device=masks.device)
    places = (2 * (pixels + 0.5) / size - 1).flip(-1).unsqueeze(1)
    return functional.grid_sample(
        masks.unsqueeze(1), places, padding_mode="border", align_corners=False
    )[:, 0, 0]


def _some(count: int, masks: int, points: int, device: torch.device) -> Tensor:
    """Draw points for each mask, numbers below ``count``: all there are if they are no more."""
    if count <= points:
        return torch.arange(count, device=device).expand(masks, -1)
    return torch.randint(count, (masks, points), device=device)


def _uncertain_points(masks: Tensor, known: Tensor, covered: tuple[int, int]) -> Tensor:
    """Draw points for each mask, most of them where it is least certain.

    Source: Kirillov et al., "PointRend", CVPR 2020, section 3.1.

    Args:
        masks: ``[M, h, w]``.
        known: Rows and columns to choose from, int64 ``[K, 2]``.
        covered: Covered pixels, as in `read_masks`.

    Returns:
        Numbers of ``known``, ``[M, P]``.
    """
    if len(known) <= POINTS:
        return _some(len(known), len(masks), POINTS, known.device)
    drawn = _some(len(known), len(masks), _OVERSAMPLING * POINTS, known.device)
    certainty = read_masks(masks, known[drawn], covered).abs()
    uncertain = int(_UNCERTAIN * POINTS)
    best = certainty.topk(min(uncertain, drawn.shape[1]), dim=1, largest=False).indices
    others = torch.randint(len(known), (len(masks), POINTS - best.shape[1]), device=known.device)
    return torch.cat([drawn.gather(1, best), others], dim=1)
