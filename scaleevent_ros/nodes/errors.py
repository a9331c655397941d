"""Errors of the nodes."""

from __future__ import annotations

from scaleevent_ros.errors import ScaleEventError


class NodeError(ScaleEventError):
    """A node cannot do what its parameters, or the graph around it, ask for."""
