"""Simulation of a virtual camera over a still picture: frames, events, labels and flow in memory.

The camera moves and may pause, or stands still while objects move in front of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
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
from scaleevent_ros.sources.moving_objects import random_objects
from scaleevent_ros.sources.pixel_model import PixelModel, vary_pixels
from scaleevent_ros.sources.simulator import EventSimulator, log_intensity

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from scaleevent_ros.sources.camera_motion import CameraMotion
    from scaleevent_ros.sources.moving_objects import MovingObject

UNLABELED = 255
"""Class id of pixels whose class is unknown, such as those of moving objects."""

_PAUSE_S = (0.3, 2.5)
_DARKEST = 0.04
_STRAIGHT_US = 50_000  # duration in which motion is nearly straight


@dataclass(frozen=True, slots=True)
class StillOptions:
    """Options of the simulated motion over a still picture.

    Attributes:
        frames: Number of frames.
        frame_rate: Frames per second.
        margin: Duration of events before the first frame and after the last, in s.
        lead: Additional duration of events before the first frame, in s.
        strength: Strength of the camera's motion; see `random_motion`.
        size: Width and height of the views, in pixels; the picture is scaled and cropped to them.
            None for the picture's own size.
        pixels: Model of the event camera's pixels.
        pause_share: Probability that the camera pauses once during the clip, from 0 to 1.
        still_share: Probability that the camera stands still throughout, from 0 to 1; objects,
            if there are any, then move in front of it.
        objects: Maximum number of objects that move through the scene.
        frame_scale: Resolution of frames relative to the event sensor, in each direction, for
            teachers with finer input.
        vary: Draw contrast thresholds, bandwidth and noise of the pixels, and the brightness of
            the scene for each clip at random, from good sensors by daylight to noisy ones in the
            dark. Frames keep the brightness of the picture.
    """

    frames: int = 10
    frame_rate: float = 25.0
    margin: float = 0.1
    lead: float = 0.0
    strength: float = 1.0
    size: tuple[int, int] | None = None
    pixels: PixelModel = field(default_factory=PixelModel)
    pause_share: float = 0.0
    still_share: float = 0.0
    objects: int = 0
    frame_scale: int = 1
    vary: bool = False

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            SimulationError: If a value is out of range.
        """
        for name in ("pause_share", "still_share"):
            if not 0 <= getattr(self, name) <= 1:
                msg = f"{name} is {getattr(self, name)}; a probability is from 0 to 1"
                raise SimulationError(msg)
        if not 1 <= self.frame_scale <= 8:
            msg = f"frame_scale is {self.frame_scale}; it is a whole number from 1 to 8"
            raise SimulationError(msg)
        if self.objects < 0:
            msg = f"{self.objects} objects cannot move through a scene"
            raise SimulationError(msg)
        if not 0 <= self.lead < math.inf:
            msg = f"lead is {self.lead}; it must be 0 s or more"
            raise SimulationError(msg)
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
        """Times of the frames, in µs since the start of the events."""
        start = round((self.lead + self.margin) * 1e6)
        return [start + round(i * 1e6 / self.frame_rate) for i in range(self.frames)]

    @property
    def length_us(self) -> int:
        """Duration of the events in µs."""
        return self.frames_us[-1] + round(self.margin * 1e6)


