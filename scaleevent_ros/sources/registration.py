"""Estimation of the homography between two cameras from the changes seen by both.

Between two times, a frame camera measures the change D of the logarithm of brightness. The events
of an event camera, summed with their signs, measure the same change E at each of its pixels
(Gallego et al., "Event-based Vision: A Survey", TPAMI 2022, section 2.4). Both are strong at edges
that moved. Where the views overlap, E is D warped by the homography between them, up to a gain and
noise. That homography is estimated from many intervals at once, from coarse to fine:

1. Exhaustive search over rotation and scale. For each, all shifts at once: normalized
   cross-correlation of the magnitudes of the changes, by Fourier transform, masked as in Padfield,
   "Masked Object Registration in the Fourier Domain", IEEE TIP 2012.
2. From the best few, least squares over the homography: Baker and Matthews, "Lucas-Kanade 20 Years
   On: A Unifying Framework", IJCV 2004, with a gain for each interval and Huber weights.
3. The same with parts of the intervals, for the error of the result.

Inside this module, homographies map pixels of the event image to those of the frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from scaleevent_ros.events.compile import kernel
from scaleevent_ros.sources.errors import AlignmentError
from scaleevent_ros.sources.similarity_search import Interval, prepare_change, search_similarity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

LEAST_INTERVALS = 8
"""Minimum number of intervals to estimate the error of an alignment."""

_LEAST_CORRELATION = 0.2
_MOST_RESIDUAL_PX = 3.0
_RIVAL = 0.8  # an alignment with more than this share of the best correlation is a rival
_SAME = 0.03  # of the event image's longer side: alignments closer than this are the same
_PARTS = 4

# Least squares.
_MIDDLE_LEVELS = ((128, False), (256, True))  # longer side in pixels, whether changes have signs
_FINE_SIDE = 640
_FINALISTS = 3
_HUBER = 1.5  # standard deviations
_DAMPING = 1e-3
_STILL_PX = 0.01
# Directions of the eight parameters that keep a homography a similarity; see `_Sums`.
_SIMILARITY = np.zeros((8, 4))
_SIMILARITY[[0, 4], 0] = 1
_SIMILARITY[[1, 3], 1] = -1, 1
_SIMILARITY[2, 2] = _SIMILARITY[5, 3] = 1


@dataclass(frozen=True, slots=True, eq=False)
class Registration:
    """Homography of frames into the event image.

    Attributes:
        matrix: Homography from pixels of frames to those of the event image, float64 [3, 3].
        residual_px: Root mean square difference of the event image's corners between estimates from
            quarters of the intervals.
        correlation: Correlation of both changes where the views overlap, at most 1.
    """

    matrix: NDArray[np.float64]
    residual_px: float
    correlation: float


class _Fit(NamedTuple):
    """A homography from event image to frame, and the correlation of the changes under it."""

    matrix: NDArray[np.float64]
    correlation: float


def register(
    intervals: Sequence[Interval], start: NDArray[np.float64] | None = None
) -> Registration:
    """Estimate the homography that maps changes in frames to changes in events.

    Args:
        intervals: Intervals of one recording in order of time, all of the same two sizes.
        start: Matrix of an earlier `Registration` that is nearly right; None for an exhaustive
            search.

    Raises:
        AlignmentError: If the result is not reliable: there are too few intervals, the correlation
            is low, another alignment is nearly as good, or parts of the recording disagree.
    """
    if len(intervals) < LEAST_INTERVALS:
        msg = (
            f"only {len(intervals)} intervals between frames show enough change to align by, "
            f"{LEAST_INTERVALS} are needed: record a scene with texture, and move the camera"
        )
        raise AlignmentError(msg)
    height, width = intervals[0].events.shape
    some = intervals[:: len(intervals) // LEAST_INTERVALS]
    starts = search_similarity(intervals) if start is None else [_inverse(start)]
    fits = [_Fit(matrix, 0.0) for matrix in starts]
    for side, signed in _MIDDLE_LEVELS[0 if start is None else 1 :]:
        level = _Level(some, side, signed=signed)
        fits = [_fit(level, fit.matrix, similarity_first=not signed) for fit in fits]
        fits = _different(fits, (width, height))[:_FINALISTS]

    level = _Level(intervals, _FINE_SIDE, signed=True)
    best = _fit(level, fits[0].matrix)
    if best.correlation < _LEAST_CORRELATION:
        msg = (
            "frames and events have too little in common: the best alignment has a correlation of "
            f"{best.correlation:.2f}, {_LEAST_CORRELATION} is needed: do they show one scene, and "
            "share one clock?"
        )
        raise AlignmentError(msg)
    for rival in fits[1:]:
        if rival.correlation > _RIVAL * fits[0].correlation:
            apart = _corner_distance(fits[0].matrix, rival.matrix, (width, height))
            msg = (
                f"the alignment is ambiguous: another one, {apart:.0f} px away, has a correlation "
                f"of {rival.correlation:.2f}, the best {fits[0].correlation:.2f}: record a scene "
                "whose texture does not repeat"
            )
            raise AlignmentError(msg)
    misses = [
        _corner_distance(best.matrix, _fit(level, best.matrix, part).matrix, (width, height))
        for part in range(_PARTS)
    ]
    residual = math.sqrt(sum(miss * miss for miss in misses) / _PARTS)
    if not residual <= _MOST_RESIDUAL_PX:
        msg = (
            f"parts of the recording disagree by {residual:.1f} px: is the scene too close for a "
            "homography, is texture missing in parts of the view, or do clocks drift?"
        )
        raise AlignmentError(msg)
    return Registration(_inverse(best.matrix), residual, best.correlation)


def agreement(intervals: Sequence[Interval], matrix: NDArray[np.float64]) -> float:
    """Return the correlation of changes under a homography, after least-squares refinement.

    Args:
        intervals: Intervals as for `register`.
        matrix: Matrix of a `Registration`, float64 [3, 3].
    """
    side, signed = _MIDDLE_LEVELS[-1]
    return _fit(_Level(intervals, side, signed=signed), _inverse(matrix)).correlation


def _inverse(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    inverse = np.linalg.inv(matrix)
    return np.asarray(inverse / inverse[2, 2], np.float64)


def _different(fits: Sequence[_Fit], size: tuple[int, int]) -> list[_Fit]:
    """Sort fits by correlation, and keep only the best of those with nearly equal homographies."""
    kept: list[_Fit] = []
    for fit in sorted(fits, key=lambda fit: -fit.correlation):
        if all(
            _corner_distance(other.matrix, fit.matrix, size) > _SAME * max(size) for other in kept
        ):
            kept.append(fit)
    return kept


def _corner_distance(
    one: NDArray[np.float64], other: NDArray[np.float64], size: tuple[int, int]
) -> float:
    """Compare two maps of the event image into the frame, in pixels of the event image.

    Returns:
        Root mean square distance of the event image's corners from where they are after `one` and
        the inverse of `other`.
    """
    width, height = size
    corners = np.array([[[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]]], float)
    back = cv2.perspectiveTransform(corners, np.linalg.solve(other, one))
    return float(np.sqrt(np.square(back - corners).sum(axis=-1).mean()))


class _Level:
    """Intervals at one resolution.

    Attributes:
        frames: Changes, float32 [N, H, W].
        events: Changes, float32 [N, h, w].
        frame_to_scaled: Matrix from pixels of frames to those of this level.
        event_to_scaled: The same for events.
    """

    def __init__(self, intervals: Sequence[Interval], side: int, *, signed: bool) -> None:
        frames, events = [], []
        for interval in intervals:
            frame, self.frame_to_scaled = prepare_change(interval.frame, side, signed=signed)
            event, self.event_to_scaled = prepare_change(interval.events, side, signed=signed)
            frames.append(frame)
            events.append(event)
        self.frames, self.events = np.stack(frames), np.stack(events)


def _fit(
    level: _Level,
    matrix: NDArray[np.float64],
    part: int | None = None,
    *,
    similarity_first: bool = False,
) -> _Fit:
    """Refine a homography from event image to frame by least squares until it converges.

    Args:
        level: The intervals.
        matrix: Initial homography.
        part: Index of the only quarter of the intervals to use; None for all.
        similarity_first: Estimate rotation, scale and shift before the full homography.

    Returns:
        The refined homography; the initial one with a correlation of 0 if it diverges.
    """
    frames, events = level.frames, level.events
    if part is not None:
        chosen = slice(part * len(frames) // _PARTS, (part + 1) * len(frames) // _PARTS)
        frames, events = frames[chosen], events[chosen]
    height, width = frames.shape[1:]
    tall, wide = events.shape[1:]
    # In unit coordinates of the frame, the eight parameters have similar magnitudes.
    unit = np.array([[2 / width, 0, -1], [0, 2 / width, -height / width], [0, 0, 1]])
    back = np.linalg.inv(unit)
    current = level.frame_to_scaled @ matrix @ np.linalg.inv(level.event_to_scaled)
    gains = np.full(len(frames), 0.5)
    deviation = 1.0
    correlation = 0.0
    for step in range(40):
        sums = np.zeros((len(frames), _SUMS))
        _accumulate(frames, events, current, unit, gains, _HUBER * deviation, sums)
        total = sums.sum(axis=0)
        count, e_e, d_d, e_d = total[:4]
        if count < 0.1 * len(frames) * min(height * width, tall * wide):
            return _Fit(matrix, 0.0)
        correlation = float(e_d / math.sqrt(max(e_e * d_d, 1e-12)))
        gains = np.maximum(sums[:, 3] / np.maximum(sums[:, 2], 1e-9), 0.05)
        deviation = math.sqrt(max(e_e - 2 * correlation * e_d + correlation**2 * d_d, 0) / count)
        basis = _SIMILARITY if similarity_first and step < 10 else np.eye(8)
        upper = total[4:68].reshape(8, 8)
        normal = basis.T @ (upper + np.triu(upper, 1).T) @ basis
        normal += _DAMPING * np.diag(np.diag(normal)) + 1e-9 * np.eye(len(normal))
        delta = basis @ np.linalg.solve(normal, basis.T @ total[68:76])
        moved = back @ (np.eye(3) + np.append(delta, 0).reshape(3, 3)) @ unit @ current
        change = _corner_distance(moved, current, (wide, tall))
        if not change < 0.25 * max(wide, tall):
            return _Fit(matrix, 0.0)
        current = moved / moved[2, 2]
        if change < _STILL_PX and (step >= 10 or not similarity_first):
            break
    found = np.linalg.inv(level.frame_to_scaled) @ current @ level.event_to_scaled
    return _Fit(found / found[2, 2], correlation)


_SUMS = 4 + 64 + 8


@kernel
def _accumulate(
    frames: NDArray[np.float32],
    events: NDArray[np.float32],
    matrix: NDArray[np.float64],
    unit: NDArray[np.float64],
    gains: NDArray[np.float64],
    huber: float,
    sums: NDArray[np.float64],
) -> None:
    """Sum the terms of a least-squares step, for each interval.

    The residual is E - gain * D(q), with q the position in the frame of a pixel of the event image.
    A step moves q, in unit coordinates (x, y), to ((1 + d0) x + d1 y + d2, d3 x + (1 + d4) y + d5)
    divided by (d6 x + d7 y + 1).

    Args:
        frames: D, [N, H, W].
        events: E, [N, h, w].
        matrix: Homography from the event image to the frame.
        unit: Scale and shift from pixels of the frame to unit coordinates.
        gains: Gain of each interval, [N].
        huber: Residual above which weights decrease.
        sums: Output, [N, 76], for each interval: count, E², D², E·D, the upper triangle of the
            matrix of the normal equations [8, 8], and their right side [8].
    """
    height, width = frames.shape[1:]
    tall, wide = events.shape[1:]
    row = np.empty(8)
    for n in range(len(frames)):
        for v in range(tall):
            for u in range(wide):
                w = matrix[2, 0] * u + matrix[2, 1] * v + matrix[2, 2]
                if w <= 0:
                    continue
                x = (matrix[0, 0] * u + matrix[0, 1] * v + matrix[0, 2]) / w
                y = (matrix[1, 0] * u + matrix[1, 1] * v + matrix[1, 2]) / w
                if not (0 <= x < width - 1 and 0 <= y < height - 1):
                    continue
                i, j = int(x), int(y)
                a, b = x - i, y - j
                p, q = frames[n, j, i], frames[n, j, i + 1]
                r, s = frames[n, j + 1, i], frames[n, j + 1, i + 1]
                top, bottom = p + a * (q - p), r + a * (s - r)
                seen = top + b * (bottom - top)
                slope_x = ((1 - b) * (q - p) + b * (s - r)) / unit[0, 0]
                slope_y = (bottom - top) / unit[1, 1]
                event = events[n, v, u]
                sums[n, 0] += 1
                sums[n, 1] += event * event
                sums[n, 2] += seen * seen
                sums[n, 3] += event * seen
                residual = event - gains[n] * seen
                weight = 1.0 if abs(residual) <= huber else huber / abs(residual)
                x = unit[0, 0] * x + unit[0, 2]
                y = unit[1, 1] * y + unit[1, 2]
                along = slope_x * x + slope_y * y
                row[0], row[1], row[2] = slope_x * x, slope_x * y, slope_x
                row[3], row[4], row[5] = slope_y * x, slope_y * y, slope_y
                row[6], row[7] = -along * x, -along * y
                for k in range(8):
                    row[k] *= gains[n]
                for k in range(8):
                    for m in range(k, 8):
                        sums[n, 4 + 8 * k + m] += weight * row[k] * row[m]
                    sums[n, 68 + k] += weight * row[k] * residual
