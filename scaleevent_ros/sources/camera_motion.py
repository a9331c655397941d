"""A virtual camera that moves in front of a still picture, with its exact geometry.

The picture is a plane that faces the camera. The camera turns about its three axes and moves along
them, smoothly and at random, as in the planar renderer of ESIM (Rebecq et al., CoRL 2018). So each
view is a homography of the picture, and of any other view: flow and labels are exact. Where a view
leaves the picture, the border is reflected.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import cv2
import numpy as np

from scaleevent_ros.sources.errors import SimulationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Pixel = TypeVar("Pixel", bound=np.generic)

_WAVES = 3  # of each degree of freedom
_SLOWEST_HZ, _FASTEST_HZ = 0.2, 1.5
# At strength 1, the root mean square of: pitch, yaw and roll in rad; the position right, down and
# forward as a fraction of the distance to the picture.
_EXTENT = np.array([0.012, 0.012, 0.016, 0.012, 0.012, 0.02])
# Standard deviation of the logarithm of a motion's extent: pictures are seen at many speeds.
_SPREAD = 0.5
_BRAKE_S = 0.08  # time constant with which a camera comes to rest and starts again


@dataclass(frozen=True, slots=True, eq=False)
class CameraMotion:
    """A smooth path of a camera in front of a picture: a sum of sine waves for each of six axes.

    Attributes:
        size: Width and height of picture and view, in pixels.
        amplitude: float64 [6, waves]: rotations in rad, then positions relative to the distance.
        frequency: float64 [6, waves], in Hz.
        phase: float64 [6, waves], in rad.
        pauses: Start and end of each time in which the camera rests, in s, ordered and apart,
            float64 [P, 2].
    """

    size: tuple[int, int]
    amplitude: NDArray[np.float64]
    frequency: NDArray[np.float64]
    phase: NDArray[np.float64]
    pauses: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 2)))

    @property
    def camera_matrix(self) -> NDArray[np.float64]:
        """The camera's matrix K, float64 [3, 3]: its focal length is the picture's longer side."""
        width, height = self.size
        focal = max(self.size)
        return np.array(
            [[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]], float
        )

    def progress(self, t: float) -> float:
        """Return the time (s) that the camera has moved until ``t`` (s).

        It passes at a rate of 1 outside pauses; in them, the rate falls to 0 exponentially, and
        rises again after them.
        """
        moved = t
        for start, end in self.pauses:
            if t > start:
                rest = min(t, end) - start
                moved -= rest - _BRAKE_S * (1 - np.exp(-rest / _BRAKE_S))
            if t > end:
                moved -= _BRAKE_S * (1 - np.exp(-(t - end) / _BRAKE_S))
        return float(moved)

    def homography(self, t: float) -> NDArray[np.float64]:
        """Return the homography of the view at a time (s) into the picture.

        Returns:
            float64 [3, 3], from homogeneous pixels of the view to those of the picture.
        """
        moved = self.progress(t)
        waves = self.amplitude * np.sin(2 * np.pi * self.frequency * moved + self.phase)
        *rotation, right, down, forward = waves.sum(axis=1)
        turn, _ = cv2.Rodrigues(np.array(rotation))
        plane = np.array([[1 - forward, 0, right], [0, 1 - forward, down], [0, 0, 1]])
        matrix = self.camera_matrix
        view_to_picture = matrix @ plane @ turn @ np.linalg.inv(matrix)
        return np.asarray(view_to_picture / view_to_picture[2, 2])


def random_motion(
    rng: np.random.Generator, size: tuple[int, int], strength: float = 1.0
) -> CameraMotion:
    """Draw a random motion.

    Args:
        rng: Random number generator.
        size: Width and height of picture and view, in pixels.
        strength: Factor of all amplitudes, and so of the speed. 1 moves a picture 640 pixels wide
            at about 100 pixels a second on average; 0 stands still.

    Raises:
        SimulationError: If the strength is negative or not finite.
    """
    if not 0 <= strength < np.inf:
        msg = f"a motion's strength is 0 or more, not {strength}"
        raise SimulationError(msg)
    shape = (len(_EXTENT), _WAVES)
    extent = strength * _EXTENT * np.exp(_SPREAD * rng.standard_normal())
    # Each wave carries its share; the root mean square of a sine is its amplitude over root two.
    share = rng.dirichlet(np.ones(_WAVES), len(_EXTENT))
    return CameraMotion(
        size,
        extent[:, None] * np.sqrt(2 * share),
        rng.uniform(_SLOWEST_HZ, _FASTEST_HZ, shape),
        rng.uniform(0, 2 * np.pi, shape),
    )


def see(picture: NDArray[Pixel], homography: NDArray[np.float64]) -> NDArray[Pixel]:
    """Render the camera's view of a picture, bilinearly.

    Args:
        picture: [H, W] or [H, W, C].
        homography: Homography from view to picture.

    Returns:
        The view, with the picture's shape and dtype.
    """
    return _warp(picture, homography, cv2.INTER_LINEAR)


def see_labels(labels: NDArray[Pixel], homography: NDArray[np.float64]) -> NDArray[Pixel]:
    """Render class ids by nearest neighbours, so that none are mixed; see `see`."""
    return _warp(labels, homography, cv2.INTER_NEAREST)


def _warp(picture: NDArray[Any], homography: NDArray[np.float64], how: int) -> NDArray[Any]:
    height, width = picture.shape[:2]
    return cv2.warpPerspective(
        picture,
        homography,
        (width, height),
        flags=how | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )


def exact_flow(
    before: NDArray[np.float64], after: NDArray[np.float64], size: tuple[int, int]
) -> NDArray[np.float32]:
    """Compute the optical flow from one view to another.

    Args:
        before: Homography of the first view into the picture.
        after: Homography of the second view into the picture.
        size: Width and height of the views.

    Returns:
        float32 [H, W, 2], in pixels to the right and down.
    """
    width, height = size
    x, y = np.meshgrid(np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64))
    a, b, c = np.linalg.solve(after, before).reshape(3, 3, 1, 1)
    scale = c[0] * x + c[1] * y + c[2]
    flow = np.empty((height, width, 2), np.float32)
    flow[..., 0] = (a[0] * x + a[1] * y + a[2]) / scale - x
    flow[..., 1] = (b[0] * x + b[1] * y + b[2]) / scale - y
    return flow


def largest_displacement(
    before: NDArray[np.float64], after: NDArray[np.float64], size: tuple[int, int]
) -> float:
    """Return the largest displacement in pixels at a grid of 9x9 points; see `exact_flow`."""
    width, height = size
    columns, rows = np.linspace(0, width - 1, 9), np.linspace(0, height - 1, 9)
    places = np.stack(np.meshgrid(columns, rows), axis=-1)
    moved = cv2.perspectiveTransform(places, np.linalg.solve(after, before))
    return float(np.linalg.norm(moved - places, axis=-1).max())
