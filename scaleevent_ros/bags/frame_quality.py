"""Quality of frames: darkness, saturation, sharpness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

DARK_LEVEL = 30
DARK_QUANTILE = 0.9
BRIGHT_LEVEL = 250
MAX_SATURATED = 0.25
MIN_SHARPNESS = 0.01
MIN_RELATIVE_SHARPNESS = 0.2


@dataclass(frozen=True)
class FrameQuality:
    """Measures of a frame's grey values.

    Attributes:
        brightness: Mean, 0 to 255.
        highlight: 90th percentile, 0 to 255; below 30 in a dark frame.
        saturated: Share of pixels at 250 or above.
        sharpness: Variance of the Laplacian divided by the variance of the grey values. The former
            is a common measure of focus (Pertuz et al., "Analysis of focus measure operators",
            Pattern Recognition 2013, LAP4); the division removes the contrast of the scene.
    """

    brightness: float
    highlight: float
    saturated: float
    sharpness: float

    @property
    def is_dark(self) -> bool:
        """Whether at least 90 % of the pixels are below level 30."""
        return self.highlight < DARK_LEVEL

    @property
    def is_saturated(self) -> bool:
        """Whether more than a quarter of the pixels is at level 250 or above."""
        return self.saturated > MAX_SATURATED


def measure_frame(grey: NDArray[np.uint8]) -> FrameQuality:
    """Measure a frame by its grey values, uint8 [H, W]."""
    histogram = np.bincount(grey.reshape(-1), minlength=256)
    total = grey.size
    levels = np.arange(256)
    mean = float(histogram @ levels / total)
    variance = float(histogram @ (levels - mean) ** 2 / total)
    laplacian = cv2.Laplacian(grey, cv2.CV_16S)
    _, deviation = cv2.meanStdDev(laplacian)
    return FrameQuality(
        mean,
        float(np.searchsorted(np.cumsum(histogram), DARK_QUANTILE * total)),
        float(histogram[BRIGHT_LEVEL:].sum() / total),
        float(deviation[0, 0] ** 2) / max(variance, 1.0),
    )


def blurred(qualities: list[FrameQuality]) -> NDArray[np.bool_]:
    """Return which frames, bool [F], are blurred, absolutely or relative to the others.

    The reference is the median sharpness of the frames that are not dark.
    """
    sharpness = np.array([quality.sharpness for quality in qualities])
    seen = [quality.sharpness for quality in qualities if not quality.is_dark]
    usual = float(np.median(seen)) if seen else 0.0
    limit = max(MIN_SHARPNESS, MIN_RELATIVE_SHARPNESS * usual)
    is_blurred: NDArray[np.bool_] = sharpness < limit
    return is_blurred
