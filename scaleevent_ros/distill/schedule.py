"""The learning rate over time, a function of the step alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scaleevent_ros.distill.configuration import OptimizerOptions


def rate_factor(step: int, steps: int, steps_per_epoch: int, options: OptimizerOptions) -> float:
    """Compute the factor on the peak learning rate at a step.

    Args:
        step: Number of the step, from 0.
        steps: Number of steps of the whole run.
        steps_per_epoch: Number of steps of an epoch, for the exponential schedule.
        options: Options of the optimizer.

    Returns:
        The factor, from 0 to 1.
    """
    warmup = min(1.0, (step + 1) / (options.warmup_steps + 1))
    if options.schedule == "exponential":
        return float(warmup * options.gamma ** (step // steps_per_epoch))
    if options.schedule == "constant":
        return warmup
    if step < options.warmup_steps:
        return warmup
    progress = (step - options.warmup_steps) / max(1, steps - 1 - options.warmup_steps)
    cosine = (1 + math.cos(math.pi * min(progress, 1.0))) / 2
    return options.min_lr_ratio + (1 - options.min_lr_ratio) * cosine
