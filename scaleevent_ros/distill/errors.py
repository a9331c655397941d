"""Errors of the distillation layer."""

from __future__ import annotations

import signal

from scaleevent_ros.errors import ScaleEventError


class DistillError(ScaleEventError):
    """A loss or run of distillation is invalid or fails."""


class ConfigurationError(DistillError):
    """A configuration has an unknown name or an impossible value."""


class TrainingError(DistillError):
    """A run cannot start, continue or be resumed; its checkpoints are unchanged."""


class RunStopped(TrainingError):  # noqa: N818 - a requested end, not an error
    """A run was stopped by a signal, after it saved a checkpoint.

    Args:
        number: Number of the signal.
        step: Number of completed steps.
    """

    def __init__(self, number: int, step: int) -> None:
        name = signal.Signals(number).name
        super().__init__(
            f"stopped by {name} after step {step}, which is saved; --trainer.resume true continues"
        )
        self.exit_code = 128 + number  # as shells report a process that the signal ended
