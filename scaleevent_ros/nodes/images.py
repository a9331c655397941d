"""Conversion of `sensor_msgs/Image` messages to pictures, and of arrays to messages."""

from __future__ import annotations

import logging
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from scaleevent_ros.bags.errors import ImageError
from scaleevent_ros.bags.images import encoding_type, image_rgb, is_known
from scaleevent_ros.bags.messages import ImageView, serialize_image

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sensor_msgs.msg import Image

    from scaleevent_ros.bags.images import LiveDepth

logger = logging.getLogger(__name__)

_SELF_CHECK = """
import numpy
from cv_bridge import CvBridge
bridge = CvBridge()
color = numpy.arange(24, dtype=numpy.uint8).reshape(2, 4, 3)
deep = numpy.arange(0, 8000, 1000, dtype=numpy.uint16).reshape(2, 4)
for picture, encoding in ((color, "bgr8"), (deep, "16UC1"), (deep.astype("f4"), "32FC1")):
    message = bridge.cv2_to_imgmsg(picture, encoding)
    assert (bridge.imgmsg_to_cv2(message, "passthrough") == picture).all(), encoding
"""


def image_to_rgb(message: Image, depth: LiveDepth | None = None) -> NDArray[np.uint8]:
    """Convert a message to a picture; `cv_bridge`, if installed, converts encodings unknown here.

    Args:
        message: Image of an encoding with defined colours.
        depth: Bit depth of the topic's 16-bit images; None for all 16 bits.

    Returns:
        RGB, uint8 [H, W, 3]; a view of the message's data if its encoding is `rgb8`.

    Raises:
        ImageError: If the encoding is unknown or defines no colours, or size, step and data do not
            fit each other.
    """
    bridge = None if is_known(message.encoding) else _cv_bridge()
    if bridge is not None:
        try:
            return np.asarray(bridge.imgmsg_to_cv2(message, "rgb8"), np.uint8)
        except Exception as error:  # what it raises depends on its version
            msg = f"cv_bridge cannot read an image of encoding {message.encoding!r}: {error!r}"
            raise ImageError(msg) from None
    view = image_view(message)
    return image_rgb(depth.apply(view) if depth else view)


def image_view(message: Image) -> ImageView:
    """Return a message as an image view, as from a bag, without its stamp and without a copy."""
    return ImageView(
        stamp_ns=0,
        frame_id=message.header.frame_id,
        height=message.height,
        width=message.width,
        encoding=message.encoding,
        is_bigendian=bool(message.is_bigendian),
        step=message.step,
        data=message.data,
    )


def array_to_cdr(pixels: NDArray[Any], encoding: str, stamp_ns: int, frame_id: str) -> bytes:
    """Serialize an array as a `sensor_msgs/Image`, copying its pixels once.

    rclpy publishes serialized bytes directly; a message object would be copied twice more.

    Args:
        pixels: [H, W] or [H, W, C], with dtype and number of channels of the encoding.
        encoding: Image encoding, for example `rgb8`, `mono16`, `32FC384`.
        stamp_ns: Header stamp in ns.
        frame_id: Header frame id.

    Raises:
        ImageError: If the array does not match the encoding.
    """
    dtype, channels = encoding_type(encoding)
    has = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.ndim not in (2, 3) or has != channels or pixels.dtype.newbyteorder("=") != dtype:
        msg = f"an array of {pixels.dtype} {pixels.shape} is not an image of encoding {encoding!r}"
        raise ImageError(msg)
    native = np.ascontiguousarray(pixels, dtype)
    height, width = native.shape[:2]
    return serialize_image(
        ImageView(
            stamp_ns=stamp_ns,
            frame_id=frame_id,
            height=height,
            width=width,
            encoding=encoding,
            is_bigendian=sys.byteorder == "big",
            step=width * channels * dtype.itemsize,
            data=native.data.cast("B"),
        )
    )


@cache
def _cv_bridge() -> Any:
    """Return a `cv_bridge.CvBridge`, or None if there is none or it does not work.

    One that was built for another numpy can crash the process, so it is tested in another process.
    """
    if find_spec("cv_bridge") is None:
        return None
    check = subprocess.run(  # noqa: S603 - only the program above
        [sys.executable, "-c", _SELF_CHECK], capture_output=True, text=True, check=False
    )
    if check.returncode:
        reason = (check.stderr.strip() or f"exit code {check.returncode}").splitlines()[-1]
        logger.warning("cv_bridge is installed but fails, and is not used: %s", reason)
        return None
    from cv_bridge import CvBridge

    return CvBridge()
