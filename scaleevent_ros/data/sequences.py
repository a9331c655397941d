"""Training samples for a recurrent student: consecutive windows of one recording."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.utils.data import Dataset

from scaleevent_ros.data.dataset import Batch, Sample, collate, without_masks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from scaleevent_ros.data.dataset import PairDataset
    from scaleevent_ros.data.sampler import SampleSpec


@dataclass(frozen=True)
class SequenceOptions:
    """Options of sequences of windows.

    Attributes:
        length: Number of windows in a sequence, and of steps of backpropagation through time.
        stride: Number of frames from one window to the next.
        longest_gap_s: Maximum time between two windows in s; after a longer one the student's
            memory is reset.
    """

    length: int = 6
    stride: int = 1
    longest_gap_s: float = 1.0


class WindowSequence(NamedTuple):
    """Windows of one recording in order of time.

    Attributes:
        samples: T samples of one view.
        elapsed_s: Time since the previous window in s, float32 [T]; infinite if there is none, or
            it is too long ago.
    """

    samples: list[Sample]
    elapsed_s: Tensor


class SequenceBatch(NamedTuple):
    """B sequences of T windows, in reverse order of time.

    Attributes:
        windows: All windows as one batch of T * B; the last windows of the sequences come first.
        elapsed_s: Time since the previous window in s, float32 [T, B]; see `WindowSequence`.
    """

    windows: Batch
    elapsed_s: Tensor

    def to(self, device: torch.device) -> SequenceBatch:
        """Move the batch, but keep the masks on the CPU, as `Batch.to` does."""
        return SequenceBatch(self.windows.to(device), self.elapsed_s.to(device, non_blocking=True))

    @property
    def in_order(self) -> tuple[Tensor, Tensor]:
        """Event tensors [B, T, channels, H, W] and elapsed times [B, T], in order of time."""
        events = self.windows.events
        events = events.view(*self.elapsed_s.shape, *events.shape[1:])
        return events.flip(0).transpose(0, 1), self.elapsed_s.flip(0).transpose(0, 1)


class SequenceDataset(Dataset[WindowSequence]):
    """Sequences that end with each pair of a `PairDataset`, as functions of the specification.

    Where a recording has too few pairs before, its first pair is repeated, without masks.
    """

    def __init__(
        self, pairs: PairDataset, options: SequenceOptions, *, only_last: bool = False
    ) -> None:
        """Create a dataset of sequences.

        Args:
            pairs: Samples of single windows.
            options: Options of sequences.
            only_last: Clear the masks of all windows but the last, for validation.
        """
        self._pairs, self._options, self._only_last = pairs, options, only_last

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self._pairs)

    def __getitem__(self, spec: SampleSpec) -> WindowSequence:
        """Build the sequence that ends with a specification's pair.

        Raises:
            ScaleEventError: Same errors as `PairDataset.timed`.
        """
        first, options = self._pairs.first_of_recording(spec.pair), self._options
        numbers = [spec.pair - back * options.stride for back in range(options.length)][::-1]
        samples, elapsed = [], []
        before: int | None = None
        for number in numbers:
            sample, t_end = self._pairs.timed(spec._replace(pair=max(number, first)))
            if number < first or (self._only_last and number != spec.pair):
                sample = without_masks(sample)
            samples.append(sample)
            elapsed.append(self._elapsed(before, t_end if number >= first else None))
            before = t_end if number >= first else None
        return WindowSequence(samples, torch.tensor(elapsed))

    def _elapsed(self, before: int | None, now: int | None) -> float:
        """Compute the time between two windows in s; infinite if the memory is to be reset."""
        if before is None or now is None:
            return math.inf
        seconds = (now - before) * 1e-9
        return seconds if 0 < seconds <= self._options.longest_gap_s else math.inf


def collate_sequences(sequences: Sequence[WindowSequence]) -> SequenceBatch:
    """Stack sequences to a batch."""
    backwards = zip(*(reversed(each.samples) for each in sequences), strict=True)
    windows = collate([sample for samples in backwards for sample in samples])
    elapsed = torch.stack([each.elapsed_s for each in sequences], 1).flip(0)
    return SequenceBatch(windows, elapsed)
