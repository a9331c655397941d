"""Errors of the distillation layer."""

from __future__ import annotations

from scaleevent_ros.errors import ScaleEventError


class DistillError(ScaleEventError):
    """A loss, a configuration or a run of distillation that cannot be."""


class ConfigurationError(DistillError):
    """A configuration names what does not exist, or asks for what cannot be."""


class TrainingError(DistillError):
    """A run cannot start, go on or be resumed; its checkpoints stay as they are."""
