"""Mean and deviation of a teacher's features, by channel.

A foundation model's tokens share a large common part: without their mean, plain cosines between any
two of them are near 1. And a few channels with a large deviation dominate distances. Source of
standardizing a teacher's features: Ranzinger et al., "PHI-S", 2024 (arXiv 2410.01680), whose
simplest form this is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class FeatureStatistics(NamedTuple):
    """Statistics of features over the tokens of a data set.

    Attributes:
        mean: float32 [D].
        std: Standard deviation, float32 [D]; 1 for a channel that never changes.
    """

    mean: Tensor
    std: Tensor

    def to(self, device: torch.device) -> FeatureStatistics:
        """Move mean and deviation to a device."""
        return FeatureStatistics(self.mean.to(device), self.std.to(device))

    def center(self, features: Tensor) -> Tensor:
        """Remove the mean from features ``[B, D, h, w]``."""
        return features - self.mean[:, None, None]

    def scale(self, features: Tensor) -> Tensor:
        """Multiply features ``[B, D, h, w]`` by the deviation."""
        return features * self.std[:, None, None]

    def standardize(self, features: Tensor) -> Tensor:
        """Bring features ``[B, D, h, w]`` to zero mean and unit deviation."""
        return self.center(features) / self.std[:, None, None]

    def standardizing_convolution(self) -> nn.Conv2d:
        """Build a trainable 1x1 convolution that starts as `standardize`."""
        convolution = nn.Conv2d(len(self.std), len(self.std), kernel_size=1)
        assert convolution.bias is not None
        with torch.no_grad():
            convolution.weight.copy_(torch.diag(1 / self.std)[:, :, None, None])
            convolution.bias.copy_(-self.mean / self.std)
        return convolution


class StatisticsCounter:
    """Sums over tokens, in float64, from which their statistics follow."""

    def __init__(self) -> None:
        self._count = 0
        self._sum = self._squares = torch.zeros((), dtype=torch.float64)

    def add(self, tokens: Tensor) -> None:
        """Add tokens ``[n, D]``, of any floating dtype, on any device."""
        values = tokens.double()
        self._count += len(values)
        self._sum = self._sum.to(values.device) + values.sum(0)
        self._squares = self._squares.to(values.device) + values.square().sum(0)

    def statistics(self) -> FeatureStatistics | None:
        """Return the statistics so far, on the CPU; None before the first token."""
        if not self._count:
            return None
        mean = self._sum / self._count
        std = (self._squares / self._count - mean.square()).clamp_min(0).sqrt()
        constant = std <= 1e-6 * (1 + mean.abs())
        return FeatureStatistics(mean.float().cpu(), std.masked_fill(constant, 1).float().cpu())
