"""Writing networks as ONNX files, and reading the header in such files."""

from __future__ import annotations

import logging
import math
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from scaleevent_ros.events.normalization import LEAKY_LIMIT
from scaleevent_ros.runtime.errors import EngineError
from scaleevent_ros.runtime.exported_file import (
    ELAPSED,
    EVENTS,
    METADATA_KEY,
    NEXT_STATE,
    PREVIOUS,
    SCALE,
    STATE,
    TOKENS,
    ExportedInfo,
    NetworkInfo,
    divides_by_scale,
    parse_info,
)
from scaleevent_ros.runtime.torch_backend import DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from scaleevent_ros.runtime.network import Network

LARGEST_BYTES = 2_000_000_000  # of weights: a protocol buffer holds 2 ** 31 bytes with the graph


def read_info(path: Path) -> ExportedInfo:
    """Read the header of an ONNX file.

    Raises:
        EngineError: If the header is missing or invalid, as in `parse_info`.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    return parse_info({item.key: item.value for item in model.metadata_props}, path)


def _divided(events: Tensor, scale: Tensor) -> Tensor:
    """Divide an event tensor by its scale from `InputSpec.scales`, as in `InputSpec.normalize`."""
    leaky = scale.shape[0] - 1
    if not leaky:
        return events / scale
    limit = float(LEAKY_LIMIT)
    integrals = (events[-leaky:] / scale[1:, None, None]).clamp(-limit, limit)
    return torch.cat([events[:-leaky] / scale[0], integrals])


class _Exported(nn.Module):
    """A network without a batch dimension, with a list of outputs; see `write_onnx`."""

    def __init__(self, network: Network, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network.to(dtype)
        self.dtype = dtype

    def forward(
        self,
        events: Tensor,
        scale: Tensor | None = None,
        previous_features: Tensor | None = None,
        memory: Tensor | None = None,
        elapsed_s: Tensor | None = None,
        tokens: Tensor | None = None,
    ) -> list[Tensor]:
        if scale is not None:
            events = _divided(events, scale)
        window, after = events[None].to(self.dtype), []
        kept = None if tokens is None else tokens[None].long()
        if memory is None or elapsed_s is None:
            encoded = self.network.encode(window, kept)
        else:
            state = self.network.remember(window, memory[None].to(self.dtype), elapsed_s, kept)
            encoded, after = state[:, :-1], [state[0].float()]
        previous = None if previous_features is None else previous_features[None].to(self.dtype)
        size = (events.shape[-2], events.shape[-1])
        outputs = [
            self.network.finish(name, encoded, previous, size) for name in self.network.info.outputs
        ]
        return outputs + after


def write_onnx(network: Network, path: Path, precision: str, *, dynamic: bool = False) -> None:
    """Write a network as an ONNX file.

    Inputs of the file:

    - ``events``, float32 [bins, H, W]: not normalized if the header's normalization is
      ``percentile``, else **normalized**;
    - ``scale``, float32 [1 + leaky integrals], only with ``percentile``: from `InputSpec.scales`.
      The network divides the events by it, on all of its threads;
    - ``previous_features``, only with a head for flow: the ``features`` of the previous window;
    - ``memory``, float32 [D + 1, h, w], only with a memory: ``next_memory`` of the previous window,
      or zeros;
    - ``elapsed_s``, float32 [1], only with a memory: time in s since the previous window;
    - ``tokens``, int32 [K], only for a student of active tokens: the patch tokens to compute,
      numbered row by row.

    Outputs are those of `Outputs`, with class ids as int32, and with a memory ``next_memory``.

    Args:
        network: Network on the CPU; it is cast to the precision.
        path: The file to write.
        precision: Precision of weights and activations: ``fp32`` or ``fp16``.
        dynamic: Export variable height and width; the network must not have a fixed size.

    Raises:
        EngineError: If the network cannot be exported with these options.
    """
    info = network.info
    width_bytes = DTYPES[precision].itemsize
    if info.features_space == "teacher" and "flow" in info.outputs:
        msg = (
            "a head for flow takes the student's features of the previous window: export with "
            "features_space student, or a checkpoint without that head"
        )
        raise EngineError(msg)
    if dynamic and "flow" in info.outputs:
        msg = "a head for flow is exported for a fixed size only"
        raise EngineError(msg)
    if dynamic and info.header.tokens is not None:
        msg = "a student of active tokens is exported for a fixed size only"
        raise EngineError(msg)
    weights = sum(parameter.numel() for parameter in network.parameters()) * width_bytes
    if weights > LARGEST_BYTES:
        msg = (
            f"{info.header.architecture} has {weights / 1e9:.1f} GB of weights, but an ONNX file "
            "holds 2 GB"
        )
        raise EngineError(msg)
    exported = ExportedInfo(
        info.header, precision, None if dynamic else info.size, info.stride, info.width,
        info.outputs, info.features_space,
    )  # fmt: skip
    size = info.size
    if dynamic:  # traced at a multiple of the stride; `_take_any_size` pads other sizes
        size = (info.grid[0] * info.stride, info.grid[1] * info.stride)
    events = torch.zeros(info.header.bins, *size)
    inputs: dict[str, Tensor] = {EVENTS: events}
    shapes: dict[str, Any] = {EVENTS: {}}
    if dynamic:
        rows, columns = torch.export.Dim("rows", min=2), torch.export.Dim("columns", min=2)
        shapes[EVENTS] = {1: info.stride * rows, 2: info.stride * columns}
    if divides_by_scale(info.header):
        inputs[SCALE], shapes[SCALE] = torch.ones(1 + len(info.header.leaky)), {}
    if "flow" in info.outputs:
        inputs[PREVIOUS] = torch.zeros(info.width, *info.grid)
    outputs = list(info.outputs)
    if info.state_shape is not None:
        inputs[STATE], inputs[ELAPSED] = torch.zeros(info.state_shape), torch.zeros(1)
        if dynamic:
            shapes |= {STATE: {1: rows, 2: columns}, ELAPSED: {}}
        outputs.append(NEXT_STATE)
    if info.header.tokens is not None:
        total = math.prod(info.grid)
        inputs[TOKENS] = torch.arange(max(1, total // 2), dtype=torch.int32)
        shapes = dict.fromkeys(inputs, None) | {TOKENS: {0: torch.export.Dim("count", max=total)}}
    module = _Exported(network, DTYPES[precision]).eval()
    try:
        with _quiet_exporter(), torch.no_grad():
            program = torch.onnx.export(
                module,
                kwargs=inputs,
                input_names=list(inputs),
                output_names=outputs,
                dynamic_shapes=shapes if dynamic or TOKENS in inputs else None,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        kind = "any size" if dynamic else f"{info.size[1]}x{info.size[0]}"
        msg = f"{info.header.architecture} cannot be exported for {kind}: {_last_line(error)}"
        raise EngineError(msg) from error
    assert program is not None
    shape = program.model.graph.inputs[0].shape
    assert shape is not None
    if dynamic and shape.is_static():  # the exporter's last resort
        msg = f"{info.header.architecture} cannot be exported for any size with these options"
        raise EngineError(msg)
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces, which contain paths of this machine
    program.model.metadata_props[METADATA_KEY] = exported.to_json()
    program.save(path)
    if dynamic:
        _take_any_size(path, info)


def _take_any_size(path: Path, info: NetworkInfo) -> None:
    """Add padding of the window and cropping of the outputs to a file for multiples of the stride.

    The operations are added to the file, since `torch.export` takes minutes to analyse the
    divisions that padding needs.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(path)
    graph = model.graph
    pixels = [name for name in info.outputs if name != "features"]
    inner = {name: f"whole_{name}" for name in (EVENTS, *pixels)}
    for node in graph.node:
        node.input[:] = [inner.get(name, name) for name in node.input]
        node.output[:] = [inner.get(name, name) for name in node.output]
    constants = {
        "stride": np.array([info.stride], np.int64),
        "not_padded": np.zeros(4, np.int64),
        "first_pixel": np.zeros(2, np.int64),
        "pixel_axes": np.array([-2, -1], np.int64),
    }
    graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in constants.items())
    before = [
        helper.make_node("Shape", [EVENTS], ["sensor_size"], start=1),
        helper.make_node("Neg", ["sensor_size"], ["negative_size"]),
        helper.make_node("Mod", ["negative_size", "stride"], ["missing"]),  # never negative
        helper.make_node("Concat", ["not_padded", "missing"], ["padding"], axis=0),
        helper.make_node("Pad", [EVENTS, "padding"], [inner[EVENTS]]),
    ]
    after = [
        helper.make_node("Slice", [inner[name], "first_pixel", "sensor_size", "pixel_axes"], [name])
        for name in pixels
    ]
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    for value in (*graph.input, *graph.output):
        if value.name in inner:
            height, width = value.type.tensor_type.shape.dim[-2:]
            height.dim_param, width.dim_param = "height", "width"
    onnx.checker.check_model(model)
    onnx.save(model, path)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Suppress the exporter's messages and warnings about itself."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _last_line(error: BaseException) -> str:
    """Return the first line of the root cause of an exporter's error."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().splitlines()[0]
