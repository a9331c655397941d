"""Backends that run checkpoints with PyTorch: eagerly, compiled, or as CUDA graphs."""

from __future__ import annotations

import logging
import math
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch

from scaleevent_ros.models.active_tokens import token_counts
from scaleevent_ros.runtime.network import load_network, normalized

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from scaleevent_ros.runtime.arrays import Array, Device
    from scaleevent_ros.runtime.network import Network

logger = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
WARM_UP = 3  # calls before a capture, in which libraries choose their kernels


class TorchBackend:
    """Runs a network with PyTorch.

    Args:
        network: Network, which is moved to the device and cast.
        device: Device of the network.
        dtype: Data type of weights and activations.
        compiled: Compile with `torch.compile`, which takes a minute.
    """

    def __init__(
        self, network: Network, device: torch.device, dtype: torch.dtype, *, compiled: bool = False
    ) -> None:
        self.info = network.info
        self._spec = network.info.header.input
        self._device, self._dtype = device, dtype
        network = network.to(device, dtype)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's gap
        # The number of tokens varies, and becomes a variable when compiled for the second time.
        dynamic = None if network.info.header.tokens is not None else False
        compile_ = partial(torch.compile, dynamic=dynamic) if compiled else _as_it_is
        self._encode: Callable[..., Tensor] = compile_(network.encode)
        self._remember: Callable[..., Tensor] = compile_(network.remember)
        self._finish: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {
            name: compile_(partial(network.finish, name)) for name in self.info.outputs
        }
        self._previous: Tensor | None = None
        shape = self.info.state_shape
        self._state: Tensor | None = None
        if shape is not None:
            self._state = torch.zeros(1, *shape, dtype=dtype, device=device)
        self._elapsed_s = torch.zeros(1, device=device)

    @torch.inference_mode()
    def run(
        self,
        events: Array,
        wanted: Collection[str],
        elapsed_s: float = 0.0,
        kept: NDArray[np.int64] | None = None,
    ) -> dict[str, Array]:
        """Compute outputs of a window.

        Args:
            events: Event tensor, float32 [bins, H, W], not normalized: a numpy array, or a PyTorch
                tensor on any device.
            wanted: Names of outputs to compute, of ``info.outputs``.
            elapsed_s: With a memory, time since the end of the previous window, in s.
            kept: Patch tokens to compute, int64 [K], for a student of active tokens; all if None.

        Returns:
            Outputs by name, which later calls do not change; without ``flow`` if there is no
            previous window.
        """
        self._elapsed_s.fill_(elapsed_s)
        chosen = None if kept is None else torch.from_numpy(kept)[None].to(self._device)
        window = torch.as_tensor(events).to(self._device, non_blocking=True)
        features = self._features(window, chosen)
        previous, self._previous = self._previous, features
        return {
            name: self._finish[name](features, previous)
            for name in wanted
            if name != "flow" or previous is not None
        }

    @torch.inference_mode()
    def reset(self) -> None:
        """Forget previous windows."""
        self._previous = None
        if self._state is not None:
            self._state.zero_()

    def _features(self, events: Tensor, kept: Tensor | None) -> Tensor:
        events = normalized(events, self._spec)[None].to(self._dtype)
        events = events.contiguous(memory_format=torch.channels_last)
        if self._state is None:
            return self._encode(events, kept)
        # In place: a CUDA graph replays on the same memory.
        self._state.copy_(self._remember(events, self._state, self._elapsed_s, kept))
        return self._state[:, :-1].clone()


def start_torch(
    path: Path,
    size: tuple[int, int],
    device: Device,
    precision: str,
    backend: str,
    features_space: str,
) -> tuple[str, TorchBackend]:
    """Load a checkpoint and start its backend; see `make_torch_backend`.

    Raises:
        EngineError: If the checkpoint is invalid; see `load_network`.
    """
    with torch.inference_mode():
        network = load_network(path, size, features_space=features_space)
        return make_torch_backend(network, device.to_torch(), DTYPES[precision], backend)


