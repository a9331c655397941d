"""Simulate an event camera from the images of any camera.

`ros2 launch scaleevent_ros simulate.launch.py image:=/camera/image_raw`
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaleevent_ros.nodes.launching import launch_node
from scaleevent_ros.nodes.parameters import SimulateParameters

if TYPE_CHECKING:
    from launch.launch_description import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """Describe the launch; `--show-args` lists the arguments."""
    return launch_node("scaleevent_simulate", SimulateParameters, "simulate.yaml")
