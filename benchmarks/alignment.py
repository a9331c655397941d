"""Error and duration of alignment on known homographies.

A photograph is filmed by a simulated event camera of 480x360 pixels. Its frames are warped by a
random homography, to another size. In the group `small` they are rotated by at most 6 degrees and
scaled by at most 7 %, in `middle` by 30 degrees and a third, and in `any` by any angle.
"""

from __future__ import annotations

import argparse
import time

import cv2
import numpy as np
from skimage import data

from scaleevent_ros.sources.errors import AlignmentError
from scaleevent_ros.sources.registration import register
from scaleevent_ros.sources.similarity_search import Interval
from scaleevent_ros.sources.simulator import log_intensity
from scaleevent_ros.sources.stills import StillOptions, simulate_still

EVENT_SIZE = (480, 360)
FRAME_SIZES = ((480, 360), (640, 480), (960, 540), (346, 260))
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")
# Largest rotation in degrees, logarithm to base 2 of the scale, shift in pixels, and perspective.
GROUPS = {"small": (6, 0.1, 20, 0), "middle": (30, 0.4, 40, 1e-4), "any": (180, 0.8, 40, 1e-4)}
INTERVALS = 24
TOE = 20.0


def draw_homography(
    rng: np.random.Generator, group: str, frame_size: tuple[int, int]
) -> np.ndarray:
    """Draw a random homography from frames of a size to the event image, [3, 3]."""
    angle, scale, shift, tilt = GROUPS[group]
    turn = np.radians(rng.uniform(-angle, angle))
    factor = EVENT_SIZE[0] / frame_size[0] * 2 ** rng.uniform(-scale, scale)
    c, s = factor * np.cos(turn), factor * np.sin(turn)
    middle = np.array([[c, -s, 0], [s, c, 0], [*rng.uniform(-tilt, tilt, 2), 1]])
    to_middle, back = np.eye(3), np.eye(3)
    to_middle[:2, 2] = -(np.array(frame_size) - 1) / 2
    back[:2, 2] = (np.array(EVENT_SIZE) - 1) / 2 + rng.uniform(-shift, shift, 2)
    return np.asarray(back @ middle @ to_middle)


def film(
    picture: np.ndarray, matrix: np.ndarray, frame_size: tuple[int, int], seed: int
) -> list[Interval]:
    """Film a picture, warp its frames by a homography, and return the intervals between frames."""
    options = StillOptions(frames=INTERVALS + 1, size=EVENT_SIZE)
    sequence = simulate_still(picture, options=options, seed=seed)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    frames = [
        cv2.warpPerspective(
            cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY),
            matrix,
            frame_size,
            flags=flags,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        for frame in sequence.frames
    ]
    intervals = []
    for i in range(INTERVALS):
        events = sequence.events.between(int(sequence.stamps[i]), int(sequence.stamps[i + 1]))
        signs = np.zeros(EVENT_SIZE[::-1], np.float32)
        np.add.at(signs, (events.y, events.x), 2 * events.p.astype(np.float32) - 1)
        before, after = (
            log_intensity(np.asarray(frame, np.uint8), TOE) for frame in frames[i : i + 2]
        )
        change = np.asarray(after - before, np.float32)
        intervals.append(Interval(change, signs))
    return intervals


def corner_error(found: np.ndarray, truth: np.ndarray, frame_size: tuple[int, int]) -> float:
    """Return the largest distance in pixels between corners mapped by both homographies.

    The corners are those of the frame and of the event image.
    """
    errors = []
    for (width, height), way in ((frame_size, np.eye(3)), (EVENT_SIZE, np.linalg.inv(truth))):
        corners = np.array(
            [[[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]]], float
        )
        points = cv2.perspectiveTransform(corners, way)
        one, other = (cv2.perspectiveTransform(points, matrix) for matrix in (found, truth))
        errors.append(np.linalg.norm(one - other, axis=-1).max())
    return float(max(errors))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=8, help="Number of trials in each group.")
    arguments = parser.parse_args()
    print("| group | found | corner error, median | worst | reported residual, median | seconds |")
    print("|---|---|---|---|---|---|")
    for group in GROUPS:
        rng = np.random.default_rng(0)
        errors, residuals, seconds = [], [], []
        for trial in range(arguments.trials):
            frame_size = FRAME_SIZES[trial % len(FRAME_SIZES)]
            picture = getattr(data, PHOTOGRAPHS[trial % len(PHOTOGRAPHS)])()
            truth = draw_homography(rng, group, frame_size)
            intervals = film(picture, truth, frame_size, seed=trial)
            start = time.perf_counter()
            try:
                found = register(intervals)
            except AlignmentError as error:
                print(f"<!-- {group} {trial}: {error} -->")
                continue
            seconds.append(time.perf_counter() - start)
            errors.append(corner_error(found.matrix, truth, frame_size))
            residuals.append(found.residual_px)
        print(
            f"| {group} | {len(errors)} of {arguments.trials} | {np.median(errors):.2f} px | "
            f"{max(errors):.2f} px | {np.median(residuals):.2f} px | {np.median(seconds):.1f} |"
        )


if __name__ == "__main__":
    main()
