"""Image messages of rclpy as arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scaleevent_ros.bags.images import image_array
from scaleevent_ros.nodes.images import image_view

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sensor_msgs.msg import Image


def image_pixels(message: Image) -> NDArray[Any]:
    """View a message's pixels as they are: [H, W] or [H, W, C] of the encoding's type."""
    return image_array(image_view(message))
