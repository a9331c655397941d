"""Bags of a frame camera beside an event camera: a homography apart, which is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from photographs import photograph

from scaleevent_ros.sources.convert import ConvertOptions, convert_recording
from scaleevent_ros.sources.recording import (
    FRAMES_TOPIC,
    ClockStatement,
    Picture,
    PictureStream,
    Recording,
)
from scaleevent_ros.sources.stills import StillOptions, simulate_still

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from scaleevent_ros.events import EventBatch


def similarity(
    frame_size: tuple[int, int],
    event_size: tuple[int, int],
    degrees: float,
    scale: float,
    shift: tuple[float, float],
) -> NDArray[np.float64]:
    """Turn and scale about the middle of the frame, which goes to the event image's, and shift."""
    angle = np.radians(degrees)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.eye(3)
    matrix[:2, :2] = turn
    middle = (np.array(event_size) - 1) / 2 + shift
    matrix[:2, 2] = middle - turn @ (np.array(frame_size) - 1) / 2
    return matrix


def write_two_camera_bag(
    folder: Path,
    matrix: NDArray[np.float64],
    frame_size: tuple[int, int],
    *,
    event_size: tuple[int, int] = (320, 240),
    frames: int = 26,
    strength: float = 1.0,
    seed: int = 1,
    picture: NDArray[np.uint8] | None = None,
    frame_delay: int = 0,
) -> None:
    """Write a bag of a photograph that a simulated rig moves over.

    Args:
        folder: The bag.
        matrix: Homography from pixels of the frame camera to those of the event camera.
        frame_size: Width and height of the frames.
        event_size: Width and height of the event camera.
        frames: Their number, at 25 Hz.
        strength: Strength of the motion.
        seed: Seed of the motion.
        picture: Picture of the scene.
        frame_delay: Frames show what was there so many frames before, as if clocks were wrong.
    """
    options = StillOptions(frames=frames, frame_rate=25, size=event_size, strength=strength)
    sequence = simulate_still(
        photograph() if picture is None else picture, options=options, seed=seed
    )
    seen = [
        # The frame camera sees a wider world than the event camera: here its mirror image.
        np.asarray(
            cv2.warpPerspective(
                sequence.frames[max(index - frame_delay, 0)],
                matrix,
                frame_size,
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REFLECT_101,
            )
        )
        for index in range(frames)
    ]

    def events(t_start: int) -> Iterator[EventBatch]:
        yield sequence.events[int(np.searchsorted(sequence.events.t, t_start)) :]

    def pictures(t_start: int) -> Iterator[Picture]:
        for t, frame in zip(sequence.stamps.tolist(), seen, strict=True):
            if t >= t_start:
                yield Picture(t, frame)

    recording = Recording(
        folder,
        "simulated",
        *event_size,
        events,
        ClockStatement("sensor_time", "simulated", 0.0),
        (PictureStream(FRAMES_TOPIC, str(folder), pictures),),
    )
    convert_recording(recording, folder, ConvertOptions())
