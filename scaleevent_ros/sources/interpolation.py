"""Interpolation of frames along the optical flow.

If intensities are interpolated linearly between two frames, an edge that jumps by several pixels
fades out at one place and in at another. Moved along the flow in steps below a pixel, it passes the
pixels in between, and events get the right times: Gehrig et al., "Video to Events: Recycling Video
Datasets for Event Cameras", CVPR 2020. Flows and frames are combined as in Jiang et al., "Super
SloMo", CVPR 2018, equations 1 to 4; a pixel is visible to the degree to which forward and backward
flow agree. The flow is OpenCV's DIS: Kroeger et al., "Fast Optical Flow using Dense Inverse
Search", ECCV 2016.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np

from scaleevent_ros.events.compile import kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_FASTEST_PERCENTILE = 99.5  # of displacements: single wild vectors do not count


def frames_between(
    before: NDArray[np.uint8], after: NDArray[np.uint8], max_steps: int = 64
) -> Iterator[tuple[float, NDArray[np.float32]]]:
    """Interpolate as many frames as are needed for steps of about one pixel.

    Args:
        before: First frame, grey, uint8 [H, W].
        after: Second frame, grey, uint8 [H, W].
        max_steps: Maximum number of steps from the first to the second, for fast motion.

    Yields:
        Position between the frames, above 0 and below 1, and the intensities, float32 [H, W].
        Nothing if no motion exceeds a pixel.
    """
    # A new object for each pair: it would start from the last flow's state otherwise.
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    forth = np.asarray(dis.calc(before, after, np.empty(0, np.float32)), np.float32)
    back = np.asarray(dis.calc(after, before, np.empty(0, np.float32)), np.float32)
    fastest = np.percentile(np.hypot(forth[..., 0], forth[..., 1]), _FASTEST_PERCENTILE)
    steps = min(math.ceil(fastest), max_steps)
    if steps < 2:
        return
    weighted_before = _weighted(before, _visibility(forth, back))
    weighted_after = _weighted(after, _visibility(back, forth))
    for step in range(1, steps):
        fraction = step / steps
        frame = _blend(np.float32(fraction), weighted_before, weighted_after, forth, back)
        yield fraction, frame


def _weighted(frame: NDArray[np.uint8], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stack a frame's intensities times their weights, and the weights, float32 [H, W, 2]."""
    return np.stack([frame * weight, weight], axis=-1)


@kernel
def _corner(x: np.float32, y: np.float32, width: int, height: int) -> tuple[int, int, float, float]:
    """Clamp a position to the picture; return the pixel to its upper left, and the offset to it."""
    x = min(max(x, np.float32(0)), np.float32(width - 1))
    y = min(max(y, np.float32(0)), np.float32(height - 1))
    column, row = min(int(x), width - 2), min(int(y), height - 2)
    return column, row, x - np.float32(column), y - np.float32(row)


@kernel
def _visibility(forth: NDArray[np.float32], back: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weight pixels by their error after the flow forth and back: 1 for none, 0.5 for one pixel.

    Args:
        forth: Flow [H, W, 2] of the weighted pixels to the other frame.
        back: Flow [H, W, 2] of the other frame to this one.

    Returns:
        float32 [H, W].
    """
    height, width = forth.shape[:2]
    weight = np.empty((height, width), np.float32)
    for y in range(height):
        for x in range(width):
            i, j, u, v = _corner(x + forth[y, x, 0], y + forth[y, x, 1], width, height)
            squared = 0.0
            for k in range(2):
                top = back[j, i, k] * (1 - u) + back[j, i + 1, k] * u
                bottom = back[j + 1, i, k] * (1 - u) + back[j + 1, i + 1, k] * u
                squared += (forth[y, x, k] + top * (1 - v) + bottom * v) ** 2
            weight[y, x] = 1 / (1 + squared)
    return weight


@kernel
def _blend(
    fraction: np.float32,
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    forth: NDArray[np.float32],
    back: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Interpolate two frames by backward warping.

    Args:
        fraction: Position between the frames: 0 at the first, 1 at the second.
        before: Intensities of the first frame times their weights, and the weights, [H, W, 2].
        after: The same of the second frame.
        forth: Flow [H, W, 2] from the first frame to the second.
        back: Flow from the second to the first.

    Returns:
        float32 [H, W].
    """
    height, width = before.shape[:2]
    one = np.float32(1)
    rest = one - fraction
    light = np.empty((height, width), np.float32)
    for y in range(height):
        for x in range(width):
            total = weight = np.float32(0)
            for frame, share, flow_x, flow_y in (
                (
                    before,
                    rest,
                    fraction * back[y, x, 0] - rest * forth[y, x, 0],
                    fraction * back[y, x, 1] - rest * forth[y, x, 1],
                ),
                (
                    after,
                    fraction,
                    rest * forth[y, x, 0] - fraction * back[y, x, 0],
                    rest * forth[y, x, 1] - fraction * back[y, x, 1],
                ),
            ):
                reach = one - share
                i, j, u, v = _corner(
                    np.float32(x) + reach * flow_x, np.float32(y) + reach * flow_y, width, height
                )
                p, q = (one - u) * (one - v) * share, u * (one - v) * share
                r, s = (one - u) * v * share, u * v * share
                total += p * frame[j, i, 0] + q * frame[j, i + 1, 0]
                total += r * frame[j + 1, i, 0] + s * frame[j + 1, i + 1, 0]
                weight += p * frame[j, i, 1] + q * frame[j, i + 1, 1]
                weight += r * frame[j + 1, i, 1] + s * frame[j + 1, i + 1, 1]
            light[y, x] = total / weight
    return light
