"""A checkpoint as a fast callable: the tensor of a window in, dense outputs out."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from scaleevent_ros.models.shipped import resolve_model
from scaleevent_ros.runtime.errors import EngineError
from scaleevent_ros.runtime.export import cached_engine, cached_onnx
from scaleevent_ros.runtime.exported import KINDS, open_exported
from scaleevent_ros.runtime.network import load_network
from scaleevent_ros.runtime.placement import (
    DTYPES,
    choose_backend,
    choose_device,
    choose_precision,
)
from scaleevent_ros.runtime.torch_backend import make_torch_backend

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from scaleevent_ros.runtime.network import NetworkInfo

logger = logging.getLogger(__name__)

BYTE_CLASSES = 255  # 255 itself means unlabelled in an 8-bit picture


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """What an engine computed of one window, on the engine's device; None where not wanted.

    Attributes:
        features: float32 [D, h, w], with h = ceil(H / stride) and w = ceil(W / stride).
        segmentation: Class ids, uint8 [H, W] (int32 for more than 255 classes).
        depth: float32 [H, W], in the unit that the head was trained with.
        flow: float32 [2, H, W], how far each pixel of the window of the call before went, in pixels
            to the right and down; None in the first call, and the first after `Engine.reset`.
    """

    features: Tensor | None = None
    segmentation: Tensor | None = None
    depth: Tensor | None = None
    flow: Tensor | None = None


class _Backend(Protocol):
    """What runs a network: see `TorchBackend`."""

    info: NetworkInfo

    def run(self, events: Tensor, wanted: Collection[str]) -> dict[str, Tensor]: ...

    def reset(self) -> None: ...


class Engine:
    """Runs a student and its heads on windows of one size; warm once it is made.

    Work is queued on the current stream of a GPU and nothing waits for it; the caller does, where
    it needs the numbers. Outputs belong to the caller: later calls do not touch them. One thread
    at a time may call.

    Attributes:
        header: Of the checkpoint.
        size: Height and width of the event tensor.
        grid: Height and width of the features.
        width: Channels D of the features.
        stride: Pixels per feature.
        features_space: Whose space the features are in.
        outputs: What the checkpoint has: ``features``, and the tasks with a head.
        device: Where it runs.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        backend: Which one runs.

    Args:
        checkpoint: Name of a student that ships with the package (`models.SHIPPED`), a file that
            `load_student` reads, or what `scaleevent export` made of one: ``.onnx`` or ``.engine``.
        device: ``auto`` (a GPU if there is one, else the CPU with a warning), ``cpu``, ``cuda``
            or ``cuda:N``.
        precision: ``auto`` (fp32 on a CPU, bf16 on GPUs that have it, else fp16), ``fp32``,
            ``fp16`` or ``bf16``.
        backend: ``auto`` (the fastest there), ``eager``, ``compile``, ``cudagraph``, ``onnx`` or
            ``tensorrt``.
        size: Height and width of the sensor, in pixels. One that the stride does not divide is
            padded with zeros. May be left out where an exported file says it.
        features_space: ``student``: features as the backbone computes them. ``teacher``: in the
            teacher's space, where what was trained on the teacher's features of frames works.

    Raises:
        CheckpointError: If there is no such checkpoint, or it cannot be read.
        EngineError: If the device, the precision or the backend cannot be had.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        device: str = "auto",
        precision: str = "auto",
        backend: str = "auto",
        *,
        size: tuple[int, int] | None = None,
        features_space: str = "student",
    ) -> None:
        self.device = choose_device(device)
        path = resolve_model(checkpoint)
        with torch.inference_mode():
            self.backend, self.precision, self._run = _start(
                path, self.device, precision, backend, size, features_space
            )
        info = self._run.info
        if info.features_space != features_space:
            msg = (
                f"{path} was exported with features_space {info.features_space}, not "
                f"{features_space}: export it again"
            )
            raise EngineError(msg)
        self.features_space = info.features_space
        if info.header.normalization is None:
            logger.warning("%s does not say how to normalize: its input is taken as it is", path)
        self.header = info.header
        self.size, self.grid = info.size, info.grid
        self.width, self.stride = info.width, info.stride
        self.outputs = info.outputs
        self._warm_up()

    def __call__(
        self, tensor: Tensor | NDArray[np.float32], wanted: Collection[str] | None = None
    ) -> Outputs:
        """Run on one window.

        Args:
            tensor: float32 [bins, H, W], built as the header's representation says and **not**
                normalized: the engine does that. On the engine's device, or on the CPU.
            wanted: Names of `Outputs` to compute; all that the checkpoint has if None.

        Raises:
            EngineError: If the tensor's shape or dtype is wrong, or an output is wanted that the
                checkpoint has no head for.
        """
        events = torch.from_numpy(tensor) if isinstance(tensor, np.ndarray) else tensor
        shape = (self.header.bins, *self.size)
        if events.shape != shape or events.dtype != torch.float32:
            msg = (
                f"the engine needs a window of float32 {list(shape)} (bins, height, width), not "
                f"{str(events.dtype).removeprefix('torch.')} {list(events.shape)}"
            )
            raise EngineError(msg)
        names = self.outputs if wanted is None else tuple(wanted)
        for name in names:
            if name not in self.outputs:
                msg = f"the checkpoint has no {name!r}; it has: {', '.join(self.outputs)}"
                raise EngineError(msg)
        outputs = self._run.run(events, names)
        if "segmentation" in outputs and len(self.header.classes) <= BYTE_CLASSES:
            outputs["segmentation"] = _as_bytes(outputs["segmentation"])
        return Outputs(**outputs)

    def _warm_up(self) -> None:
        """Make the first, slow calls: two, since flow needs a window before."""
        events = torch.zeros(self.header.bins, *self.size, device=self.device)
        for _ in range(2):
            self(events)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.reset()

    def reset(self) -> None:
        """Forget the window before, so that flow starts anew: after a gap, say."""
        self._run.reset()


