"""Backend that runs TensorRT engines, built from ONNX files for one model of GPU."""

from __future__ import annotations

import json
import logging
import math
from typing import TYPE_CHECKING, Any

import torch

from scaleevent_ros.files import atomic_write
from scaleevent_ros.models.active_tokens import token_counts
from scaleevent_ros.runtime.errors import EngineError
from scaleevent_ros.runtime.exported_file import (
    ELAPSED,
    METADATA_KEY,
    NEXT_STATE,
    PREVIOUS,
    STATE,
    TOKENS,
    events_and_scale,
    parse_info,
)

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from scaleevent_ros.runtime.arrays import Array
    from scaleevent_ros.runtime.exported_file import ExportedInfo

_log = logging.getLogger(__name__)

LENGTH_BYTES = 8  # size of the header's length, little-endian, at the start of the file


def write_engine(
    onnx_path: Path,
    path: Path,
    info: ExportedInfo,
    device: torch.device,
    timing_cache: Path | None = None,
) -> None:
    """Build an engine for a GPU of this machine, in the precision of the ONNX file.

    The file holds the length of the header in 8 bytes, the header as JSON, and TensorRT's plan.
    TensorRT 8.6 and 10 are supported.

    Args:
        onnx_path: File of a fixed size from `write_onnx`.
        path: The file to write.
        info: Header of the ONNX file.
        device: The GPU.
        timing_cache: File in which kernel timings are stored for later builds; None without.

    Raises:
        EngineError: If TensorRT cannot build it.
    """
    import tensorrt

    if info.size is None:
        msg = "a TensorRT engine is built for one size: export the ONNX file for a fixed size"
        raise EngineError(msg)
    with torch.cuda.device(device):
        logger = tensorrt.Logger(tensorrt.Logger.WARNING)
        builder = tensorrt.Builder(logger)
        config = builder.create_builder_config()
        definition = builder.create_network(_set_precision(config, info.precision))
        parser = tensorrt.OnnxParser(definition, logger)
        if not parser.parse_from_file(str(onnx_path)):
            reasons = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
            msg = f"TensorRT {tensorrt.__version__} cannot read {onnx_path}: {reasons}"
            raise EngineError(msg)
        if info.header.tokens is not None:
            counts = token_counts(math.prod(info.network_info(None, onnx_path).grid))
            profile = builder.create_optimization_profile()
            lowest, middle, highest = ((counts[i],) for i in (0, len(counts) // 2, -1))
            profile.set_shape(TOKENS, lowest, middle, highest)
            config.add_optimization_profile(profile)
        if timing_cache is not None:
            _read_timings(config, timing_cache)
        plan = builder.build_serialized_network(definition, config)
        if plan is None:
            msg = f"TensorRT {tensorrt.__version__} cannot build {onnx_path}: see its log"
            raise EngineError(msg)
        if timing_cache is not None:
            _write_timings(config, timing_cache)
    header = json.dumps({METADATA_KEY: info.to_json()}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(LENGTH_BYTES, "little"))
        file.write(header)
        file.write(plan)


def _set_precision(config: Any, precision: str) -> int:
    """Restrict a build to the precision of the file; return the flags of the network."""
    import tensorrt

    config.clear_flag(tensorrt.BuilderFlag.TF32)  # on by default, and much less exact than float32
    flags = tensorrt.NetworkDefinitionCreationFlag
    if hasattr(flags, "STRONGLY_TYPED"):
        return 1 << int(flags.STRONGLY_TYPED)
    # TensorRT 8 chooses among the allowed precisions, of which float32 is always one.
    if precision == "fp16":
        config.set_flag(tensorrt.BuilderFlag.FP16)
    return 1 << int(flags.EXPLICIT_BATCH)


def _read_timings(config: Any, path: Path) -> None:
    """Load kernel timings of earlier builds into a build."""
    try:
        content = path.read_bytes()
    except OSError:
        content = b""
    # TensorRT refuses timings of another GPU or release; then it measures again.
    if not config.set_timing_cache(config.create_timing_cache(content), ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def _write_timings(config: Any, path: Path) -> None:
    """Store kernel timings for later builds; if that fails, these only take longer."""
    try:
        with atomic_write(path) as temporary:
            temporary.write_bytes(config.get_timing_cache().serialize())
    except OSError as error:
        _log.warning("TensorRT's kernel timings cannot be stored: %s", error)


class TensorRTBackend:
    """Runs an engine from `write_engine`, on its own stream, synchronized with the current one.

    On the default stream, TensorRT would make the host wait in each call. All outputs are computed,
    whichever are requested, since an engine cannot run in part.

    Args:
        path: Path of the file.
        device: The GPU.
        size: Height and width of the windows; None for the size that the file was exported for.

    Raises:
        EngineError: If the file is missing, damaged, not from `scaleevent export`, or built for
            another GPU or by another release of TensorRT.
    """

    def __init__(self, path: Path, device: torch.device, size: tuple[int, int] | None) -> None:
        import tensorrt

        header, plan = _read(path)
        exported = parse_info(header, path)
        self.precision = exported.precision
        self.info = exported.network_info(size, path)
        self._device = device
        with torch.cuda.device(device):
            self._runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.WARNING))
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                msg = (
                    f"TensorRT {tensorrt.__version__} cannot load {path}: an engine runs only on "
                    "the model of GPU and with the release of TensorRT that built it: export it "
                    "again"
                )
                raise EngineError(msg)
            self._context = self._engine.create_execution_context()
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's
        self._has_flow = "flow" in self.info.outputs
        self._none = torch.zeros(self.info.shape("features"), device=device)
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
        """Compute outputs of a window, as `TorchBackend.run` does."""
        with torch.cuda.device(self._device):  # TensorRT works on the current device
            return self._run(events, wanted, elapsed_s, kept)

    def _run(
        self,
        events: Array,
        wanted: Collection[str],
        elapsed_s: float,
        kept: NDArray[np.int64] | None,
    ) -> dict[str, Array]:
        events = torch.as_tensor(events).to(self._device, non_blocking=True)
        tensors = events_and_scale(events, self.info.header)
        previous = self._previous
        if self._has_flow:
            tensors[PREVIOUS] = self._none if previous is None else previous
        if self._state is not None:
            tensors[STATE] = self._state
            tensors[ELAPSED] = torch.full((1,), elapsed_s, device=self._device)
            tensors[NEXT_STATE] = torch.empty_like(self._state)
        if self.info.header.tokens is not None:
            tokens = torch.from_numpy(self.info.token_input(kept))
            tensors[TOKENS] = tokens.to(self._device)
            self._context.set_input_shape(TOKENS, tuple(tokens.shape))
        for name in self.info.outputs:
            kind = torch.int32 if name == "segmentation" else torch.float32
            tensors[name] = torch.empty(self.info.shape(name), dtype=kind, device=self._device)
        for name, tensor in tensors.items():
            self._context.set_tensor_address(name, tensor.data_ptr())
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            msg = "TensorRT cannot run the engine: see its log"
            raise EngineError(msg)
        current.wait_stream(self._stream)
        if self._has_flow:
            self._previous = tensors["features"]
        if self._state is not None:
            self._state = tensors[NEXT_STATE]
        return {name: tensors[name] for name in wanted if name != "flow" or previous is not None}

    def reset(self) -> None:
        """Forget previous windows."""
        self._previous = None
        shape = self.info.state_shape
        self._state = None if shape is None else torch.zeros(shape, device=self._device)


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    try:
        content = path.read_bytes()
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise EngineError(msg) from error
    end = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")
    try:
        header = json.loads(content[LENGTH_BYTES:end])
    except ValueError as error:
        msg = f"{path} was not exported by `scaleevent export`: it has no header"
        raise EngineError(msg) from error
    return header if isinstance(header, dict) else {}, content[end:]
