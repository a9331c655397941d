"""Errors of the task layer."""

from __future__ import annotations

from scaleevent_ros.errors import ScaleEventError


class TaskError(ScaleEventError):
    """A head, a data set or an evaluation is invalid or not available."""
