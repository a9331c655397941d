"""Loading of batches in worker processes, which end with the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from scaleevent_ros.data.dataset import collate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from torch import Tensor

    from scaleevent_ros.data.sampler import BatchSampler, SampleSpec, Schedule

_GRACE_S = 30  # time that batch systems give a job between SIGTERM and SIGKILL


class Samples(Protocol):
    """Interface of a dataset of samples by specification, such as a `PairDataset`."""

    def __len__(self) -> int:
        """Count the pairs that can be drawn."""

    def __getitem__(self, spec: SampleSpec) -> Any:
        """Build the sample of a specification; called in worker processes."""


@dataclass(frozen=True)
class PairLoaders:
    """Training and validation samples for a trainer.

    Attributes:
        train: Training samples.
        held_out: Validation samples.
        schedule: Order of the training samples.
        workers: Number of worker processes; 0 to make samples in this process.
        prefetch: Number of batches that each worker prepares in advance.
        stack: Function that makes a batch from samples.
    """

    train: Samples
    held_out: Samples
    schedule: Schedule
    workers: int
    prefetch: int
    stack: Callable[[Sequence[Any]], Any] = collate

    @property
    def validation_count(self) -> int:
        """Number of validation samples."""
        return len(self.held_out)

    def training(self, batches: BatchSampler, device: torch.device) -> DataLoader[Any]:
        """Load training batches, in order."""
        return self._loader(self.train, batches, device)

    def validation(self, batches: list[list[SampleSpec]], device: torch.device) -> DataLoader[Any]:
        """Load validation batches, in order."""
        return self._loader(self.held_out, batches, device)

    def _loader(self, samples: Samples, batches: Any, device: torch.device) -> DataLoader[Any]:
        return load_batches(
            samples, batches, device, workers=self.workers, prefetch=self.prefetch, stack=self.stack
        )


def load_batches(
    samples: Samples,
    batches: Any,
    device: torch.device,
    *,
    workers: int,
    prefetch: int,
    stack: Callable[[Sequence[Any]], Any],
) -> DataLoader[Any]:
    """Load batches in order.

    Args:
        samples: Dataset of samples by specification.
        batches: Iterable of the batches' lists of specifications.
        device: Device to which batches will be moved; for CUDA they are in pinned memory.
        workers: Number of worker processes; 0 to make samples in this process.
        prefetch: Number of batches that each worker prepares in advance.
        stack: Function that makes a batch from samples.
    """
    return DataLoader(
        cast("Dataset[Any]", samples),
        batch_sampler=batches,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        pin_memory=device.type == "cuda",
        collate_fn=stack,
        worker_init_fn=_start_worker,
    )


def named_tensors(batch: Any) -> dict[str, Tensor]:
    """Collect the tensors of a batch by the names of their fields, those of batches in it too."""
    if isinstance(batch, torch.Tensor):
        return {"": batch}
    return {
        part or name: tensor
        for name, value in batch._asdict().items()
        for part, tensor in named_tensors(value).items()
    }


def _end_later(number: int, frame: FrameType | None) -> None:
    """Handle SIGTERM in a worker: end it after a grace period in which its parent may finish."""
    del number, frame
    signal.alarm(_GRACE_S)


def _end_with_parent() -> None:
    """End a worker when the process that started it has died.

    PyTorch's workers check their parent process. With a fork server that is the server, which lives
    as long as its workers do.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has a parent process"
    parent.join()
    os._exit(1)


def _start_worker(number: int) -> None:
    """Limit a worker to one thread, and end it with its parent.

    Ctrl-C, and a batch system at a job's end, send signals to all processes, while the parent may
    need its workers to finish a step. It ends them by their queue; if it dies, they end by
    themselves.
    """
    del number
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