def make_torch_backend(
    network: Network, device: torch.device, dtype: torch.dtype, backend: str
) -> tuple[str, TorchBackend]:
    """Start a backend of PyTorch, without CUDA graphs if the network cannot be captured.

    Networks that synchronize host and device in each call cannot be captured, such as SAM with its
    relative positions.

    Args:
        network: Network as for `TorchBackend`.
        device: Device of the network.
        dtype: Data type of weights and activations.
        backend: ``eager``, ``compile`` or ``cudagraph``.

    Returns:
        Name of the backend that runs, and the backend.
    """
    compiled = backend == "compile"
    if device.type == "cuda" and backend != "eager":
        try:
            return backend, GraphBackend(network, device, dtype, compiled=compiled)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).strip().partition("\n")[0]
            logger.warning(
                "%s cannot be captured as a CUDA graph and runs %s, which is slower: %s",
                network.info.header.architecture,
                "compiled" if compiled else "eagerly",
                reason,
            )
    started = TorchBackend(network, device, dtype, compiled=compiled)
    return "compile" if compiled else "eager", started


class _Captured(NamedTuple):
    """A CUDA graph, and the tensor to which its replays write."""

    graph: torch.cuda.CUDAGraph
    result: Tensor


class GraphBackend(TorchBackend):
    """Replays CUDA graphs: one from the window to the encoded features, one for each output.

    A student of active tokens has one of the first kind for each number of tokens. A replay costs
    the host one call. The graphs share one memory pool. This is safe, since they replay in the
    order of their capture, and each output is copied before the next graph runs, so that tensors of
    the caller are never overwritten.
    """

    def __init__(
        self, network: Network, device: torch.device, dtype: torch.dtype, *, compiled: bool = False
    ) -> None:
        super().__init__(network, device, dtype, compiled=compiled)
        with torch.cuda.device(device):
            self._pool = torch.cuda.graph_pool_handle()
            shape = (self.info.header.bins, *self.info.size)
            self._input = torch.zeros(shape, device=device)
            self._shared: Tensor | None = None
            total = math.prod(self.info.grid)
            counts = [total] if self.info.header.tokens is None else token_counts(total)
            self._kept = {count: torch.arange(count, device=device)[None] for count in counts}
            self._encoders = {
                count: self._capture(partial(self._encode_window, kept))
                for count, kept in self._kept.items()
            }
            self._encoded = self._encoders[total].result
            self._before = torch.zeros_like(self._encoded)
            self._finished = {
                name: self._capture(partial(finish, self._encoded, self._before))
                for name, finish in self._finish.items()
                if name != "features" or not network.encodes_features  # else they are just copied
            }
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's
        self._has_before = False
        self.reset()  # captures ran on windows of zeros

    def _encode_window(self, kept: Tensor) -> Tensor:
        """Encode the window, to the same memory for each number of tokens."""
        if self.info.header.tokens is None:
            return self._features(self._input, None)
        features = self._features(self._input, kept)
        if self._shared is None:  # in the first call, which is not captured
            self._shared = torch.empty_like(features)
        return self._shared.copy_(features)

    @torch.inference_mode()
    def run(
        self,
        events: Array,
        wanted: Collection[str],
        elapsed_s: float = 0.0,
        kept: NDArray[np.int64] | None = None,
    ) -> dict[str, Array]:
        """Compute outputs of a window, as `TorchBackend.run` does; K must be a `token_counts`."""
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(self._done)  # the last call may have been on another stream
        flow = "flow" in self._finished and self._has_before
        if flow:
            self._before.copy_(self._encoded)
        self._input.copy_(torch.as_tensor(events), non_blocking=True)
        self._elapsed_s.fill_(elapsed_s)
        count = max(self._encoders)
        if kept is not None:
            count = len(kept)
            self._kept[count].copy_(torch.from_numpy(kept)[None])
        self._encoders[count].graph.replay()
        self._has_before = True
        outputs: dict[str, Array] = {}
        if "features" in wanted and "features" not in self._finished:
            outputs["features"] = self._encoded[0].to(torch.float32, copy=True)
        for name, captured in self._finished.items():
            if name in wanted and (name != "flow" or flow):
                captured.graph.replay()
                outputs[name] = captured.result.clone()
        self._done.record(stream)
        return outputs

    @torch.inference_mode()
    def reset(self) -> None:
        """Forget previous windows."""
        self._has_before = False
        if self._state is not None:
            # After the last replay, which may have been on another stream.
            torch.cuda.current_stream(self._device).wait_event(self._done)
            self._state.zero_()

    def _capture(self, function: Callable[[], Tensor]) -> _Captured:
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # torch's
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                function()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may allocate pinned memory meanwhile, which the default mode forbids.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"
        ):
            result = function()
        return _Captured(graph, result)


def _as_it_is(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return function
