"""Downstream tasks: heads, losses and metrics of segmentation, depth and optical flow.

In: dense features of a `scaleevent_ros.models.Student`. Out: class logits, depth in metres and flow
in pixels for each pixel of its input, and scores of their accuracy.
"""

from __future__ import annotations

from scaleevent_ros.tasks.downstream import Downstream
from scaleevent_ros.tasks.errors import TaskError
from scaleevent_ros.tasks.heads import HEAD_KINDS, build_head, describe_head, load_heads

__all__ = ["HEAD_KINDS", "Downstream", "TaskError", "build_head", "describe_head", "load_heads"]
