"""Image messages of rclpy as arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scaleevent_ros.bags.images import image_array
from scaleevent_ros.bags.messages import ImageView

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sensor_msgs.msg import Image


def image_pixels(message: Image) -> NDArray[Any]:
    """View a message's pixels as they are: [H, W] or [H, W, C] of the encoding's type."""
    return image_array(
        ImageView(
            stamp_ns=0,
            frame_id=message.header.frame_id,
            height=message.height,
            width=message.width,
            encoding=message.encoding,
            is_bigendian=bool(message.is_bigendian),
            step=message.step,
            data=message.data,
        )
    )
