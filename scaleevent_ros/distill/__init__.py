"""A teacher that sees frames teaches a student that sees events: losses, step, trainer.

In come a configuration (`configuration.Pretraining`) and the recordings it names; out goes a run's
folder with students, checkpoints, metrics and pictures (`pretrain.pretrain`). `trainer.Trainer`
runs the loop of anything that trains on pairs.
"""

from __future__ import annotations

from scaleevent_ros.distill.errors import DistillError
from scaleevent_ros.distill.losses import (
    DEFAULT_LOSS,
    LOSS_NAMES,
    DistillLoss,
    LossTerms,
    build_loss,
)

__all__ = ["DEFAULT_LOSS", "LOSS_NAMES", "DistillError", "DistillLoss", "LossTerms", "build_loss"]
