"""Metrics of the benchmarks, as sums that can be added over batches and processes.

Segmentation has one confusion matrix over the whole set, as in ESS (uzh-rpg/ess,
``evaluation/metrics.py``). Depth and flow are computed in each image, and images are averaged, as
E2Depth (uzh-rpg/rpg_e2depth, ``evaluation.py``) and EV-FlowNet (daniilidis-group/EV-FlowNet,
``src/eval_utils.py`` and ``test.py``) do, and DSEC-Flow's authors in their own code (uzh-rpg/bflow,
``utils/metrics.py``); an image of which nothing is known does not count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torchmetrics.functional.classification import multiclass_confusion_matrix

from scaleevent_ros.tasks.losses import IGNORED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

DEPTH_LIMITS = (10, 20, 30)
"""Limits of true depth in m below which mean errors are computed."""


def confusion_matrix(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Count pixels by their true and their predicted class.

    Args:
        predicted: Class ids, integers ``[B, H, W]``.
        truth: Ground truth as the prediction; `IGNORED` where unknown.
        classes: C.

    Returns:
        float64 ``[C, C]``: rows by true class, columns by predicted class. Matrices add up.
    """
    counts = multiclass_confusion_matrix(
        predicted, truth, num_classes=classes, ignore_index=IGNORED, validate_args=False
    )
    return counts.double()


def segmentation_scores(matrix: Tensor, classes: Sequence[str] = ()) -> dict[str, float]:
    """Compute segmentation metrics from a confusion matrix.

    Args:
        matrix: Confusion matrix from `confusion_matrix`, summed over the whole set.
        classes: Their names, for the IoU of each.

    Returns:
        ``miou``: intersection over union, averaged over the classes that are in truth or
        prediction, as torchmetrics does (ESS's code counts other classes as 0; on whole test sets
        there are none); ``accuracy``: share of pixels that are right; and ``iou/NAME`` of each of
        those classes. Where there is no truth at all, ``miou`` and ``accuracy`` are 0.
    """
    right = matrix.diag()
    union = matrix.sum(0) + matrix.sum(1) - right
    there = union > 0
    iou = right / union.clamp(min=1)
    scores = {
        "miou": float(iou[there].mean()) if there.any() else 0.0,
        "accuracy": float(right.sum() / matrix.sum().clamp(min=1)),
    }
    return scores | {f"iou/{name}": float(iou[i]) for i, name in enumerate(classes) if there[i]}


def depth_sums(depth: Tensor, truth: Tensor, at: Tensor) -> dict[str, Tensor]:
    """Compute depth metrics.

    Args:
        depth: ``[B, 1, H, W]`` in m, above 0.
        truth: Ground truth as the prediction; 0, or not finite, where unknown.
        at: Pixels that count, bool ``[B, H, W]``: those with events, or all.

    Returns:
        By name, the sum over images and their number, float64 ``[2]``. ``rmse`` in m; ``abs_rel``:
        error relative to the truth; ``delta1`` to ``delta3``: share of pixels whose ratio to the
        truth, or the truth's to them, is below 1.25, 1.25 ** 2 and 1.25 ** 3 (Eigen et al., NIPS
        2014); ``mean_10m``, ``mean_20m``, ``mean_30m``: mean error in m of pixels whose true depth
        is below that (Zhu et al., CVPR 2019, on MVSEC; E2Depth). E2Depth's code moreover leaves
        out pixels whose prediction is beyond the farthest truth; here none escapes by its error.
    """
    predicted, true = depth.double().squeeze(1), truth.double().squeeze(1)
    known = torch.isfinite(true) & (true > 0) & at
    true = true.where(known, 1)
    error = (predicted - true).abs()
    ratio = torch.maximum(predicted / true, true / predicted.clamp(min=1e-9))
    sums = {
        "rmse": _over_images(error.square(), known, root=True),
        "abs_rel": _over_images(error / true, known),
    }
    for power in (1, 2, 3):
        sums[f"delta{power}"] = _over_images((ratio < 1.25**power).double(), known)
    for limit in DEPTH_LIMITS:
        sums[f"mean_{limit}m"] = _over_images(error, known & (true < limit))
    return sums


def flow_sums(flow: Tensor, truth: Tensor, at: Tensor) -> dict[str, Tensor]:
    """Compute optical flow metrics.

    Args:
        flow: ``[B, 2, H, W]`` in pixels.
        truth: Ground truth as the prediction.
        at: Pixels that count, bool ``[B, H, W]``: those whose truth is known, or those of them that
            have events.

    Returns:
        By name, the sum over images and their number, float64 ``[2]``. ``epe``: length of the
        difference, in pixels; ``1pe``, ``2pe``, ``3pe``: share of pixels where it is longer than
        so many pixels (Gehrig et al., "E-RAFT", 3DV 2021, for DSEC-Flow); ``outliers``: share where
        it is longer than 3 pixels and than 5 % of the truth (Zhu et al., "EV-FlowNet", RSS 2018,
        after KITTI 2015); ``angular``: angle between (u, v, 1) and the true one, in degrees
        (Barron, Fleet and Beauchemin, IJCV 1994).
    """
    predicted = flow.double()
    true = truth.double().where(at.unsqueeze(1), 0)
    error = (predicted - true).norm(dim=1)
    one = torch.ones_like(predicted[:, :1])
    a, b = torch.cat([predicted, one], dim=1), torch.cat([true, one], dim=1)
    # Of sine and cosine: the arc cosine alone is blind to small angles.
    angle = torch.atan2(torch.linalg.cross(a, b, dim=1).norm(dim=1), (a * b).sum(dim=1)).rad2deg()
    outlier = (error > 3) & (error > 0.05 * true.norm(dim=1))
    sums = {"epe": _over_images(error, at)}
    for limit in (1, 2, 3):
        sums[f"{limit}pe"] = _over_images((error > limit).double(), at)
    sums["outliers"] = _over_images(outlier.double(), at)
    sums["angular"] = _over_images(angle, at)
    return sums


def _over_images(values: Tensor, counted: Tensor, *, root: bool = False) -> Tensor:
    """Average over the counted pixels of each image, and sum over images that have any."""
    pixels = counted.flatten(1).sum(1)
    means = values.where(counted, 0).flatten(1).sum(1) / pixels.clamp(min=1)
    means = means.sqrt() if root else means
    return torch.stack([means.sum(), (pixels > 0).sum().double()])
