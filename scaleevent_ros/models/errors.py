"""Errors of the model layer."""

from __future__ import annotations

from scaleevent_ros.errors import ScaleEventError


class ModelError(ScaleEventError):
    """A model that cannot be built as asked, or weights that cannot be had."""


class CheckpointError(ModelError):
    """A file of weights that is absent, damaged, or of another model."""
