"""The backend of ONNX Runtime, on the CPU and on GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scaleevent_ros.runtime.errors import EngineError
from scaleevent_ros.runtime.onnx_file import (
    EVENTS,
    PREVIOUS,
    SCALE,
    divides_by_scale,
    events_and_scale,
    parse_info,
)

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor


class OnnxBackend:
    """Runs an exported network by ONNX Runtime.

    Args:
        path: Of a file that `write_onnx` wrote.
        device: Where it runs.
        size: Height and width of the windows; None for those that the file was made for.

    Raises:
        EngineError: If the file is absent, damaged or not ours, the size is not for it, or ONNX
            Runtime cannot use the GPU.
    """

    def __init__(self, path: Path, device: torch.device, size: tuple[int, int] | None) -> None:
        import onnxruntime

        if not path.is_file():
            msg = f"no exported network at {path}"
            raise EngineError(msg)
        self._device = device
        self._cuda = device.type == "cuda"
        providers: list[Any] = ["CPUExecutionProvider"]
        if self._cuda:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's
            options = {
                "device_id": device.index or 0,
                "user_compute_stream": str(self._stream.cuda_stream),
            }
            providers.insert(0, ("CUDAExecutionProvider", options))
        session_options = onnxruntime.SessionOptions()
        # Else its threads keep cores busy between windows, which decoding and publishing need.
        session_options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), session_options, providers=providers
            )
        except Exception as error:  # its exceptions share no narrower class
            msg = f"ONNX Runtime cannot load {path}: {error}"
            raise EngineError(msg) from error
        if self._cuda and "CUDAExecutionProvider" not in self.session.get_providers():
            msg = (
                f"ONNX Runtime {onnxruntime.__version__} cannot use the GPU: install "
                "onnxruntime-gpu for its CUDA, or choose backend 'cudagraph'"
            )
            raise EngineError(msg)
        exported = parse_info(self.session.get_modelmeta().custom_metadata_map, path)
        self.precision = exported.precision
        self.info = exported.network_info(size, path)
        self._spec = self.info.header.input
        self._options = onnxruntime.RunOptions()
        self._options.only_execute_path_to_fetches = True
        if self._cuda:
            self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._has_flow = "flow" in self.info.outputs
        # Only one run reads it, so the next may overwrite it.
        self._normalized: NDArray[np.float32] | None = None
        self._none = torch.zeros(self.info.width, *self.info.grid, device=device)
        self._previous: Tensor | None = None

    def run(self, events: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        """Compute outputs of a window, as `TorchBackend.run` does."""
        previous = self._previous
        names = [name for name in wanted if name != "flow" or previous is not None]
        fetched = [*names, "features"] if self._has_flow and "features" not in names else names
        if not fetched:
            return {}
        outputs = (self._replay if self._cuda else self._call)(events, fetched)
        if self._has_flow:
            self._previous = outputs["features"]
        return {name: outputs[name] for name in names}

    def reset(self) -> None:
        """Forget the window before."""
        self._previous = None

    def _call(self, events: Tensor, names: list[str]) -> dict[str, Tensor]:
        feeds = self._arrays(events.numpy(force=True))
        if self._has_flow:
            feeds[PREVIOUS] = self._before().numpy()
        found = self.session.run(names, feeds, self._options)
        return {name: torch.from_numpy(array) for name, array in zip(names, found, strict=True)}

    def _arrays(self, events: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Do what `events_and_scale` does, by numpy, without fresh memory for each window."""
        header = self.info.header
        if divides_by_scale(header):
            return {EVENTS: np.ascontiguousarray(events), SCALE: self._spec.scales(events)}
        if self._spec.normalization == "none" and not self._spec.leaky:
            return {EVENTS: np.ascontiguousarray(events)}
        if self._normalized is None:
            self._normalized = np.empty(events.shape, np.float32)
        self._spec.normalize_into(events, self._normalized)
        return {EVENTS: self._normalized}

    def _before(self) -> Tensor:
        return self._none if self._previous is None else self._previous

    def _replay(self, events: Tensor, names: list[str]) -> dict[str, Tensor]:
        """Run on the session's stream, in order with the current one; the host does not wait."""
        events = events.to(self._device, non_blocking=True)
        feeds = events_and_scale(events, self.info.header)
        if self._has_flow:
            feeds[PREVIOUS] = self._before()
        current = torch.cuda.current_stream(self._device)
        binding = self.session.io_binding()
        for name, tensor in feeds.items():
            binding.bind_input(*self._bound(name, tensor))
        outputs = {name: self._empty(name) for name in names}
        for name, tensor in outputs.items():
            binding.bind_output(*self._bound(name, tensor))
        self._stream.wait_stream(current)
        self.session.run_with_iobinding(binding, self._options)
        current.wait_stream(self._stream)
        return outputs

    def _bound(self, name: str, tensor: Tensor) -> tuple[Any, ...]:
        kind = np.int32 if tensor.dtype == torch.int32 else np.float32
        return name, "cuda", self._device.index or 0, kind, tuple(tensor.shape), tensor.data_ptr()

    def _empty(self, name: str) -> Tensor:
        kind = torch.int32 if name == "segmentation" else torch.float32
        return torch.empty(self.info.shape(name), dtype=kind, device=self._device)
