"""A still picture under a moving virtual camera: frames, events, labels and flow, in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import cv2
import numpy as np

from scaleevent_ros.events.batch import EventBatch
from scaleevent_ros.sources.camera_motion import (
    exact_flow,
    largest_displacement,
    random_motion,
    see,
    see_labels,
)
from scaleevent_ros.sources.errors import SimulationError
from scaleevent_ros.sources.simulator import EventSimulator, PixelModel, log_intensity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from scaleevent_ros.sources.camera_motion import CameraMotion


@dataclass(frozen=True, slots=True)
class StillOptions:
    """How a still picture is filmed.

    Attributes:
        frames: Their number.
        frame_rate: In Hz.
        margin: Events start so long before the first frame and end so long after the last, in s.
        strength: Of the motion; see `random_motion`.
        size: Width and height of the views, in pixels; the picture is scaled and cropped to cover
            them. None keeps the picture's own.
        pixels: The model of the event camera's pixels.
    """

    frames: int = 10
    frame_rate: float = 25.0
    margin: float = 0.1
    strength: float = 1.0
    size: tuple[int, int] | None = None
    pixels: PixelModel = field(default_factory=PixelModel)

    def __post_init__(self) -> None:
        """Check that there is something to film."""
        if self.frames < 1 or not self.frame_rate > 0 or not 0 <= self.margin < math.inf:
            msg = (
                f"{self.frames} frames at {self.frame_rate} Hz with a margin of {self.margin} s "
                "cannot be simulated"
            )
            raise SimulationError(msg)
        if self.size is not None and min(self.size) < 2:
            msg = f"views of {self.size[0]}x{self.size[1]} pixels are too small"
            raise SimulationError(msg)

    @property
    def frames_us(self) -> list[int]:
        """Times of the frames, in µs since events start."""
        start = round(self.margin * 1e6)
        return [start + round(i * 1e6 / self.frame_rate) for i in range(self.frames)]

    @property
    def length_us(self) -> int:
        """How long events last, in µs."""
        return self.frames_us[-1] + round(self.margin * 1e6)


@dataclass(frozen=True, slots=True, eq=False)
class StillSequence:
    """What a camera with a frame sensor and an event sensor behind one lens saw of a picture.

    Attributes:
        stamps: Times of the frames, int64 [N], in ns.
        frames: uint8 [N, H, W, 3] red-green-blue, or [N, H, W] if the picture is grey.
        events: On the same clock, in the same pixels.
        labels: Class ids at the frames' times, uint8 [N, H, W], if the picture had labels.
        homographies: From the view of each frame into the picture, float64 [N, 3, 3].
        camera_matrix: K of the camera, float64 [3, 3].
    """

    stamps: NDArray[np.int64]
    frames: NDArray[np.uint8]
    events: EventBatch
    labels: NDArray[np.uint8] | None
    homographies: NDArray[np.float64]
    camera_matrix: NDArray[np.float64]

    def flow(self, index: int) -> NDArray[np.float32]:
        """Compute the exact flow from one frame to the next.

        Args:
            index: Of the first of the two, 0 to N - 2.

        Returns:
            float32 [H, W, 2], in pixels to the right and down.
        """
        size = (self.events.width, self.events.height)
        return exact_flow(self.homographies[index], self.homographies[index + 1], size)


def simulate_still(
    picture: NDArray[np.uint8],
    labels: NDArray[np.uint8] | None = None,
    *,
    options: StillOptions | None = None,
    seed: int = 0,
    start_ns: int = 0,
) -> StillSequence:
    """Film a still picture with a moving camera that sees frames and events.

    Between frames the picture is rendered often enough for nothing to move by more than a pixel.

    Args:
        picture: uint8 [H, W, 3] red-green-blue, or [H, W] grey.
        labels: Class ids, uint8 [H, W].
        options: How it is filmed.
        seed: The same inputs and seed give the same sequence.
        start_ns: When events start.

    Raises:
        SimulationError: If the picture is not of that kind, or labels are of another size.
    """
    options = StillOptions() if options is None else options
    if (
        picture.dtype != np.uint8
        or picture.ndim not in {2, 3}
        or picture.shape[2:] not in {(), (3,)}
    ):
        msg = f"a picture is {picture.dtype} {picture.shape}, not uint8 [H, W, 3] or [H, W]"
        raise SimulationError(msg)
    if labels is not None and (labels.shape != picture.shape[:2] or labels.dtype != np.uint8):
        msg = f"labels are {labels.dtype} {labels.shape}, of a picture of {picture.shape[:2]}"
        raise SimulationError(msg)
    size = (picture.shape[1], picture.shape[0]) if options.size is None else options.size
    picture = cover(picture, size, cv2.INTER_AREA)
    rng = np.random.default_rng(seed)
    motion = random_motion(rng, size, options.strength)
    simulator = EventSimulator(size[0], size[1], options.pixels, int(rng.integers(1 << 62)))

    grey = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    light = grey.astype(np.float32)
    events = [
        simulator.push_log(
            log_intensity(see(light, motion.homography(t_us * 1e-6)), options.pixels.toe),
            start_ns + t_us * 1000,
        )
        for t_us in _render_times(motion, [0, *options.frames_us, options.length_us])
    ]
    homographies = np.stack([motion.homography(t * 1e-6) for t in options.frames_us])
    if labels is not None:
        labels = cover(labels, size, cv2.INTER_NEAREST_EXACT)
    return StillSequence(
        start_ns + np.array(options.frames_us, np.int64) * 1000,
        np.stack([see(picture, homography) for homography in homographies]),
        EventBatch.concatenate(events),
        None if labels is None else np.stack([see_labels(labels, h) for h in homographies]),
        homographies,
        motion.camera_matrix,
    )


def cover(picture: NDArray[np.uint8], size: tuple[int, int], how: int) -> NDArray[np.uint8]:
    """Scale a picture until it covers a size, and cut its middle out.

    Args:
        picture: [H, W] or [H, W, C].
        size: Width and height.
        how: OpenCV's interpolation; `cv2.INTER_AREA` becomes linear where the picture grows.
    """
    height, width = picture.shape[:2]
    scale = max(size[0] / width, size[1] / height)
    scaled = (max(round(width * scale), size[0]), max(round(height * scale), size[1]))
    if scaled != (width, height):
        if scale > 1 and how == cv2.INTER_AREA:
            how = cv2.INTER_LINEAR
        picture = np.asarray(cv2.resize(picture, scaled, interpolation=how), np.uint8)
    left, top = (scaled[0] - size[0]) // 2, (scaled[1] - size[1]) // 2
    return np.ascontiguousarray(picture[top : top + size[1], left : left + size[0]])


def _render_times(motion: CameraMotion, anchors_us: list[int]) -> Iterator[int]:
    """Give times in µs, the anchors among them, between which nothing moves by over a pixel."""
    yield anchors_us[0]
    for start, end in pairwise(anchors_us):
        if start == end:
            continue
        before, after = motion.homography(start * 1e-6), motion.homography(end * 1e-6)
        steps = math.ceil(largest_displacement(before, after, motion.size))
        steps = min(max(steps, 1), end - start)
        for step in range(1, steps + 1):
            yield start + (end - start) * step // steps
