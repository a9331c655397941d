"""Errors of the runtime layer."""

from __future__ import annotations

from scaleevent_ros.errors import ScaleEventError


class EngineError(ScaleEventError):
    """A checkpoint cannot run as requested, a device is missing, or a tensor is invalid."""
