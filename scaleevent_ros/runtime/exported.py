"""What `scaleevent export` wrote, made ready to run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaleevent_ros.runtime.onnx_backend import OnnxBackend
from scaleevent_ros.runtime.tensorrt_backend import TensorRTBackend

if TYPE_CHECKING:
    from pathlib import Path

    import torch

KINDS = {".onnx": "onnx", ".engine": "tensorrt"}


def open_exported(
    path: Path, device: torch.device, size: tuple[int, int] | None
) -> OnnxBackend | TensorRTBackend:
    """Load an exported file, by its suffix.

    Raises:
        EngineError: As the backends' classes do.
    """
    kind = OnnxBackend if KINDS[path.suffix.lower()] == "onnx" else TensorRTBackend
    return kind(path, device, size)
