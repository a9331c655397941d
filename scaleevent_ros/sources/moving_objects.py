"""Cut-out objects that move through a scene in front of a still or moving camera.

An event camera at rest sees only moving objects. Here, objects cut out of other pictures move along
smooth paths over a background, which they uncover again when they leave.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import numpy as np

from scaleevent_ros.sources.errors import SimulationError
from scaleevent_ros.sources.pictures import pictures_in, read_raster

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_SMALLEST, _LARGEST = 0.15, 0.6  # height of an object, as a fraction of the view's height
_SLOWEST, _FASTEST = 0.1, 1.2  # speed, in view widths per second
_SWAY_HZ = (0.3, 2.0)
_OPAQUE = 128  # alpha from which a pixel belongs to the object


def read_cutouts(folder: Path) -> list[NDArray[np.uint8]]:
    """Read the pictures with an alpha channel in a folder.

    Returns:
        Each uint8 [H, W, 4], red-green-blue-alpha, in order of name.

    Raises:
        SourceError: If there are no pictures, or one cannot be read or has no alpha channel.
    """
    cutouts = []
    for path in pictures_in(folder):
        pixels = read_raster(path)
        if pixels.dtype != np.uint8 or pixels.shape[2:] != (4,):
            msg = f"{path}: an object must be an 8-bit picture with an alpha channel, such as a PNG"
            raise SimulationError(msg)
        cutouts.append(np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA), np.uint8))
    return cutouts


@dataclass(frozen=True, slots=True, eq=False)
class MovingObject:
    """An object that moves along a straight path with an added sine wave.

    Attributes:
        cutout: Picture of the object, red-green-blue-alpha, uint8 [h, w, 4].
        size: Width and height in the view, in pixels.
        start: Centre at time 0, in pixels of the view, float64 [2].
        velocity: Velocity in pixels per second, float64 [2].
        sway: Amplitude of a sine added to the path, in pixels, float64 [2].
        sway_hz: Frequency of the sine in Hz.
    """

    cutout: NDArray[np.uint8]
    size: tuple[int, int]
    start: NDArray[np.float64]
    velocity: NDArray[np.float64]
    sway: NDArray[np.float64]
    sway_hz: float
    _pictures: dict[int, NDArray[np.float32]] = field(default_factory=dict, init=False)

    def position(self, t: float) -> NDArray[np.float64]:
        """Return the centre at a time (s): float64 [2], in pixels of the view."""
        sine = np.sin(2 * np.pi * self.sway_hz * t)
        return np.asarray(self.start + self.velocity * t + self.sway * sine)

    def draw(self, view: NDArray[np.float32], t: float, scale: int = 1) -> NDArray[np.bool_]:
        """Draw the object over a view, in place.

        Args:
            view: float32 [H, W] grey or [H, W, 3] red-green-blue, from 0 to 255.
            t: Time in s.
            scale: Pixels of the view for each pixel that sizes and positions are given in.

        Returns:
            The pixels that belong to the object, bool [H, W].
        """
        height, width = view.shape[:2]
        picture = self._picture(scale)
        h, w = picture.shape[:2]
        center = (self.position(t) + 0.5) * scale - 0.5
        corner = center - ((w - 1) / 2, (h - 1) / 2)
        left, top = (int(v) for v in np.floor(corner))
        x0, x1 = max(left, 0), min(left + w + 1, width)
        y0, y1 = max(top, 0), min(top + h + 1, height)
        mask = np.zeros((height, width), np.bool_)
        if x0 >= x1 or y0 >= y1:
            return mask
        shift = np.array([[1, 0, corner[0] - x0], [0, 1, corner[1] - y0]])
        moved = cv2.warpAffine(picture, shift, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR)
        alpha = moved[..., 3]
        part = view[y0:y1, x0:x1]
        if view.ndim == 2:
            part *= 1 - alpha / 255
            part += moved[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32)
        else:
            part *= 1 - alpha[..., None] / 255
            part += moved[..., :3]
        mask[y0:y1, x0:x1] = alpha >= _OPAQUE
        return mask

    def _picture(self, scale: int) -> NDArray[np.float32]:
        """Return the picture at a scale, premultiplied by its alpha, float32 [h, w, 4]."""
        if scale not in self._pictures:
            size = (self.size[0] * scale, self.size[1] * scale)
            resized = cv2.resize(self.cutout, size, interpolation=cv2.INTER_AREA)
            picture = np.array(resized, np.float32)
            picture[..., :3] *= picture[..., 3:] / 255
            self._pictures[scale] = picture
        return self._pictures[scale]


def random_objects(
    rng: np.random.Generator,
    cutouts: list[NDArray[np.uint8]],
    count: int,
    size: tuple[int, int],
    length_s: float,
) -> list[MovingObject]:
    """Draw objects that cross the view at random times, sizes and speeds.

    Args:
        rng: Source of randomness.
        cutouts: Objects from `read_cutouts`.
        count: Number of objects.
        size: Width and height of the view, in pixels.
        length_s: Duration of the scene in s; each object passes through the view within it.
    """
    width, height = size
    objects = []
    for _ in range(count):
        cutout = cutouts[int(rng.integers(len(cutouts)))]
        if rng.random() < 0.5:
            cutout = cutout[:, ::-1]
        scale = height * rng.uniform(_SMALLEST, _LARGEST) / cutout.shape[0]
        scale = min(scale, 0.8 * width / cutout.shape[1])
        shape = (max(2, round(cutout.shape[1] * scale)), max(2, round(cutout.shape[0] * scale)))
        angle = rng.normal(0, 0.25) + (np.pi if rng.random() < 0.5 else 0)
        speed = width * _SLOWEST * (_FASTEST / _SLOWEST) ** rng.random()
        velocity = speed * np.array([np.cos(angle), np.sin(angle)])
        inside = np.array([width * rng.uniform(0.1, 0.9), height * rng.uniform(0.25, 0.9)])
        start = inside - velocity * rng.uniform(0, length_s)
        sway = rng.uniform(0, 0.03, 2) * width
        cutout = np.ascontiguousarray(cutout)
        sway_hz = rng.uniform(*_SWAY_HZ)
        objects.append(MovingObject(cutout, shape, start, velocity, sway, sway_hz))
    return objects
