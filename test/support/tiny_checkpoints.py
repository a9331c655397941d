"""Checkpoints of tiny students with a head for each task, random but the same every time."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from scaleevent_ros.events.windows import WindowOptions
from scaleevent_ros.models import build_student, save_student
from scaleevent_ros.tasks import build_head, describe_head

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

BINS = 5
SIZE = (50, 70)  # neither is a multiple of a stride
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_dinov3_qkvb": {"depth": 2, "embed_dim": 32, "num_heads": 2},
    "vit_tiny_patch16_224": {"depth": 2, "embed_dim": 32, "num_heads": 2},
    "test_efficientnet": {"pad_type": "same"},  # as `tf_efficientnet_lite0`
}
DINOV3 = "vit_tiny_patch16_dinov3_qkvb"
CONVOLUTIONAL = "test_efficientnet"
HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "segmentation": ("segmentation_linear", {"classes": 4}),
    "depth": ("depth_dpt", {"maximum": 80.0, "channels": 8}),
    "flow": ("flow_correlation", {"channels": 8, "radius": 2, "iterations": 2}),
}

BACKENDS = [
    pytest.param("cpu", "eager"),
    pytest.param("cpu", "onnx"),
    pytest.param(
        "cpu",
        "openvino",
        marks=pytest.mark.skipif(find_spec("openvino") is None, reason="needs OpenVINO"),
    ),
    *(
        pytest.param("cuda", backend, marks=pytest.mark.gpu)
        for backend in ("eager", "cudagraph", "onnx", "tensorrt")
    ),
]
"""Devices and backends that run every checkpoint."""


def write_student(
    path: Path,
    architecture: str = DINOV3,
    tasks: tuple[str, ...] = (),
    normalization: str | None = "percentile",
    leaky: tuple[float, ...] = (),
) -> Path:
    """Write a checkpoint, and return its path."""
    torch.manual_seed(0)
    student = build_student(
        architecture, BINS + len(leaky), "random", options=ARCHITECTURES[architecture]
    )
    described, heads = {}, {}
    for task in tasks:
        kind, options = HEADS[task]
        heads[task] = build_head(kind, student.width, student.stride, **options)
        described[task] = describe_head(kind, student.width, student.stride, **options)
    student.header = replace(
        student.header,
        normalization=normalization,
        leaky=list(leaky),
        window=WindowOptions(length_ms=20),
        classes=["sky", "road", "tree", "car"] if "segmentation" in tasks else [],
        heads=described,
    )
    save_student(path, student, heads)
    return path


def sparse_window(seed: int, size: tuple[int, int] = SIZE) -> NDArray[np.float32]:
    """Create an event tensor that is mostly zero, not normalized."""
    random = np.random.default_rng(seed)
    values = random.normal(0, 3, (BINS, *size)) * (random.random((BINS, *size)) < 0.2)
    return values.astype(np.float32)
