from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from recording_events import SECOND, recorded_events

from scaleevent_ros.events import Triggers
from scaleevent_ros.sources import SourceError
from scaleevent_ros.sources.cut import cut
from scaleevent_ros.sources.faults import Faults
from scaleevent_ros.sources.ordering import in_order
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
        SourceError, match=r"made/frames: the picture at 1200000000 ns is later than the next"
    ):
        read(make_recording([1_200_000_000, 1_100_000_000]))
    with pytest.raises(SourceError, match="the IMU sample at 1200000000 ns is later than the next"):
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


def stamps(found: list[Message], topic: str) -> list[int]:
    return [m.stamp_ns // 1_000_000 for m in found if m.topic == topic]


def test_a_wrong_time_costs_one_picture_and_one_sample() -> None:
    for wrong in (9_999_999, 1 << 40, 1_040):
        times = [ms * 1_000_000 for ms in (1_050, 1_100, wrong, 1_150, 1_200)]
        recording = make_recording(times, times)
        found = list(messages(recording, None, Position()))
        assert stamps(found, FRAMES_TOPIC) == stamps(found, IMU_TOPIC) == [1050, 1100, 1150, 1200]
        counts = {kind: fault["count"] for kind, fault in recording.faults.summary().items()}
        assert counts == {"pictures out of order": 1, "IMU samples out of order": 1}
        part = cut(recording, 0.0, 0.3)  # the end of a part is not that of a wrong time
        assert stamps(list(messages(part, None, Position())), FRAMES_TOPIC)[-1] == 1200


def test_trigger_edges_are_sorted_like_events() -> None:
    times = [1_100_000, 1_099_999, -5, 1 << 60, 1_200_000, 1_150_000], [1_199_999, 1_300_000]
    pieces = [
        Triggers(
            np.array(some) * 1000,
            np.arange(len(some), dtype=np.uint8),
            np.ones(len(some), np.uint8),
        )
        for some in times
    ]
    recording = replace(make_recording(), triggers=lambda _: iter(pieces))
    sorted_triggers = in_order(recording).triggers
    assert sorted_triggers is not None
    edges = list(sorted_triggers(0))
    assert [edge.t.tolist() for edge in edges] == [
        [1_099_999_000, 1_100_000_000, 1_200_000_000],
        [1_200_000_000, 1_300_000_000],
    ]
    assert edges[0].id.tolist() == [1, 0, 4]
    counts = {kind: fault["count"] for kind, fault in recording.faults.summary().items()}
    assert counts == {
        "trigger edges out of order, sorted": 2,
        "trigger edges out of order, left out": 3,
    }
    assert sum(m.events for m in messages(recording, None, Position())) == len(EVENTS)
