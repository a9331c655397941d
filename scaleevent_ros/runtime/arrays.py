"""Arrays of engines, by numpy on a CPU and by PyTorch on a GPU, and where they are."""

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
        """Return the name, as PyTorch has it."""
        return f"cuda:{self.index}" if self.type == "cuda" else self.type

    def to_torch(self) -> torch.device:
        """Return PyTorch's own."""
        import torch

        return torch.device(str(self))


CPU = Device("cpu")
FIRST_GPU = Device("cuda")


def to_host(array: Array) -> NDArray[Any]:
    """Return an array in the host's memory, in order; a GPU puts it in order itself.

    Not by PyTorch on the CPU: its threads would keep spinning for a while, against those of ONNX
    Runtime's next run.
    """
    if isinstance(array, np.ndarray):
        return np.ascontiguousarray(array)
    if array.device.type == "cpu":
        return np.ascontiguousarray(array.numpy())
    return array.contiguous().cpu().numpy()
