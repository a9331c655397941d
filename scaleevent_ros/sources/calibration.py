"""Mapping of frames into the event image, and its file `calibration.yaml`.

Needs neither ROS nor rosbags. A calibration is either

- a `Homography`, such as the identity, or one estimated by `scaleevent align`, or
- a `Rig` of two cameras, each with matrix and distortion, and the pose between them. Without a
  translation it is the mapping at infinite depth.

`calibration.yaml`, sizes as width and height, matrices by rows::

    kind: homography                    # identity, homography, rotation or rig
    frame_size: [960, 540]
    event_size: [640, 480]
    homography: [[0.66, 0, 3.1], [0, 0.66, 60.2], [0, 0, 1]]  # pixels of frames to those of events
    residual_px: 0.4                    # optional, as is `source`
    source: scaleevent align drive_01

    kind: rig                           # `rotation` is the same without translation and depth
    frame_camera: {size: [1440, 1080], matrix: [fx, fy, cx, cy],
                   model: plumb_bob, distortion: [k1, k2, p1, p2]}
    event_camera: {size: [640, 480], matrix: [fx, fy, cx, cy],
                   model: equidistant, distortion: [k1, k2, k3, k4]}
    rotation: [[1, 0, 0], [0, 1, 0], [0, 0, 1]]  # X_event = rotation * X_frame + translation
    translation: [0.05, 0, 0]           # in m
    depth: 10                           # in m: distance at which the mapping is exact
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import yaml

from scaleevent_ros.sources.camera import Camera, Size
from scaleevent_ros.sources.errors import CalibrationError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Homography:
    """A homography from frames into the event image.

    Attributes:
        frame_size: Width and height of the frames.
        event_size: Width and height of the event image.
        matrix: float64 [3, 3], homogeneous pixels of the frame to those of the event image.
        residual_px: Error of its corners in pixels; None if unknown.
        source: Description of its origin.
    """

    frame_size: Size
    event_size: Size
    matrix: NDArray[np.float64]
    residual_px: float | None = None
    source: str = ""

    def __post_init__(self) -> None:
        """Check that it can be inverted.

        Raises:
            CalibrationError: If it cannot, or is not [3, 3].
        """
        if self.matrix.shape != (3, 3) or not abs(np.linalg.det(self.matrix)) > 1e-12:
            msg = f"a homography is an invertible 3x3 matrix, not {self.matrix.tolist()}"
            raise CalibrationError(msg)

    def sample_map(self) -> NDArray[np.float32]:
        """Compute the position in the frame of each pixel of the event image.

        Returns:
            float32 [H, W, 2] in pixels of the frame, x and y; NaN for pixels without a position.
        """
        width, height = self.event_size
        x, y = np.meshgrid(np.arange(width), np.arange(height))
        points = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(self.matrix).T
        ahead = points[..., 2:] > 1e-9
        pixels = np.where(ahead, points[..., :2] / np.where(ahead, points[..., 2:], 1), np.nan)
        return pixels.astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Rig:
    """Two cameras and the pose between them: X_event = rotation @ X_frame + translation.

    Attributes:
        frame_camera: Frame camera.
        event_camera: Event camera.
        rotation: float64 [3, 3].
        translation: float64 [3], in m.
        depth: Distance of the scene from the event camera in m; infinity ignores the translation.
        residual_px: Reprojection error in pixels; None if unknown.
        source: Description of its origin.
    """

    frame_camera: Camera
    event_camera: Camera
    rotation: NDArray[np.float64]
    translation: NDArray[np.float64]
    depth: float = math.inf
    residual_px: float | None = None
    source: str = ""

    def __post_init__(self) -> None:
        """Check rotation, translation and depth.

        Raises:
            CalibrationError: If one of them is invalid.
        """
        turn = self.rotation
        if turn.shape != (3, 3) or not np.allclose(turn @ turn.T, np.eye(3), atol=1e-3):
            msg = f"a rotation is an orthonormal 3x3 matrix, not {turn.tolist()}"
            raise CalibrationError(msg)
        if np.linalg.det(turn) < 0:
            msg = "a rotation's determinant is 1, not -1: an axis is mirrored"
            raise CalibrationError(msg)
        if self.translation.shape != (3,) or not self.depth > 0:
            msg = (
                f"a translation has 3 numbers and a depth is positive, not "
                f"{self.translation.tolist()} and {self.depth}"
            )
            raise CalibrationError(msg)

    @property
    def frame_size(self) -> Size:
        """Width and height of the frames."""
        return self.frame_camera.size

    @property
    def event_size(self) -> Size:
        """Width and height of the event image."""
        return self.event_camera.size

    def sample_map(self) -> NDArray[np.float32]:
        """Compute the position in the frame of each pixel of the event image; see `Homography`."""
        rays = self.event_camera.rays()
        if lost := float(np.isnan(rays[..., 0]).mean()):
            logger.warning(
                "%.1f %% of the event camera's pixels are not distilled: its distortion (%s %s) "
                "cannot be inverted there",
                100 * lost,
                self.event_camera.model,
                ", ".join(f"{value:g}" for value in self.event_camera.distortion),
            )
        points = np.concatenate([rays, np.ones_like(rays[..., :1])], axis=-1)
        if math.isfinite(self.depth):
            points = points - self.translation / self.depth
        return self.frame_camera.project(points @ self.rotation).astype(np.float32)


Calibration: TypeAlias = "Homography | Rig"


def identity(size: Size) -> Homography:
    """Return the calibration of frames and events from the same pixels, as in a DAVIS."""
    return Homography(size, size, np.eye(3))


def read_calibration(path: Path) -> Calibration:
    """Read a `calibration.yaml`; see the module's docstring for the format.

    Raises:
        CalibrationError: If the file is missing or invalid; the message gives path and reason.
    """
    content = load_yaml(path)
    try:
        return _parse(content)
    except CalibrationError as error:
        msg = f"{path}: {error}"
        raise CalibrationError(msg) from None
    except (KeyError, TypeError, ValueError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        named = f" of kind {content['kind']!r}" if "kind" in content else ""
        msg = f"{path}: invalid calibration{named}: {what}"
        raise CalibrationError(msg) from None


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write a `calibration.yaml`, replacing an existing one."""
    content: dict[str, Any]
    if isinstance(calibration, Homography):
        content = {
            "kind": "homography",
            "frame_size": list(calibration.frame_size),
            "event_size": list(calibration.event_size),
            "homography": calibration.matrix.tolist(),
        }
    else:
        content = {
            "kind": "rig" if math.isfinite(calibration.depth) else "rotation",
            "frame_camera": _camera_content(calibration.frame_camera),
            "event_camera": _camera_content(calibration.event_camera),
            "rotation": calibration.rotation.tolist(),
        }
        if math.isfinite(calibration.depth):
            content["translation"] = calibration.translation.tolist()
            content["depth"] = calibration.depth
    if calibration.residual_px is not None:
        content["residual_px"] = calibration.residual_px
    if calibration.source:
        content["source"] = calibration.source
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping from a YAML file.

    Raises:
        CalibrationError: If the file cannot be read or holds no mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror}"
        raise CalibrationError(msg) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        msg = f"{path}: is not YAML: {error}"
        raise CalibrationError(msg) from None
    if not isinstance(content, dict):
        msg = f"{path}: holds no calibration"
        raise CalibrationError(msg)
    return content


