"""Errors of the runtime layer."""

from __future__ import annotations

from scaleevent_ros.errors import ScaleEventError


class EngineError(ScaleEventError):
    """A checkpoint that cannot run as asked, a device that is not there, a tensor that is wrong."""
