"""Labelled windows held in memory, whose truth can be seen in their events, and runs on them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scaleevent_ros.data.loading import PairLoaders
from scaleevent_ros.data.sampler import Schedule
from scaleevent_ros.distill.configuration import OptimizerOptions, TrainerOptions
from scaleevent_ros.distill.parallel import start_fabric
from scaleevent_ros.distill.trainer import Trainer
from scaleevent_ros.events import EventBatch, InputSpec
from scaleevent_ros.events.windows import WindowOptions
from scaleevent_ros.models import build_student
from scaleevent_ros.tasks import build_head, describe_head
from scaleevent_ros.tasks.downstream import Downstream
from scaleevent_ros.tasks.heads import task_of
from scaleevent_ros.tasks.labelled import LabelledDataset, LabelledOptions, LabelledWindow, stack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from scaleevent_ros.distill.objective import Objective
    from scaleevent_ros.tasks.labelled import Task

WIDTH, HEIGHT = 48, 32
VIT = {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8}
BEFORE, START, END = 100_000_000, 150_000_000, 200_000_000  # ns


@dataclass(frozen=True)
class _Numbered:
    """Windows that are known by their numbers."""

    count: int

    def __len__(self) -> int:
        return self.count

    def key(self, index: int) -> str:
        return str(index)


@dataclass(frozen=True)
class NearAndFar(_Numbered):
    """Depth: many events where something is near, 2 m, few where it is far, 8 m."""

    task: Task = "depth"
    name: str = "near and far"

    def read(self, index: int, take: int) -> LabelledWindow:
        del take
        rng = np.random.default_rng(index)
        edge = int(rng.integers(12, WIDTH - 12))
        near = np.arange(WIDTH) < edge
        if rng.random() < 0.5:
            near = ~near
        truth = np.where(near, np.float32(2), np.float32(8)) * np.ones((HEIGHT, 1), np.float32)
        y, x = np.nonzero(rng.random((HEIGHT, WIDTH)) < np.where(near, 0.9, 0.05))
        truth[0], truth[1], truth[2] = 0, np.inf, 1000
        return LabelledWindow(_events(x, y, np.full(len(x), START)), END, truth)


@dataclass(frozen=True)
class SlidingDots(_Numbered):
    """Flow: dots that go 6 px to the left and 3 px down from the window before to the window."""

    task: Task = "flow"
    name: str = "sliding dots"

    def read(self, index: int, take: int) -> LabelledWindow:
        del take
        rng = np.random.default_rng(index)
        y, x = np.nonzero(rng.random((HEIGHT - 3, WIDTH - 6)) < 0.3)
        events = _events(
            np.concatenate([x + 6, x]),
            np.concatenate([y, y + 3]),
            np.repeat([BEFORE, START], len(x)),
        )
        truth = np.zeros((HEIGHT, WIDTH, 2), np.float32) + np.array([-6, 3], np.float32)
        truth[:2] = np.nan
        return LabelledWindow(events, END, truth, START)


def _events(x: Any, y: Any, t: Any) -> EventBatch:
    ones = np.ones(len(x), np.uint8)
    return EventBatch(
        x.astype(np.uint16), y.astype(np.uint16), t.astype(np.int64), ones, WIDTH, HEIGHT
    )


OPTIONS = LabelledOptions(WIDTH, HEIGHT, InputSpec("voxel", 1, "none"), WindowOptions(length_ms=50))


def tiny_model(kind: str, **options: Any) -> Downstream:
    """Build a tiny ViT with a head."""
    torch.manual_seed(0)
    student = build_student("vit_tiny_patch16_224", 1, "random", options=VIT)
    described = describe_head(kind, student.width, student.stride, **options)
    student.header.heads[task_of(kind)] = described
    return Downstream(student, build_head(**described), frozen=False)


def train(
    objective: Objective,
    make: Callable[[int], NearAndFar | SlidingDots],
    output: Path,
    epochs: int,
) -> list[dict[str, Any]]:
    """Train on 8 windows, judge by 3, and return the log: losses and metrics."""
    trainer = TrainerOptions(
        output=str(output), epochs=epochs, batch_size=4, log_every=1, validate_every=1000,
        save_every=1000, loggers=[], accelerator="cpu",
    )  # fmt: skip
    fabric = start_fabric(trainer)
    fabric.launch()
    loaders = PairLoaders(
        LabelledDataset([make(8)], OPTIONS),
        LabelledDataset([make(3)], OPTIONS),
        Schedule((8,), (1.0,), 4, 0, None),
        0,
        1,
        stack,
    )
    optimizer = OptimizerOptions(learning_rate=3e-3, clip=1.0)
    Trainer(objective, loaders, optimizer, trainer, {}, fabric).run()
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
