"""A downstream run, put together from its configuration: linear probe or full fine-tuning."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
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
from scaleevent_ros.distill.trainer import Trainer, start_fabric
from scaleevent_ros.models import build_student, load_student
from scaleevent_ros.models.checkpoints import is_checkpoint
from scaleevent_ros.tasks.classes import read_classes
from scaleevent_ros.tasks.downstream import Downstream
from scaleevent_ros.tasks.heads import build_head, describe_head, task_of
from scaleevent_ros.tasks.labelled_data import LabelledData, build_loaders
from scaleevent_ros.tasks.objectives import OBJECTIVES

if TYPE_CHECKING:
    from scaleevent_ros.distill.trainer import Outcome
    from scaleevent_ros.models import Student
    from scaleevent_ros.tasks.classes import ClassList

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeadOptions:
    """The head.

    Attributes:
        kind: See `scaleevent_ros.tasks.build_head`.
        options: Of the kind, besides the number of classes; a depth head needs its ``maximum``.
        frozen: Leave the backbone as it is: a linear probe, if the head is linear.
    """

    kind: str = "segmentation_linear"
    options: dict[str, Any] = field(default_factory=dict)
    frozen: bool = True

    def __post_init__(self) -> None:
        """Check that there is such a head."""
        task_of(self.kind)


@dataclass(frozen=True)
class Finetuning:
    """A run that trains a head on a student, and the student with it if wanted.

    Attributes:
        data: Labelled events.
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

    def __post_init__(self) -> None:
        """Check that the data have the truth of the head's task."""
        if task_of(self.head.kind) != self.data.task:
            msg = (
                f"head.kind {self.head.kind} learns {task_of(self.head.kind)}, data.kind "
                f"{self.data.kind} has the truth of {self.data.task}"
            )
            raise ConfigurationError(msg)


def finetune(configuration: Finetuning) -> Outcome:
    """Run it: in one process, or in each of those that `torchrun` started.

    Args:
        configuration: Of the run.

    Raises:
        ScaleEventError: If data, weights or the run's folder are not as they should be.
    """
    fabric = start_fabric(configuration.trainer)
    fabric.launch()
    data = configuration.data
    classes = read_classes(data.classes) if data.task == "segmentation" else None
    loaders = build_loaders(data, configuration.events, configuration.trainer, classes)
    with fabric.rank_zero_first(local=True):  # which downloads what is downloaded once
        model = build_downstream(configuration, classes)
    if fabric.is_global_zero:
        logger.info(
            "%d windows to learn from, %d to validate on",
            len(loaders.train),
            len(loaders.held_out),
        )
    if configuration.trainer.checkpointing and not configuration.head.frozen:
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


def build_downstream(configuration: Finetuning, classes: ClassList | None) -> Downstream:
    """Build student and head, alike in every process, with the student's header filled in.

    Args:
        configuration: Of the run.
        classes: For segmentation.

    Raises:
        ConfigurationError: If a checkpoint was trained on other event tensors.
        ScaleEventError: If the student or the head cannot be built, or do not fit.
    """
    torch.manual_seed(configuration.trainer.seed)
    student = _build_student(configuration)
    head, events = configuration.head, configuration.events
    names = list(classes.names) if classes is not None else []
    options = {**head.options, "classes": len(names)} if names else head.options
    described = describe_head(head.kind, student.width, student.stride, **options)
    student.header = replace(
        student.header,
        representation=events.representation,
        normalization=events.normalization,
        window_ns=events.window.length_ns if events.window.mode == "fixed" else None,
        classes=names,
        heads={task_of(head.kind): described},
    )
    return Downstream(student, build_head(**described), frozen=head.frozen)


def _build_student(configuration: Finetuning) -> Student:
    wanted, events = configuration.student, configuration.events
    if wanted.init not in {"teacher", "pretrained", "random"} and is_checkpoint(wanted.init):
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
        wanted.name,
        events.channels,
        wanted.init,
        stride=wanted.stride,
        neck=wanted.neck,
        options=wanted.options,
    )
