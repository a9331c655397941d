"""A checkpoint as a fast callable: the tensor of a window in, dense outputs out."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

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
from scaleevent_ros.runtime.trial_windows import TRIAL_SHARES, trial_tokens
from scaleevent_ros.runtime.tuning import tune

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from numpy.typing import NDArray

    from scaleevent_ros.runtime.arrays import Array, Device
    from scaleevent_ros.runtime.exported import Backend, ExportedBackend

logger = logging.getLogger(__name__)

BYTE_CLASSES = 255  # largest number of classes in 8 bits: the id 255 marks unlabelled pixels


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """Outputs of an engine for one window: numpy arrays on a CPU, PyTorch tensors on a GPU.

    Outputs that were not requested are None.

    Attributes:
        features: float32 [D, h, w], with h = ceil(H / stride) and w = ceil(W / stride).
        segmentation: Class ids, uint8 [H, W] (int32 for more than 255 classes).
        depth: float32 [H, W], in the unit that the head was trained with.
        flow: Displacement of each pixel of the previous call's window, float32 [2, H, W], in pixels
            to the right and down; None in the first call, and in the first after `Engine.reset`.
        computed: For a student of active tokens, where features were computed, bool [h, w], as a
            numpy array; elsewhere they are the memory's, or zero without one (in the teacher's
            space: one constant vector). None for other students, which compute all.
    """

    features: Array | None = None
    segmentation: Array | None = None
    depth: Array | None = None
    flow: Array | None = None
    computed: NDArray[np.bool_] | None = None


class Engine:
    """Runs a student and its heads on windows of one size; warmed up when constructed.

    On a GPU, work is queued on the current stream, and calls return before it is done: the caller
    waits where it needs the values. Outputs belong to the caller, and later calls do not change
    them. Only one thread at a time may call.

    Attributes:
        header: Header of the checkpoint.
        size: Height and width of the event tensor.
        grid: Height and width of the features.
        width: Channels D of the features.
        stride: Pixels per feature.
        features_space: Space of the features: ``student`` or ``teacher``.
        longest_gap_s: Longest time in s between windows that a memory bridges; infinite without
            one.
        outputs: Available outputs: ``features``, and the tasks with a head.
        device: Device of the network.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        backend: Name of the backend that runs.

    Args:
        checkpoint: Name of a student that ships with the package (`models.SHIPPED`), a file that
            `load_student` reads, or an exported network: ``.onnx`` or ``.engine``.
        device: ``auto`` (a GPU if there is one, else the CPU with a warning), ``cpu``, ``cuda``
            or ``cuda:N``.
        precision: ``auto`` (fp32 on a CPU, bf16 on GPUs that support it, else fp16), ``fp32``,
            ``fp16`` or ``bf16``.
        backend: ``auto``, ``eager``, ``compile``, ``cudagraph``, ``onnx``, ``openvino`` or
            ``tensorrt``. ``auto`` is ``cudagraph`` on a GPU; on a CPU the fastest that is installed
            and agrees with ONNX Runtime, measured once for each file and size (see `tune`).
        size: Height and width of the sensor, in pixels. Windows are padded with zeros to multiples
            of the stride. Not needed for an exported file of a fixed size.
        features_space: ``student``: the backbone's features. ``teacher``: projected to the
            teacher's space, for models that were trained on the teacher's features of frames.

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
            logger.warning("%s does not say how to normalize: its input is not normalized", path)
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

        The state of a memory stays on the device between calls. It is emptied first if the time
        since the last call is longer than in training. If no output is requested, nothing is
        computed: memory and flow do not see the window.

        Args:
            tensor: Event tensor, float32 [bins, H, W], in the header's representation and **not**
                normalized: the engine normalizes it. On the engine's device, or on the CPU.
            wanted: Names of `Outputs` to compute; all available ones if None.
            elapsed_s: For a memory, time from the end of the last call's window to the end of this
                one, in s; the length of a window if None.

        Raises:
            EngineError: If the tensor's shape or dtype is wrong, or the checkpoint has no head for
                a requested output.
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
        if not names:
            return Outputs()
        kept = self._choose_tokens(tensor)
        outputs = self._run.run(tensor, names, elapsed_s, kept)
        if self.device.type == "cpu":
            outputs = {name: to_host(output) for name, output in outputs.items()}
        if "segmentation" in outputs and len(self.header.classes) <= BYTE_CLASSES:
            outputs["segmentation"] = _to_bytes(outputs["segmentation"])
        computed: NDArray[np.bool_] | None = None
        if kept is not None:
            computed = np.zeros(self.grid, bool)
            computed.flat[kept] = True
        return Outputs(**cast("dict[str, Any]", outputs), computed=computed)

    def _choose_tokens(self, events: Array) -> NDArray[np.int64] | None:
        """Choose the tokens to compute of a window; None for all."""
        choice = self.header.active_tokens
        if choice is None:
            return None
        (kept,) = choice.choose(events[None, : self.header.represented], self.stride)
        return cast("NDArray[np.int64]", kept)

    def _warm_up(self) -> None:
        """Run the first, slow calls: two, since flow needs a previous window.

        With active tokens, one for each of `TRIAL_SHARES`.
        """
        events = np.zeros((self.header.bins, *self.size), np.float32)
        for index in range(2 if self.header.tokens is None else len(TRIAL_SHARES)):
            kept = trial_tokens(self._run.info, index)
            for output in self._run.run(events, self.outputs, kept=kept).values():
                to_host(output)  # waits for a GPU
        self.reset()

    def reset(self) -> None:
        """Forget previous windows, which flow and a memory use; for example after a gap."""
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
    """Resolve device, backend and precision, and start the backend."""
    suffix = path.suffix.lower()
    device = choose_device(device_name, file=suffix)
    check_backend(backend, device)
    if suffix in KINDS:
        name, started = _start_exported(path, device, precision, backend, size)
        return device, name, started.precision, started
    if size is None:
        msg = f"{path} runs at any size: give the sensor's as size=(height, width)"
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
    """Choose a backend for a checkpoint; ``auto`` to measure those for exported files."""
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
        msg = f"{path} needs backend {' or '.join(map(repr, kinds))}, not {backend!r}"
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
