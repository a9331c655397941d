"""Fine-tuning: a run that trains a task head, and optionally its student."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from scaleevent_ros.distill.configuration import (
    EventOptions,
    OptimizerOptions,
    StudentOptions,
    TrainerOptions,
    plain,
)
from scaleevent_ros.distill.errors import ConfigurationError
from scaleevent_ros.distill.parallel import start_fabric
from scaleevent_ros.distill.teacher_cache import CachedTeacher, FeatureFolder
from scaleevent_ros.distill.trainer import Trainer
from scaleevent_ros.models import build_student, load_student, load_teacher
from scaleevent_ros.models.checkpoints import is_checkpoint, read_header
from scaleevent_ros.tasks.classes import read_classes
from scaleevent_ros.tasks.downstream import Downstream, PictureDownstream
from scaleevent_ros.tasks.heads import build_described, describe_head, task_of
from scaleevent_ros.tasks.labelled_data import LabelledData, build_loaders
from scaleevent_ros.tasks.objectives import OBJECTIVES

if TYPE_CHECKING:
    from lightning.fabric import Fabric
    from torch import nn

    from scaleevent_ros.distill.trainer import Outcome
    from scaleevent_ros.models import Student
    from scaleevent_ros.tasks.classes import ClassList

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeadOptions:
    """The task head.

    Attributes:
        kind: Kind of the head; see `scaleevent_ros.tasks.build_head`.
        options: Keyword arguments of the head; a depth head needs ``maximum``.
        frozen: Freeze the backbone: a linear probe, if the head is linear.
    """

    kind: str = "segmentation_linear"
    options: dict[str, Any] = field(default_factory=dict)
    frozen: bool = True

    def __post_init__(self) -> None:
        """Check that the kind exists."""
        task_of(self.kind)


@dataclass(frozen=True)
class Finetuning:
    """A run that trains a head, and optionally its student.

    Attributes:
        data: Labelled data.
        events: The student's event tensor. Unset: as in the initial checkpoint, or the defaults
            without one.
        student: The student and its initial weights.
        head: The task head.
        optimizer: AdamW; a group with the pattern ``^student`` sets the backbone's learning rate.
        trainer: The training loop.
        cache: With ``data.source`` frames: folder in which the teacher's features are stored, so
            that each picture is computed once. Not with ``data.augmentation``.
    """

    data: LabelledData
    events: EventOptions | None = None
    student: StudentOptions = field(default_factory=StudentOptions)
    head: HeadOptions = field(default_factory=HeadOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    trainer: TrainerOptions = field(default_factory=TrainerOptions)
    cache: str | None = None

    def __post_init__(self) -> None:
        """Check that data and head are for the same task, and the requirements of frames."""
        if self.data.source == "frames":
            if not self.head.frozen or self.head.kind == "segmentation_eomt":
                msg = (
                    "data.source frames trains a head on a teacher's features: head.frozen must be "
                    "true, and head.kind must not be segmentation_eomt"
                )
                raise ConfigurationError(msg)
            if self.student.init in {"teacher", "random", "pretrained"}:  # no file
                msg = (
                    "data.source frames uses the teacher of a pretrained student: student.init "
                    f"must be a checkpoint, not {self.student.init!r}"
                )
                raise ConfigurationError(msg)
        elif self.cache is not None:
            msg = "cache stores a teacher's features of frames: it needs data.source frames"
            raise ConfigurationError(msg)
        if task_of(self.head.kind) != self.data.task:
            msg = (
                f"head.kind {self.head.kind} is for {task_of(self.head.kind)}, but data.kind "
                f"{self.data.kind} is for {self.data.task}"
            )
            raise ConfigurationError(msg)


def finetune(configuration: Finetuning) -> Outcome:
    """Run a fine-tuning, in one process or in each process that `torchrun` started.

    Args:
        configuration: Configuration of the run.

    Raises:
        ScaleEventError: If data, weights or the run's folder are invalid.
    """
    fabric = start_fabric(configuration.trainer)
    fabric.launch()
    data, events = configuration.data, choose_events(configuration)
    configuration = replace(configuration, events=events)
    classes = read_classes(data.classes) if data.task == "segmentation" else None
    with fabric.rank_zero_first(local=True):  # it downloads the files that others share
        model: Downstream | PictureDownstream
        if data.source == "frames":
            model = build_on_pictures(configuration, classes, fabric)
        else:
            model = build_downstream(configuration, classes)
    scale = model.student.header.teacher_options.get("scale", 1)
    memory = model.student.memory is not None
    loaders = build_loaders(data, events, configuration.trainer, classes, scale, memory=memory)
    if fabric.is_global_zero:
        logger.info(
            "training on %d samples, validating on %d",
            len(loaders.train),
            len(loaders.held_out),
        )
    if configuration.trainer.grad_checkpointing and not configuration.head.frozen:
        model.student.backbone.set_grad_checkpointing()
    trainer = Trainer(
        OBJECTIVES[data.task](model),
        loaders,
        configuration.optimizer,
        configuration.trainer,
        plain(configuration),
        fabric,
    )
    return trainer.run()


def choose_events(configuration: Finetuning) -> EventOptions:
    """Return the event options: as configured, else those of the initial checkpoint, else defaults.

    Raises:
        ConfigurationError: If the checkpoint was trained on other event tensors than configured.
        CheckpointError: If the checkpoint is damaged.
    """
    init, events = configuration.student.init, configuration.events
    if init in {"teacher", "pretrained", "random"} or not is_checkpoint(init):
        return events or EventOptions()
    header = read_header(init)
    if events is None:
        return EventOptions.of(header)
    if header.input != events.input:
        msg = f"{init} was trained on {header.input}, but events is {events.input}"
        raise ConfigurationError(msg)
    if header.window not in {None, events.window}:
        logger.warning(
            "%s was trained on %s, and is used on %s", init, header.window, events.window
        )
    return events


def build_downstream(configuration: Finetuning, classes: ClassList | None) -> Downstream:
    """Build student and head, with the student's header; the same in every process.

    Args:
        configuration: Configuration of the run.
        classes: Class list for segmentation; None for other tasks.

    Raises:
        ConfigurationError: If a checkpoint was trained on other event tensors.
        ScaleEventError: If the student or the head cannot be built, or do not fit each other.
    """
    torch.manual_seed(configuration.trainer.seed)
    head, events = configuration.head, choose_events(configuration)
    student = _build_student(configuration.student, events.channels)
    student.header = events.describe(student.header)
    return Downstream(student, _add_head(student, head, classes, student.width), frozen=head.frozen)


def build_on_pictures(
    configuration: Finetuning, classes: ClassList | None, fabric: Fabric
) -> PictureDownstream:
    """Build the teacher of a student and a head on its features; the same in every process.

    Args:
        configuration: Configuration of the run.
        classes: Class list for segmentation; None for depth.
        fabric: Device and precision.

    Raises:
        ScaleEventError: If the student had no teacher, the teacher is not available, or the head
            cannot be built.
    """
    torch.manual_seed(configuration.trainer.seed)
    student = load_student(configuration.student.init)
    teacher = load_teacher(student.header).to(fabric.device)
    head = _add_head(student, configuration.head, classes, teacher.width, features="teacher")
    if configuration.cache is None:
        return PictureDownstream(student, head, teacher)
    identity = {
        "name": teacher.name,
        **student.header.teacher_options,
        "precision": fabric.strategy.precision.precision,
    }
    folder = FeatureFolder(Path(configuration.cache), identity)
    return PictureDownstream(student, head, CachedTeacher(teacher, folder))


def _add_head(
    student: Student, head: HeadOptions, classes: ClassList | None, width: int, **more: str
) -> nn.Module:
    """Build a head, and replace the heads and classes in the student's header by it."""
    names = list(classes.names) if classes is not None else []
    options = {**head.options, "classes": len(names)} if names else head.options
    described = describe_head(head.kind, width, student.stride, **more, **options)
    student.header = replace(student.header, classes=names, heads={task_of(head.kind): described})
    return build_described(described)


def _build_student(wanted: StudentOptions, channels: int) -> Student:
    if wanted.init not in {"teacher", "pretrained", "random"} and is_checkpoint(wanted.init):
        return load_student(wanted.init).train()
    if wanted.name is None:
        msg = (
            "student.name is not given: give timm's name of a network, or a checkpoint by "
            "student.init"
        )
        raise ConfigurationError(msg)
    return build_student(
        wanted.name,
        channels,
        wanted.init,
        stride=wanted.stride,
        neck=wanted.neck,
        options=wanted.options,
    )
