"""Order of training samples: a function of seed and step, for any number of processes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scaleevent_ros.data.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

PADDING = -1
"""Position of a sample that fills up a batch: the masks of its sample are cleared."""


class SampleSpec(NamedTuple):
    """Specification of one sample.

    Attributes:
        epoch: Epoch, from 0.
        position: Position in the epoch; seeds the random numbers, with seed and epoch.
        pair: Index of the pair over all recordings.
    """

    epoch: int
    position: int
    pair: int


@dataclass(frozen=True)
class Schedule:
    """Order of the pairs in all epochs.

    Each recording gets a share of an epoch in proportion to its number of pairs times its weight,
    so that with equal weights all pairs are equally likely. Within a recording, pairs come in
    random order without repetition until all have come, across epochs. The order of an epoch
    follows from the seed and its number alone, so that a run can be resumed at any step.

    Attributes:
        counts: Number of pairs of each recording.
        weights: Sampling weight of the pairs of each recording.
        pairs_per_epoch: Number of samples in an epoch, rounded down to whole batches; the sum of
            ``counts`` if None.
        batch_size: Global batch size of an optimizer step.
        seed: Seed of the order.
    """

    counts: tuple[int, ...]
    weights: tuple[float, ...]
    batch_size: int
    seed: int
    pairs_per_epoch: int | None = None

    def __post_init__(self) -> None:
        """Check the weights, and that an epoch has at least one batch.

        Raises:
            DataError: If it has none, or the weights are invalid.
        """
        if len(self.weights) != len(self.counts):
            msg = f"{len(self.counts)} recordings need as many weights, not {len(self.weights)}"
            raise DataError(msg)
        if any(weight < 0 for weight in self.weights) or not any(
            w * n for w, n in zip(self.weights, self.counts, strict=True)
        ):
            msg = (
                f"weights {list(self.weights)} of recordings with {list(self.counts)} pairs leave "
                "none to draw: weights must be 0 or more, and one above 0"
            )
            raise DataError(msg)
        if self.steps_per_epoch < 1:
            msg = (
                f"an epoch of {self.pairs_per_epoch or sum(self.counts)} pairs does not fill one "
                f"batch of {self.batch_size}"
            )
            raise DataError(msg)

    @property
    def steps_per_epoch(self) -> int:
        """Number of optimizer steps in an epoch."""
        return (self.pairs_per_epoch or sum(self.counts)) // self.batch_size

    def epoch_order(self, epoch: int) -> NDArray[np.int64]:
        """List the pairs of an epoch in order, int64 [steps_per_epoch * batch_size]."""
        shares = np.stack([self._shares(number) for number in range(epoch + 1)])
        lasts = shares.sum(axis=0)
        firsts = lasts - shares[-1]
        offsets = np.concatenate([[0], np.cumsum(self.counts)[:-1]])
        drawn = [
            offset + _walk(count, int(first), int(last), (self.seed, source))
            for source, (count, first, last, offset) in enumerate(
                zip(self.counts, firsts, lasts, offsets, strict=True)
            )
            if last > first
        ]
        order: NDArray[np.int64] = np.concatenate(drawn)
        np.random.default_rng((self.seed, epoch)).shuffle(order)
        return order

    def _shares(self, epoch: int) -> NDArray[np.int64]:
        """Compute the number of pairs from each recording in an epoch, int64 [recordings].

        Systematic sampling: equidistant points with a random start, on a line where each recording
        has a length of its pairs times its weight. So a recording whose share is less than one pair
        in an epoch is still drawn at the right rate over many epochs.
        """
        total = self.steps_per_epoch * self.batch_size
        masses = np.multiply(self.weights, self.counts)
        start = np.random.default_rng((self.seed, epoch, 0)).random()
        ends = np.ceil(np.cumsum(masses) / masses.sum() * total - start).astype(np.int64)
        ends[-1] = total
        return np.asarray(np.diff(ends.clip(0, total), prepend=0))


class BatchSampler:
    """Batches of sample specifications for one process, for a `DataLoader`.

    The samples of a step are assigned to the processes in turns, and each process divides its own
    into ``accumulate`` equal parts. All processes and parts together have the same samples as a
    single process.
    """

    def __init__(
        self,
        schedule: Schedule,
        steps: range,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
    ) -> None:
        """Create the batches of one process.

        Args:
            schedule: Order of the pairs.
            steps: Steps of the optimizer.
            rank: Index of this process.
            world: Number of processes.
            accumulate: Number of parts of a step, whose gradients are accumulated.

        Raises:
            DataError: If the global batch does not divide evenly over processes and parts.
        """
        if schedule.batch_size % (world * accumulate):
            msg = (
                f"a batch of {schedule.batch_size} does not divide over {world} processes times "
                f"{accumulate} accumulated parts"
            )
            raise DataError(msg)
        self._schedule = schedule
        self._steps = steps
        self._split = rank, world, accumulate

    def __len__(self) -> int:
        """Count the batches of this process."""
        return len(self._steps) * self._split[2]

    def __iter__(self) -> Iterator[list[SampleSpec]]:
        """Yield the specifications of each batch, in order."""
        rank, world, accumulate = self._split
        size = self._schedule.batch_size
        epoch, order = -1, np.empty(0, np.int64)
        for step in self._steps:
            if step // self._schedule.steps_per_epoch != epoch:
                epoch = step // self._schedule.steps_per_epoch
                order = self._schedule.epoch_order(epoch)
            first = (step % self._schedule.steps_per_epoch) * size
            own = range(first + rank, first + size, world)
            for part in range(accumulate):
                yield [
                    SampleSpec(epoch, position, int(order[position]))
                    for position in own[part::accumulate]
                ]


def validation_batches(
    count: int, batch_size: int, rank: int, world: int
) -> list[list[SampleSpec]]:
    """Distribute all pairs once, in order, over the processes; the last batch may be shorter.

    All processes get the same number of samples, filled up with `PADDING`, because some distributed
    strategies require that all processes call the model equally often.
    """
    mine = [
        SampleSpec(0, index if index < count else PADDING, min(index, count - 1))
        for index in range(rank, -(-count // world) * world, world)
    ]
    return [mine[i : i + batch_size] for i in range(0, len(mine), batch_size)]


def _walk(count: int, first: int, last: int, seed: tuple[int, int]) -> NDArray[np.int64]:
    """Return elements ``first`` to ``last`` of an endless series of permutations of ``count``."""
    laps = range(first // count, (last - 1) // count + 1)
    row = np.concatenate([_permutation(count, (*seed, lap)) for lap in laps])
    skip = laps.start * count
    return row[first - skip : last - skip]


@lru_cache(maxsize=64)
def _permutation(count: int, seed: tuple[int, int, int]) -> NDArray[np.int64]:
    return np.random.default_rng(seed).permutation(count)
