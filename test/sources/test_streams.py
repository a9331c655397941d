from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from recording_events import SECOND, recorded_events

from scaleevent_ros.sources import SourceError
from scaleevent_ros.sources.faults import Faults
from scaleevent_ros.sources.recording import (
    EVENTS_TOPIC,
    FRAMES_TOPIC,
    IMU_TOPIC,
    LABELS_TOPIC,
    ClockStatement,
    ImuSample,
    Picture,
    PictureStream,
    Recording,
)
from scaleevent_ros.sources.streams import Message, Position, messages, topics

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

EVENTS = recorded_events(64, 48)


def make_recording(
    frame_times: Sequence[int] = (),
    imu_times: Sequence[int] = (),
    sizes: Sequence[tuple[int, int]] | None = None,
    topic: str = FRAMES_TOPIC,
) -> Recording:
    def frames(t_start: int) -> Iterator[Picture]:
        for index, t in enumerate(frame_times):
            if t >= t_start:
                shape = sizes[index] if sizes else (48, 64)
                yield Picture(t, np.zeros(shape, np.uint8))

    def imu(t_start: int) -> Iterator[ImuSample]:
        yield from (ImuSample(t, (0, 0, 9.8), (0, 0, 0)) for t in imu_times if t >= t_start)

    return Recording(
        Path("made"),
        "made",
        64,
        48,
        lambda _: iter([EVENTS]),
        ClockStatement("sensor_time", "made"),
        (PictureStream(topic, "made/frames", frames),),
        imu=imu,
    )


def read(recording: Recording) -> list[Message]:
    return list(messages(replace(recording, faults=Faults(strict=True)), None, Position()))


def test_everything_comes_in_order_of_time() -> None:
    frame_times = [SECOND + SECOND // 10 * n for n in range(1, 5)]
    imu_times = [SECOND + SECOND // 7 * n for n in range(1, 4)]
    found = read(make_recording(frame_times, imu_times))
    assert [m.stamp_ns for m in found] == sorted(m.stamp_ns for m in found)
    assert [m.stamp_ns for m in found if m.topic == FRAMES_TOPIC] == frame_times
    assert [m.stamp_ns for m in found if m.topic == IMU_TOPIC] == imu_times
    assert sum(m.events for m in found) == len(EVENTS)
    assert set(topics(make_recording(), "png")) == {
        EVENTS_TOPIC,
        f"{FRAMES_TOPIC}/compressed",
        IMU_TOPIC,
    }


def test_a_stream_that_runs_backwards_is_an_error() -> None:
    with pytest.raises(
        SourceError, match=r"made/frames: the picture at 1100000000 ns is not later"
    ):
        read(make_recording([1_200_000_000, 1_100_000_000]))
    with pytest.raises(SourceError, match="the IMU sample at 1100000000 ns comes after 1200000000"):
        read(make_recording(imu_times=[1_200_000_000, 1_100_000_000]))


def test_a_size_that_changes_is_an_error() -> None:
    times = [1_100_000_000, 1_200_000_000]
    with pytest.raises(SourceError, match="picture at 1200000000 ns is 32x48, not 64x48"):
        read(make_recording(times, sizes=[(48, 64), (48, 32)]))
    # A frame may have a size of its own, what shows the event image's view may not.
    read(make_recording(times, sizes=[(24, 32)] * 2))
    with pytest.raises(SourceError, match="picture at 1100000000 ns is 32x24, not 64x48"):
        read(make_recording(times, sizes=[(24, 32)] * 2, topic=LABELS_TOPIC))


def test_pixels_of_no_encoding_are_an_error() -> None:
    with pytest.raises(SourceError, match="fit no image encoding"):
        read(make_recording([1_100_000_000], sizes=[(48, 64, 5)]))  # type: ignore[list-item]
