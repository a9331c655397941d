"""Backends that run exported networks with ONNX Runtime, on the CPU and on GPUs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from scaleevent_ros.runtime.arrays import CPU
from scaleevent_ros.runtime.errors import EngineError
from scaleevent_ros.runtime.exported_file import (
    ELAPSED,
    NEXT_STATE,
    PREVIOUS,
    STATE,
    TOKENS,
    events_and_scale,
    parse_info,
)
from scaleevent_ros.runtime.host_backend import HostBackend, Parts

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from scaleevent_ros.runtime.arrays import Array, Device


def open_session(
    path: Path, device: Device, provider_options: dict[str, Any], model: bytes | None = None
) -> Any:
    """Load a file with ONNX Runtime, and return its session.

    Args:
        path: ONNX file.
        device: Device to run on.
        provider_options: Options of the CUDA provider.
        model: Content to load in place of the file's.

    Raises:
        EngineError: If the file is missing or damaged, or ONNX Runtime cannot use the GPU.
    """
    import onnxruntime

    if not path.is_file():
        msg = f"there is no exported network at {path}"
        raise EngineError(msg)
    cuda = "CUDAExecutionProvider"
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda":
        providers.insert(0, (cuda, provider_options))
    options = onnxruntime.SessionOptions()
    # Otherwise its threads keep cores busy between windows, which decoding and publishing need.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        session = onnxruntime.InferenceSession(model or str(path), options, providers=providers)
    except Exception as error:  # its exceptions share no narrower class
        msg = f"ONNX Runtime cannot load {path}: {error}"
        raise EngineError(msg) from error
    # If a provider fails to load its libraries, the session silently runs on the CPU.
    if device.type == "cuda" and cuda not in session.get_providers():
        msg = (
            f"ONNX Runtime {onnxruntime.__version__} cannot use the GPU: install "
            "onnxruntime-gpu for its CUDA, or choose backend 'cudagraph' or device 'cpu'"
        )
        raise EngineError(msg)
    return session


def has_cuda() -> bool:
    """Return whether the installed ONNX Runtime supports GPUs."""
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def _open_part(path: Path, names: frozenset[str]) -> Any:
    """Return a session without what only other outputs need."""
    import onnx

    model = onnx.load(path)
    graph = model.graph
    needed, nodes = set(names), []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(node.input)
    for kept, items in (
        (nodes[::-1], graph.node),
        ([each for each in graph.output if each.name in names], graph.output),
        ([each for each in graph.initializer if each.name in needed], graph.initializer),
    ):
        del items[:]
        items.extend(kept)
    return open_session(path, CPU, {}, model.SerializeToString())


class OnnxBackend(HostBackend):
    """Runs an exported network with ONNX Runtime on the CPU.

    Attributes:
        session: Session that computes all outputs.
        parts: Sessions by the outputs that they compute.

    Args:
        path: File from `write_onnx`.
        size: Height and width of the windows; None for the size that the file was exported for.

    Raises:
        EngineError: If the file is missing, damaged or not from `scaleevent export`, or was
            exported for another size.
    """

    def __init__(self, path: Path, size: tuple[int, int] | None) -> None:
        self.session = open_session(path, CPU, {})
        exported = parse_info(self.session.get_modelmeta().custom_metadata_map, path)
        self.precision = exported.precision
        self.info = exported.network_info(size, path)
        outputs = len(self.session.get_outputs())
        self.parts = Parts(self.session, outputs, partial(_open_part, path))
        super().__init__()

    def call(self, feeds: dict[str, NDArray[Any]], names: list[str]) -> list[NDArray[Any]]:
        """Compute at least the requested outputs; see `HostBackend.call`."""
        found: list[NDArray[Any]] = self.parts.get(names).run(names, feeds)
        return found


class OnnxCudaBackend:
    """Runs an exported network with ONNX Runtime on a GPU, in memory and streams of PyTorch.

    Args:
        path: File from `write_onnx`.
        size: Height and width of the windows; None for the size that the file was exported for.
        device: The GPU.

    Raises:
        EngineError: Invalid file, as in `OnnxBackend`, or ONNX Runtime cannot use the GPU.
    """

    def __init__(self, path: Path, size: tuple[int, int] | None, device: Device) -> None:
        import onnxruntime
        import torch

        self._device = device.to_torch()
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # torch's
        provider_options = {
            "device_id": device.index,
            "user_compute_stream": str(self._stream.cuda_stream),
        }
        self.session = open_session(path, device, provider_options)
        exported = parse_info(self.session.get_modelmeta().custom_metadata_map, path)
        self.precision = exported.precision
        self.info = exported.network_info(size, path)
        self._options = onnxruntime.RunOptions()
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._has_flow = "flow" in self.info.outputs
        self._none = torch.zeros(self.info.shape("features"), device=self._device)
        self._previous: Tensor | None = None
        self._state: Tensor | None = None
        self.reset()

    def run(
        self,
        events: Array,
        wanted: Collection[str],
        elapsed_s: float = 0.0,
        kept: NDArray[np.int64] | None = None,
    ) -> dict[str, Array]:
        """Compute outputs of a window on the session's stream, without waiting for them."""
        import torch

        previous = self._previous
        names = [name for name in wanted if name != "flow" or previous is not None]
        fetched = [*names, "features"] if self._has_flow and "features" not in names else names
        if not fetched:
            return {}
        window = torch.as_tensor(events).to(self._device, non_blocking=True)
        feeds = events_and_scale(window, self.info.header)
        if self._has_flow:
            feeds[PREVIOUS] = self._none if previous is None else previous
        if self.info.header.tokens is not None:
            tokens = torch.from_numpy(self.info.token_input(kept))
            feeds[TOKENS] = tokens.to(self._device)
        shapes = {name: self.info.shape(name) for name in fetched}
        if self._state is not None:
            feeds[STATE] = self._state
            feeds[ELAPSED] = torch.full((1,), elapsed_s, device=self._device)
            shapes[NEXT_STATE] = tuple(self._state.shape)
        current = torch.cuda.current_stream(self._device)
        binding = self.session.io_binding()
        for name, tensor in feeds.items():
            binding.bind_input(*self._bound(name, tensor))
        outputs: dict[str, Tensor] = {}
        for name, shape in shapes.items():
            kind = torch.int32 if name == "segmentation" else torch.float32
            outputs[name] = torch.empty(shape, dtype=kind, device=self._device)
            binding.bind_output(*self._bound(name, outputs[name]))
        self._stream.wait_stream(current)
        self.session.run_with_iobinding(binding, self._options)
        current.wait_stream(self._stream)
        if self._has_flow:
            self._previous = outputs["features"]
        if self._state is not None:
            self._state = outputs[NEXT_STATE]
        return {name: outputs[name] for name in names}

    def reset(self) -> None:
        """Forget previous windows."""
        import torch

        self._previous = None
        shape = self.info.state_shape
        self._state = None if shape is None else torch.zeros(shape, device=self._device)

    def _bound(self, name: str, tensor: Tensor) -> tuple[Any, ...]:
        kind = np.int32 if "int" in str(tensor.dtype) else np.float32
        return name, "cuda", self._device.index, kind, tuple(tensor.shape), tensor.data_ptr()
