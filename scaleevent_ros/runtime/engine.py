"""A checkpoint as a fast callable: the tensor of a window in, dense outputs out."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scaleevent_ros.models.shipped import resolve_model
from scaleevent_ros.runtime.arrays import to_host
from scaleevent_ros.runtime.errors import EngineError
from scaleevent_ros.runtime.exported import KINDS, open_exported
from scaleevent_ros.runtime.exported_cache import (
    cache_path,
    engine_cache,
    is_cached,
    onnx_of,
    versions,
)
from scaleevent_ros.runtime.placement import (
    check_backend,
    choose_device,
    choose_precision,
    missing_packages,
)
from scaleevent_ros.runtime.tuning import tune

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from scaleevent_ros.runtime.arrays import Array, Device
    from scaleevent_ros.runtime.exported import Backend, ExportedBackend

logger = logging.getLogger(__name__)

BYTE_CLASSES = 255  # 255 itself means unlabelled in an 8-bit picture


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """Outputs of an engine for one window: arrays on a CPU, tensors on a GPU; None where unwanted.

    Attributes:
        features: float32 [D, h, w], with h = ceil(H / stride) and w = ceil(W / stride).
        segmentation: Class ids, uint8 [H, W] (int32 for more than 255 classes).
        depth: float32 [H, W], in the unit that the head was trained with.
        flow: float32 [2, H, W], how far each pixel of the window of the call before went, in pixels
            to the right and down; None in the first call, and the first after `Engine.reset`.
    """

    features: Array | None = None
    segmentation: Array | None = None
    depth: Array | None = None
    flow: Array | None = None


class Engine:
    """Runs a student and its heads on windows of one size; warm once it is made.

    Work is queued on the current stream of a GPU and nothing waits for it; the caller does, where
    it needs the numbers. Outputs belong to the caller: later calls do not touch them. One thread
    at a time may call.

    Attributes:
        header: Header of the checkpoint.
        size: Height and width of the event tensor.
        grid: Height and width of the features.
        width: Channels D of the features.
        stride: Pixels per feature.
        features_space: Whose space the features are in.
        longest_gap_s: Longest time between windows that a memory bridges; infinite without one.
        outputs: Available outputs: ``features``, and the tasks with a head.
        device: Device of the network.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        backend: Name of the backend that runs.

    Args:
        checkpoint: Name of a student that ships with the package (`models.SHIPPED`), a file that
            `load_student` reads, or what `scaleevent export` made of one: ``.onnx`` or ``.engine``.
        device: ``auto`` (a GPU if there is one, else the CPU with a warning), ``cpu``, ``cuda``
            or ``cuda:N``.
        precision: ``auto`` (fp32 on a CPU, bf16 on GPUs that have it, else fp16), ``fp32``,
            ``fp16`` or ``bf16``.
        backend: ``auto``, ``eager``, ``compile``, ``cudagraph``, ``onnx``, ``openvino`` or
            ``tensorrt``. ``auto`` is ``cudagraph`` on a GPU; on a CPU the fastest that is installed
            and agrees with ONNX Runtime, measured once for each file and size (see `tune`).
        size: Height and width of the sensor, in pixels. One that the stride does not divide is
            padded with zeros. May be left out where an exported file says it.
        features_space: ``student``: features as the backbone computes them. ``teacher``: in the
            teacher's space, where what was trained on the teacher's features of frames works.

    Raises:
        CheckpointError: If there is no such file.
        EngineError: If the file cannot be read, or the device, the precision or the backend is
            unknown or not available.
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
        path = resolve_model(checkpoint)
        self.device, self.backend, self.precision, self._run = _start(
            path, device, precision, backend, size, features_space
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
        memory = self.header.memory
        self.longest_gap_s = math.inf if memory is None else float(memory["longest_gap_s"])
        self._warm_up()

    def __call__(
        self,
        tensor: Array,
        wanted: Collection[str] | None = None,
        elapsed_s: float | None = None,
    ) -> Outputs:
        """Run on one window.

        With a memory, its state stays on the device from call to call. It is emptied first if the
        time since the last call is longer than any in training. If no output is wanted, nothing is
        computed and the memory stays as it is.

        Args:
            tensor: float32 [bins, H, W], built as the header's representation says and **not**
                normalized: the engine does that. On the engine's device, or on the CPU.
            wanted: Names of `Outputs` to compute; all that the checkpoint has if None.
            elapsed_s: For a memory, time from the end of the window of the last call to the end of
                this one, in s; the length of a window if None.

        Raises:
            EngineError: If the tensor's shape or dtype is wrong, or an output is wanted that the
                checkpoint has no head for.
        """
        shape = (self.header.bins, *self.size)
        dtype = str(tensor.dtype).removeprefix("torch.")
        if tuple(tensor.shape) != shape or dtype != "float32":
            msg = (
                f"the engine needs a window of float32 {list(shape)} (bins, height, width), not "
                f"{dtype} {list(tensor.shape)}"
            )
            raise EngineError(msg)
        names = self.outputs if wanted is None else tuple(wanted)
        for name in names:
            if name not in self.outputs:
                msg = f"the checkpoint has no {name!r}; it has: {', '.join(self.outputs)}"
                raise EngineError(msg)
        if elapsed_s is None:
            elapsed_s = self.header.windows.length_ms * 1e-3
        if not 0 <= elapsed_s <= self.longest_gap_s:
            self.reset()
            elapsed_s = 0.0
        outputs = self._run.run(tensor, names, elapsed_s)
        if self.device.type == "cpu":
            outputs = {name: to_host(output) for name, output in outputs.items()}
        if "segmentation" in outputs and len(self.header.classes) <= BYTE_CLASSES:
            outputs["segmentation"] = _to_bytes(outputs["segmentation"])
        return Outputs(**outputs)

    def _warm_up(self) -> None:
        """Run the first, slow calls: two, since flow needs a previous window."""
        events = np.zeros((self.header.bins, *self.size), np.float32)
        for _ in range(2):
            outputs = self(events)
            for name in self.outputs:
                if (output := getattr(outputs, name)) is not None:
                    to_host(output)  # waits for a GPU
        self.reset()

    def reset(self) -> None:
        """Forget the windows before, for flow and a memory: after a gap, for example."""
        self._run.reset()


def _to_bytes(ids: Array) -> Array:
    """Cast class ids to uint8."""
    return ids.astype(np.uint8) if isinstance(ids, np.ndarray) else ids.byte()


def _start(
    path: Path,
    device_name: str,
    precision: str,
    backend: str,
    size: tuple[int, int] | None,
    features_space: str,
) -> tuple[Device, str, str, Backend]:
    """Resolve device, backend and precision, and make the backend."""
    suffix = path.suffix.lower()
    device = choose_device(device_name, file=suffix)
    check_backend(backend, device)
    if suffix in KINDS:
        name, started = _start_exported(path, device, precision, backend, size)
        return device, name, started.precision, started
    if size is None:
        msg = f"{path} runs at any size: say which, as size=(height, width)"
        raise EngineError(msg)
    if backend == "auto":
        backend = _choose_backend(device, precision)
    precision = choose_precision(precision, device, backend)
    if backend in {"auto", "onnx", "openvino"}:
        file = onnx_of(path, size, "fp32" if precision == "bf16" else precision, features_space)
        name, started = _start_exported(file, device, precision, backend, size)
        return device, name, precision, started
    if backend == "tensorrt":
        engine = _cached_engine(path, size, precision, device, features_space)
        return device, backend, precision, open_exported(engine, device, size)
    from scaleevent_ros.runtime.torch_backend import start_torch

    backend, in_torch = start_torch(path, size, device, precision, backend, features_space)
    return device, backend, precision, in_torch


def _cached_engine(
    checkpoint: Path, size: tuple[int, int], precision: str, device: Device, features_space: str
) -> Path:
    """Find the TensorRT engine of a checkpoint for a GPU in the user's cache, or build it there.

    Raises:
        EngineError: The export fails, as in `export`.
    """
    from scaleevent_ros.runtime.export import ExportOptions, export, gpu_name

    made_by = (versions("torch", "timm", "onnxscript", "tensorrt"), gpu_name(device))
    path = cache_path(checkpoint, (size, precision, features_space, made_by), ".engine")
    if not is_cached(path):
        logger.info("building %s for %s; later starts find it there", path, made_by[-1])
        options = ExportOptions(size, precision, features_space=features_space)
        export(checkpoint, path, options, device)
    return path


def _choose_backend(device: Device, precision: str) -> str:
    """Choose a backend for a checkpoint; ``auto`` where those of exported files are measured."""
    if device.type == "cuda":
        return "cudagraph"
    if missing_packages("onnx") or engine_cache() is None:
        return "eager"
    if precision == "bf16":
        return "eager" if missing_packages("openvino") else "openvino"
    return "auto"


def _start_exported(
    path: Path, device: Device, precision: str, backend: str, size: tuple[int, int] | None
) -> tuple[str, ExportedBackend]:
    kinds = KINDS[path.suffix.lower()]
    if backend not in {"auto", *kinds}:
        msg = f"{path} runs by backend {' or '.join(map(repr, kinds))}, not {backend!r}"
        raise EngineError(msg)
    if backend == "auto":
        installed = [name for name in kinds if not missing_packages(name)]
        backend = (installed or kinds)[0]
        if device.type == "cpu" and len(installed) > 1 and path.is_file():
            best = tune(path, size, precision)[0]
            logger.info("%s runs by %s", path.name, best)
            backend = best.backend
    check_backend(backend, device)
    return backend, open_exported(path, device, size, backend, precision)