def _parse(content: dict[str, Any]) -> Calibration:
    kind = content["kind"]
    residual = content.get("residual_px")
    residual = None if residual is None else float(residual)
    source = str(content.get("source", ""))
    if kind in {"identity", "homography"}:
        frame_size, event_size = (
            parse_size(content["frame_size"]),
            parse_size(content["event_size"]),
        )
        if kind == "identity" and frame_size != event_size:
            msg = f"frames of {frame_size} and events of {event_size} are not related by identity"
            raise CalibrationError(msg)
        matrix = np.eye(3) if kind == "identity" else np.array(content["homography"], np.float64)
        return Homography(frame_size, event_size, matrix, residual, source)
    if kind not in {"rotation", "rig"}:
        msg = f"unknown kind {kind!r}; known are identity, homography, rotation and rig"
        raise CalibrationError(msg)
    is_rig = kind == "rig"
    return Rig(
        _camera(content["frame_camera"]),
        _camera(content["event_camera"]),
        np.array(content["rotation"], np.float64),
        np.array(content["translation"] if is_rig else [0, 0, 0], np.float64),
        float(content.get("depth", math.inf)) if is_rig else math.inf,
        residual,
        source,
    )


def parse_size(content: Any) -> Size:
    """Return a width and a height in pixels as integers."""
    width, height = content
    return int(width), int(height)


def _camera(content: dict[str, Any]) -> Camera:
    fx, fy, cx, cy = map(float, content["matrix"])
    distortion = tuple(map(float, content.get("distortion", ())))
    model = str(content.get("model", "plumb_bob"))
    return Camera(parse_size(content["size"]), (fx, fy, cx, cy), model, distortion)


def _camera_content(camera: Camera) -> dict[str, Any]:
    return {
        "size": list(camera.size),
        "matrix": list(camera.matrix),
        "model": camera.model,
        "distortion": list(camera.distortion),
    }
