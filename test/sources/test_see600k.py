from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from bag_contents import assert_same_events, pixels, read_bag
from recording_events import photographs, recorded_events

from scaleevent_ros.sources import SourceError
from scaleevent_ros.sources.convert import ConvertOptions, convert
from scaleevent_ros.sources.recording import ReadOptions
from scaleevent_ros.sources.see600k import open_recording

if TYPE_CHECKING:
    from pathlib import Path

    from scaleevent_ros.events import EventBatch

START_US = 1_721_524_679_594_711
FRAMES = photographs(2, 260, 346, colour=True)


def write_video(folder: Path, events: EventBatch) -> None:
    """Write a video as the tutorial shows it: events of 40 ms between frames of 1 ms exposure."""
    data = folder / "frame_event"
    data.mkdir(parents=True)
    t_us = events.t // 1000
    shuffle = np.random.default_rng(0)
    for index, frame in enumerate(FRAMES):
        start = START_US + 40_000 * index
        name = f"{start}_{start - 7}_{start + 2000}_{start}_{start + 1000}.png"
        cv2.imwrite(str(data / name), frame[..., ::-1])
        some = (t_us >= start) & (t_us < start + 40_000)
        rows = np.stack([t_us[some], events.x[some], events.y[some], events.p[some]], axis=1)
        cv2.imwrite(str(data / f"{start}_{start + 40_000}_vis.png"), frame)
        np.save(data / f"{start}_{start + 40_000}.npy", shuffle.permutation(rows))


@pytest.fixture
def events() -> EventBatch:
    drawn = recorded_events(346, 260, 1500, START_US / 1e6, 0.08)
    return drawn[np.unique(drawn.t, return_index=True)[1]]  # type: ignore[index]


def test_everything_arrives_in_order(tmp_path: Path, events: EventBatch) -> None:
    write_video(tmp_path / "group/video-0", events)
    assert convert(tmp_path, tmp_path / "out", ConvertOptions()) == [tmp_path / "out/group/video-0"]
    bag = read_bag(tmp_path / "out/group/video-0")
    assert_same_events(bag.events, events)
    images = bag.messages["/camera/image_raw"]
    assert [t for t, _ in images] == [(START_US + 500) * 1000, (START_US + 40_500) * 1000]
    assert np.array_equal([pixels(m) for _, m in images], FRAMES)


def test_a_late_start_passes_over_earlier_files(tmp_path: Path, events: EventBatch) -> None:
    write_video(tmp_path, events)
    recording = open_recording(tmp_path, ReadOptions())
    assert sum(map(len, recording.events(int(events.t[-3])))) == 3


def test_names_and_contents_that_do_not_fit_are_errors(tmp_path: Path, events: EventBatch) -> None:
    write_video(tmp_path, events)
    (tmp_path / "frame_event/first.npy").touch()
    with pytest.raises(SourceError, match=r"first\.npy: its name does not hold 2 times"):
        open_recording(tmp_path, ReadOptions())
    (tmp_path / "frame_event/first.npy").rename(tmp_path / "frame_event/1_2.npy")
    with pytest.raises(SourceError, match=r"1_2\.npy: is not a file of events"):
        list(open_recording(tmp_path, ReadOptions(strict=True)).events(0))
    np.save(tmp_path / "frame_event/1_2.npy", np.zeros((3, 5)))
    with pytest.raises(SourceError, match=r"1_2\.npy: holds \(3, 5\), not \[N, 4\]"):
        list(open_recording(tmp_path, ReadOptions(strict=True)).events(0))
