"""Metrics of the benchmarks, as sums that can be added over batches and processes.

Segmentation is measured by one confusion matrix over the whole set, as in ESS (uzh-rpg/ess,
``evaluation/metrics.py``). Metrics of depth and flow are computed for each image and averaged over
images, as in E2Depth (uzh-rpg/rpg_e2depth, ``evaluation.py``), EV-FlowNet
(daniilidis-group/EV-FlowNet, ``src/eval_utils.py`` and ``test.py``) and the code of DSEC-Flow's
authors (uzh-rpg/bflow, ``utils/metrics.py``). Images without ground truth are not counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torchmetrics.functional.classification import multiclass_confusion_matrix

from scaleevent_ros.tasks.losses import IGNORED, mean_by_image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

DEPTH_LIMITS = (10, 20, 30)
"""Limits of true depth in m below which mean errors are computed."""


def confusion_matrix(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Count pixels by their true and their predicted class.

    Args:
        predicted: Class ids, integers ``[B, H, W]``.
        truth: Ground truth of the same shape; `IGNORED` where unknown.
        classes: Number of classes C.

    Returns:
        float64 ``[C, C]``: rows by true class, columns by predicted class. Matrices of batches can
        be added.
    """
    counts = multiclass_confusion_matrix(
        predicted, truth, num_classes=classes, ignore_index=IGNORED, validate_args=False
    )
    return counts.double()


def segmentation_scores(matrix: Tensor, classes: Sequence[str] = ()) -> dict[str, float]:
    """Compute segmentation metrics from a confusion matrix.

    Args:
        matrix: Confusion matrix from `confusion_matrix`, summed over the whole set.
        classes: Names of the classes, for the IoU of each; empty to leave these out.

    Returns:
        ``miou``: intersection over union, averaged over the classes that occur in ground truth or
        prediction, as in torchmetrics (ESS's code counts other classes as 0, but whole test sets
        have all classes); ``accuracy``: share of pixels that are correct; and ``iou/NAME`` of each
        class that occurs. Without any ground truth, ``miou`` and ``accuracy`` are 0.
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
        depth: Predicted depth ``[B, 1, H, W]`` in m, above 0.
        truth: Ground truth of the same shape; 0 or not finite where unknown.
        at: Pixels to use, bool ``[B, H, W]``: those with events, or all.

    Returns:
        By name, the sum over images and their number, float64 ``[2]``. ``rmse`` in m; ``abs_rel``:
        mean error relative to the ground truth; ``delta1`` to ``delta3``: share of pixels whose
        ratio of prediction and ground truth, the larger over the smaller, is below 1.25, 1.25 ** 2
        and 1.25 ** 3 (Eigen et al., NIPS 2014); ``mean_10m``, ``mean_20m``, ``mean_30m``: mean
        error in m of pixels whose true depth is below that (Zhu et al., CVPR 2019, on MVSEC;
        E2Depth). Unlike here, E2Depth's code also leaves out pixels whose prediction is beyond the
        largest true depth.
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
        flow: Predicted flow ``[B, 2, H, W]`` in pixels.
        truth: Ground truth of the same shape.
        at: Pixels to use, bool ``[B, H, W]``: those with known ground truth, or those of them with
            events.

    Returns:
        By name, the sum over images and their number, float64 ``[2]``. ``epe``: mean end-point
        error, the length of the difference in pixels; ``1pe``, ``2pe``, ``3pe``: share of pixels
        where it exceeds 1, 2 and 3 pixels (Gehrig et al., "E-RAFT", 3DV 2021, for DSEC-Flow);
        ``outliers``: share where it exceeds 3 pixels and 5 % of the true length (Zhu et al.,
        "EV-FlowNet", RSS 2018, after KITTI 2015); ``angular``: angle between predicted and true
        (u, v, 1), in degrees (Barron, Fleet and Beauchemin, IJCV 1994).
    """
    predicted = flow.double()
    true = truth.double().where(at.unsqueeze(1), 0)
    error = (predicted - true).norm(dim=1)
    one = torch.ones_like(predicted[:, :1])
    a, b = torch.cat([predicted, one], dim=1), torch.cat([true, one], dim=1)
    # From sine and cosine, since the arc cosine alone is inaccurate at small angles.
    angle = torch.atan2(torch.linalg.cross(a, b, dim=1).norm(dim=1), (a * b).sum(dim=1)).rad2deg()
    outlier = (error > 3) & (error > 0.05 * true.norm(dim=1))
    sums = {"epe": _over_images(error, at)}
    for limit in (1, 2, 3):
        sums[f"{limit}pe"] = _over_images((error > limit).double(), at)
    sums["outliers"] = _over_images(outlier.double(), at)
    sums["angular"] = _over_images(angle, at)
    return sums


def _over_images(values: Tensor, counted: Tensor, *, root: bool = False) -> Tensor:
    """Average over the counted pixels of each image; return sum and number of images with any."""
    means = mean_by_image(values, counted)
    means = means.sqrt() if root else means
    return torch.stack([means.sum(), counted.flatten(1).any(1).sum().double()])
