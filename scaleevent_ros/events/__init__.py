"""Packets in, tensors out: decoders, the sensor's clock, windows, representations, activity."""

from __future__ import annotations

from scaleevent_ros.events.batch import EventBatch, Triggers
from scaleevent_ros.events.errors import EventsError, UnknownEncodingError

__all__ = ["EventBatch", "EventsError", "Triggers", "UnknownEncodingError"]
