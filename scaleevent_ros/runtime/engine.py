"""A checkpoint as a fast callable: the tensor of a window in, dense outputs out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from scaleevent_ros.runtime.errors import EngineError
from scaleevent_ros.runtime.network import load_network
from scaleevent_ros.runtime.placement import (
    DTYPES,
    choose_backend,
    choose_device,
    choose_precision,
)
from scaleevent_ros.runtime.torch_backend import GraphBackend, TorchBackend

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

BYTE_CLASSES = 255  # 255 itself means unlabelled in an 8-bit picture


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """What an engine computed of one window, on the engine's device; None where not wanted.

    Attributes:
        features: float32 [D, h, w], with h = ceil(H / stride) and w = ceil(W / stride).
        segmentation: Class ids, uint8 [H, W] (int32 for more than 255 classes).
        depth: float32 [H, W], in the unit that the head was trained with.
        flow: float32 [2, H, W], pixels to the right and down from the window of the call before;
            None in the first call, and the first after `Engine.reset`.
    """

    features: Tensor | None = None
    segmentation: Tensor | None = None
    depth: Tensor | None = None
    flow: Tensor | None = None


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
        outputs: What the checkpoint has: ``features``, and the tasks with a head.
        device: Where it runs.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        backend: Which one runs.

    Args:
        checkpoint: A file that `load_student` reads.
        device: ``auto`` (a GPU if there is one, else the CPU with a warning), ``cpu``, ``cuda``
            or ``cuda:N``.
        precision: ``auto`` (fp32 on a CPU, bf16 on GPUs that have it, else fp16), ``fp32``,
            ``fp16`` or ``bf16``.
        backend: ``auto`` (the fastest there), ``eager``, ``compile``, ``cudagraph``, ``onnx`` or
            ``tensorrt``.
        size: Height and width of the sensor, in pixels. One that the stride does not divide is
            padded with zeros.

    Raises:
        EngineError: If the checkpoint, the device, the precision or the backend cannot be had.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        device: str = "auto",
        precision: str = "auto",
        backend: str = "auto",
        *,
        size: tuple[int, int],
    ) -> None:
        self.device = choose_device(device)
        self.backend = choose_backend(backend, self.device)
        self.precision = choose_precision(precision, self.device)
        network = load_network(checkpoint, size)
        info = network.info
        self.header = info.header
        self.size, self.grid = info.size, info.grid
        self.width, self.stride = info.width, info.stride
        self.outputs = info.outputs
        captured = self.device.type == "cuda" and self.backend != "eager"
        kind = GraphBackend if captured else TorchBackend
        self._backend = kind(
            network, self.device, DTYPES[self.precision], compiled=self.backend == "compile"
        )

    @torch.inference_mode()
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
        outputs = self._backend.run(events, names)
        if "segmentation" in outputs and len(self.header.classes) <= BYTE_CLASSES:
            outputs["segmentation"] = outputs["segmentation"].to(torch.uint8)
        return Outputs(**outputs)

    def reset(self) -> None:
        """Forget the window before, so that flow starts anew: after a gap, say."""
        self._backend.reset()