def _as_bytes(ids: Tensor) -> Tensor:
    """Cast class ids to uint8, on a CPU by numpy, in one thread.

    PyTorch's threads would keep spinning for a while, against those of ONNX Runtime's next run.
    """
    if ids.device.type == "cpu":
        return torch.from_numpy(ids.numpy().astype(np.uint8))
    return ids.to(torch.uint8)


def _start(
    path: Path,
    device: torch.device,
    precision: str,
    backend: str,
    size: tuple[int, int] | None,
    features_space: str,
) -> tuple[str, str, _Backend]:
    """Resolve backend and precision, and make the backend."""
    if path.suffix.lower() in KINDS:
        return _start_exported(path, device, precision, backend, size)
    if size is None:
        msg = f"{path} runs at any size: say which, as size=(height, width)"
        raise EngineError(msg)
    backend = choose_backend(backend, device)
    precision = choose_precision(precision, device, backend)
    if backend == "onnx":
        file = cached_onnx(path, size, precision, features_space)
        return backend, precision, open_exported(file, device, size)
    if backend == "tensorrt":
        engine = cached_engine(path, size, precision, device, features_space)
        return backend, precision, open_exported(engine, device, size)
    network = load_network(path, size, features_space=features_space)
    backend, started = make_torch_backend(network, device, DTYPES[precision], backend)
    return backend, precision, started


def _start_exported(
    path: Path, device: torch.device, precision: str, backend: str, size: tuple[int, int] | None
) -> tuple[str, str, _Backend]:
    own = KINDS[path.suffix.lower()]
    if backend not in {"auto", own}:
        msg = f"{path} runs by backend {own!r}, not {backend!r}"
        raise EngineError(msg)
    choose_backend(own, device)
    started = open_exported(path, device, size)
    if precision not in {"auto", started.precision}:
        msg = f"{path} was exported as {started.precision}, not {precision}: export it again"
        raise EngineError(msg)
    return own, started.precision, started
