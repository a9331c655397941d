"""Mapping of frames into the event image: `calibration.yaml`, and Kalibr's files.

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

import cv2
import numpy as np
import yaml

from scaleevent_ros.sources.errors import CalibrationError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

Size: TypeAlias = "tuple[int, int]"

_COEFFICIENTS = {"plumb_bob": (0, 4, 5), "equidistant": (0, 4)}
_KALIBR_MODELS = {"radtan": "plumb_bob", "equidistant": "equidistant", "none": "plumb_bob"}
_MAX_SLOPE = 20.0  # of a ray: 87 degrees off the axis
_PROFILE_POINTS = 8192
_NEWTON_STEPS = 8
_TANGENTIAL_STEPS = 30
_MAX_ROUND_TRIP_PX = 0.05
_EVENT_TOPIC_WORDS = ("event", "dvs", "davis", "prophesee", "metavision")


@dataclass(frozen=True, slots=True)
class Camera:
    """A pinhole camera with distortion.

    Attributes:
        size: Width and height, in pixels.
        matrix: fx, fy, cx, cy, in pixels.
        model: ``plumb_bob`` (k1, k2, p1, p2 and maybe k3) or ``equidistant`` (k1 to k4), as in
            `sensor_msgs/CameraInfo`.
        distortion: Distortion coefficients in that order; may be empty.
    """

    size: Size
    matrix: tuple[float, float, float, float]
    model: str = "plumb_bob"
    distortion: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check the model, the number of its coefficients, the size and the focal lengths.

        Raises:
            CalibrationError: If one of them is invalid.
        """
        if len(self.distortion) not in _COEFFICIENTS.get(self.model, ()):
            known = ", ".join(f"{name} with {n}" for name, n in _COEFFICIENTS.items())
            msg = (
                f"a camera's distortion is {self.model} with {len(self.distortion)} coefficients; "
                f"known are {known}"
            )
            raise CalibrationError(msg)
        if min(*self.matrix[:2], *self.size) <= 0:
            msg = f"a camera of size {self.size} and matrix {self.matrix} is impossible"
            raise CalibrationError(msg)

    def rays(self) -> NDArray[np.float64]:
        """Compute the viewing ray of each pixel.

        Returns:
            float64 [H, W, 2], x / z and y / z; NaN for pixels beyond the range in which the
            distortion can be inverted.
        """
        width, height = self.size
        fx, fy, cx, cy = self.matrix
        pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
        distorted = (pixels - (cx, cy)) / (fx, fy)
        if not self.distortion:
            return np.asarray(distorted)
        p1, p2 = self.distortion[2:4] if self.model == "plumb_bob" else (0.0, 0.0)
        rays = radial = distorted
        for _ in range(_TANGENTIAL_STEPS if p1 or p2 else 1):
            radius = np.linalg.norm(radial, axis=-1, keepdims=True)
            angle = self._profile.invert(radius)
            undistorted = np.tan(angle) if self.model == "equidistant" else angle
            rays = radial * np.divide(
                undistorted, radius, where=radius > 0, out=np.ones_like(radius)
            )
            x, y = rays[..., 0], rays[..., 1]
            square = x * x + y * y
            tangential_x = 2 * p1 * x * y + p2 * (square + 2 * x * x)
            tangential_y = p1 * (square + 2 * y * y) + 2 * p2 * x * y
            radial = distorted - np.stack([tangential_x, tangential_y], axis=-1)
        again = self.project(np.concatenate([rays, np.ones_like(rays[..., :1])], axis=-1))
        inverted = np.linalg.norm(again - pixels, axis=-1, keepdims=True) < _MAX_ROUND_TRIP_PX
        return np.where(inverted, rays, np.nan)

    def project(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compute the pixels of points in front of the camera.

        Args:
            points: float64 [..., 3].

        Returns:
            float64 [..., 2]; NaN for points behind the camera, and where the distortion folds the
            image.
        """
        ahead = points[..., 2:] > 1e-9
        if self.distortion:
            slope = np.linalg.norm(points[..., :2], axis=-1, keepdims=True) / points[..., 2:]
            angle = np.arctan(slope) if self.model == "equidistant" else slope
            ahead &= angle <= self._profile.limit
        flat = np.where(ahead, points, (0, 0, 1)).reshape(-1, 1, 3)
        none, matrix = np.zeros(3), _matrix(self.matrix)
        coefficients = np.array(self.distortion)
        if self.model == "equidistant" and len(coefficients):
            pixels, _ = cv2.fisheye.projectPoints(flat, none, none, matrix, coefficients)
        else:
            pixels, _ = cv2.projectPoints(flat, none, none, matrix, coefficients)
        return np.where(ahead, np.asarray(pixels).reshape(*points.shape[:-1], 2), np.nan)

    @property
    def _profile(self) -> _RadialProfile:
        """Distorted radius by undistorted radius (``plumb_bob``) or angle (``equidistant``)."""
        if self.model == "equidistant":
            return _RadialProfile(self.distortion, math.pi / 2 - 1e-3)
        return _RadialProfile((*self.distortion[:2], *self.distortion[4:]), _MAX_SLOPE)


class _RadialProfile:
    """The polynomial r (1 + k1 r^2 + k2 r^4 + ...) on the range from 0 in which it increases.

    Attributes:
        limit: End of that range.
    """

    def __init__(self, coefficients: Sequence[float], limit: float) -> None:
        ascending = np.zeros(2 * len(coefficients) + 2)
        ascending[1::2] = 1.0, *coefficients
        self._value = np.polynomial.Polynomial(ascending)
        self._slope = self._value.deriv()
        turns = self._slope.roots()
        turns = turns.real[(np.abs(turns.imag) < 1e-9) & (turns.real > 0)]
        self.limit = float(min(limit, *turns)) if len(turns) else limit

    def invert(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Find the arguments of values; NaN for values above that at the limit."""
        grid = np.linspace(0, self.limit, _PROFILE_POINTS)
        found = np.interp(values, self._value(grid), grid)
        for _ in range(_NEWTON_STEPS):
            slope = np.maximum(self._slope(found), 1e-9)
            found = np.clip(found - (self._value(found) - values) / slope, 0, self.limit)
        return np.where(values <= self._value(self.limit), found, np.nan)


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
    content = _load(path)
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


def read_kalibr(
    path: Path,
    frame_camera: str | None = None,
    event_camera: str | None = None,
    depth: float = math.inf,
) -> Rig:
    """Read a camera chain of Kalibr.

    Format: https://github.com/ethz-asl/kalibr/wiki/yaml-formats; ``T_cn_cnm1`` maps points from the
    previous camera to the camera.

    Args:
        path: Path of a ``camchain.yaml``.
        frame_camera: Name of the frame camera, such as ``cam0``; None for the only camera whose
            topic does not look like one of events.
        event_camera: Name of the event camera; None for the only camera whose topic looks like one
            of events: its name contains ``event``, ``dvs``, ``davis`` or the like.
        depth: Distance of the scene in m; see `Rig`.

    Raises:
        CalibrationError: If the file is missing or invalid, or the cameras are ambiguous; the
            message gives path and reason.
    """
    chain = _load(path)
    names = [name for name in sorted(chain) if name.startswith("cam")]
    event_camera = event_camera or _by_topic(path, chain, names, speaks_of_events=True)
    frame_camera = frame_camera or _by_topic(path, chain, names, speaks_of_events=False)
    for name in (frame_camera, event_camera):
        if name not in names:
            msg = f"{path}: there is no camera {name}, only {', '.join(names) or 'none'}"
            raise CalibrationError(msg)
    try:
        poses = _kalibr_poses(chain, names)
        pose = poses[event_camera] @ np.linalg.inv(poses[frame_camera])
        return Rig(
            _kalibr_camera(chain[frame_camera]),
            _kalibr_camera(chain[event_camera]),
            pose[:3, :3],
            pose[:3, 3],
            depth,
            source=f"Kalibr, {path.name}: {frame_camera} to {event_camera}",
        )
    except CalibrationError as error:
        msg = f"{path}: {error}"
        raise CalibrationError(msg) from None
    except (KeyError, TypeError, ValueError) as error:
        msg = f"{path}: is not a camera chain of Kalibr: {error!r}"
        raise CalibrationError(msg) from None


def _load(path: Path) -> dict[str, Any]:
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
        frame_size, event_size = _size(content["frame_size"]), _size(content["event_size"])
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


def _matrix(fx_fy_cx_cy: tuple[float, float, float, float]) -> NDArray[np.float64]:
    fx, fy, cx, cy = fx_fy_cx_cy
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


def _size(content: Any) -> Size:
    width, height = content
    return int(width), int(height)


def _camera(content: dict[str, Any]) -> Camera:
    fx, fy, cx, cy = map(float, content["matrix"])
    distortion = tuple(map(float, content.get("distortion", ())))
    model = str(content.get("model", "plumb_bob"))
    return Camera(_size(content["size"]), (fx, fy, cx, cy), model, distortion)


def _camera_content(camera: Camera) -> dict[str, Any]:
    return {
        "size": list(camera.size),
        "matrix": list(camera.matrix),
        "model": camera.model,
        "distortion": list(camera.distortion),
    }


def _kalibr_camera(content: dict[str, Any]) -> Camera:
    if content["camera_model"] != "pinhole":
        msg = f"camera model {content['camera_model']!r} is not supported, only pinhole"
        raise CalibrationError(msg)
    if content["distortion_model"] not in _KALIBR_MODELS:
        msg = (
            f"distortion model {content['distortion_model']!r} is none of "
            f"{', '.join(_KALIBR_MODELS)}"
        )
        raise CalibrationError(msg)
    fx, fy, cx, cy = map(float, content["intrinsics"])
    distortion = tuple(map(float, content["distortion_coeffs"]))
    return Camera(
        _size(content["resolution"]),
        (fx, fy, cx, cy),
        _KALIBR_MODELS[content["distortion_model"]],
        distortion,
    )


def _kalibr_poses(chain: dict[str, Any], names: list[str]) -> dict[str, NDArray[np.float64]]:
    """Compute the transformation from the first camera to each camera, float64 [4, 4]."""
    pose = np.eye(4)
    poses = {names[0]: pose}
    for name in names[1:]:
        pose = np.array(chain[name]["T_cn_cnm1"], np.float64).reshape(4, 4) @ pose
        poses[name] = pose
    return poses


def _by_topic(
    path: Path, chain: dict[str, Any], names: list[str], *, speaks_of_events: bool
) -> str:
    found = [
        name
        for name in names
        if speaks_of_events
        == any(word in str(chain[name].get("rostopic", "")) for word in _EVENT_TOPIC_WORDS)
    ]
    if len(found) != 1:
        kind = "event" if speaks_of_events else "frame"
        msg = f"{path}: cannot tell which of {', '.join(names)} is the {kind} camera; name it"
        raise CalibrationError(msg)
    return found[0]
