"""Errors of the event layer."""

from __future__ import annotations

from scaleevent_ros.errors import ScaleEventError


class EventsError(ScaleEventError):
    """Events, or what was asked of them, cannot be right."""


class UnknownEncodingError(EventsError):
    """An encoding of event packets that no decoder knows."""
