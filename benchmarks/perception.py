"""Latency of the engine, from a window's tensor to its outputs, by model, size and backend.

It runs on any machine, with or without a GPU, ROS or rosbags. Weights are random, which takes the
same time, except those of the shipped student `lite`. ``--activity`` adds students of active
tokens, on windows with events in a part of the picture. On a CPU, ViTs are also timed in 8 bits,
and with ``--bag`` `lite`, calibrated on that bag. Every call is timed to its end, on a window that
has just been written to the engine's device, as in a node. On a CPU, calls of the engine are
interleaved with direct calls of ONNX Runtime on a normalized window (`bare`). The last column
compares with ONNX Runtime in fp32 on all tokens, in the same run.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from scaleevent_ros.distill.configuration import Pretraining, StudentOptions
from scaleevent_ros.models import build_student, read_header, save_student
from scaleevent_ros.models.shipped import resolve_model
from scaleevent_ros.runtime import BACKENDS, Engine
from scaleevent_ros.runtime.export import ExportOptions, export
from scaleevent_ros.runtime.exported import parse_size
from scaleevent_ros.runtime.exported_cache import onnx_of
from scaleevent_ros.runtime.onnx_file import read_info
from scaleevent_ros.runtime.openvino_backend import has_bf16
from scaleevent_ros.runtime.placement import missing_packages
from scaleevent_ros.runtime.quantization import quantize, write_header
from scaleevent_ros.runtime.trial_windows import synthetic_windows
from scaleevent_ros.tasks import build_head, describe_head

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from scaleevent_ros.runtime.arrays import Array
    from scaleevent_ros.runtime.onnx_backend import OnnxBackend

BINS, CLASSES = 5, 11
MODELS = {
    "small": "vit_small_patch16_dinov3_qkvb",
    "base": "vit_base_patch16_dinov3_qkvb",
    "large": "vit_large_patch16_dinov3_qkvb",
    "dinov2": "vit_small_patch14_dinov2",
    "tiny": "vit_tiny_patch16_224",
    "lite0": "tf_efficientnet_lite0",
    "lite": "",
}
OUTPUTS = ["features", "segmentation"]
ON_A_GPU = {"models": ["small", "base", "large"], "sizes": ["640x480", "1280x960"]}
ON_A_CPU = {"models": ["lite", "lite0", "tiny", "small"], "sizes": ["320x240", "640x480"]}


def write_student(path: Path, name: str, *, active: bool = False) -> Path:
    """Write a student with random weights and a linear segmentation head; return its path."""
    torch.manual_seed(0)
    student = build_student(MODELS[name], BINS, "random")
    options = {"classes": CLASSES}
    head = build_head("segmentation_linear", student.width, student.stride, **options)
    described = describe_head("segmentation_linear", student.width, student.stride, **options)
    tokens = StudentOptions(tokens="active" if active else "all")
    choice = Pretraining(student=tokens).active_tokens(student.stride)
    student.header = replace(
        student.header,
        normalization="percentile",
        heads={"segmentation": described},
        tokens=None if choice is None else asdict(choice),
    )
    save_student(path, student, {"segmentation": head})
    return path


@dataclass(frozen=True)
class Timed:
    """A call to time.

    Attributes:
        call: Function to time, which takes the window.
        source: Content of the window.
        window: Buffer of the window, filled before each call.
    """

    call: Callable[[Any], Any]
    source: Array
    window: Array

    def spend(self) -> float:
        """Fill the window, call once, and return the duration of the call in ms."""
        device = None if isinstance(self.window, np.ndarray) else self.window.device
        if isinstance(self.window, torch.Tensor):
            self.window.copy_(torch.as_tensor(self.source))
            torch.cuda.synchronize(device)
        else:
            # By arithmetic, since a large copy bypasses the caches, unlike building a window; and
            # by numpy, since PyTorch's threads would spin and slow down ONNX Runtime's.
            np.multiply(self.source, 1, out=self.window)
        start = time.perf_counter()
        self.call(self.window)
        if device is not None:
            torch.cuda.synchronize(device)
        return (time.perf_counter() - start) * 1e3


def take_turns(calls: dict[str, Timed], seconds: float) -> dict[str, np.ndarray]:
    """Time calls in turns, in ms, so that other load on the machine affects all alike."""
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for timed in calls.values():
        timed.spend()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(spent.values()))) < 5:
        for name, timed in calls.items():
            spent[name].append(timed.spend())
    return {name: np.array(times) for name, times in spent.items()}


def bare_onnx(engine: Engine, window: NDArray[np.float32], outputs: list[str]) -> Timed:
    """Return direct calls of ONNX Runtime on a window that is already normalized.

    The engine's session is used, since the threads of a second one would spin and slow it down.
    """
    backend = cast("OnnxBackend", engine._run)  # noqa: SLF001 - for this benchmark only
    session = backend.parts.get(outputs)
    source = engine.header.input.normalize(window)
    one = np.ones(1 + len(engine.header.leaky), np.float32)
    return Timed(
        lambda events: session.run(outputs, {"events": events, "scale": one}),
        source,
        np.empty_like(source),
    )


def quantized(checkpoint: Path, size: tuple[int, int]) -> Path:
    """Return an exported ViT in 8 bits."""
    exact = onnx_of(checkpoint, size, "fp32")
    file = exact.with_name(f"{exact.stem}8.onnx")
    if not file.exists():
        info = read_info(exact)
        quantize(exact, file, synthetic_windows(info.header, size, 1))
        write_header(file, replace(info, precision="int8"))
    return file


def variants(
    checkpoint: Path, size: tuple[int, int], arguments: argparse.Namespace
) -> list[tuple[Path, str, str]]:
    """List what to time: files with a backend and a precision."""
    found = [(checkpoint, backend, arguments.precision) for backend in arguments.backends]
    if arguments.device == "cpu" and arguments.precision == "auto":
        if "openvino" in arguments.backends and has_bf16():
            found.append((checkpoint, "openvino", "bf16"))
        if arguments.bag and checkpoint == resolve_model("lite"):
            file = Path(os.environ["XDG_CACHE_HOME"]) / "lite8.onnx"
            if not file.exists():
                export(
                    checkpoint, file, ExportOptions(None, "int8", dynamic=True, bag=arguments.bag)
                )
            found += [(file, backend, "auto") for backend in arguments.backends]
        if read_header(checkpoint).architecture.startswith("vit_"):
            file = quantized(checkpoint, size)
            found += [(file, backend, "auto") for backend in arguments.backends]
    return found


def start(
    file: Path, backend: str, precision: str, size: tuple[int, int], arguments: argparse.Namespace
) -> Engine:
    """Start an engine that computes the requested outputs alone."""
    engine = Engine(file, arguments.device, precision, backend, size=size)
    parts = getattr(engine._run, "parts", None)  # noqa: SLF001 - for this benchmark only
    if parts is not None:
        parts.get(arguments.outputs)
        parts.wait()
    return engine


def keep_part(window: NDArray[np.float32], engine: Engine, percent: int) -> NDArray[np.float32]:
    """Clear a window but for its left part, so that a percentage of the tokens is active.

    The tokens around those with events count as active.
    """
    assert engine.header.active_tokens is not None
    columns = round(engine.grid[1] * percent / 100)
    if columns < engine.grid[1]:
        columns -= engine.header.active_tokens.dilation
    part: NDArray[np.float32] = window.copy()
    part[..., columns * engine.stride :] = 0
    return part


def measure(
    checkpoint: Path, size: tuple[int, int], arguments: argparse.Namespace, active: Path | None
) -> dict[str, np.ndarray]:
    """Time a checkpoint on all backends at one size, in ms per window.

    Args:
        checkpoint: Student to time.
        size: Height and width of the windows.
        arguments: Arguments of the command line.
        active: The same student with active tokens, for ``--activity``; None without.
    """
    calls: dict[str, Timed] = {}
    for file, backend, precision in variants(checkpoint, size, arguments):
        engine = start(file, backend, precision, size, arguments)
        (window,) = synthetic_windows(engine.header, size, 1)
        memory: Array = np.empty_like(window)
        if engine.device.type == "cuda":
            memory = torch.empty(window.shape, device=engine.device.to_torch())
        call = partial(engine, wanted=arguments.outputs)
        calls[f"{engine.backend} {engine.precision}"] = Timed(call, window, memory)
        if engine.device.type == "cpu" and f"{engine.backend} {engine.precision}" == "onnx fp32":
            calls["bare ONNX Runtime fp32"] = bare_onnx(engine, window, arguments.outputs)
    for file, backend, precision in variants(active, size, arguments) if active else ():
        engine = start(file, backend, precision, size, arguments)
        (window,) = synthetic_windows(engine.header, size, 1)
        for percent in arguments.activity:
            part = keep_part(window, engine, percent)
            computed = engine(part).computed
            assert computed is not None
            memory = np.empty_like(part)
            if engine.device.type == "cuda":
                memory = torch.empty(part.shape, device=engine.device.to_torch())
            tokens = f"{computed.sum()} of {computed.size} tokens"
            name = f"{engine.backend} {engine.precision}, {percent} % active: {tokens}"
            calls[name] = Timed(partial(engine, wanted=arguments.outputs), part, memory)
    return take_turns(calls, arguments.seconds)


def main() -> None:
    """Measure and print the table."""
    gpu = torch.cuda.is_available()
    defaults = ON_A_GPU if gpu else ON_A_CPU
    on_cpu = [name for name in ("onnx", "openvino") if not missing_packages(name)]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=defaults["models"])
    parser.add_argument("--sizes", nargs="+", default=defaults["sizes"], help="WIDTHxHEIGHT")
    parser.add_argument(
        "--backends",
        nargs="+",
        choices=BACKENDS[1:],
        default=["eager", "cudagraph", "compile"] if gpu else on_cpu,
    )
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--outputs", nargs="+", choices=OUTPUTS, default=OUTPUTS)
    parser.add_argument(
        "--activity", type=int, nargs="+", default=[], help="percentages of active tokens (ViTs)"
    )
    parser.add_argument(
        "--bag", type=Path, help="recording on which `lite` is calibrated in 8 bits"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each model and size")
    arguments = parser.parse_args()
    name = torch.cuda.get_device_name() if gpu else f"{torch.get_num_threads()} threads"
    print(
        f"torch {torch.__version__}, {arguments.device}: {name}; {', '.join(arguments.outputs)}\n"
    )
    print("| model | size | backend | p50 ms | p99 ms | calls | `onnx fp32` takes |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        for model in arguments.models:
            checkpoint = resolve_model("lite")
            active: Path | None = None
            if model != "lite":
                checkpoint = write_student(Path(folder) / f"{model}.safetensors", model)
            if arguments.activity and MODELS[model].startswith("vit_"):
                active = write_student(
                    Path(folder) / f"{model}_active.safetensors", model, active=True
                )
            for size in arguments.sizes:
                measured = measure(checkpoint, parse_size(size), arguments, active)
                for backend, times in measured.items():
                    p50, p99 = np.percentile(times, (50, 99))
                    row = f"{p50:.2f} | {p99:.2f} | {len(times)} | "
                    if "onnx fp32" in measured:
                        row += f"{np.median(measured['onnx fp32']) / p50:.1f} times as long"
                    print(f"| {model} | {size} | {backend} | {row} |", flush=True)


if __name__ == "__main__":
    main()
