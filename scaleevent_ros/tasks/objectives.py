"""Training objective of each task's head."""

from __future__ import annotations

from scaleevent_ros.tasks.depth import Depth
from scaleevent_ros.tasks.flow import Flow
from scaleevent_ros.tasks.segmentation import Segmentation

OBJECTIVES = {kind.task: kind for kind in (Segmentation, Depth, Flow)}
"""Objectives by task."""
