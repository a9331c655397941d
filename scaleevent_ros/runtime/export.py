"""Export of checkpoints to ONNX files and TensorRT engines, verified against PyTorch."""

from __future__ import annotations

import logging
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from scaleevent_ros.runtime.arrays import CPU, FIRST_GPU
from scaleevent_ros.runtime.errors import EngineError
from scaleevent_ros.runtime.exported import open_exported
from scaleevent_ros.runtime.exported_cache import cached_onnx
from scaleevent_ros.runtime.network import load_network
from scaleevent_ros.runtime.onnx_file import read_info, write_onnx
from scaleevent_ros.runtime.parity import beyond, largest_differences
from scaleevent_ros.runtime.placement import (
    check_backend,
    check_packages,
    choose_device,
    choose_precision,
)
from scaleevent_ros.runtime.torch_backend import TorchBackend
from scaleevent_ros.runtime.trial_windows import (
    TRIAL_SHARES,
    recorded_windows,
    sensor_size,
    synthetic_windows,
    trial_tokens,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from scaleevent_ros.runtime.arrays import Device
    from scaleevent_ros.runtime.network import Network

logger = logging.getLogger(__name__)

CALIBRATION_WINDOWS = 16
"""Windows on which 8-bit activations are calibrated; as many others measure the loss."""
FEWEST_WINDOWS = 8
TRIALS = 3
MEMORY_TRIALS = 20
"""Number of windows of the comparison with a memory, in which differences could add up; it is
`TRIALS` without one."""


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export.

    Attributes:
        size: Height and width of the sensor; None for the bag's.
        precision: Precision of weights and activations: ``fp32``, ``fp16``, or ``int8``, see
            `quantize`.
        dynamic: Write an ONNX file that takes windows of any size.
        bag: Bag whose windows are used for the comparison; synthetic ones if None.
        topic: Event topic, for bags with several.
        features_space: ``student`` or ``teacher``, see `Network`.
        max_loss: Largest loss of any output for which an ``int8`` file is written, see
            `QuantizationLoss.means`.
    """

    size: tuple[int, int] | None = None
    precision: str = "fp32"
    dynamic: bool = False
    bag: Path | None = None
    topic: str | None = None
    features_space: str = "student"
    max_loss: float = 0.05


@dataclass(frozen=True)
class Exported:
    """Result of an export.

    Attributes:
        path: The file.
        size: Height and width of the compared windows.
        differences: Largest difference of each output to PyTorch's, as in `Tolerance`; for
            ``int8`` the losses.
        windows: Number of compared windows.
        recorded: Whether the windows come from a bag.
    """

    path: Path
    size: tuple[int, int]
    differences: dict[str, float]
    windows: int
    recorded: bool

    def __str__(self) -> str:
        """Summary in one line."""
        kind = "recorded" if self.recorded else "synthetic"
        seen = ", ".join(f"{name} by {value:.1e}" for name, value in self.differences.items())
        where = f"{self.windows} {kind} windows of {self.size[1]}x{self.size[0]}"
        return f"{self.path}: differs from PyTorch on {where}: {seen}"


def export(
    checkpoint: Path,
    path: Path,
    options: ExportOptions = ExportOptions(),
    gpu: Device = FIRST_GPU,
) -> Exported:
    """Export a checkpoint and compare the result with PyTorch in float32.

    Args:
        checkpoint: A file that `load_student` reads.
        path: The file to write: ``.onnx``, or ``.engine`` for TensorRT on this machine's GPU.
        options: Options of the export.
        gpu: GPU for which TensorRT builds an engine.

    Returns:
        The written file, and its differences from PyTorch.

    Raises:
        EngineError: If the checkpoint cannot be exported with these options, or the result differs
            from PyTorch by more than `TOLERANCES`, or ``max_loss`` for ``int8``; then nothing is
            written, and an older file is kept.
    """
    suffix = path.suffix.lower()
    if suffix not in {".onnx", ".engine"}:
        msg = f"{path}: an export is named .onnx or .engine"
        raise EngineError(msg)
    device = CPU if suffix == ".onnx" else choose_device(str(gpu))
    backend = "onnx" if suffix == ".onnx" else "tensorrt"
    check_backend(backend, device)
    check_packages("onnx", "onnxscript")
    if options.precision == "int8":
        return _export_int8(checkpoint, path, options)
    precision = choose_precision(options.precision, device, backend)
    options = replace(options, precision=precision)
    if options.size is None and options.bag is None:
        msg = "an export needs the sensor's size (--size 640x480), or a bag to take it from (--bag)"
        raise EngineError(msg)
    size = options.size or sensor_size(Path(str(options.bag)), options.topic)
    if options.dynamic and suffix == ".engine":
        msg = "a TensorRT engine is built for one size: export it without dynamic sizes"
        raise EngineError(msg)
    with _new_file(path) as temporary:
        if suffix == ".onnx":
            network = load_network(
                checkpoint,
                size,
                fixed=not options.dynamic,
                features_space=options.features_space,
            )
            write_onnx(network, temporary, precision, dynamic=options.dynamic)
        else:
            _build_engine(checkpoint, temporary, size, options, device)
        return _compare(checkpoint, temporary, path, size, device, options)


def _export_int8(checkpoint: Path, path: Path, options: ExportOptions) -> Exported:
    """Quantize on every second of a bag's first windows, and measure the loss on the others."""
    from scaleevent_ros.runtime.quantization import QuantizationLoss, quantize, write_header

    if path.suffix.lower() != ".onnx" or options.bag is None:
        msg = "int8 needs a file named .onnx, and a bag whose windows show what to expect (--bag)"
        raise EngineError(msg)
    size = options.size or sensor_size(options.bag, options.topic)
    space = options.features_space
    network = load_network(checkpoint, size, fixed=not options.dynamic, features_space=space)
    windows = recorded_windows(
        network.info.header, options.bag, size, 2 * CALIBRATION_WINDOWS, options.topic
    )
    if len(windows) < FEWEST_WINDOWS:
        msg = f"{options.bag} holds {len(windows)} windows; int8 needs {FEWEST_WINDOWS} or more"
        raise EngineError(msg)
    with _new_file(path) as temporary:
        exact = temporary.with_name("exact.onnx")
        write_onnx(network, exact, "fp32", dynamic=options.dynamic)
        quantize(exact, temporary, windows[::2])
        info = replace(read_info(exact), precision="int8")
        write_header(temporary, info)
        found = open_exported(temporary, CPU, size)
        reference = TorchBackend(
            load_network(checkpoint, size, features_space=space), CPU.to_torch(), torch.float32
        )
        loss = QuantizationLoss()
        with torch.inference_mode():
            for window in windows[1::2]:
                one, other = (each.run(window, info.outputs) for each in (found, reference))
                loss.add(one, other)
        losses = loss.means()
        too_much = [f"{name} {value:.3g}" for name, value in losses.items()
                    if not value <= options.max_loss]  # fmt: skip
        if too_much:
            msg = (
                f"{path} is not written: 8 bits cost {', '.join(too_much)}, more than "
                f"{options.max_loss:g} (--max-loss)"
            )
            raise EngineError(msg)
        write_header(temporary, replace(info, losses=losses))
    return Exported(path, size, losses, len(windows) // 2, recorded=True)


def _build_engine(
    checkpoint: Path, path: Path, size: tuple[int, int], options: ExportOptions, device: Device
) -> None:
    from scaleevent_ros.runtime.tensorrt_backend import write_engine

    onnx_path = cached_onnx(checkpoint, size, options.precision, options.features_space)
    timings = onnx_path.parent / "tensorrt_timings"
    write_engine(onnx_path, path, read_info(onnx_path), device.to_torch(), timings)


def _compare(
    checkpoint: Path,
    written: Path,
    path: Path,
    size: tuple[int, int],
    device: Device,
    options: ExportOptions,
) -> Exported:
    """Compare the written file with PyTorch in float32 on the same windows."""
    network = load_network(checkpoint, size, features_space=options.features_space)
    header = network.info.header
    trials = TRIALS if header.tokens is None else len(TRIAL_SHARES)
    if header.memory is not None:
        trials = MEMORY_TRIALS
    if options.bag is None:
        windows = synthetic_windows(header, size, trials)
    else:
        windows = recorded_windows(header, options.bag, size, trials, options.topic)
    worst: dict[str, float] = {}
    _run_both(written, network, windows, device, worst)
    if options.dynamic:  # compare at another size too, which needs padding
        other = (4 * network.info.stride - 1, 6 * network.info.stride + 1)
        other_network = load_network(checkpoint, other, features_space=options.features_space)
        _run_both(written, other_network, synthetic_windows(header, other, 2), device, worst)
    too_far = beyond(worst, options.precision)
    if too_far:
        msg = f"{path} is not written, as it differs from PyTorch: {'; '.join(too_far)}"
        raise EngineError(msg)
    return Exported(path, size, worst, len(windows), options.bag is not None)


def _run_both(
    written: Path,
    network: Network,
    windows: list[NDArray[np.float32]],
    device: Device,
    worst: dict[str, float],
) -> None:
    found = open_exported(written, device, network.info.size)
    reference = TorchBackend(network, device.to_torch(), torch.float32)
    outputs, elapsed_s = network.info.outputs, network.info.header.windows.length_ms * 1e-3
    with torch.inference_mode():
        for index, window in enumerate(windows):
            kept = trial_tokens(network.info, index)
            one, other = (each.run(window, outputs, elapsed_s, kept) for each in (found, reference))
            largest_differences(one, other, worst)


@contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """Provide a temporary path to write to, which replaces the file on success.

    Raises:
        EngineError: If the folder or the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as folder:
            temporary = Path(folder) / path.name
            yield temporary
            temporary.replace(path)
    except OSError as error:
        msg = f"{path} cannot be written: {error}"
        raise EngineError(msg) from error


def gpu_name(device: Device) -> str:
    """Return the name of a GPU."""
    return torch.cuda.get_device_name(device.index)
