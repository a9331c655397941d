"""Arrays of engines, of numpy on a CPU and of PyTorch on a GPU, and their devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from typing import TypeAlias

    import torch
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any] | torch.Tensor


@dataclass(frozen=True, slots=True)
class Device:
    """Device of a network.

    Attributes:
        type: ``cpu`` or ``cuda``.
        index: Number of the GPU.
    """

    type: str
    index: int = 0

    def __str__(self) -> str:
        """Return PyTorch's name of the device."""
        return f"cuda:{self.index}" if self.type == "cuda" else self.type

    def to_torch(self) -> torch.device:
        """Return the device as PyTorch's."""
        import torch

        return torch.device(str(self))


CPU = Device("cpu")
FIRST_GPU = Device("cuda")


def to_host(array: Array) -> NDArray[Any]:
    """Return a contiguous numpy array, from any device.

    On the CPU numpy makes it contiguous, not PyTorch, whose threads would keep spinning and slow
    down ONNX Runtime's next run.
    """
    if isinstance(array, np.ndarray):
        return np.ascontiguousarray(array)
    if array.device.type == "cpu":
        return np.ascontiguousarray(array.numpy())
    return array.contiguous().cpu().numpy()
