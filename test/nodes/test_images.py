"""Image messages: the same pixels back, whatever the step, the byte order, the encoding."""

from __future__ import annotations

import sys
from array import array
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")


from hypothesis import given, settings
from hypothesis import strategies as st
from image_messages import image_pixels
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image

from scaleevent_ros.bags.errors import ImageError
from scaleevent_ros.nodes import images
from scaleevent_ros.nodes.images import array_to_cdr, image_to_rgb

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

ENCODINGS = {
    "rgb8": (np.uint8, 3),
    "bgr8": (np.uint8, 3),
    "mono8": (np.uint8, 1),
    "mono16": (np.uint16, 1),
    "16UC1": (np.uint16, 1),
    "8UC4": (np.uint8, 4),
    "32FC1": (np.float32, 1),
    "32FC2": (np.float32, 2),
    "32FC384": (np.float32, 384),
}

BRIDGE = """
import numpy
class CvBridge:
    def cv2_to_imgmsg(self, picture, encoding):
        return picture, encoding
    def imgmsg_to_cv2(self, message, encoding):
        if isinstance(message, tuple):
            return message[0]
        if message.encoding != "inverted8" or encoding != "rgb8":
            raise RuntimeError(message.encoding)
        grey = 255 - numpy.frombuffer(message.data, numpy.uint8)
        return numpy.repeat(grey.reshape(message.height, message.width, 1), 3, axis=2)
"""


@pytest.fixture(autouse=True)
def _fresh_bridge() -> Iterator[None]:
    images._cv_bridge.cache_clear()
    yield
    images._cv_bridge.cache_clear()


def some_pixels(encoding: str, height: int = 5, width: int = 7) -> NDArray[Any]:
    dtype, channels = ENCODINGS[encoding]
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(0).integers(0, 250, shape).astype(dtype)


def written(pixels: NDArray[Any], encoding: str, stamp_ns: int = 0, frame_id: str = "") -> Image:
    """Read our messages with the middleware."""
    message: Image = deserialize_message(array_to_cdr(pixels, encoding, stamp_ns, frame_id), Image)
    return message


@given(
    encoding=st.sampled_from(sorted(ENCODINGS)),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
)
@settings(max_examples=60, deadline=None)
def test_there_and_back(encoding: str, height: int, width: int) -> None:
    pixels = some_pixels(encoding, height, width)
    message = written(pixels, encoding, 3_000_000_000, "camera")
    assert (message.height, message.width) == (height, width)
    assert message.step * height == len(message.data)
    assert (message.header.stamp.sec, message.header.frame_id) == (3, "camera")
    back = image_pixels(message)
    assert back.dtype == pixels.dtype
    np.testing.assert_array_equal(back, pixels)


def test_reading_copies_nothing() -> None:
    message = written(some_pixels("rgb8"), "rgb8")
    back = image_pixels(message)
    message.data[0] ^= 0xFF
    assert back[0, 0, 0] == message.data[0]


@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_padding_and_byte_order_are_honoured(encoding: str) -> None:
    pixels = some_pixels(encoding)
    height, width = pixels.shape[:2]
    rows = pixels.astype(pixels.dtype.newbyteorder(">")).reshape(height, -1).view(np.uint8)
    padded = np.pad(rows, ((0, 0), (0, 5)), constant_values=99)
    message = Image(
        height=height, width=width, encoding=encoding, is_bigendian=1, step=padded.shape[1]
    )
    message.data = array("B", padded.tobytes())
    np.testing.assert_array_equal(image_pixels(message), pixels)


def test_arrays_that_are_no_such_image_are_refused() -> None:
    for pixels, encoding in (
        (np.zeros((4, 4), np.uint8), "rgb8"),
        (np.zeros((4, 4, 3), np.float32), "rgb8"),
        (np.zeros(4, np.uint8), "mono8"),
    ):
        with pytest.raises(ImageError, match="is not an image of encoding"):
            array_to_cdr(pixels, encoding, 0, "")


def test_slices_are_written_in_order() -> None:
    pixels = some_pixels("rgb8", 8, 9)
    for part in (pixels[::2, ::-1], pixels[..., ::-1], pixels.transpose(1, 0, 2)):
        message = written(part, "rgb8")
        np.testing.assert_array_equal(image_pixels(message), part)


def test_a_message_that_lies_is_refused() -> None:
    message = written(some_pixels("rgb8"), "rgb8")
    message.height = 500
    with pytest.raises(ImageError, match="does not fit"):
        image_pixels(message)


def test_an_unknown_encoding_is_named() -> None:
    message = Image(height=1, width=1, step=1, encoding="nothing9", data=[0])
    with pytest.raises(ImageError, match="nothing9"):
        image_to_rgb(message)


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "mono8", "mono16"])
def test_pictures_are_red_green_blue(encoding: str) -> None:
    pixels = some_pixels(encoding)
    expected = {
        "rgb8": lambda: pixels,
        "bgr8": lambda: pixels[..., ::-1],
        "mono8": lambda: np.stack([pixels] * 3, axis=-1),
        "mono16": lambda: np.stack([pixels // 256] * 3, axis=-1),
    }[encoding]()
    picture = image_to_rgb(written(pixels, encoding))
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, expected)


def test_a_bridge_converts_what_we_do_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Stands for a cv_bridge that knows one more encoding; the real one is tested below.
    (tmp_path / "cv_bridge.py").write_text(BRIDGE)
    monkeypatch.delitem(sys.modules, "cv_bridge", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    message = Image(height=1, width=2, step=2, encoding="inverted8", data=[0, 5])
    np.testing.assert_array_equal(image_to_rgb(message), [[[255] * 3, [250] * 3]])
    message.encoding = "nothing9"
    with pytest.raises(ImageError, match="cv_bridge cannot read"):
        image_to_rgb(message)


def test_a_bridge_that_ends_the_process_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # As one built for numpy 1 does under numpy 2.
    (tmp_path / "cv_bridge.py").write_text("import os\nos.abort()\n")
    monkeypatch.delitem(sys.modules, "cv_bridge", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    message = Image(height=1, width=1, step=1, encoding="nothing9", data=[0])
    with pytest.raises(ImageError, match="nothing9"):
        image_to_rgb(message)
    assert "is not used" in caplog.text
    assert "cv_bridge" not in sys.modules


@pytest.fixture
def bridge() -> Any:
    pytest.importorskip("cv_bridge", reason="cv_bridge is not installed")
    bridge = images._cv_bridge()
    if bridge is None:
        pytest.skip("the cv_bridge here fails its self-check")
    return bridge


@pytest.mark.parametrize("encoding", sorted(set(ENCODINGS) - {"32FC384"}))
def test_cv_bridge_reads_the_same(bridge: Any, encoding: str) -> None:
    pixels = some_pixels(encoding)
    message = written(pixels, encoding)
    np.testing.assert_array_equal(bridge.imgmsg_to_cv2(message, "passthrough"), pixels)


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "mono8", "mono16"])
def test_cv_bridge_writes_the_same(bridge: Any, encoding: str) -> None:
    pixels = some_pixels(encoding)
    ours = written(pixels, encoding)
    theirs = bridge.cv2_to_imgmsg(pixels, encoding)
    assert (ours.data, ours.step, ours.encoding) == (theirs.data, theirs.step, theirs.encoding)
