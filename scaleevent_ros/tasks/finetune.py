"""A downstream run, put together from its configuration: linear probe or full fine-tuning."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from scaleevent_ros.data.dataset import PairLoaders
from scaleevent_ros.data.sampler import Schedule
from scaleevent_ros.distill.configuration import (
    EventOptions,
    OptimizerOptions,
    StudentOptions,
    TrainerOptions,
    plain,
)
from scaleevent_ros.distill.errors import ConfigurationError
from scaleevent_ros.distill.trainer import Trainer, start_fabric
from scaleevent_ros.models import build_student, load_student
from scaleevent_ros.models.checkpoints import is_checkpoint
from scaleevent_ros.tasks.classes import read_classes
from scaleevent_ros.tasks.heads import build_head, describe_head, task_of
from scaleevent_ros.tasks.labelled_stills import (
    LabelledOptions,
    LabelledStills,
    find_labelled,
    stack,
    take_fraction,
)
from scaleevent_ros.tasks.segmentation import TASK, Segmentation, Segmenter

if TYPE_CHECKING:
    from scaleevent_ros.distill.trainer import Outcome
    from scaleevent_ros.models import Student
    from scaleevent_ros.tasks.classes import ClassList

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledData:
    """Labelled pictures, which the simulator films.

    Attributes:
        pictures: Folder of the pictures to learn from.
        labels: Folder of their labels, uint8 class ids, by the same names.
        validation_pictures: Folder of the pictures to judge by.
        validation_labels: Folder of their labels.
        classes: List of classes, such as ``config/labels/camvid11.yaml``.
        fraction: Share of the pictures to learn from; see `take_fraction`.
        validation_fraction: Share of the pictures to judge by.
        strength: Of the camera's motion.
        width: Of the event tensor, in pixels.
        height: Of the event tensor, in pixels.
        workers: Processes that make samples, for each training process.
        prefetch: Batches that each worker makes ahead.
    """

    pictures: str = ""
    labels: str = ""
    validation_pictures: str = ""
    validation_labels: str = ""
    classes: str = ""
    fraction: float = 1.0
    validation_fraction: float = 1.0
    strength: float = 1.0
    width: int = 480
    height: int = 360
    workers: int = 4
    prefetch: int = 4

    def __post_init__(self) -> None:
        """Check ranges, and that all places are named."""
        for name in (
            "pictures", "labels", "validation_pictures", "validation_labels", "classes",
        ):  # fmt: skip
            if not getattr(self, name):
                msg = f"data.{name} is not given: it names a folder or a file"
                raise ConfigurationError(msg)
        limits = {
            "fraction": (1e-6, 1), "validation_fraction": (1e-6, 1), "strength": (0, 100),
            "width": (16, 8192), "height": (16, 8192), "workers": (0, 256), "prefetch": (1, 64),
        }  # fmt: skip
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                msg = f"data.{name} is {getattr(self, name)}, it must be from {low:g} to {high:g}"
                raise ConfigurationError(msg)


@dataclass(frozen=True)
class HeadOptions:
    """The head.

    Attributes:
        kind: See `scaleevent_ros.tasks.build_head`.
        options: Of the kind, besides the number of classes.
        frozen: Leave the backbone as it is: a linear probe, if the head is linear.
    """

    kind: str = "segmentation_linear"
    options: dict[str, Any] = field(default_factory=dict)
    frozen: bool = True

    def __post_init__(self) -> None:
        """Check that there is such a head."""
        if task_of(self.kind) != TASK:
            msg = f"head.kind is {self.kind}: runs train heads of {TASK} only"
            raise ConfigurationError(msg)


@dataclass(frozen=True)
class Finetuning:
    """A run that trains a segmentation head on a student, and the student with it if wanted.

    Attributes:
        data: Labelled pictures.
        events: What the student sees of the events.
        student: What to start from: ``teacher`` (image weights), ``random``, or a checkpoint.
        head: What is put on it.
        optimizer: AdamW; a group with the pattern ``^student`` has the backbone's own rate.
        trainer: How the run goes.
    """

    data: LabelledData
    events: EventOptions = field(default_factory=EventOptions)
    student: StudentOptions = field(default_factory=StudentOptions)
    head: HeadOptions = field(default_factory=HeadOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    trainer: TrainerOptions = field(default_factory=TrainerOptions)


def finetune(configuration: Finetuning) -> Outcome:
    """Run it: in one process, or in each of those that `torchrun` started.

    Args:
        configuration: Of the run.

    Raises:
        ScaleEventError: If data, weights or the run's folder are not as they should be.
    """
    fabric = start_fabric(configuration.trainer)
    fabric.launch()
    classes = read_classes(configuration.data.classes)
    loaders = build_loaders(configuration, classes)
    with fabric.rank_zero_first(local=True):  # which downloads what is downloaded once
        model = build_segmenter(configuration, classes)
    if fabric.is_global_zero:
        logger.info(
            "%d pictures to learn from, %d to validate on",
            len(loaders.train),
            len(loaders.held_out),
        )
    if configuration.trainer.checkpointing and not configuration.head.frozen:
        model.student.backbone.set_grad_checkpointing()
    trainer = Trainer(
        Segmentation(model),
        loaders,
        configuration.optimizer,
        configuration.trainer,
        plain(configuration),
        fabric,
    )
    return trainer.run()


def build_segmenter(configuration: Finetuning, classes: ClassList) -> Segmenter:
    """Build student and head, alike in every process, with the student's header filled in.

    Raises:
        ConfigurationError: If a checkpoint was trained on other event tensors.
        ScaleEventError: If the student or the head cannot be built.
    """
    torch.manual_seed(configuration.trainer.seed)
    student = _build_student(configuration)
    options = {**configuration.head.options, "classes": len(classes.names)}
    described = describe_head(configuration.head.kind, student.width, student.stride, **options)
    events = configuration.events
    student.header = replace(
        student.header,
        representation=events.representation,
        normalization=events.normalization,
        window_ns=events.window.length_ns if events.window.mode == "fixed" else None,
        classes=list(classes.names),
        heads={TASK: described},
    )
    return Segmenter(student, build_head(**described), frozen=configuration.head.frozen)


def _build_student(configuration: Finetuning) -> Student:
    wanted, events = configuration.student, configuration.events
    if wanted.init not in {"teacher", "random"} and is_checkpoint(wanted.init):
        student = load_student(wanted.init)
        have = (student.header.representation, student.header.normalization, student.header.bins)
        need = (events.representation, events.normalization, events.channels)
        if have != need:
            msg = (
                f"{wanted.init} was trained on {have[0]} normalized by {have[1]} in {have[2]} "
                f"channels, events asks for {need[0]}, {need[1]} and {need[2]}"
            )
            raise ConfigurationError(msg)
        return student.train()
    if wanted.name is None:
        msg = "student.name is not given: timm's name of a network"
        raise ConfigurationError(msg)
    return build_student(
        wanted.name, events.channels, wanted.init, stride=wanted.stride, options=wanted.options
    )


def build_loaders(configuration: Finetuning, classes: ClassList) -> PairLoaders:
    """Make samples of the pictures: filmed anew in each epoch to learn, always alike to judge."""
    data, events, trainer = configuration.data, configuration.events, configuration.trainer
    to_learn = LabelledOptions(
        width=data.width,
        height=data.height,
        representation=events.representation,
        bins=events.bins,
        normalization=events.normalization,
        window=events.window,
        strength=data.strength,
        seed=trainer.seed,
    )
    found = find_labelled(Path(data.pictures), Path(data.labels))
    held_out = find_labelled(Path(data.validation_pictures), Path(data.validation_labels))
    train = LabelledStills(take_fraction(found, data.fraction), classes, to_learn)
    # The seed of a run must not choose what it is judged by.
    to_judge = replace(to_learn, seed=0, fixed_motion=True)
    judged = LabelledStills(take_fraction(held_out, data.validation_fraction), classes, to_judge)
    schedule = Schedule(
        (len(train),), (1.0,), trainer.batch_size, trainer.seed, trainer.pairs_per_epoch
    )
    return PairLoaders(train, judged, schedule, data.workers, data.prefetch, stack)
