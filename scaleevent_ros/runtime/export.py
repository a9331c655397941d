"""A checkpoint as an ONNX file or a TensorRT engine, compared with PyTorch before it is kept."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from scaleevent_ros import __version__
from scaleevent_ros.cache import mark_used, remove_unused
from scaleevent_ros.runtime.errors import EngineError
from scaleevent_ros.runtime.exported import open_exported
from scaleevent_ros.runtime.network import load_network
from scaleevent_ros.runtime.onnx_file import FORMAT_VERSION, read_info, write_onnx
from scaleevent_ros.runtime.parity import beyond, largest_differences
from scaleevent_ros.runtime.placement import (
    choose_backend,
    choose_device,
    choose_precision,
    engine_cache,
)
from scaleevent_ros.runtime.torch_backend import TorchBackend
from scaleevent_ros.runtime.trial_windows import made_up_windows, recorded_windows, sensor_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from scaleevent_ros.runtime.network import Network

logger = logging.getLogger(__name__)

TRIALS = 3
KEPT_DAYS = 90  # for which exported networks are kept unused
CPU = torch.device("cpu")


@dataclass(frozen=True)
class ExportOptions:
    """How to export.

    Attributes:
        size: Height and width of the sensor; None for the bag's.
        precision: ``fp32`` or ``fp16``, of weights and activations.
        dynamic: Let one ONNX file take windows of any size.
        bag: Recording whose windows the comparison runs on; made-up windows if None.
        topic: The bag's topic of events, where it has several.
        features_space: ``student`` or ``teacher``, see `Network`.
    """

    size: tuple[int, int] | None = None
    precision: str = "fp32"
    dynamic: bool = False
    bag: Path | None = None
    topic: str | None = None
    features_space: str = "student"


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The file.
        size: Height and width that it was compared at.
        differences: The largest seen of each output, as `Tolerance` says.
        windows: Over how many windows.
        recorded: Whether they came from a recording.
    """

    path: Path
    size: tuple[int, int]
    differences: dict[str, float]
    windows: int
    recorded: bool

    def __str__(self) -> str:
        """Say it in a line."""
        kind = "recorded" if self.recorded else "made-up"
        seen = ", ".join(f"{name} by {value:.1e}" for name, value in self.differences.items())
        where = f"{self.windows} {kind} windows of {self.size[1]}x{self.size[0]}"
        return f"{self.path}: differs from PyTorch on {where}: {seen}"


def parse_size(text: str) -> tuple[int, int]:
    """Read ``WIDTHxHEIGHT``, such as ``640x480``, as height and width.

    Raises:
        EngineError: If it is none.
    """
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        msg = f"{text!r} is no size; write it like 640x480"
        raise EngineError(msg)
    return int(height), int(width)


def export(checkpoint: Path, path: Path, options: ExportOptions = ExportOptions()) -> Exported:
    """Export a checkpoint and compare the result with PyTorch in float32.

    Args:
        checkpoint: A file that `load_student` reads.
        path: The file to write: ``.onnx``, or ``.engine`` for TensorRT on this machine's GPU.
        options: How.

    Returns:
        What was written.

    Raises:
        EngineError: If the checkpoint cannot be exported so, or the result differs from PyTorch
            by more than `TOLERANCES`; then nothing is written, and an older file is left alone.
    """
    suffix = path.suffix.lower()
    if suffix not in {".onnx", ".engine"}:
        msg = f"{path}: an export is named .onnx or .engine"
        raise EngineError(msg)
    device = CPU if suffix == ".onnx" else choose_device("cuda")
    backend = choose_backend("onnx" if suffix == ".onnx" else "tensorrt", device)
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


def cached_onnx(
    checkpoint: Path, size: tuple[int, int], precision: str, features_space: str = "student"
) -> Path:
    """Find the ONNX file of a checkpoint in the user's cache, or export it there.

    Files lie in ``$XDG_CACHE_HOME/scaleevent/engines`` (``~/.cache/scaleevent/engines``), or in a
    private temporary folder where that cannot be written, and are named by all that they depend
    on.

    Raises:
        EngineError: As `export` does.
    """
    made_by = (size, precision, features_space, _versions())
    path = _cache_path(checkpoint, made_by).with_suffix(".onnx")
    if not _is_cached(path):
        logger.info("exporting %s to %s; later starts find it there", checkpoint, path)
        export(checkpoint, path, ExportOptions(size, precision, features_space=features_space))
    return path


