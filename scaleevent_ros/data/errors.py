"""Errors of the data layer."""

from __future__ import annotations

from scaleevent_ros.errors import ScaleEventError


class DataError(ScaleEventError):
    """Training samples cannot be loaded; the message gives the place and a suggested fix."""
