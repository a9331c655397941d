"""Errors of the distillation layer."""

from __future__ import annotations

from scaleevent_ros.errors import ScaleEventError


class ConfigurationError(ScaleEventError):
    """A configuration names what does not exist, or asks for what cannot be."""


class TrainingError(ScaleEventError):
    """A run cannot start, go on or be resumed; its checkpoints stay as they are."""
