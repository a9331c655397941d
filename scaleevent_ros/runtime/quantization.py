"""8-bit quantization of exported students, by ONNX Runtime's quantizer.

Weights are int8 with a scale for each output channel, activations uint8 with one scale.

In convolutional students that scale is static and covers 99.99 % of the values seen on calibration
windows. The first convolution, the projection to the teacher's space and the heads stay in float32:
they are little of the work and most of the loss.

In ViTs the products with weights are quantized, and the scale is that of the window at hand, since
their activations have outliers; the attention, the patch embedding and the heads stay in float32.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from scaleevent_ros.runtime.errors import EngineError
from scaleevent_ros.runtime.exported_file import METADATA_KEY, ExportedInfo
from scaleevent_ros.runtime.onnx_backend import OnnxBackend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from scaleevent_ros.runtime.arrays import Array

COVERED_PERCENT = 99.99


class _Windows(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
    """Windows for the quantizer, one at a time: it keeps the activations of all that it gets."""

    def __init__(self, backend: OnnxBackend, windows: Sequence[NDArray[np.float32]]) -> None:
        self._backend = backend
        self._windows = windows
        self._left: Iterator[NDArray[np.float32]] = iter(())

    def __len__(self) -> int:
        return len(self._windows)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._left = iter(self._windows[start_index:end_index])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        window = next(self._left, None)
        return None if window is None else self._backend.feeds(window)


def quantize(exported: Path, target: Path, windows: Sequence[NDArray[np.float32]]) -> None:
    """Quantize an exported network.

    Args:
        exported: File that `write_onnx` wrote, float32.
        target: File to write; it has no header yet, see `write_header`.
        windows: Windows to calibrate on, float32 [bins, H, W] each, not normalized.

    Raises:
        EngineError: If the network has a memory.
    """
    backend = OnnxBackend(exported, windows[0].shape[-2:])
    if backend.info.header.memory is not None:
        msg = "int8 is not for students with a memory, where its errors would add up"
        raise EngineError(msg)
    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(str(exported), str(prepared), skip_symbolic_shape=True)
    graph = onnx.load(prepared).graph
    kept = _kept_in_float(graph, projects=backend.info.features_space == "teacher")
    convolutions = {node.name for node in graph.node if node.op_type == "Conv"}
    with _quiet_quantizer():
        if len(convolutions - kept) <= len(convolutions) / 4:  # a ViT
            quantize_dynamic(
                str(exported),
                str(target),
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                weight_type=QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )
        else:
            quantize_static(
                str(prepared),
                str(target),
                _Windows(backend, windows),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=sorted(kept),
                calibrate_method=CalibrationMethod.Percentile,
                extra_options={"CalibPercentile": COVERED_PERCENT, "CalibStridedMinMax": 1},
            )
    prepared.unlink()


@contextmanager
def _quiet_quantizer() -> Iterator[None]:
    """Suppress the quantizer's messages: it logs and prints by design."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        root.setLevel(level)


def write_header(path: Path, info: ExportedInfo) -> None:
    """Write the header of a quantized file, which ONNX Runtime's quantizer leaves out."""
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {METADATA_KEY: info.to_json()})
    onnx.save(model, path)


class QuantizationLoss:
    """Difference of a quantized network's outputs from float32, over windows."""

    def __init__(self) -> None:
        self._seen: dict[str, list[float]] = {}

    def add(self, found: Mapping[str, Array], exact: Mapping[str, Array]) -> None:
        """Compare the outputs of a window with those of the float32 network."""
        for name, output in found.items():
            one, other = (np.asarray(each) for each in (output, exact[name]))
            self._seen.setdefault(name, []).append(_LOSSES[name](one, other))

    def means(self) -> dict[str, float]:
        """Return the mean loss of each output.

        ``features``: one minus the mean cosine over patches; ``segmentation``: share of pixels
        with another class; ``depth``: mean relative difference; ``flow``: mean difference in px.
        """
        return {name: float(np.mean(values)) for name, values in self._seen.items()}


def _cosine_loss(found: NDArray[Any], exact: NDArray[Any]) -> float:
    lengths = np.linalg.norm(found, axis=0) * np.linalg.norm(exact, axis=0)
    return float(1 - ((found * exact).sum(0) / np.maximum(lengths, 1e-12)).mean())


_LOSSES: dict[str, Callable[[NDArray[Any], NDArray[Any]], float]] = {
    "features": _cosine_loss,
    "segmentation": lambda found, exact: float((found != exact).mean()),
    "depth": lambda found, exact: float((np.abs(found - exact) / np.maximum(exact, 1e-6)).mean()),
    "flow": lambda found, exact: float(np.linalg.norm(found - exact, axis=0).mean()),
}


def _kept_in_float(graph: Any, *, projects: bool) -> set[str]:
    """Return the names of convolutions that are not quantized.

    These are the first one, all that do not contribute to the output ``features`` (the heads), and
    where the features are projected to the teacher's space, the projection.
    """
    makers = {output: node for node in graph.node for output in node.output}
    needed: set[str] = set()
    waiting = ["features"]
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.name not in needed:
            needed.add(node.name)
            waiting.extend(node.input)
    convolutions = [node.name for node in graph.node if node.op_type == "Conv"]
    encoder = [name for name in convolutions if name in needed]
    ends = {*encoder[:1], *(encoder[-1:] if projects else ())}
    return ends | {name for name in convolutions if name not in needed}
