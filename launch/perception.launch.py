"""Run a student on a live event camera.

`ros2 launch scaleevent_ros perception.launch.py model:=CHECKPOINT events:=/event_camera/events`
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaleevent_ros.nodes.launching import launch_node
from scaleevent_ros.nodes.parameters import INPUTS, PerceptionParameters

if TYPE_CHECKING:
    from launch.launch_description import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """Describe the launch; `--show-args` lists the arguments."""
    return launch_node("scaleevent_perception", PerceptionParameters, "perception.yaml", INPUTS)
