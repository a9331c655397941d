"""Memory of a student across windows: a small gated recurrent cell on the feature grid.

``h' = h + z * (f - h) + z * r``, with the features ``f`` of the window, the memory ``h``, a gate
``z`` for each channel and a correction ``r``. The gate sees how much of each patch is active and
how long ago the last window was, so it can trust the present where there are events, and the past
elsewhere. With ``z`` of 0 and 1 the cell holds the last active features; at the beginning of
training ``r`` is 0 and ``z`` follows the activity. The gate is that of the minimal gated unit (Zhou
et al., 2016), convolutional as in Shi et al., "Convolutional LSTM Network", NeurIPS 2015.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

CHANNELS = 64
MAX_ELAPSED_S = 10.0
"""Longer times between windows are treated like this one."""

_OPEN_AT = 0.25  # share of active pixels at which the untrained gate is half open


class GatedMemory(nn.Module):
    """Gated recurrent cell.

    A state is ``[B, D + 1, h, w]``: the remembered features, and a channel that is 1 where there
    are any. A state of zeros is an empty memory: the first window's features pass unchanged.

    Args:
        width: Channels D of the features.
        stride: Pixels per feature.
        represented: Number of leading channels of the event tensor that represent the window
            itself; leaky integrals follow them.
        channels: Hidden channels of the cell.
    """

    def __init__(self, width: int, stride: int, represented: int, channels: int = CHANNELS) -> None:
        super().__init__()
        self.width, self.stride, self.represented = width, stride, represented
        self.channels = channels
        self.reduce = nn.Conv2d(2 * width, channels, kernel_size=1)
        self.mix = nn.Conv2d(channels + 2, channels, kernel_size=3, padding=1)
        self.gate = nn.Conv2d(channels, width, kernel_size=1)
        self.correction = nn.Conv2d(channels, width, kernel_size=1)
        self.openness = nn.Parameter(torch.tensor([4 / _OPEN_AT, -4.0]))
        for layer in (self.gate, self.correction):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(cast("nn.Parameter", layer.bias))

    def forward(
        self,
        features: Tensor,
        events: Tensor,
        state: Tensor,
        elapsed_s: Tensor,
        computed: Tensor | None = None,
    ) -> Tensor:
        """Update the memory with a window.

        Args:
            features: Features of the window, ``[B, D, h, w]``.
            events: Event tensor, ``[B, C, H, W]``, normalized or not.
            state: State after the previous window, ``[B, D + 1, h, w]``; zeros for none.
            elapsed_s: Time from the end of the previous window to the end of this one, in s,
                ``[B]``.
            computed: Where the window has features, bool ``[B, 1, h, w]``; everywhere if None.
                Elsewhere the remembered ones take their place.

        Returns:
            The new state, ``[B, D + 1, h, w]``.
        """
        memory, known = state[:, :-1], state[:, -1:]
        known_after = torch.ones_like(known)
        if computed is not None:
            features = torch.where(computed, features, memory)
            known_after = torch.where(computed, known_after, known)
        active = self.activity(events).to(features.dtype)
        elapsed = elapsed_s.to(features.dtype).clamp(0.0, MAX_ELAPSED_S)[:, None, None, None]
        since = torch.log1p(elapsed).expand_as(active)
        hidden = functional.gelu(self.reduce(torch.cat([features, memory], 1)))
        hidden = functional.gelu(self.mix(torch.cat([hidden, active, since], 1)))
        slope, offset = self.openness
        gate = torch.sigmoid(self.gate(hidden) + slope * active + offset)
        change = features - memory + self.correction(hidden)
        # Nothing is remembered before the first window: its features pass unchanged.
        updated = torch.where(known > 0, memory + gate * change, features)
        return torch.cat([updated, known_after], 1)

    def activity(self, events: Tensor) -> Tensor:
        """Compute the share of pixels with events in each patch, float32 ``[B, 1, h, w]``."""
        seen = (events[:, : self.represented] != 0).any(1, keepdim=True).to(torch.float32)
        height, width = seen.shape[-2:]
        seen = functional.pad(seen, (0, -width % self.stride, 0, -height % self.stride))
        # Not avg_pool2d: ONNX Runtime 1.23 merges it with the padding, and then divides wrongly.
        patches = torch.unflatten(seen, 3, (-1, self.stride))
        return torch.unflatten(patches, 2, (-1, self.stride)).mean((3, 5))

    def features(self, state: Tensor) -> Tensor:
        """Return the remembered features of a state, ``[B, D, h, w]``."""
        return state[:, :-1]

    def empty(self, features: Tensor) -> Tensor:
        """Return the empty state for features ``[B, D, h, w]``: zeros ``[B, D + 1, h, w]``."""
        return torch.zeros_like(features[:, :1]).expand(-1, self.width + 1, -1, -1)