@dataclass(frozen=True, slots=True, eq=False)
class StillSequence:
    """Frames and events of a simulated camera with both sensors behind one lens.

    Attributes:
        stamps: Times of the frames, int64 [N], in ns.
        frames: uint8 [N, H, W, 3] red-green-blue, or [N, H, W] if the picture is grey;
            ``frame_scale`` times as large as the sensor.
        events: Events on the same clock, in the same pixels.
        labels: Class ids at the frames' times, uint8 [N, H, W], if the picture had labels;
            `UNLABELED` under moving objects.
        homographies: Homographies from the sensor's view at the time of each frame into the
            picture, float64 [N, 3, 3].
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
            index: Index of the first of the two frames, 0 to N - 2.

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
    cutouts: Sequence[NDArray[np.uint8]] = (),
) -> StillSequence:
    """Simulate a camera with a frame sensor and an event sensor that moves over a still picture.

    Between frames the picture is rendered so often that nothing moves by more than a pixel.

    Args:
        picture: uint8 [H, W, 3] red-green-blue, or [H, W] grey.
        labels: Class ids, uint8 [H, W].
        options: Options of the simulation.
        seed: Seed of all random numbers.
        start_ns: Start of the events in ns.
        cutouts: Pictures of objects to draw from, uint8 [h, w, 4]; see `read_cutouts`.

    Raises:
        SimulationError: If the picture has another shape or dtype, labels have another size, or
            there are no cutouts for the objects of the options.
    """
    options = StillOptions() if options is None else options
    if (
        picture.dtype != np.uint8
        or picture.ndim not in {2, 3}
        or picture.shape[2:] not in {(), (3,)}
    ):
        msg = f"the picture is {picture.dtype} {picture.shape}, not uint8 [H, W, 3] or [H, W]"
        raise SimulationError(msg)
    if labels is not None and (labels.shape != picture.shape[:2] or labels.dtype != np.uint8):
        msg = f"labels are {labels.dtype} {labels.shape}, not uint8 {picture.shape[:2]}"
        raise SimulationError(msg)
    if options.objects and not cutouts:
        msg = f"{options.objects} objects shall move through the scene, but there are no cutouts"
        raise SimulationError(msg)
    size = (picture.shape[1], picture.shape[0]) if options.size is None else options.size
    scene = _Scene(picture, options, size, cutouts, seed)
    simulator = EventSimulator(size[0], size[1], scene.pixels, scene.pixel_seed)
    events = [
        simulator.push_log(
            log_intensity(scene.light(t_us * 1e-6), scene.pixels.toe), start_ns + t_us * 1000
        )
        for t_us in _render_times(
            scene.motion, [0, *options.frames_us, options.length_us], scene.objects
        )
    ]
    times = [t_us * 1e-6 for t_us in options.frames_us]
    frames, hidden = zip(*(scene.frame(t) for t in times), strict=True)
    homographies = np.stack([scene.motion.homography(t) for t in times])
    if labels is not None:
        covered = cover(labels, size, cv2.INTER_NEAREST_EXACT)
        labels = np.stack([see_labels(covered, homography) for homography in homographies])
        labels[np.stack(hidden)] = UNLABELED
    return StillSequence(
        start_ns + np.array(options.frames_us, np.int64) * 1000,
        np.stack(frames),
        EventBatch.concatenate(events),
        labels,
        homographies,
        scene.motion.camera_matrix,
    )


class _Scene:
    """A picture, the camera's motion in front of it, and objects between them.

    Attributes:
        motion: The camera's motion.
        objects: Objects, the nearest last.
        pixels: Model of the event camera's pixels.
        pixel_seed: Seed of their mismatch and noise.
    """

    def __init__(
        self,
        picture: NDArray[np.uint8],
        options: StillOptions,
        size: tuple[int, int],
        cutouts: Sequence[NDArray[np.uint8]],
        seed: int,
    ) -> None:
        rng = np.random.default_rng(seed)
        motion = random_motion(rng, size, options.strength)
        self.pixel_seed = int(rng.integers(1 << 62))
        length_s = options.length_us * 1e-6
        if rng.random() < options.still_share:
            motion = replace(motion, amplitude=np.zeros_like(motion.amplitude))
        if rng.random() < options.pause_share:
            start = rng.uniform(0.1, 0.9) * length_s
            motion = replace(motion, pauses=np.array([[start, start + rng.uniform(*_PAUSE_S)]]))
        self.motion = motion
        count = int(rng.integers(1, options.objects + 1)) if options.objects else 0
        self.objects = random_objects(rng, list(cutouts), count, size, length_s)
        self.pixels, self._brightness = options.pixels, 1.0
        if options.vary:
            self.pixels = vary_pixels(options.pixels, rng)
            self._brightness = _DARKEST ** max(0.0, rng.uniform(-0.5, 1))
        self._scale = scale = options.frame_scale
        self._picture = cover(picture, (size[0] * scale, size[1] * scale), cv2.INTER_AREA)
        grey = cover(picture, size, cv2.INTER_AREA)
        if grey.ndim == 3:
            grey = np.asarray(cv2.cvtColor(grey, cv2.COLOR_RGB2GRAY), np.uint8)
        self._light = grey.astype(np.float32)
        self._background, self._homography = self._light, np.empty((0, 0))

    def light(self, t: float) -> NDArray[np.float32]:
        """Render the intensity at a time (s), from 0 to 255: float32 [H, W]."""
        homography = self.motion.homography(t)
        if not np.array_equal(homography, self._homography):
            self._background, self._homography = see(self._light, homography), homography
        view = self._background.copy() if self.objects else self._background
        for item in self.objects:
            item.draw(view, t)
        return view if self._brightness == 1.0 else view * np.float32(self._brightness)

    def frame(self, t: float) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Render the frame at a time (s), and a mask of pixels hidden by objects, bool [H, W]."""
        scale, homography = self._scale, self.motion.homography(t)
        if scale > 1:
            # Pixel centres have integer coordinates in both grids.
            finer = np.array([[scale, 0, (scale - 1) / 2], [0, scale, (scale - 1) / 2], [0, 0, 1]])
            homography = finer @ homography @ np.linalg.inv(finer)
        view = see(self._picture, homography)
        hidden = np.zeros(view.shape[:2], np.bool_)
        if self.objects:
            drawn = view.astype(np.float32)
            for item in self.objects:
                hidden |= item.draw(drawn, t, scale)
            view = np.clip(np.rint(drawn), 0, 255).astype(np.uint8)
        return view, hidden[scale // 2 :: scale, scale // 2 :: scale]


def cover(picture: NDArray[np.uint8], size: tuple[int, int], how: int) -> NDArray[np.uint8]:
    """Scale a picture to cover a size, and crop it to its centre.

    Args:
        picture: uint8 [H, W] or [H, W, C].
        size: Width and height in pixels.
        how: OpenCV's interpolation; `cv2.INTER_AREA` becomes linear if the picture is enlarged.
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


def _render_times(
    motion: CameraMotion, anchors_us: list[int], objects: Sequence[MovingObject] = ()
) -> Iterator[int]:
    """Yield times in µs, with the anchors, between which nothing moves by more than a pixel."""
    yield anchors_us[0]
    spans = (_split_span(*span) for span in pairwise(anchors_us) if span[0] != span[1])
    for start, end in (part for span in spans for part in span):
        before, after = motion.homography(start * 1e-6), motion.homography(end * 1e-6)
        distance = largest_displacement(before, after, motion.size)
        for item in objects:
            moved = item.position(end * 1e-6) - item.position(start * 1e-6)
            distance = max(distance, float(np.linalg.norm(moved)))
        steps = min(max(math.ceil(distance), 1), end - start)
        for step in range(1, steps + 1):
            yield start + (end - start) * step // steps


def _split_span(start_us: int, end_us: int) -> list[tuple[int, int]]:
    """Split a span into parts short enough for motion to be straight within each."""
    parts = -(-(end_us - start_us) // _STRAIGHT_US)
    edges = [start_us + (end_us - start_us) * part // parts for part in range(parts + 1)]
    return list(pairwise(edges))
