"""Where and how a network runs: device, precision, backend."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

from scaleevent_ros.cache import user_cache, writable
from scaleevent_ros.runtime.errors import EngineError
from scaleevent_ros.runtime.options import BACKENDS, PRECISIONS

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def choose_device(name: str) -> torch.device:
    """Find the device of a name.

    Args:
        name: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``: the GPU, or the CPU with a loud warning
            where there is none.

    Raises:
        EngineError: If it is none of these, or no such GPU can be used.
    """
    if name == "auto" and not torch.cuda.is_available():
        logger.warning(
            "NO GPU CAN BE USED: the network runs on the CPU, many times slower. Say device 'cpu' "
            "if that is meant; else check the driver (nvidia-smi) and that torch %s was built for "
            "CUDA",
            torch.__version__,
        )
        return torch.device("cpu")
    if name in {"cpu", "auto"}:
        return torch.device("cuda:0" if name == "auto" else "cpu")
    kind, _, index = name.partition(":")
    if kind != "cuda" or not (index.isdecimal() or name == "cuda"):
        msg = f"unknown device {name!r}; known: auto, cpu, cuda, cuda:N"
        raise EngineError(msg)
    if not torch.cuda.is_available():
        msg = (
            f"device {name!r}, but torch {torch.__version__} finds no GPU: check the driver "
            "(nvidia-smi), or choose device 'cpu' or 'auto'"
        )
        raise EngineError(msg)
    if int(index or 0) >= torch.cuda.device_count():
        msg = f"device {name!r}, but there are {torch.cuda.device_count()} GPUs, counted from 0"
        raise EngineError(msg)
    return torch.device("cuda", int(index or 0))


def choose_precision(name: str, device: torch.device, backend: str) -> str:
    """Resolve a precision.

    ``auto`` is fp32 on a CPU; on a GPU bf16 where it has it and the backend too, else fp16.

    Raises:
        EngineError: If the precision is unknown, or the GPU or the backend cannot do it.
    """
    if name not in PRECISIONS:
        msg = f"unknown precision {name!r}; known: {', '.join(PRECISIONS)}"
        raise EngineError(msg)
    exported = backend in {"onnx", "tensorrt"}
    if exported and name == "bf16":
        msg = f"backend {backend!r} runs fp32 or fp16, not bf16"
        raise EngineError(msg)
    if device.type == "cpu":
        return "fp32" if name == "auto" else name
    # What torch counts as support below 8.0 is emulated, and slower than fp16.
    native = torch.cuda.get_device_capability(device) >= (8, 0)
    if name == "auto":
        return "bf16" if native and not exported else "fp16"
    if name == "bf16" and not native:
        msg = f"{torch.cuda.get_device_name(device)} has no bf16: choose fp16 or fp32"
        raise EngineError(msg)
    return name


def choose_backend(name: str, device: torch.device) -> str:
    """Resolve a backend.

    ``auto`` is ``cudagraph`` on a GPU; on a CPU ``onnx`` where it is installed and its files can
    be kept, else ``eager``.

    Raises:
        EngineError: If the backend is unknown, or cannot run there.
    """
    if name not in BACKENDS:
        msg = f"unknown backend {name!r}; known: {', '.join(BACKENDS)}"
        raise EngineError(msg)
    if name == "auto":
        if device.type == "cuda":
            return "cudagraph"
        return "onnx" if not _missing("onnx") and engine_cache() else "eager"
    if name in {"cudagraph", "tensorrt"} and device.type != "cuda":
        msg = f"backend {name!r} needs a GPU, not device {device.type!r}"
        raise EngineError(msg)
    missing = _missing(name)
    if missing:
        msg = (
            f"backend {name!r} needs {', '.join(missing)}, which is not installed: "
            "pip install 'scaleevent_ros[export]', or tensorrt as NVIDIA's documentation says"
        )
        raise EngineError(msg)
    return name


def engine_cache() -> Path | None:
    """Return the folder of exported networks, for later starts; None where none can be written."""
    return writable(user_cache() / "scaleevent" / "engines")


def _missing(backend: str) -> list[str]:
    """Name the packages that a backend needs and that are not there."""
    needed = {
        "onnx": ("onnx", "onnxscript", "onnxruntime"),
        "tensorrt": ("onnx", "onnxscript", "onnxruntime", "tensorrt"),
    }
    return [module for module in needed.get(backend, ()) if find_spec(module) is None]
