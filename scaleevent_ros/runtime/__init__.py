"""Fast inference of checkpoints: PyTorch, CUDA graphs, ONNX Runtime, OpenVINO, TensorRT.

In: a student's checkpoint, with or without task heads, or an exported network; then the tensors of
consecutive windows. Out: dense features, class ids, depth and flow, on the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaleevent_ros.lazy_exports import lazy_exports
from scaleevent_ros.runtime.errors import EngineError
from scaleevent_ros.runtime.options import BACKENDS, PRECISIONS

if TYPE_CHECKING:
    from scaleevent_ros.runtime.engine import Engine, Outputs

__all__ = ["BACKENDS", "PRECISIONS", "Engine", "EngineError", "Outputs"]

__getattr__ = lazy_exports(__name__, {"Engine": "engine", "Outputs": "engine"})
