"""A `Recording` whose events and pictures are simulated together, while they are read."""

from __future__ import annotations

from itertools import tee
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scaleevent_ros.sources.recording import (
    EVENTS_INFO_TOPIC,
    FRAMES_INFO_TOPIC,
    CameraCalibration,
    ClockStatement,
    Picture,
    PictureStream,
    Recording,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from scaleevent_ros.events import EventBatch

_CLOCK = ClockStatement("sensor_time", "simulated: events are computed from the frames", 0.0)


class Moment(NamedTuple):
    """A part of a simulation that ends with a frame.

    Attributes:
        events: Events since the previous part.
        pictures: Images at its end, by topic.
    """

    events: EventBatch
    pictures: dict[str, Picture]


def simulated_recording(
    source: Path,
    made: str,
    size: tuple[int, int],
    moments: Callable[[int], Iterator[Moment]],
    topics: list[str],
    span_ns: tuple[int, int],
    labels: tuple[str, ...] = (),
    frame_scale: int = 1,
) -> Recording:
    """Make a recording of a simulation.

    Args:
        source: Source of the simulation.
        made: Format of the recording, with the options of the simulation.
        size: Width and height of the sensor.
        moments: Function that simulates from about a time (ns) on.
        topics: Topics of the pictures.
        span_ns: Times of the first and the last event in ns.
        labels: Class names by id.
        frame_scale: Pixels of a frame for each pixel of the sensor, in each direction.
    """
    shared = _SharedPass(moments, 1 + len(topics))

    def events(t_start: int) -> Iterator[EventBatch]:
        for moment in shared.take(0, t_start):
            yield moment.events[int(np.searchsorted(moment.events.t, t_start)) :]

    def stream(index: int, topic: str) -> PictureStream:
        def read(t_start: int) -> Iterator[Picture]:
            for moment in shared.take(index, t_start):
                picture = moment.pictures.get(topic)
                if picture is not None and picture.t >= t_start:
                    yield picture

        return PictureStream(topic, str(source), read, span_ns)

    width, height = size
    cameras = tuple(
        _camera(topic, width * scale, height * scale)
        for topic, scale in ((EVENTS_INFO_TOPIC, 1), (FRAMES_INFO_TOPIC, frame_scale))
    )
    return Recording(
        source,
        made,
        width,
        height,
        events,
        _CLOCK,
        tuple(stream(index, topic) for index, topic in enumerate(topics, 1)),
        cameras,
        span_ns=span_ns,
        labels=labels,
    )


def _camera(topic: str, width: int, height: int) -> CameraCalibration:
    focal = float(max(width, height))
    matrix = (focal, focal, (width - 1) / 2, (height - 1) / 2)
    return CameraCalibration(topic, width, height, "plumb_bob", matrix, (0.0,) * 5)


class _SharedPass:
    """One simulation that is shared by all streams of a recording.

    Parts that only some of the streams have read are kept in memory, so the streams should be read
    side by side, as a converter does. Taking a stream twice, or from another start, begins a new
    simulation.
    """

    def __init__(self, moments: Callable[[int], Iterator[Moment]], streams: int) -> None:
        self._moments = moments
        self._streams = streams
        self._start = -1
        self._untaken: dict[int, Iterator[Moment]] = {}

    def take(self, stream: int, t_start: int) -> Iterator[Moment]:
        """Return a stream's iterator over the moments from about a time (ns)."""
        if t_start != self._start or stream not in self._untaken:
            self._start = t_start
            self._untaken = dict(enumerate(tee(self._moments(t_start), self._streams)))
        return self._untaken.pop(stream)
