"""An exponential moving average of a model's weights."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

if TYPE_CHECKING:
    from torch import nn


class WeightAverage:
    """A copy of a model with ``average = decay * average + (1 - decay) * weight``.

    Buffers are copied: a batch norm's running statistics are averages already.
    `torch.optim.swa_utils.AveragedModel` does the same, but waits for the GPU in each update, and
    cannot copy a model that is sharded already; here the copy is made first, then both are sharded.

    Attributes:
        module: The copy, in eval mode and without gradients.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model).requires_grad_(requires_grad=False).eval()
        self._update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Update the average by the current weights of a model."""
        self._update(list(self.module.parameters()), list(model.parameters()), 0)
        buffers = list(self.module.buffers())
        if buffers:
            torch._foreach_copy_(buffers, list(model.buffers()))
