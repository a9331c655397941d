"""An exponential moving average of a model's weights."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch.distributed.tensor import DTensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn


class WeightAverage:
    """Keeps ``average = decay * average + (1 - decay) * weight`` of all parameters.

    Parameters that are sharded over processes are averaged shard by shard. Buffers, such as a batch
    norm's running statistics, which are averages already, are not averaged again.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._weights = [_local(parameter) for parameter in model.parameters()]
        self._averages = [weight.clone() for weight in self._weights]

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights as they are now into the average."""
        torch._foreach_lerp_(self._averages, self._weights, 1 - self._decay)

    @torch.no_grad()
    def restart(self) -> None:
        """Forget the past: the average is the weights as they are now."""
        for average, weight in zip(self._averages, self._weights, strict=True):
            average.copy_(weight)

    @contextmanager
    @torch.no_grad()
    def in_place(self) -> Iterator[None]:
        """Let the model have the averages as its weights for a while."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for average, weight in zip(self._averages, self._weights, strict=True):
            held = weight.clone()
            weight.copy_(average)
            average.copy_(held)


def _local(parameter: Tensor) -> Tensor:
    data = parameter.detach()
    return data.to_local() if isinstance(data, DTensor) else data
