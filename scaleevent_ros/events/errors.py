"""Errors of the event layer."""

from __future__ import annotations

from scaleevent_ros.errors import ScaleEventError


class EventsError(ScaleEventError):
    """Error of events, or of a request for them."""


class UnknownEncodingError(EventsError):
    """An encoding of event packets that no decoder knows."""