def cached_engine(
    checkpoint: Path,
    size: tuple[int, int],
    precision: str,
    device: torch.device,
    features_space: str = "student",
) -> Path:
    """Find the TensorRT engine of a checkpoint for a GPU in the user's cache, or build it there.

    Raises:
        EngineError: As `export` does.
    """
    gpu = torch.cuda.get_device_name(device)
    made_by = (size, precision, features_space, _versions(), version("tensorrt"), gpu)
    path = _cache_path(checkpoint, made_by).with_suffix(".engine")
    if not _is_cached(path):
        logger.info("building %s for %s; later starts find it there", path, gpu)
        options = ExportOptions(size, precision, features_space=features_space)
        with _new_file(path) as temporary:
            _build_engine(checkpoint, temporary, size, options, device)
            _compare(checkpoint, temporary, path, size, device, options)
    return path


def _build_engine(
    checkpoint: Path,
    path: Path,
    size: tuple[int, int],
    options: ExportOptions,
    device: torch.device,
) -> None:
    from scaleevent_ros.runtime.tensorrt_backend import write_engine

    onnx_path = cached_onnx(checkpoint, size, options.precision, options.features_space)
    timings = cache_folder() / "tensorrt_timings"
    write_engine(onnx_path, path, read_info(onnx_path), device, timings)


def _compare(
    checkpoint: Path,
    written: Path,
    path: Path,
    size: tuple[int, int],
    device: torch.device,
    options: ExportOptions,
) -> Exported:
    """Run the written file beside PyTorch in float32 on the same windows."""
    network = load_network(checkpoint, size, features_space=options.features_space)
    header = network.info.header
    if options.bag is None:
        windows = made_up_windows(header, size, TRIALS)
    else:
        windows = recorded_windows(header, options.bag, size, TRIALS, options.topic)
    worst: dict[str, float] = {}
    _run_both(written, network, windows, device, worst)
    if options.dynamic:  # try the file at another size too, which needs padding
        other = (4 * network.info.stride - 1, 6 * network.info.stride + 1)
        other_network = load_network(checkpoint, other, features_space=options.features_space)
        _run_both(written, other_network, made_up_windows(header, other, 2), device, worst)
    too_far = beyond(worst, options.precision)
    if too_far:
        msg = f"{path} is not written, as it differs from PyTorch: {'; '.join(too_far)}"
        raise EngineError(msg)
    return Exported(path, size, worst, len(windows), options.bag is not None)


def _run_both(
    written: Path,
    network: Network,
    windows: list[Tensor],
    device: torch.device,
    worst: dict[str, float],
) -> None:
    found = open_exported(written, device, network.info.size)
    reference = TorchBackend(network, device, torch.float32)
    outputs = network.info.outputs
    with torch.inference_mode():
        for window in windows:
            largest_differences(found.run(window, outputs), reference.run(window, outputs), worst)


@contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """Give a file to write that takes the place of another once all went well.

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


def _cache_path(checkpoint: Path, made_by: object) -> Path:
    """Name a file in the cache by the checkpoint's content and all else that it depends on."""
    digest = hashlib.blake2b(repr(made_by).encode(), digest_size=16)
    try:
        with checkpoint.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    except OSError as error:
        msg = f"{checkpoint} cannot be read: {error.strerror}"
        raise EngineError(msg) from error
    return cache_folder() / f"{checkpoint.stem}-{digest.hexdigest()}"


def cache_folder() -> Path:
    """Return the folder of exported networks that engines keep for later starts.

    Raises:
        EngineError: If no folder can be written.
    """
    folder = engine_cache()
    if folder is None:
        msg = (
            "an exported network cannot be kept, as neither the user's cache nor the temporary "
            "folder can be written: set XDG_CACHE_HOME, or choose backend 'eager'"
        )
        raise EngineError(msg)
    return folder


def _is_cached(path: Path) -> bool:
    """Look for a file in the cache, and remove those that were not used for long if it is new."""
    if path.exists():
        mark_used(path)
        return True
    remove_unused(path.parent, KEPT_DAYS, suffix=path.suffix)
    return False


def _versions() -> tuple[object, ...]:
    """Name the releases that decide what an exported file holds."""
    return (
        FORMAT_VERSION,
        __version__,
        torch.__version__,
        *(version(name) for name in ("timm", "onnxscript")),
    )
