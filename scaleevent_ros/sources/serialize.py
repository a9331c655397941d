"""Pictures, calibrations, IMU samples and class names as serialized ROS messages."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from scaleevent_ros.bags.images import picture_codec
from scaleevent_ros.bags.messages import (
    CAMERA_INFO,
    IMU,
    LABEL_INFO,
    CompressedImageView,
    ImageView,
    serialize_compressed_image,
    serialize_image,
    type_definition,
)
from scaleevent_ros.sources.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from rosbags.typesys.store import Typestore

    from scaleevent_ros.sources.recording import CameraCalibration, ImuSample, Picture

_ENCODINGS = {
    ("uint8", 1): "mono8",
    ("uint8", 3): "rgb8",
    ("uint16", 1): "mono16",
    ("float32", 1): "32FC1",
    ("float32", 2): "32FC2",
}
_JPEG_QUALITY = 95
_UNKNOWN_COVARIANCE = -1.0


def image_message(pixels: NDArray[Any], stamp_ns: int, frame_id: str) -> bytes:
    """Serialize a `sensor_msgs/Image`.

    Args:
        pixels: Pixels as in `recording.Picture`.
        stamp_ns: Header stamp in ns.
        frame_id: Header frame id.

    Raises:
        SourceError: If no encoding fits the pixels' shape and dtype.
    """
    channels = 1 if pixels.ndim == 2 else pixels.shape[-1]
    encoding = _ENCODINGS.get((str(pixels.dtype), channels))
    if encoding is None or pixels.ndim > 3:
        msg = f"pixels of {pixels.dtype} {pixels.shape} fit no image encoding"
        raise SourceError(msg)
    height, width = pixels.shape[:2]
    step = width * channels * pixels.dtype.itemsize
    data = np.ascontiguousarray(pixels).data.cast("B")
    return serialize_image(
        ImageView(stamp_ns, frame_id, height, width, encoding, False, step, data)
    )


def compressed_image_message(picture: Picture, frame_id: str, codec: str) -> bytes:
    """Serialize a `sensor_msgs/CompressedImage`.

    Args:
        picture: Picture with pixels uint8 [H, W] or [H, W, 3], or for PNG uint16 [H, W]. Its stored
            file is passed through if it has one.
        frame_id: Header frame id.
        codec: Codec for pictures without a stored file: ``jpeg`` (quality 95) or ``png``.
    """
    if picture.stored is not None and (stored := picture_codec(picture.stored)) is not None:
        view = CompressedImageView(picture.t, frame_id, stored, picture.stored)
        return serialize_compressed_image(view)
    pixels = picture.pixels
    colour = pixels.ndim == 3
    settings = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if codec == "jpeg" else []
    shown = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if colour else pixels
    _, data = cv2.imencode(f".{codec}", shown, settings)
    encoding = "rgb8" if colour else "mono8" if pixels.dtype == np.uint8 else "mono16"
    said = f"{encoding}; {codec} compressed {'bgr8' if colour else encoding}"
    return serialize_compressed_image(CompressedImageView(picture.t, frame_id, said, data.data))


@cache
def _typestore() -> Typestore:
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg(type_definition(LABEL_INFO).text, LABEL_INFO))
    return store


def _serialize(msgtype: str, **fields: Any) -> bytes:
    store = _typestore()
    return bytes(store.serialize_cdr(store.types[msgtype](**fields), msgtype))


def _header(stamp_ns: int, frame_id: str) -> Any:
    types = _typestore().types
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    stamp = types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
    return types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)


def camera_info_message(camera: CameraCalibration, stamp_ns: int, frame_id: str) -> bytes:
    """Serialize a `sensor_msgs/CameraInfo`: unrectified, no binning, the whole sensor."""
    fx, fy, cx, cy = camera.matrix
    distortion = np.zeros(5 if camera.model == "plumb_bob" else 4)
    distortion[: len(camera.distortion)] = camera.distortion
    region = _typestore().types["sensor_msgs/msg/RegionOfInterest"]
    return _serialize(
        CAMERA_INFO,
        header=_header(stamp_ns, frame_id),
        height=camera.height,
        width=camera.width,
        distortion_model=camera.model,
        d=distortion,
        k=np.array([fx, 0, cx, 0, fy, cy, 0, 0, 1], np.float64),
        r=np.eye(3).ravel(),
        p=np.array([fx, 0, cx, 0, 0, fy, cy, 0, 0, 0, 1, 0], np.float64),
        binning_x=0,
        binning_y=0,
        roi=region(x_offset=0, y_offset=0, height=0, width=0, do_rectify=False),
    )


def imu_message(sample: ImuSample, frame_id: str) -> bytes:
    """Serialize a `sensor_msgs/Imu` without orientation and with unknown covariances."""
    types = _typestore().types
    vector, quaternion = types["geometry_msgs/msg/Vector3"], types["geometry_msgs/msg/Quaternion"]
    unknown = np.zeros(9)
    no_orientation = np.array([_UNKNOWN_COVARIANCE, *[0.0] * 8])
    return _serialize(
        IMU,
        header=_header(sample.t, frame_id),
        orientation=quaternion(x=0.0, y=0.0, z=0.0, w=1.0),
        orientation_covariance=no_orientation,
        angular_velocity=vector(**dict(zip("xyz", sample.angular_velocity, strict=True))),
        angular_velocity_covariance=unknown,
        linear_acceleration=vector(**dict(zip("xyz", sample.acceleration, strict=True))),
        linear_acceleration_covariance=unknown,
    )


def label_info_message(names: Sequence[str], stamp_ns: int, frame_id: str) -> bytes:
    """Serialize a `vision_msgs/LabelInfo`: class names by id."""
    entry = _typestore().types["vision_msgs/msg/VisionClass"]
    return _serialize(
        LABEL_INFO,
        header=_header(stamp_ns, frame_id),
        class_map=[entry(class_id=index, class_name=name) for index, name in enumerate(names)],
        threshold=0.0,
    )
