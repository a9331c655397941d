"""Checkpoints of tiny random students, with every task's head where wanted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from scaleevent_ros.events.windows import WindowOptions
from scaleevent_ros.models import build_student, save_student

if TYPE_CHECKING:
    from pathlib import Path

VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2, "dynamic_img_size": True}
CLASSES = ("road", "car", "tree")


def tiny_checkpoint(path: Path, *, heads: bool = False, bins: int = 5, width: int = 32) -> Path:
    """Write a student of 32 channels and stride 16, whose windows are voxel grids of 50 ms."""
    torch.manual_seed(0)
    options = {**VIT, "embed_dim": width}
    student = build_student("vit_tiny_patch16_224", bins, "random", options=options)
    student.header = replace(student.header, normalization="mean_std", window=WindowOptions())
    modules: dict[str, Any] = {}
    if heads:
        from scaleevent_ros.tasks import build_head, describe_head

        kinds: dict[str, tuple[str, dict[str, Any]]] = {
            "segmentation": ("segmentation_linear", {"classes": len(CLASSES)}),
            "depth": ("depth_dpt", {"maximum": 80.0, "channels": 8}),
            "flow": ("flow_correlation", {"channels": 8, "radius": 2, "iterations": 2}),
        }
        described = {
            task: describe_head(kind, student.width, student.stride, **extra)
            for task, (kind, extra) in kinds.items()
        }
        student.header = replace(student.header, heads=described, classes=list(CLASSES))
        modules = {
            task: build_head(kind, student.width, student.stride, **extra)
            for task, (kind, extra) in kinds.items()
        }
    save_student(path, student, modules)
    return path
