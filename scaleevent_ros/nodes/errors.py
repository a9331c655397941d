"""Errors of the nodes."""

from __future__ import annotations

from scaleevent_ros.errors import ScaleEventError


class NodeError(ScaleEventError):
    """A node cannot work with its parameters or the ROS graph."""
