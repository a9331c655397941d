"""Exhaustive search for the similarity between two cameras; the first step of `registration`."""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_COARSE_SIDE = 64  # pixels of an image's longer side
_COARSE_INTERVALS = 8
_SCALES = 2.0 ** np.arange(-1, 1.01, 1 / 6)  # of the frame, relative to images of equal sides
_ROTATIONS = np.radians(np.arange(0, 360, 6))
_LEAST_OVERLAP = 0.25  # of the smaller image
_PEAK = 3  # pixels: shifts closer than this belong to one peak
_CANDIDATES = 8


class Interval(NamedTuple):
    """Changes measured by both cameras between two times.

    Attributes:
        frame: Change of the logarithm of brightness, float32 [H, W] of the frames.
        events: Sum of the events' signs, float32 [H, W] of the event image.
    """

    frame: NDArray[np.float32]
    events: NDArray[np.float32]


class _Candidate(NamedTuple):
    """A similarity from the scaled frame into the scaled event image, with its score."""

    score: float
    scale: float
    rotation: float
    into_event: NDArray[np.float64]


def prepare_change(
    change: NDArray[np.float32], side: int, *, signed: bool
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Scale a change, remove its local mean, and normalize it.

    Args:
        change: [H, W].
        side: Maximum length of the longer side after scaling, in pixels.
        signed: Keep the signs of the change; otherwise the root of its magnitude is used.

    Returns:
        float32 [h, w], of mean square 1, and the matrix from pixels to scaled pixels.
    """
    height, width = change.shape
    scale = min(side / max(height, width), 1.0)
    size = (max(round(width * scale), 2), max(round(height * scale), 2))
    image = change if signed else np.sqrt(np.abs(change))
    image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.float32)
    image = np.asarray(cv2.GaussianBlur(image, (0, 0), 1.0), np.float32)
    image -= cv2.GaussianBlur(image, (0, 0), max(size) / 16)
    spread = max(float(image.std()), 1e-9)
    image = np.clip(image / spread, -4, 4)
    image /= max(float(np.sqrt(np.square(image).mean())), 1e-9)
    to_scaled = np.diag([size[0] / width, size[1] / height, 1.0])
    to_scaled[:2, 2] = (to_scaled[[0, 1], [0, 1]] - 1) / 2
    return image, to_scaled


def search_similarity(intervals: Sequence[Interval]) -> list[NDArray[np.float64]]:
    """Try all rotations, scales and shifts; return the best few maps of event image to frame."""
    chosen = sorted(intervals, key=lambda interval: -float(np.abs(interval.events).sum()))
    prepared = [
        (
            *prepare_change(interval.frame, _COARSE_SIDE, signed=False),
            *prepare_change(interval.events, _COARSE_SIDE, signed=False),
        )
        for interval in chosen[:_COARSE_INTERVALS]
    ]
    frames = np.stack([item[0] for item in prepared])
    events = np.stack([item[2] for item in prepared])
    frame_to_scaled, event_to_scaled = prepared[0][1], prepared[0][3]
    found = []
    for scale, rotation in product(_SCALES, _ROTATIONS):
        turn = scale * np.array(
            [[math.cos(rotation), -math.sin(rotation)], [math.sin(rotation), math.cos(rotation)]]
        )
        for score, shift in _best_shifts(frames, events, turn):
            into_event = np.eye(3)
            into_event[:2, :2] = turn
            into_event[:2, 2] = shift
            found.append(_Candidate(score, scale, rotation, into_event))
    kept: list[_Candidate] = []
    for candidate in sorted(found, key=lambda candidate: -candidate.score):
        if all(_apart(candidate, other) for other in kept):
            kept.append(candidate)
        if len(kept) == _CANDIDATES:
            break
    # From event image to scaled event image, to scaled frame, to frame.
    return [
        np.linalg.inv(frame_to_scaled) @ np.linalg.inv(candidate.into_event) @ event_to_scaled
        for candidate in kept
    ]


def _apart(one: _Candidate, other: _Candidate) -> bool:
    """Return whether two candidates are not neighbours in scale and rotation.

    Candidates of the same scale and rotation count as apart: they are different peaks of the shift.
    """
    turn = abs((one.rotation - other.rotation + math.pi) % (2 * math.pi) - math.pi)
    ratio = abs(math.log2(one.scale / other.scale))
    return ratio > 0.2 or turn > math.radians(7) or (ratio, turn) == (0, 0)


def _best_shifts(
    frames: NDArray[np.float32], events: NDArray[np.float32], turn: NDArray[np.float64]
) -> list[tuple[float, NDArray[np.float64]]]:
    """Find the two shifts under which turned frames correlate best with events.

    Args:
        frames: Changes [N, H, W].
        events: Changes [N, h, w].
        turn: Rotation and scale, float64 [2, 2].

    Returns:
        Score and shift of each, float64 [2], in pixels after the turn.
    """
    height, width = frames.shape[1:]
    corners = np.array([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]]) @ turn.T
    low = np.floor(corners.min(axis=0))
    columns, rows = (np.ceil(corners.max(axis=0)) - low + 1).astype(int).tolist()
    affine = np.hstack([turn, -low[:, None]])
    flags = cv2.INTER_AREA if turn[0, 0] ** 2 + turn[1, 0] ** 2 < 1 else cv2.INTER_LINEAR
    size = (columns, rows)
    turned = np.stack([cv2.warpAffine(frame, affine, size, flags=flags) for frame in frames])
    inside = cv2.warpAffine(np.ones((height, width), np.float32), affine, size)
    tall, wide = events.shape[1:]
    shape = (cv2.getOptimalDFTSize(rows + tall), cv2.getOptimalDFTSize(columns + wide))

    def spectrum(image: NDArray[Any]) -> NDArray[np.complex128]:
        return np.asarray(np.fft.rfft2(image, shape))

    def correlate(
        one: NDArray[np.complex128], other: NDArray[np.complex128]
    ) -> NDArray[np.float64]:
        """Cross-correlate two images, given by their spectra, at all shifts."""
        return np.asarray(np.fft.irfft2(np.conj(one) * other, shape))

    product_sum = np.asarray(
        np.fft.irfft2((np.conj(spectrum(turned)) * spectrum(events)).sum(axis=0), shape)
    )
    inside_spectrum = spectrum(inside)
    everywhere = spectrum(np.ones((tall, wide), np.float32))
    event_energy = correlate(inside_spectrum, spectrum(np.square(events).sum(axis=0)))
    frame_energy = correlate(spectrum(np.square(turned).sum(axis=0)), everywhere)
    overlap = correlate(inside_spectrum, everywhere)
    enough = overlap > _LEAST_OVERLAP * min(float(inside.sum()), tall * wide)
    energy = np.sqrt(np.maximum(event_energy, 1) * np.maximum(frame_energy, 1))
    # The root of the overlap makes it a significance: small overlaps correlate by chance.
    score = np.where(enough, product_sum / energy * np.sqrt(np.maximum(overlap, 0)), -np.inf)
    best = []
    for _ in range(2):
        row, column = map(int, np.unravel_index(score.argmax(), score.shape))
        # The transform is periodic: shifts beyond the event image are negative.
        shift_y = row if row < tall else row - shape[0]
        shift_x = column if column < wide else column - shape[1]
        best.append((float(score[row, column]), np.array([shift_x, shift_y]) - low))
        around = np.arange(-_PEAK, _PEAK + 1)
        score[np.ix_((row + around) % shape[0], (column + around) % shape[1])] = -np.inf
    return best
