"""Optical flow between two windows, from the correlation of the student's features.

Source: Teed and Deng, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow", ECCV 2020:
correlation of all pairs (section 3.2), look-up around the current estimate, a convolutional GRU
that refines it, and convex upsampling (section 3.3). The student's features, upsampled to twice
their resolution, replace RAFT's feature and context encoders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

_FINER = 2  # cells of the matching grid per cell of the student's grid, in each direction


class CorrelationFlow(nn.Module):
    """Flow by correlation at two scales, refined step by step.

    Args:
        width: Channels D of the features.
        stride: Pixels per feature, even.
        channels: Channels of the matched features and of the recurrent state.
        radius: Radius of the lookup at each scale, in cells.
        iterations: Steps of refinement.
    """

    def __init__(
        self, width: int, stride: int, channels: int = 96, radius: int = 4, iterations: int = 8
    ) -> None:
        super().__init__()
        self.cell = stride // _FINER
        self.radius = radius
        self.iterations = iterations
        self.match = nn.ConvTranspose2d(width, channels, kernel_size=_FINER, stride=_FINER)
        self.context = nn.ConvTranspose2d(width, 2 * channels, kernel_size=_FINER, stride=_FINER)
        self.motion = nn.Sequential(
            nn.Conv2d(2 * (2 * radius + 1) ** 2 + 2, channels, kernel_size=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, kernel_size=3, padding=1),
            nn.ReLU(),
        )
        self.gates = nn.Conv2d(3 * channels, 2 * channels, kernel_size=3, padding=1)
        self.candidate = nn.Conv2d(3 * channels, channels, kernel_size=3, padding=1)
        self.correct = _two_convolutions(channels, 2)
        self.weigh = _two_convolutions(channels, 9 * self.cell**2)

    def forward(self, previous: Tensor, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Compute the flow from the previous window to this one.

        Args:
            previous: Features of the previous window, ``[B, D, h, w]``.
            features: Features of this window, ``[B, D, h, w]``.
            size: Height and width H, W of the student's input.

        Returns:
            float32 ``[B, 2, H, W]``: displacement of each pixel of the previous window, in pixels
            to the right and down.
        """
        flow, state = torch.empty(0), torch.empty(0)
        for flow, state in self._refine(previous, features):  # noqa: B007 - only the last are used
            pass
        return self._to_pixels(flow, state, size)

    def iterates(self, previous: Tensor, features: Tensor, size: tuple[int, int]) -> list[Tensor]:
        """Compute the flow after each refinement step, for a loss on all steps; see `forward`."""
        return [
            self._to_pixels(flow, state, size) for flow, state in self._refine(previous, features)
        ]

    def _refine(self, previous: Tensor, features: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return flow in cells of the matching grid, and the state, after each step."""
        scales = _correlate(self.match(previous), self.match(features))
        hidden, context = self.context(previous).chunk(2, dim=1)
        hidden, context = hidden.tanh(), context.relu()
        # Coordinates need float32, even if features are bfloat16 or float16.
        flow = hidden.new_zeros(len(hidden), 2, *hidden.shape[-2:], dtype=torch.float32)
        steps = []
        for _ in range(self.iterations):
            flow = flow.detach()  # RAFT: no gradient through earlier estimates
            seen = torch.cat([look_up(scales, flow, self.radius), flow], dim=1)
            inputs = torch.cat([context, self.motion(seen.to(hidden.dtype))], dim=1)
            update, reset = self.gates(torch.cat([hidden, inputs], dim=1)).sigmoid().chunk(2, dim=1)
            candidate = self.candidate(torch.cat([reset * hidden, inputs], dim=1)).tanh()
            hidden = (1 - update) * hidden + update * candidate
            flow = flow + self.correct(hidden).float()
            steps.append((flow, hidden))
        return steps

    def _to_pixels(self, flow: Tensor, state: Tensor, size: tuple[int, int]) -> Tensor:
        weights = self.weigh(state).float()
        return upsample_convex(self.cell * flow, weights, self.cell)[..., : size[0], : size[1]]


def _two_convolutions(channels: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels, outputs, kernel_size=1),
    )


def _correlate(first: Tensor, second: Tensor) -> list[Tensor]:
    """Correlate every cell with every cell: float32 ``[B, h * w, h, w]``, and at half the scale.

    The correlation is ten times the cosine of the features, so that the head does not depend on
    their norm.
    """
    batch, _, height, width = first.shape
    one, other = (functional.normalize(f.float().flatten(2), dim=1) for f in (first, second))
    pairs = 10 * (one.transpose(1, 2) @ other).view(batch, height * width, height, width)
    return [pairs, functional.avg_pool2d(pairs, kernel_size=2, ceil_mode=True)]


def look_up(scales: list[Tensor], flow: Tensor, radius: int) -> Tensor:
    """Look up correlations around each cell's position displaced by the flow.

    Args:
        scales: Correlations at S scales: ``[B, h * w, h, w]``, then each half as high and wide as
            the one before.
        flow: Flow in cells of the first scale, float32 ``[B, 2, h, w]``, x before y.
        radius: Radius of the lookup at each scale, in its cells.

    Returns:
        ``[B, S * (2 * radius + 1) ** 2, h, w]``: scale by scale, each row by row; 0 outside.
    """
    batch, _, height, width = flow.shape
    rows, columns = torch.meshgrid(
        torch.arange(height, device=flow.device),
        torch.arange(width, device=flow.device),
        indexing="ij",
    )
    centre = (flow + torch.stack([columns, rows])).permute(0, 2, 3, 1)
    centre = centre.reshape(batch * height * width, 1, 1, 2)
    reach = torch.arange(-radius, radius + 1, device=flow.device)
    down, right = torch.meshgrid(reach, reach, indexing="ij")
    square = torch.stack([right, down], dim=-1)
    found = []
    for level, pairs in enumerate(scales):
        # Cells are at their centres: x in the first scale is (x + 0.5) / 2 - 0.5 in the second.
        x, y = (2 * ((centre + 0.5) / 2**level - 0.5 + square) + 1).unbind(dim=-1)
        values = functional.grid_sample(
            pairs.reshape(batch * height * width, 1, *pairs.shape[-2:]),
            torch.stack([x / pairs.shape[-1], y / pairs.shape[-2]], dim=-1) - 1,
            mode="bilinear",
            padding_mode="zeros",
            align_corners=False,
        )
        found.append(values.reshape(batch, height, width, -1))
    return torch.cat(found, dim=-1).permute(0, 3, 1, 2)


def upsample_convex(flow: Tensor, weights: Tensor, factor: int) -> Tensor:
    """Upsample by a weighted mean of the 3x3 coarse neighbours (RAFT, section 3.3).

    Args:
        flow: ``[B, 2, h, w]``.
        weights: Logits of the neighbours' weights, ``[B, 9 * factor ** 2, h, w]``.
        factor: Fine cells per coarse cell, in each direction.

    Returns:
        ``[B, 2, factor * h, factor * w]``.
    """
    batch, channels, height, width = flow.shape
    weights = weights.view(batch, 1, 9, factor, factor, height, width).softmax(dim=2)
    padded = functional.pad(flow, (1, 1, 1, 1), mode="replicate")
    around = functional.unfold(padded, kernel_size=3)
    around = around.view(batch, channels, 9, 1, 1, height, width)
    fine = (weights * around).sum(dim=2).permute(0, 1, 4, 2, 5, 3)
    return fine.reshape(batch, channels, factor * height, factor * width)
