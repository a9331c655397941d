"""A teacher that sees frames teaches a student that sees events: losses, step, trainer."""

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
