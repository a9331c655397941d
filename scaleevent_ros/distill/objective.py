"""Interfaces between the trainer and its objectives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn
    from torch.utils.data import DataLoader

    from scaleevent_ros.data.sampler import BatchSampler, SampleSpec, Schedule


class Objective(Protocol):
    """A model, the losses that train it, and the metrics of its validation."""

    model: nn.Module

    def to(self, device: torch.device) -> None:
        """Move everything but the model to a device."""

    def start_step(self, progress: float) -> None:
        """Prepare for a step; ``progress`` is the share of the run's steps that are done."""

    def losses(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        """Compute loss terms by name, means over the batch's samples; ``total`` is minimized.

        Args:
            model: ``self.model`` as the trainer wrapped it; must be called instead of the bare one.
            batch: Batch from the loaders.

        Returns:
            Scalars by name.
        """

    def measure(
        self, model: nn.Module, batch: Any, pictures: int
    ) -> tuple[Mapping[str, Tensor], list[NDArray[np.uint8]]]:
        """Compute sums by name, which add up over batches, and pictures of the first samples.

        Args:
            model: Model to validate, as the trainer wrapped it.
            batch: Batch from the loaders.
            pictures: Largest number of pictures, uint8 [H, W, 3].
        """

    def summarize(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Compute metrics from the sums over all samples."""

    def score(self, metrics: Mapping[str, float]) -> float:
        """Return the figure that selects the best checkpoint; higher is better."""

    def write(self, path: Path, tensors: dict[str, Tensor], extra: dict[str, Any]) -> None:
        """Write the model so that others can load it."""


class Loaders(Protocol):
    """Source of batches."""

    @property
    def schedule(self) -> Schedule:
        """Order of the training samples."""

    @property
    def validation_count(self) -> int:
        """Number of validation samples."""

    def training(self, batches: BatchSampler, device: torch.device) -> DataLoader[Any]:
        """Load these training batches, in order."""

    def validation(self, batches: list[list[SampleSpec]], device: torch.device) -> DataLoader[Any]:
        """Load these validation batches, in order."""
