"""Speed of sample loading from bags, per worker and relative to a training step.

    python benchmarks/data.py BAG [BAG ...] --width 640 --height 480 --step 1.0

Without a bag, random pairs in memory are used.
"""

from __future__ import annotations

import argparse
import time

import cv2
import numpy as np
import torch

from scaleevent_ros.data.alignment import HomographyAlignment
from scaleevent_ros.data.augmentation import AugmentationOptions
from scaleevent_ros.data.dataset import Pair, PairDataset, SampleOptions
from scaleevent_ros.data.indexed_bag import BagOptions
from scaleevent_ros.data.loading import PairLoaders
from scaleevent_ros.data.recordings import open_recordings
from scaleevent_ros.data.sampler import BatchSampler, SampleSpec, Schedule
from scaleevent_ros.events import EventBatch
from scaleevent_ros.events.windows import WindowOptions

NS_PER_S = 1_000_000_000


class RandomPairs:
    """Random events and frames in memory, as a source of pairs.

    Args:
        count: Number of pairs.
        width: Width of the sensor and the frames in pixels.
        height: Height of the sensor and the frames in pixels.
        rate: Events per second.
    """

    def __init__(self, count: int, width: int, height: int, rate: float) -> None:
        rng = np.random.default_rng(0)
        self.name = "random pairs"
        self._count = count
        number = int(rate * 0.05)
        self._events = EventBatch(
            rng.integers(width, size=number, dtype=np.uint16),
            rng.integers(height, size=number, dtype=np.uint16),
            np.sort(rng.integers(0, NS_PER_S // 20, size=number)),
            rng.integers(2, size=number, dtype=np.uint8),
            width,
            height,
        )
        self._frame = rng.integers(256, size=(height, width, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return self._count

    def read(self, index: int) -> Pair:
        """Return the same pair for any index."""
        del index
        return Pair(self._frame, self._events, NS_PER_S // 20, HomographyAlignment(np.eye(3)))


def samples_per_second(dataset: PairDataset, count: int) -> float:
    """Measure the rate of building samples in this process on one core, like a worker."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    order = np.random.default_rng(0).integers(len(dataset), size=count + 2)
    for index in order[:2]:
        dataset[SampleSpec(0, 0, int(index))]
    start = time.perf_counter()
    for position, index in enumerate(order[2:]):
        dataset[SampleSpec(0, position, int(index))]
    return count / (time.perf_counter() - start)


def wait_share(dataset: PairDataset, batch: int, workers: int, step: float, steps: int) -> float:
    """Measure the share of time that a loop with steps of ``step`` seconds waits for batches."""
    schedule = Schedule((len(dataset),), (1.0,), batch, 0, batch * (steps + 2))
    loaders = PairLoaders(dataset, dataset, schedule, workers, prefetch=4)
    sampler = BatchSampler(schedule, range(steps + 2))
    batches = iter(loaders.training(sampler, torch.device("cpu")))
    next(batches)
    waited = 0.0
    begin = time.perf_counter()
    for _ in range(steps):
        start = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - start
        _compute(step)
    return waited / (time.perf_counter() - begin)


def _compute(seconds: float) -> None:
    """Keep one core busy, like a training step."""
    end = time.perf_counter() + seconds
    numbers = torch.ones(256, 256)
    while time.perf_counter() < end:
        numbers = (numbers @ numbers).clamp(max=1)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bags", nargs="*")
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--rate", type=float, default=5e6, help="events per s without a bag")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--step", type=float, default=1.0, help="seconds of a training step")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--samples", type=int, default=60)
    options = parser.parse_args()
    if options.bags:
        sources = [
            source
            for bag in options.bags
            for source in open_recordings(bag, BagOptions(), WindowOptions())
        ]
    else:
        sources = [RandomPairs(1000, options.width, options.height, options.rate)]
    augmented = AugmentationOptions(
        zoom=(1, 2), crop=True, flip=0.5, event_dropout=0.2, noise_hz=1.0
    )
    print(f"| {options.width}x{options.height} | samples/s per worker | wait, share of step |")
    print("|---|---|---|")
    for name, augmentation in (("plain", AugmentationOptions()), ("augmented", augmented)):
        samples = SampleOptions(options.width, options.height, augmentation=augmentation)
        dataset = PairDataset(sources, samples)
        rate = samples_per_second(dataset, options.samples)
        share = wait_share(dataset, options.batch, options.workers, options.step, options.steps)
        print(f"| {name} | {rate:.0f} | {share:.1%} |", flush=True)


if __name__ == "__main__":
    main()
