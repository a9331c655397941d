"""The backends of PyTorch: eager and compiled, on a GPU replayed as CUDA graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaleevent_ros.runtime.network import normalized

if TYPE_CHECKING:
    from collections.abc import Collection

    import torch
    from torch import Tensor

    from scaleevent_ros.runtime.network import Network


class EagerBackend:
    """Runs a network operation by operation.

    Args:
        network: Is moved to the device and cast.
        device: Where it runs.
        dtype: Of weights and activations.
    """

    def __init__(self, network: Network, device: torch.device, dtype: torch.dtype) -> None:
        self._network = network.to(device, dtype)
        self._device, self._dtype = device, dtype
        self._previous: Tensor | None = None

    def run(self, events: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        """Compute the wanted outputs of a window, float32 [bins, H, W], not normalized."""
        events = events.to(self._device, non_blocking=True)
        events = normalized(events, self._network.header.normalization)[None].to(self._dtype)
        features = self._network.encode(events)
        previous, self._previous = self._previous, features
        return {
            name: self._network.finish(name, features, previous)
            for name in wanted
            if name != "flow" or previous is not None
        }

    def reset(self) -> None:
        """Forget the window before."""
        self._previous = None
