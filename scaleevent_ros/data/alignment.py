"""Warping of frames into the event image, and masks of the pixels that they cover."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scaleevent_ros.data.augmentation import View

    Matrix = NDArray[np.float64]
    Pixels = NDArray[np.uint8]

# Below this magnification a bilinear look-up skips pixels: shrink by area first.
_LEAST_BILINEAR = 0.75


def filling_homography(frame: tuple[int, int], sensor: tuple[int, int]) -> Matrix:
    """Return the homography that scales frames of the same view to the sensor's size.

    Args:
        frame: Width and height of the frames, in pixels.
        sensor: Width and height of the sensor, in pixels.

    Returns:
        float64 [3, 3], between pixel centres.
    """
    sx, sy = sensor[0] / frame[0], sensor[1] / frame[1]
    return np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]])


@dataclass(frozen=True, slots=True, eq=False)
class HomographyAlignment:
    """Alignment of frames with the event image by a homography.

    Attributes:
        matrix: Homography from pixel centres of the frame to those of the event image, float64 [3,
            3].
    """

    matrix: Matrix

    def warp(self, frame: Pixels, view: View, scale: int = 1) -> Pixels:
        """Warp a frame into a view of the event image, in one interpolation.

        Args:
            frame: uint8 [H, W, 3].
            view: View of the event image.
            scale: Resolution of the result relative to the view's output.

        Returns:
            uint8 [scale * output height, scale * output width, 3]; black where there is no frame.
        """
        size = view.output_width * scale, view.output_height * scale
        matrix = view.matrix(scale) @ self.matrix
        if frame.shape[1::-1] == size and np.allclose(matrix, np.eye(3), atol=1e-9):
            return np.ascontiguousarray(frame)
        magnification = _magnification(matrix, (size[0] / 2, size[1] / 2))
        if magnification < _LEAST_BILINEAR:
            columns = max(1, round(frame.shape[1] * magnification))
            rows = max(1, round(frame.shape[0] * magnification))
            shrinking = filling_homography((frame.shape[1], frame.shape[0]), (columns, rows))
            frame = np.asarray(cv2.resize(frame, (columns, rows), interpolation=cv2.INTER_AREA))
            matrix = matrix @ np.linalg.inv(shrinking)
        warped = cv2.warpPerspective(
            frame, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        covered = _covered(frame.shape[:2], matrix, size)
        if covered is not None:
            warped[~covered] = 0
        return np.asarray(warped)

    def covered(self, frame: tuple[int, int], view: View) -> NDArray[np.bool_] | None:
        """Return which pixels of a view a frame covers.

        Args:
            frame: Height and width of the frame.
            view: View of the event image.

        Returns:
            bool [output height, output width]; None if all are covered.
        """
        return _covered(frame, view.matrix() @ self.matrix, (view.output_width, view.output_height))


@dataclass(frozen=True, slots=True, eq=False)
class MapAlignment:
    """Alignment of frames with the event image by a look-up table, for rigs with distortion.

    Attributes:
        sample_map: Position in the frame of each pixel of the event image, float32 [H, W, 2], x and
            y; NaN outside.
    """

    sample_map: NDArray[np.float32]

    def warp(self, frame: Pixels, view: View, scale: int = 1) -> Pixels:
        """Warp a frame into a view; see `HomographyAlignment.warp`."""
        places = self._places(view, scale)
        columns, rows = places[..., 0], places[..., 1]
        # Distance of neighbouring samples in the frame: blur against aliasing if it is large.
        apart = float(np.nanmedian(np.abs(np.diff(columns, axis=1)))) if columns.size > 1 else 1.0
        if apart > 1 / _LEAST_BILINEAR:
            frame = np.asarray(cv2.GaussianBlur(frame, (0, 0), 0.5 * math.sqrt(apart**2 - 1)))
        known = _on_frame(columns, rows, frame.shape[:2])
        outside = np.float32(-2)  # far enough for remap to sample nothing
        columns, rows = np.where(known, columns, outside), np.where(known, rows, outside)
        return np.asarray(cv2.remap(frame, columns, rows, cv2.INTER_LINEAR))

    def covered(self, frame: tuple[int, int], view: View) -> NDArray[np.bool_] | None:
        """Return which pixels of a view a frame covers; see `HomographyAlignment.covered`."""
        places = self._places(view, 1)
        known = _on_frame(places[..., 0], places[..., 1], frame)
        return None if known.all() else known

    def _places(self, view: View, scale: int) -> NDArray[np.float32]:
        """Return the position in the frame of each output pixel of a view, float32 [h, w, 2]."""
        size = view.output_width * scale, view.output_height * scale
        if scale == 1 and view.whole and self.sample_map.shape[1::-1] == size:
            return self.sample_map
        nowhere = (math.nan, math.nan)
        return np.asarray(
            cv2.warpPerspective(
                self.sample_map,
                view.matrix(scale),
                size,
                flags=cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_CONSTANT,
                borderValue=nowhere,
            )
        )


Alignment: TypeAlias = "HomographyAlignment | MapAlignment"


def move_mask(mask: NDArray[np.bool_], view: View) -> NDArray[np.bool_]:
    """Resample a mask of the event image, bool [H, W], in a view; False outside."""
    size = view.output_width, view.output_height
    moved = cv2.warpPerspective(mask.astype(np.uint8), view.matrix(), size, flags=cv2.INTER_NEAREST)
    return np.asarray(moved, bool)


def covered_patches(
    mask: NDArray[np.bool_] | None, shape: tuple[int, int], patch: int
) -> NDArray[np.bool_]:
    """Mark the patches whose pixels are all covered, bool [ceil(H / patch), ceil(W / patch)].

    Args:
        mask: Covered pixels, bool [H, W]; None if all are covered.
        shape: Height and width of the event image, in pixels.
        patch: Side of a patch in pixels.
    """
    height, width = shape
    if mask is None:
        return np.ones((-(-height // patch), -(-width // patch)), bool)
    by_row = np.logical_and.reduceat(mask, np.arange(0, height, patch), axis=0)
    return np.asarray(np.logical_and.reduceat(by_row, np.arange(0, width, patch), axis=1))


def _covered(
    frame: tuple[int, int], matrix: Matrix, size: tuple[int, int]
) -> NDArray[np.bool_] | None:
    """Find the output pixels whose centre falls on a pixel of the frame; None if all do."""
    inverse = np.linalg.inv(matrix)
    width, height = size
    columns, rows = (0, width - 1, width - 1, 0), (0, 0, height - 1, height - 1)
    x, y, w = inverse @ np.array([columns, rows, (1.0,) * 4])
    edge = 0.5 + 1e-6
    if (w > 0).all() and (
        (np.abs(x / w - (frame[1] - 1) / 2) <= (frame[1] - 1) / 2 + edge)
        & (np.abs(y / w - (frame[0] - 1) / 2) <= (frame[0] - 1) / 2 + edge)
    ).all():
        return None
    ones = np.ones(frame, np.uint8)
    return np.asarray(cv2.warpPerspective(ones, matrix, size, flags=cv2.INTER_NEAREST), bool)


def _on_frame(
    x: NDArray[np.float32], y: NDArray[np.float32], frame: tuple[int, int]
) -> NDArray[np.bool_]:
    """Return which positions lie between the centres of a frame's outer pixels; False for NaN."""
    return np.asarray((x >= 0) & (x <= frame[1] - 1) & (y >= 0) & (y <= frame[0] - 1))


def _magnification(matrix: Matrix, point: tuple[float, float]) -> float:
    """Return the number of output pixels per frame pixel, per direction, near an output point."""
    inverse = np.linalg.inv(matrix)
    x, y, w = inverse @ (*point, 1.0)
    jacobian = (inverse[:2, :2] * w - np.outer((x, y), inverse[2, :2])) / (w * w)
    return 1 / math.sqrt(max(abs(float(np.linalg.det(jacobian))), 1e-12))
