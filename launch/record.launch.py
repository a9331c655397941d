"""Record events, images, camera parameters and IMU data.

`ros2 launch scaleevent_ros record.launch.py topics:="[/event_camera/events, /camera/image_raw]"`
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaleevent_ros.nodes.launching import launch_node
from scaleevent_ros.nodes.parameters import RecorderParameters

if TYPE_CHECKING:
    from launch.launch_description import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """Describe the launch; `--show-args` lists the arguments."""
    return launch_node("scaleevent_recorder", RecorderParameters, "recorder.yaml")
