"""Errors of the model layer."""

from __future__ import annotations

from scaleevent_ros.errors import ScaleEventError


class ModelError(ScaleEventError):
    """A model cannot be built as requested, or its weights are not available."""


class CheckpointError(ModelError):
    """A file of weights is missing, damaged, or of another model."""
