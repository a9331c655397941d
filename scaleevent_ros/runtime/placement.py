"""Choice of device, precision and backend."""

from __future__ import annotations

import logging
from importlib.util import find_spec

from scaleevent_ros.runtime.arrays import CPU, Device
from scaleevent_ros.runtime.errors import EngineError
from scaleevent_ros.runtime.options import BACKENDS, PRECISIONS

logger = logging.getLogger(__name__)

EXPORTED = ("onnx", "openvino", "tensorrt")
"""Backends that run exported files."""
TORCH = ("eager", "compile", "cudagraph")
_PACKAGES = {
    "onnx": ("onnxruntime",),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt", "torch"),
    **dict.fromkeys(TORCH, ("torch", "timm")),
}
_EXTRAS = {"onnx": "perceive", "openvino": "openvino"}
"""Extras that install a backend's packages; ``export`` for the others."""
_ON_GPUS = ("cudagraph", "tensorrt")
_ON_CPUS = ("openvino",)


def choose_device(name: str, *, file: str = "") -> Device:
    """Resolve the name of a device.

    Args:
        name: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``: the GPU, or the CPU with a warning if
            there is none.
        file: Suffix of an exported file. For an ONNX file ``auto`` is the GPU only if ONNX Runtime
            supports it, so that machines without a GPU need no PyTorch.

    Raises:
        EngineError: If the name is unknown, or the GPU cannot be used.
    """
    if name == "cpu" or (name == "auto" and file == ".onnx" and not _onnx_has_cuda()):
        return CPU
    kind, _, index = name.partition(":")
    if name != "auto" and (kind != "cuda" or not (index.isdecimal() or name == "cuda")):
        msg = f"unknown device {name!r}; known: auto, cpu, cuda, cuda:N"
        raise EngineError(msg)
    count, reason = _count_gpus()
    if name == "auto" and not count:
        logger.warning(
            "NO GPU CAN BE USED: the network runs on the CPU, many times slower. Set device 'cpu' "
            "if this is intended; else check the driver (nvidia-smi): %s",
            reason,
        )
        return CPU
    if not count:
        msg = (
            f"device {name!r}, but {reason}: check the driver (nvidia-smi), or choose device 'cpu' "
            "or 'auto'"
        )
        raise EngineError(msg)
    if int(index or 0) >= count:
        msg = f"device {name!r}, but there are only the GPUs 0 to {count - 1}"
        raise EngineError(msg)
    return Device("cuda", int(index or 0))


def _onnx_has_cuda() -> bool:
    if find_spec("onnxruntime") is None:
        return False
    from scaleevent_ros.runtime.onnx_backend import has_cuda

    return has_cuda()


def _count_gpus() -> tuple[int, str]:
    """Return the number of usable GPUs, and the reason if there is none."""
    if find_spec("torch") is None:
        return 0, "PyTorch, which finds GPUs, is not installed"
    import torch

    if torch.cuda.is_available():
        return torch.cuda.device_count(), ""
    return 0, f"torch {torch.__version__} finds no GPU"


def choose_precision(name: str, device: Device, backend: str) -> str:
    """Resolve the name of a precision.

    ``auto`` is fp32 on a CPU; on a GPU bf16 if GPU and backend support it, else fp16.

    Raises:
        EngineError: If the precision is unknown, or the GPU or the backend does not support it.
    """
    if name not in PRECISIONS:
        msg = f"unknown precision {name!r}; known: {', '.join(PRECISIONS)}"
        if name == "int8":
            msg = "int8 is made by `scaleevent export --precision int8 --bag BAG`: run that file"
        raise EngineError(msg)
    if name == "bf16" and backend in {"onnx", "tensorrt"}:
        msg = f"backend {backend!r} runs fp32 or fp16, not bf16"
        raise EngineError(msg)
    if device.type == "cpu":
        return "fp32" if name == "auto" else name
    import torch

    # Below compute capability 8.0 torch emulates bf16, which is slower than fp16.
    native = torch.cuda.get_device_capability(device.index) >= (8, 0)
    if name == "auto":
        return "bf16" if native and backend not in EXPORTED else "fp16"
    if name == "bf16" and not native:
        msg = f"{torch.cuda.get_device_name(device.index)} has no bf16: choose fp16 or fp32"
        raise EngineError(msg)
    return name


def check_backend(name: str, device: Device) -> None:
    """Check that a backend, by its name, is installed and runs on a device.

    Raises:
        EngineError: If the backend is unknown, or cannot run there.
    """
    if name not in BACKENDS:
        msg = f"unknown backend {name!r}; known: {', '.join(BACKENDS)}"
        raise EngineError(msg)
    if name in _ON_GPUS and device.type != "cuda":
        msg = f"backend {name!r} needs a GPU, not device {device.type!r}"
        raise EngineError(msg)
    if name in _ON_CPUS and device.type != "cpu":
        msg = f"backend {name!r} runs on the CPU, not on device {device.type!r}"
        raise EngineError(msg)
    missing = missing_packages(name)
    if missing:
        install = f"pip install 'scaleevent_ros[{_EXTRAS.get(name, 'export')}]'"
        if "tensorrt" in missing:
            install = "install TensorRT as in NVIDIA's documentation"
        msg = f"backend {name!r} needs {', '.join(missing)}, which is not installed: {install}"
        raise EngineError(msg)


def check_packages(*modules: str) -> None:
    """Check that packages for exporting are installed.

    Raises:
        EngineError: If one is not.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        msg = f"an export needs {', '.join(missing)}: pip install 'scaleevent_ros[export]'"
        raise EngineError(msg)


def missing_packages(backend: str) -> list[str]:
    """List the packages that a backend needs and that are not installed."""
    return [module for module in _PACKAGES.get(backend, ()) if find_spec(module) is None]
