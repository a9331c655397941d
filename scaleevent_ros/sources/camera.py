"""Pinhole cameras with distortion: rays of pixels, and pixels of points."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import cv2
import numpy as np

from scaleevent_ros.sources.errors import CalibrationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Size: TypeAlias = "tuple[int, int]"


_COEFFICIENTS = {"plumb_bob": (0, 4, 5), "equidistant": (0, 4)}
_MAX_SLOPE = 20.0  # of a ray: 87 degrees off the axis
_PROFILE_POINTS = 8192
_NEWTON_STEPS = 8
_TANGENTIAL_STEPS = 30
_MAX_ROUND_TRIP_PX = 0.05


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


def _matrix(fx_fy_cx_cy: tuple[float, float, float, float]) -> NDArray[np.float64]:
    fx, fy, cx, cy = fx_fy_cx_cy
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
