"""Errors of the data layer."""

from __future__ import annotations

from scaleevent_ros.errors import ScaleEventError


class DataError(ScaleEventError):
    """Training samples cannot be had as asked: the message names the place and the mend."""
