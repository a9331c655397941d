"""Conversion of image messages to arrays, without ROS."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar, cast

import cv2
import numpy as np

from scaleevent_ros.bags.errors import ImageError
from scaleevent_ros.bags.messages import CompressedImageView, ImageView

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from scaleevent_ros.bags.messages import BytesLike

_View = TypeVar("_View", ImageView, CompressedImageView)

# Encodings of sensor_msgs/image_encodings.hpp by name: type and number of channels.
_NAMED = {
    "rgb8": (np.uint8, 3),
    "rgba8": (np.uint8, 4),
    "rgb16": (np.uint16, 3),
    "rgba16": (np.uint16, 4),
    "bgr8": (np.uint8, 3),
    "bgra8": (np.uint8, 4),
    "bgr16": (np.uint16, 3),
    "bgra16": (np.uint16, 4),
    "mono8": (np.uint8, 1),
    "mono16": (np.uint16, 1),
    "bayer_rggb8": (np.uint8, 1),
    "bayer_bggr8": (np.uint8, 1),
    "bayer_gbrg8": (np.uint8, 1),
    "bayer_grbg8": (np.uint8, 1),
    "bayer_rggb16": (np.uint16, 1),
    "bayer_bggr16": (np.uint16, 1),
    "bayer_gbrg16": (np.uint16, 1),
    "bayer_grbg16": (np.uint16, 1),
    "yuv422": (np.uint8, 2),
    "uyvy": (np.uint8, 2),
    "yuv422_yuy2": (np.uint8, 2),
    "yuyv": (np.uint8, 2),
}
_DEEP = frozenset(name for name, (scalar, _) in _NAMED.items() if scalar is np.uint16)
_NUMBERED_TYPES = {
    "8U": np.uint8,
    "8S": np.int8,
    "16U": np.uint16,
    "16S": np.int16,
    "32S": np.int32,
    "32F": np.float32,
    "64F": np.float64,
}
_NUMBERED = re.compile(r"(8U|8S|16U|16S|32S|32F|64F)(?:C([1-9]\d*))?")
_MAGICS = {"jpeg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n"}

# To RGB; OpenCV names a Bayer pattern by its second row and column, ROS by the first.
_TO_RGB = {
    "rgba": cv2.COLOR_RGBA2RGB,
    "bgr": cv2.COLOR_BGR2RGB,
    "8UC3": cv2.COLOR_BGR2RGB,  # OpenCV's own order
    "mono": cv2.COLOR_GRAY2RGB,
    "8UC1": cv2.COLOR_GRAY2RGB,
    "bgra": cv2.COLOR_BGRA2RGB,
    "bayer_rggb": cv2.COLOR_BayerBG2RGB,
    "bayer_bggr": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg": cv2.COLOR_BayerGR2RGB,
    "bayer_grbg": cv2.COLOR_BayerGB2RGB,
    "yuv422": cv2.COLOR_YUV2RGB_UYVY,
    "uyvy": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
    "yuyv": cv2.COLOR_YUV2RGB_YUY2,
}


def is_known(encoding: str) -> bool:
    """Return whether `encoding_type` accepts an image encoding."""
    return encoding in _NAMED or _NUMBERED.fullmatch(encoding) is not None


def encoding_type(encoding: str) -> tuple[np.dtype[Any], int]:
    """Look up the type and the number of channels of an image encoding.

    Args:
        encoding: `rgb8`, `mono16`, `bayer_rggb8`, `yuv422_yuy2`, `8UC3`, `32FC128`, …

    Raises:
        ImageError: If the encoding is unknown.
    """
    if encoding in _NAMED:
        scalar, channels = _NAMED[encoding]
        return np.dtype(scalar), channels
    if match := _NUMBERED.fullmatch(encoding):
        return np.dtype(_NUMBERED_TYPES[match[1]]), int(match[2] or 1)
    msg = (
        f"image encoding {encoding!r} is unknown; known are {', '.join(_NAMED)}, and forms like "
        "8UC3 and 32FC1"
    )
    raise ImageError(msg)


def image_array(image: ImageView) -> NDArray[Any]:
    """View an image's pixels without copying, for any row step.

    Args:
        image: The message.

    Returns:
        [H, W] or [H, W, C] of the encoding's type, in native byte order; a view of the message's
        bytes unless those must be swapped.

    Raises:
        ImageError: If the encoding is unknown, or size, step and data do not fit.
    """
    dtype, channels = encoding_type(image.encoding)
    pixel = channels * dtype.itemsize
    needed = (image.height - 1) * image.step + image.width * pixel
    is_empty = not image.width * image.height * channels
    if is_empty or image.step < image.width * pixel or len(image.data) < needed:
        msg = (
            f"an image of {image.width}x{image.height} {image.encoding} with {image.step} bytes a "
            f"row does not fit its {len(image.data)} bytes"
        )
        raise ImageError(msg)
    array: NDArray[Any] = np.ndarray(
        (image.height, image.width, channels),
        dtype.newbyteorder(">" if image.is_bigendian else "<"),
        image.data,
        strides=(image.step, pixel, dtype.itemsize),
    )
    array = array.astype(dtype, copy=False)
    return array[..., 0] if channels == 1 else array


def image_rgb(image: ImageView | CompressedImageView) -> NDArray[np.uint8]:
    """Convert an image to RGB, the teachers' input.

    For 16-bit images the upper 8 of the used `bits` are taken, and larger values are white; grey
    becomes three equal channels.

    Args:
        image: The message.

    Returns:
        uint8 [H, W, 3], red first; a view of the message's bytes where they are that already.

    Raises:
        ImageError: If it cannot be decoded, or its encoding defines no colours (`32FC1`).
    """
    if isinstance(image, ImageView):
        return _to_rgb(image_array(image), image.encoding, image.bits)
    encoding = _compressed_encoding(image)
    is_mosaic = encoding.startswith("bayer_")
    if is_mosaic or is_deep(image):
        stored = _decompress(image, cv2.IMREAD_UNCHANGED)
        if stored.ndim == 2:
            return _to_rgb(stored, encoding if is_mosaic else "mono", image.bits)
        # Three channels: a Bayer image was demosaiced before it was compressed.
        return to_8_bits(stored, image.bits)[..., 2::-1]
    return _decompress(image, cv2.IMREAD_COLOR)[..., ::-1]


def is_deep(image: ImageView | CompressedImageView) -> bool:
    """Return whether an image has 16 bits per channel, of which cameras often use 10 or 12."""
    encoding = image.encoding if isinstance(image, ImageView) else image.format.partition(";")[0]
    return encoding.strip() in _DEEP


def depth_of(image: ImageView | CompressedImageView) -> int:
    """Return the number of bits that the pixels of an image use.

    Returns:
        The smallest of 8, 10, 12, 14 and 16 bits that holds the largest value of a 16-bit encoding,
        8 for others.

    Raises:
        ImageError: If a 16-bit image cannot be read.
    """
    if not is_deep(image):
        return 8
    if isinstance(image, ImageView):
        return depth_for(int(image_array(image).max()))
    return depth_for(int(_decompress(image, cv2.IMREAD_UNCHANGED).max()))


def depth_for(largest: int) -> int:
    """Return the smallest of 8, 10, 12, 14 and 16 bits that holds a 16-bit value."""
    return max(8, largest.bit_length() + largest.bit_length() % 2)


class LiveDepth:
    """Number of bits that the 16-bit images of a live topic have used so far (see `depth_of`)."""

    def __init__(self) -> None:
        self._bits = 8

    def apply(self, image: _View) -> _View:
        """Return the image with the bit depth set; the depth only grows, at most four times.

        Raises:
            ImageError: If a 16-bit image cannot be read.
        """
        self._bits = max(self._bits, depth_of(image))
        return image._replace(bits=self._bits)


def to_8_bits(array: NDArray[Any], bits: int) -> NDArray[Any]:
    """Scale 16-bit pixels, of which the lower ``bits`` are used, to 8; return others unchanged."""
    if array.dtype != np.uint16:
        return array
    seen: NDArray[np.uint8] = np.minimum(array >> (bits - 8), 255).astype(np.uint8)
    return seen


def _to_rgb(array: NDArray[Any], encoding: str, bits: int) -> NDArray[np.uint8]:
    array = to_8_bits(array, bits)
    color = encoding.removesuffix("16").removesuffix("8")
    if color == "rgb":
        return array
    if color in _TO_RGB:
        return cast("NDArray[np.uint8]", cv2.cvtColor(array, _TO_RGB[color]))
    msg = f"an image of encoding {encoding!r} is not a picture: the encoding defines no colours"
    raise ImageError(msg)


def _compressed_encoding(image: CompressedImageView) -> str:
    """Return the encoding of a compressed image before compression; empty if unknown.

    Raises:
        ImageError: If it holds depth or data instead of a picture.
    """
    encoding = image.format.partition(";")[0].strip() if ";" in image.format else ""
    if "compressedDepth" in image.format or _NUMBERED.fullmatch(encoding.replace("8U", "")):
        msg = f"a compressed image of format {image.format!r} is not a picture but depth or data"
        raise ImageError(msg)
    return encoding


def picture_codec(data: BytesLike) -> str | None:
    """Recognize a picture file by its first bytes: ``jpeg``, ``png``, or None for any other."""
    start = bytes(data[:8])
    return next((codec for codec, magic in _MAGICS.items() if start.startswith(magic)), None)


def picture_file(image: CompressedImageView) -> bytes | None:
    """Return a compressed image's JPEG or PNG file; None for other formats, Bayer and 16 bits.

    Raises:
        ImageError: If it holds depth or data instead of a picture.
    """
    other = _compressed_encoding(image).startswith("bayer_") or is_deep(image)
    return None if other or picture_codec(image.data) is None else bytes(image.data)


def image_grey(image: ImageView | CompressedImageView) -> NDArray[np.uint8]:
    """Convert an image to grey values at half its size, for fast measurements.

    Args:
        image: The message.

    Returns:
        uint8 [H / 2, W / 2].

    Raises:
        ImageError: If the image cannot be converted; see `image_rgb`.
    """
    if isinstance(image, CompressedImageView):
        if not _compressed_encoding(image).startswith("bayer_") and not is_deep(image):
            return _decompress(image, cv2.IMREAD_REDUCED_GRAYSCALE_2)
        grey = cv2.cvtColor(image_rgb(image), cv2.COLOR_RGB2GRAY)
    elif image.encoding in {"mono8", "8UC1"}:
        grey = image_array(image)
    else:
        grey = cv2.cvtColor(image_rgb(image), cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    size = (max(width // 2, 1), max(height // 2, 1))
    return cast("NDArray[np.uint8]", cv2.resize(grey, size, interpolation=cv2.INTER_AREA))


def _decompress(image: CompressedImageView, mode: int) -> NDArray[np.uint8]:
    array = None
    if len(image.data):
        array = cv2.imdecode(np.frombuffer(image.data, np.uint8), mode)
    if array is None:
        msg = f"a compressed image of format {image.format!r} cannot be decoded"
        raise ImageError(msg)
    return cast("NDArray[np.uint8]", array)
