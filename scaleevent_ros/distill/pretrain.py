"""A pretraining run, put together from its configuration."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from scaleevent_ros.data.dataset import PairDataset, PairLoaders, SampleOptions, split_off
from scaleevent_ros.data.recordings import open_recordings
from scaleevent_ros.data.sampler import BatchSampler, Schedule
from scaleevent_ros.distill.configuration import plain
from scaleevent_ros.distill.distillation import Distillation
from scaleevent_ros.distill.errors import ConfigurationError
from scaleevent_ros.distill.losses import build_loss
from scaleevent_ros.distill.teacher_cache import CachedTeacher
from scaleevent_ros.distill.trainer import Trainer, start_fabric
from scaleevent_ros.models import build_student, build_teacher, read_header, tokens
from scaleevent_ros.models.feature_statistics import FeatureStatistics, StatisticsCounter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from lightning.fabric import Fabric
    from numpy.typing import NDArray

    from scaleevent_ros.data.dataset import PairSource
    from scaleevent_ros.distill.configuration import Pretraining, TeacherOptions
    from scaleevent_ros.distill.distillation import FeatureSource, Panel
    from scaleevent_ros.distill.trainer import Outcome
    from scaleevent_ros.models import Student, Teacher

logger = logging.getLogger(__name__)

STATISTICS_PAIRS = 256
"""Enough for a mean within 7 % of the deviation even if all tokens of a frame were alike."""


def pretrain(
    configuration: Pretraining, draw: Callable[[Panel], NDArray[np.uint8]] | None = None
) -> Outcome:
    """Run a pretraining: in one process, or in each of those that `torchrun` started.

    Args:
        configuration: Of the run.
        draw: Makes the pictures of a validation.

    Raises:
        ScaleEventError: If recordings, weights or the run's folder are not as they should be.
    """
    fabric = start_fabric(configuration.trainer)
    fabric.launch()
    with fabric.rank_zero_first(local=True):  # which makes what is made once: indices, downloads
        train, weights, held_out = split_recordings(configuration)
        teacher, student = build_models(configuration)
    if configuration.trainer.checkpointing:
        student.backbone.set_grad_checkpointing()
    if configuration.trainer.compile:
        teacher.backbone.compile()
    loaders = build_loaders(configuration, train, weights, held_out, student.stride)
    if fabric.is_global_zero:
        logger.info(
            "%d pairs of %d recordings to learn from, %d to validate on",
            len(loaders.train),
            len(train),
            len(loaders.held_out),
        )
    features: FeatureSource = teacher.to(fabric.device)
    if configuration.teacher.cache is not None:
        identity = {
            **_identity(configuration.teacher),
            "precision": configuration.trainer.precision,
            "device": fabric.device.type,
        }
        features = CachedTeacher(teacher, Path(configuration.teacher.cache), identity)
    statistics = feature_statistics(configuration, features, loaders, fabric)
    student.set_target(statistics, standardized=configuration.teacher.standardize)
    objective = Distillation(
        student,
        teacher,
        build_loss(configuration.loss.name, **configuration.loss.options),
        margin=configuration.loss.margin,
        features=features,
        statistics=statistics,
        autocast=fabric.autocast,
        draw=draw,
    )
    trainer = Trainer(
        objective,
        loaders,
        configuration.optimizer,
        configuration.trainer,
        plain(configuration),
        fabric,
    )
    return trainer.run()


def build_models(configuration: Pretraining) -> tuple[Teacher, Student]:
    """Build teacher and student, alike in every process, with the student's header filled in."""
    torch.manual_seed(configuration.trainer.seed)
    of_teacher, of_student, events = (
        configuration.teacher,
        configuration.student,
        configuration.events,
    )
    teacher = build_teacher(
        of_teacher.name,
        of_teacher.checkpoint,
        scale=of_teacher.scale,
        stride=of_teacher.stride,
        options=of_teacher.options,
        pretrained=of_teacher.pretrained,
    )
    student = build_student(
        of_student.name or of_teacher.name,
        events.channels,
        of_student.init,
        teacher=teacher,
        stride=of_student.stride,
        neck=of_student.neck,
        options=of_student.options,
    )
    student.header = events.describe(student.header)
    return teacher, student


