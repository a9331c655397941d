"""Distillation of an image teacher into an event student: losses, objective, trainer.

In: a configuration (`Pretraining`) and the recordings it names. Out: the folder of a run with
students, checkpoints, metrics and pictures (`pretrain`). `trainer.Trainer` is the training loop of
pretraining and of task heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaleevent_ros.distill.errors import DistillError
from scaleevent_ros.distill.losses import (
    DEFAULT_LOSS,
    LOSS_NAMES,
    DistillLoss,
    LossTerms,
    build_loss,
)
from scaleevent_ros.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from scaleevent_ros.distill.configuration import Pretraining
    from scaleevent_ros.distill.pretraining import pretrain

__all__ = [
    "DEFAULT_LOSS",
    "LOSS_NAMES",
    "DistillError",
    "DistillLoss",
    "LossTerms",
    "Pretraining",
    "build_loss",
    "pretrain",
]


# These need the extra `train`.
__getattr__ = lazy_exports(__name__, {"Pretraining": "configuration", "pretrain": "pretraining"})
