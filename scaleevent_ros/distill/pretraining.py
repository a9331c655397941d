"""A pretraining run, built from its configuration."""

from __future__ import annotations

import logging
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from rich.console import Console
from rich.progress import track

from scaleevent_ros.data.dataset import Batch, PairDataset, SampleOptions, collate, split_off
from scaleevent_ros.data.loading import PairLoaders, load_batches
from scaleevent_ros.data.recordings import open_recordings
from scaleevent_ros.data.sampler import BatchSampler, Schedule, validation_batches
from scaleevent_ros.data.sequences import SequenceDataset, collate_sequences
from scaleevent_ros.distill.configuration import plain
from scaleevent_ros.distill.distillation import (
    Distillation,
    SequenceDistillation,
    teacher_features,
)
from scaleevent_ros.distill.errors import ConfigurationError
from scaleevent_ros.distill.losses import build_loss
from scaleevent_ros.distill.parallel import start_fabric
from scaleevent_ros.distill.teacher_cache import CachedTeacher, FeatureFolder
from scaleevent_ros.distill.trainer import Trainer
from scaleevent_ros.models import build_student, build_teacher, read_header, tokens
from scaleevent_ros.models.feature_statistics import FeatureStatistics, StatisticsCounter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from lightning.fabric import Fabric
    from numpy.typing import NDArray

    from scaleevent_ros.data.dataset import PairSource, StoredFeatures
    from scaleevent_ros.data.sequences import SequenceOptions
    from scaleevent_ros.distill.configuration import Pretraining
    from scaleevent_ros.distill.distillation import FeatureSource, Panel
    from scaleevent_ros.distill.trainer import Outcome
    from scaleevent_ros.models import Student, Teacher

logger = logging.getLogger(__name__)

STATISTICS_PAIRS = 256
"""Number of pairs for the teacher's statistics: the standard error of a mean is below 7 % of the
deviation even if all tokens of a frame are equal."""


