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

if TYPE_CHECKING:
    from pathlib import Path

    from scaleevent_ros.events import EventBatch

FRAMES = photographs(2, 48, 64, colour=True)
STRICT = ConvertOptions(ReadOptions(strict=True))


def write_split(folder: Path, events: EventBatch) -> None:
    """Write two exposures of one sequence, each in two steps and one behind its end."""
    (folder / "sharp").mkdir(parents=True)
    (folder / "event").mkdir()
    for index, (frame, part) in enumerate(zip(FRAMES, (events[:900], events[900:]), strict=True)):
        cv2.imwrite(str(folder / f"sharp/SEQ_a_{index:05d}.png"), frame[..., ::-1])
        for step, some in enumerate((part[:400], part[400:800], part[800:])):
            np.savez(
                folder / f"event/SEQ_a_{index:05d}_{step:02d}.npz",
                timestamp=some.t[:, None] // 1000,
                x=some.y[:, None],  # as the data set has it
                y=some.x[:, None],
                polarity=some.p[:, None],
            )


def test_everything_arrives(tmp_path: Path) -> None:
    events = recorded_events(64, 48, 1800)
    write_split(tmp_path / "train", events)
    bags = convert(tmp_path / "train", tmp_path / "out", STRICT)
    assert bags == [tmp_path / "out/SEQ_a"]
    bag = read_bag(bags[0])
    assert_same_events(bag.events, events)
    images = bag.messages["/camera/image_raw"]
    middles = [int(events.t[i] + events.t[i + 799]) // 2 for i in (0, 900)]
    assert [t for t, _ in images] == middles
    assert np.array_equal([pixels(m) for _, m in images], FRAMES)


def test_a_frame_without_events_is_an_error(tmp_path: Path) -> None:
    write_split(tmp_path, recorded_events(64, 48, 1800))
    for path in (tmp_path / "event").glob("SEQ_a_00001_*"):
        path.unlink()
    with pytest.raises(SourceError, match=r"holds no events for SEQ_a_00001\.png"):
        convert(tmp_path, tmp_path / "out", STRICT)


def test_a_cut_file_is_an_error(tmp_path: Path) -> None:
    write_split(tmp_path, recorded_events(64, 48, 1800))
    path = tmp_path / "event/SEQ_a_00000_01.npz"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(SourceError, match=r"SEQ_a_00000_01\.npz: is not an event file"):
        convert(tmp_path, tmp_path / "out", STRICT)