def feature_statistics(
    configuration: Pretraining, features: FeatureSource, loaders: PairLoaders, fabric: Fabric
) -> FeatureStatistics:
    """Measure the teacher's features on training pairs, the same in every process.

    A run that is resumed takes them from its newest student.

    Args:
        configuration: Of the run.
        features: The teacher.
        loaders: Whose first training batches are looked at, `STATISTICS_PAIRS` pairs at most.
        fabric: Device and processes.

    Raises:
        ConfigurationError: If no frame covers any token.
    """
    newest = Path(configuration.trainer.output) / "last.safetensors"
    if configuration.trainer.resume and newest.is_file():
        header = read_header(newest)
        if header.teacher_mean:
            return FeatureStatistics(
                torch.tensor(header.teacher_mean), torch.tensor(header.teacher_std)
            )
    counter = StatisticsCounter()
    if fabric.is_global_zero:
        pairs = min(STATISTICS_PAIRS, len(loaders.train))
        steps = max(1, pairs // configuration.trainer.batch_size)
        logger.info("measuring the teacher's features on up to %d pairs", pairs)
        for batch in loaders.training(BatchSampler(loaders.schedule, range(steps)), fabric.device):
            grid = (batch.active.shape[-2], batch.active.shape[-1])
            size = (batch.events.shape[-2], batch.events.shape[-1])
            with fabric.autocast():
                found = features(batch.frames.to(fabric.device), grid, size)
            counter.add(tokens(found.float())[batch.covered.flatten(1).to(fabric.device)])
    statistics = fabric.broadcast(counter.statistics())
    if statistics is None:
        msg = "no frame of the training pairs covers a whole token: check data and alignment"
        raise ConfigurationError(msg)
    return FeatureStatistics(*statistics)


def split_recordings(
    configuration: Pretraining,
) -> tuple[list[PairSource], list[float], list[PairSource]]:
    """Open recordings: those to learn from, the weight of a pair of each, and those held out.

    Raises:
        ConfigurationError: If none are named.
        DataError: If there is nothing at a path, or nothing left to learn from.
    """
    data = configuration.data
    if not data.train:
        msg = "data.train names no recording: --data.train '[\"bags/*\"]'"
        raise ConfigurationError(msg)
    events = configuration.events
    needed = (events.window, events.input.leaky, events.history_ns)
    opened: list[PairSource] = []
    weights: list[float] = []
    for place, weight in zip(data.train, data.weights or [1.0] * len(data.train), strict=True):
        found = open_recordings(place, data.bags, *needed)
        opened += found
        weights += [weight] * len(found)
    if data.validation:
        held_out = [
            source
            for place in data.validation
            for source in open_recordings(place, data.bags, *needed)
        ]
        return opened, weights, held_out
    parts = [split_off(source, data.holdout) for source in opened]
    return [part[0] for part in parts], weights, [part[1] for part in parts]


def build_loaders(
    configuration: Pretraining,
    train: Sequence[PairSource],
    weights: Sequence[float],
    held_out: Sequence[PairSource],
    stride: int,
) -> PairLoaders:
    """Make samples of recordings, in the order that the seed gives."""
    data, events, trainer = configuration.data, configuration.events, configuration.trainer
    plain_samples = SampleOptions(
        width=data.width,
        height=data.height,
        stride=stride,
        frame_scale=configuration.teacher.scale,
        input=events.input,
        window=events.window,
        history_ns=events.history_ns,
        threshold=events.activity_threshold,
        seed=trainer.seed,
    )
    schedule = Schedule(
        tuple(len(source) for source in train),
        tuple(weights),
        trainer.batch_size,
        trainer.seed,
        trainer.pairs_per_epoch,
    )
    return PairLoaders(
        PairDataset(train, replace(plain_samples, augmentation=configuration.augmentation)),
        PairDataset(held_out, plain_samples),
        schedule,
        data.workers,
        data.prefetch,
    )


def _identity(options: TeacherOptions) -> dict[str, Any]:
    """Name all that a teacher's features depend on, besides the frame."""
    identity: dict[str, Any] = {
        name: getattr(options, name)
        for name in ("name", "scale", "stride", "options", "pretrained")
    }
    if options.checkpoint is not None:
        status = Path(options.checkpoint).stat()
        identity["checkpoint"] = [str(options.checkpoint), status.st_size, status.st_mtime_ns]
    return identity
