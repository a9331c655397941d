"""Recordings made up on the spot: blurred noise that slides past, seen as events."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import cv2
import numpy as np

from scaleevent_ros.data.alignment import HomographyAlignment
from scaleevent_ros.data.dataset import Pair
from scaleevent_ros.events import EventBatch
from scaleevent_ros.sources.convert import ConvertOptions, convert_recording
from scaleevent_ros.sources.recording import (
    FRAMES_TOPIC,
    ClockStatement,
    Picture,
    PictureStream,
    Recording,
)
from scaleevent_ros.sources.simulator import EventSimulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

MS = 1_000_000
FRAME_MS = 40


@dataclass(frozen=True)
class SlidingTexture:
    """A `PairSource`: frames every 40 ms of a texture that slides by 3 pixels in 4 ms."""

    count: int
    width: int = 64
    height: int = 48
    seed: int = 0
    name: str = "sliding texture"

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> Pair:
        t_end = (index + 1) * FRAME_MS * MS
        return Pair(self._view(t_end), self._events, t_end, HomographyAlignment(np.eye(3)))

    @cached_property
    def _texture(self) -> NDArray[np.uint8]:
        rng = np.random.default_rng(self.seed)
        length = self.width + self.count * FRAME_MS + 100
        noise = rng.random((self.height, length, 3), np.float32)
        smooth = cv2.GaussianBlur(noise, (0, 0), 3)
        low, high = smooth.min(), smooth.max()
        return np.asarray((smooth - low) / (high - low) * 255, np.uint8)

    def _view(self, t: int) -> NDArray[np.uint8]:
        left = t // MS * 3 // 4
        return np.ascontiguousarray(self._texture[:, left : left + self.width])

    @cached_property
    def _events(self) -> EventBatch:
        simulator = EventSimulator(self.width, self.height, seed=self.seed)
        batches = [
            simulator.push(self._view(t).mean(axis=2), t)
            for t in range(0, (self.count + 1) * FRAME_MS * MS, 4 * MS)
        ]
        return EventBatch.concatenate(batches)


def write_bag(texture: SlidingTexture, bag: Path) -> None:
    """Write a texture's frames and events as a bag."""
    events = texture._events

    def batches(t_start: int) -> Iterator[EventBatch]:
        for t in range(0, int(events.t[-1]) + 1, 10 * MS):
            part = events.between(max(t, t_start), t + 10 * MS)
            if len(part):
                yield part

    def pictures(t_start: int) -> Iterator[Picture]:
        for index in range(len(texture)):
            pair = texture.read(index)
            if pair.t_end >= t_start:
                yield Picture(pair.t_end, pair.frame)

    clock = ClockStatement("sensor_time", "made up", 0.0)
    frames = PictureStream(FRAMES_TOPIC, "texture", pictures)
    recording = Recording(bag, "texture", texture.width, texture.height, batches, clock, (frames,))
    convert_recording(recording, bag, ConvertOptions())
