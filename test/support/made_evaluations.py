"""Evaluations that no checkpoint was judged for."""

from __future__ import annotations

from typing import Any

from scaleevent_ros.tasks.evaluation_results import Evaluation


def made_evaluation(**changes: Any) -> Evaluation:
    """Create the evaluation of a segmentation head, with these fields changed."""
    usual: dict[str, Any] = {
        "checkpoint": "runs/a0/best.safetensors",
        "sha256": "ab" * 32,
        "seed": 0,
        "step": 10,
        "task": "segmentation",
        "architecture": "vit_tiny_patch16_224",
        "head": {"kind": "segmentation_linear", "width": 32, "stride": 16, "classes": 2},
        "classes": ["smooth", "rough"],
        "events": {"representation": "voxel", "bins": 5},
        "data": {"kind": "stills", "fraction": 0.1, "strength": 2.0},
        "split": "validation",
        "windows": 7,
        "truth": "cd" * 32,
        "scores": {"miou": 0.5, "iou/rough": 0.25, "events/miou": 0.75},
        "device": "cpu",
        "precision": "fp32",
        "batch_size": 4,
        "ms_per_window": 1.5,
        "git_revision": "unknown",
    }
    return Evaluation(**{**usual, **changes})


def made_group(name: str, scores: dict[int, float], **changes: Any) -> list[Evaluation]:
    """Create evaluations that differ by seed and mean IoU."""
    return [
        made_evaluation(
            checkpoint=f"runs/{name}{seed}/best.safetensors",
            seed=seed,
            scores={"miou": miou},
            **changes,
        )
        for seed, miou in scores.items()
    ]
