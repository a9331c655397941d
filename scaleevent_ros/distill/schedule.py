"""The learning rate over time: a function of the step, so that nothing has to be remembered."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scaleevent_ros.distill.configuration import OptimizerOptions


def rate_factor(step: int, steps: int, steps_per_epoch: int, options: OptimizerOptions) -> float:
    """Say by what the highest learning rate is multiplied at a step.

    Args:
        step: From 0 on.
        steps: Of the whole run.
        steps_per_epoch: For the exponential schedule, which changes from epoch to epoch.
        options: See `OptimizerOptions`.

    Returns:
        From 0 to 1.
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
    return options.final + (1 - options.final) * cosine
