"""Errors of the event layer."""

from __future__ import annotations

from scaleevent_ros.errors import ScaleEventError


class EventsError(ScaleEventError):
    """Base class of errors in event data, and in arguments of this package."""


class UnknownEncodingError(EventsError):
    """Unknown encoding of event packets, or unknown word order of one."""