def pretrain(
    configuration: Pretraining, draw: Callable[[Panel], NDArray[np.uint8]] | None = None
) -> Outcome:
    """Run a pretraining, in one process or in each process that `torchrun` started.

    Args:
        configuration: Configuration of the run.
        draw: Function that draws a validation sample, uint8 [H, W, 3]; no pictures if None.

    Raises:
        ScaleEventError: If recordings, weights or the run's folder cannot be used.
    """
    fabric = start_fabric(configuration.trainer)
    fabric.launch()
    with fabric.rank_zero_first(local=True):  # it makes the shared files: indices, downloads
        train, weights, held_out = split_recordings(configuration)
        teacher, student = build_models(configuration)
    if configuration.trainer.grad_checkpointing:
        student.backbone.set_grad_checkpointing()
    if configuration.trainer.compile:
        teacher.backbone.compile()
    folder = feature_folder(configuration, student.stride, fabric)
    loaders = build_loaders(configuration, train, weights, held_out, student.stride, folder)
    if fabric.is_global_zero:
        logger.info(
            "training on %d pairs of %d recordings, validating on %d pairs",
            len(loaders.train),
            len(train),
            len(loaders.held_out),
        )
    teacher.to(fabric.device)
    features = teacher if folder is None else CachedTeacher(teacher, folder)
    statistics = feature_statistics(configuration, features, loaders, fabric)
    student.set_target(statistics, standardized=configuration.teacher.standardize)
    make: Callable[..., Distillation] = Distillation
    if student.memory is not None:
        make = partial(SequenceDistillation, memory_weight=configuration.loss.memory)
        loaders = follow_sequences(loaders, configuration.data.sequence)
    objective = make(
        student,
        teacher,
        build_loss(configuration.loss.name, **configuration.loss.options),
        dilation=configuration.loss.dilation,
        final_dilation=configuration.loss.final_dilation,
        patch_dropout=configuration.student.patch_dropout,
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


def cache_features(configuration: Pretraining) -> tuple[int, int]:
    """Compute the teacher's features of all pairs of a run, and store them on disk.

    Features that are stored already are not computed again, so an interrupted call is resumed by
    calling again. Processes that `torchrun` started share the work.

    Args:
        configuration: Configuration of the run; ``teacher.cache`` is the folder.

    Returns:
        Number of pairs that this process read, and number of frames whose features it computed. A
        frame that several pairs share is computed once.

    Raises:
        ScaleEventError: If recordings, weights or the folder cannot be used.
    """
    fabric = start_fabric(configuration.trainer)
    fabric.launch()
    with fabric.rank_zero_first(local=True):
        train, _, held_out = split_recordings(configuration)
        teacher, student = build_models(configuration)
    folder = feature_folder(configuration, student.stride, fabric)
    if folder is None:
        msg = "teacher.cache is not given: --teacher.cache FOLDER"
        raise ConfigurationError(msg)
    source = CachedTeacher(teacher.to(fabric.device), folder)
    pairs = PairDataset([*train, *held_out], _sample_options(configuration, student.stride), folder)
    specs = validation_batches(
        len(pairs), configuration.trainer.batch_size, fabric.global_rank, fabric.world_size
    )
    loader = load_batches(
        pairs,
        specs,
        fabric.device,
        workers=configuration.data.workers,
        prefetch=configuration.data.prefetch,
        stack=collate,
    )
    batches = track(
        loader,
        "teacher's features",
        total=len(specs),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
    for batch in batches:
        if not len(batch.features):
            with fabric.autocast():
                teacher_features(source, Batch(*(each.to(fabric.device) for each in batch)))
    return sum(map(len, specs)), source.computed


def feature_folder(configuration: Pretraining, stride: int, fabric: Fabric) -> FeatureFolder | None:
    """Open the folder of the teacher's features; None if none is configured.

    Raises:
        ConfigurationError: If the augmentation moves events by cells, but the size of the input is
            no multiple of the student's stride.
        TrainingError: If the folder cannot be created.
    """
    data, options = configuration.data, configuration.teacher
    if options.cache is None:
        return None
    if configuration.augmentation.moves_cells and (data.width % stride or data.height % stride):
        msg = (
            f"teacher.cache with augmentation.flip or shift needs a data.width and data.height "
            f"that are multiples of the student's stride, {stride}: {data.width}x{data.height} is "
            "not"
        )
        raise ConfigurationError(msg)
    identity: dict[str, Any] = {"name": options.name, **options.arguments}
    if options.checkpoint is not None:
        status = Path(options.checkpoint).stat()
        identity["checkpoint"] = [str(options.checkpoint), status.st_size, status.st_mtime_ns]
    identity["precision"] = fabric.strategy.precision.precision
    return FeatureFolder(Path(options.cache), identity)


def build_models(configuration: Pretraining) -> tuple[Teacher, Student]:
    """Build teacher and student, with the student's header; the same in every process."""
    torch.manual_seed(configuration.trainer.seed)
    of_teacher, of_student, events = (
        configuration.teacher,
        configuration.student,
        configuration.events,
    )
    teacher = build_teacher(of_teacher.name, **of_teacher.arguments)
    student = build_student(
        of_student.name or of_teacher.name,
        events.channels,
        of_student.init,
        teacher=teacher,
        stride=of_student.stride,
        neck=of_student.neck,
        options=of_student.options,
    )
    choice = configuration.active_tokens(student.stride)
    if (of_student.patch_dropout or choice) and not student.backbone.can_drop_tokens:
        name, plain_value = ("tokens active", "all") if choice else ("patch_dropout", "0")
        msg = (
            f"student.{name} needs a plain ViT, and {student.header.architecture} is none: "
            f"set it to {plain_value}"
        )
        raise ConfigurationError(msg)
    student.header = replace(
        events.describe(student.header),
        teacher_options=of_teacher.arguments,
        tokens=None if choice is None else asdict(choice),
    )
    gap_s = configuration.data.sequence.longest_gap_s
    student.set_memory(None if of_student.memory == "none" else gap_s)
    # In this layout convolutions are up to twice as fast on a CPU, and no slower on a GPU.
    cast("Any", student).to(memory_format=torch.channels_last)
    return teacher, student


def feature_statistics(
    configuration: Pretraining, features: FeatureSource, loaders: PairLoaders, fabric: Fabric
) -> FeatureStatistics:
    """Compute the teacher's feature statistics on training pairs, the same in every process.

    A run that is resumed reads them from its newest student.

    Args:
        configuration: Configuration of the run.
        features: Teacher, or cache of its features.
        loaders: Source of the pairs: the first training batches, about `STATISTICS_PAIRS` pairs.
        fabric: Launched Fabric.

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
            moved = Batch(*(each.to(fabric.device) for each in batch))
            with fabric.autocast():
                found = teacher_features(features, moved)
            counter.add(tokens(found.float())[moved.covered.flatten(1)])
    statistics = fabric.broadcast(counter.statistics())
    if statistics is None:
        msg = "no frame of the training pairs covers a whole token: check data and alignment"
        raise ConfigurationError(msg)
    return FeatureStatistics(*statistics)


def split_recordings(
    configuration: Pretraining,
) -> tuple[list[PairSource], list[float], list[PairSource]]:
    """Open the recordings of a run.

    Returns:
        Recordings for training, the sampling weight of a pair of each of them, and recordings for
        validation.

    Raises:
        ConfigurationError: If none are named.
        DataError: If a path has no recording, or nothing is left for training.
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
    stored: StoredFeatures | None = None,
) -> PairLoaders:
    """Build the loaders of training and validation samples.

    Args:
        configuration: Configuration of the run.
        train: Recordings for training.
        weights: Sampling weight of a pair of each of them.
        held_out: Recordings for validation.
        stride: Stride of the student's features in pixels.
        stored: Teacher features on disk; None without.
    """
    data, trainer = configuration.data, configuration.trainer
    plain_samples = _sample_options(configuration, stride)
    schedule = Schedule(
        tuple(len(source) for source in train),
        tuple(weights),
        trainer.batch_size,
        trainer.seed,
        trainer.pairs_per_epoch,
    )
    augmented = replace(plain_samples, augmentation=configuration.augmentation)
    return PairLoaders(
        PairDataset(train, augmented, stored, strict=data.strict),
        PairDataset(held_out, plain_samples, stored, strict=data.strict),
        schedule,
        data.workers,
        data.prefetch,
    )


def follow_sequences(loaders: PairLoaders, options: SequenceOptions) -> PairLoaders:
    """Replace the samples of loaders by sequences of windows that end with them."""
    train, held_out = cast("PairDataset", loaders.train), cast("PairDataset", loaders.held_out)
    return replace(
        loaders,
        train=SequenceDataset(train, options),
        held_out=SequenceDataset(held_out, options, only_last=True),
        stack=collate_sequences,
    )


def _sample_options(configuration: Pretraining, stride: int) -> SampleOptions:
    """Build the options of samples, without augmentation."""
    data, events = configuration.data, configuration.events
    return SampleOptions(
        width=data.width,
        height=data.height,
        stride=stride,
        frame_scale=configuration.teacher.scale,
        input=events.input,
        window=events.window,
        history_ns=events.history_ns,
        threshold=events.activity_threshold,
        seed=configuration.trainer.seed,
    )
