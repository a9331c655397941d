"""Loading of exported students."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaleevent_ros.runtime.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path
    from typing import Protocol

    import numpy as np
    from numpy.typing import NDArray

    from scaleevent_ros.runtime.arrays import Array, Device
    from scaleevent_ros.runtime.exported_file import NetworkInfo

    class Backend(Protocol):
        """Interface of a network's backend."""

        info: NetworkInfo

        def run(
            self,
            events: Array,
            wanted: Collection[str],
            elapsed_s: float = 0.0,
            kept: NDArray[np.int64] | None = None,
        ) -> dict[str, Array]:
            """Compute outputs of a window, as `TorchBackend.run` does."""

        def reset(self) -> None:
            """Forget previous windows."""

    class ExportedBackend(Backend, Protocol):
        """Interface of an exported network's backend."""

        precision: str


KINDS = {".onnx": ("onnx", "openvino"), ".engine": ("tensorrt",)}
"""Backends that run a file, by its suffix."""


def open_exported(
    path: Path,
    device: Device,
    size: tuple[int, int] | None,
    backend: str | None = None,
    precision: str = "auto",
) -> ExportedBackend:
    """Load an exported file.

    Args:
        path: The file.
        device: Device of the network.
        size: Height and width of the windows; None for the size that the file was exported for.
        backend: Backend, one of those in `KINDS`; the first one if None.
        precision: ``auto``, or the file's own precision; with OpenVINO also ``bf16`` for a float32
            file.

    Raises:
        EngineError: If the file is missing, damaged or not from `scaleevent export`, was exported
            in another precision, or the backend cannot run it.
    """
    backend = backend or KINDS[path.suffix.lower()][0]
    started: ExportedBackend
    if backend == "openvino":
        from scaleevent_ros.runtime.openvino_backend import OpenVinoBackend

        started = OpenVinoBackend(path, size, "bf16" if precision == "bf16" else None)
    elif backend == "tensorrt":
        from scaleevent_ros.runtime.tensorrt_backend import TensorRTBackend

        started = TensorRTBackend(path, device.to_torch(), size)
    elif device.type == "cuda":
        from scaleevent_ros.runtime.onnx_backend import OnnxCudaBackend

        started = OnnxCudaBackend(path, size, device)
    else:
        from scaleevent_ros.runtime.onnx_backend import OnnxBackend

        started = OnnxBackend(path, size)
    if precision not in {"auto", started.precision}:
        msg = f"{path} was exported as {started.precision}, not {precision}: export it again"
        raise EngineError(msg)
    return started


def parse_size(text: str) -> tuple[int, int]:
    """Read ``WIDTHxHEIGHT``, such as ``640x480``, as height and width.

    Raises:
        EngineError: If the text is not of this form.
    """
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        msg = f"{text!r} is not a size: write it like 640x480"
        raise EngineError(msg)
    return int(height), int(width)
