"""Errors of the bag layer."""

from __future__ import annotations

from scaleevent_ros.errors import ScaleEventError


class BagError(ScaleEventError):
    """Base class of errors in bags, and in arguments of this package."""


class BagExistsError(BagError):
    """The path of a new bag exists already; nothing is ever overwritten."""


class DiskFullError(BagError):
    """The disk is full; data written before remain readable."""


class MessageError(BagError):
    """The bytes of a message do not match its type."""


class ImageError(BagError):
    """An image's encoding is unknown, or its size does not fit its data."""


class SynchronizationError(BagError):
    """Frames and events cannot be put on one clock in the requested mode."""
