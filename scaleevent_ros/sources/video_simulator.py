"""Simulation of events from the frames of a video, with interpolated frames in between."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from scaleevent_ros.events import EventBatch
from scaleevent_ros.sources.interpolation import frames_between
from scaleevent_ros.sources.simulator import EventSimulator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scaleevent_ros.sources.pixel_model import PixelModel

_MOST_STEPS = 64  # maximum number of steps between two frames


class VideoSimulator:
    """Simulated event camera that is given the frames of a video.

    Args:
        size: Width and height of the sensor and of its frames, in pixels.
        pixels: Model of its pixels; see `PixelModel`.
        seed: Seed of the pixels' mismatch and noise.
        interpolate: Whether frames are interpolated along the optical flow where they move by more
            than a pixel.
    """

    def __init__(
        self,
        size: tuple[int, int],
        pixels: PixelModel | None = None,
        seed: int = 0,
        *,
        interpolate: bool = True,
    ) -> None:
        self._simulator = EventSimulator(*size, pixels, seed)
        self._interpolate = interpolate
        self._before: NDArray[np.uint8] | None = None
        self._before_us = 0

    def push(self, frame: NDArray[np.uint8], t_us: int) -> EventBatch:
        """Simulate the events up to the next frame.

        Args:
            frame: Red-green-blue [H, W, 3] or grey [H, W], of the sensor's size.
            t_us: Time in µs, later than the previous frame's.

        Returns:
            The events since the previous frame; none for the first frame.

        Raises:
            SimulationError: If the frame has another size, or its time is not later.
        """
        grey = frame if frame.ndim == 2 else cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        grey = np.asarray(grey, np.uint8)
        batches = []
        if self._before is not None and self._interpolate and grey.shape == self._before.shape:
            length_us = t_us - self._before_us
            steps = min(max(length_us, 1), _MOST_STEPS)
            for fraction, between in frames_between(self._before, grey, steps):
                between_us = self._before_us + int(fraction * length_us)
                batches.append(self._simulator.push(between, between_us * 1000))
        batches.append(self._simulator.push(grey, t_us * 1000))
        self._before, self._before_us = grey, t_us
        return EventBatch.concatenate(batches)
