"""Replay a bag or a raw recording.

`ros2 launch scaleevent_ros replay.launch.py path:=BAG loop:=true`
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaleevent_ros.nodes.launching import launch_node
from scaleevent_ros.nodes.parameters import ReplayParameters

if TYPE_CHECKING:
    from launch.launch_description import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """Describe the launch; `--show-args` lists the arguments."""
    return launch_node("scaleevent_replay", ReplayParameters, "replay.yaml")
