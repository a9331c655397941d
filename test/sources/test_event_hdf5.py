from __future__ import annotations

from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
from bag_contents import assert_same_events, pixels, read_bag
from recording_events import photographs, recorded_events

from scaleevent_ros.events import EventBatch
from scaleevent_ros.sources import SourceError
from scaleevent_ros.sources.convert import ConvertOptions, convert
from scaleevent_ros.sources.event_hdf5 import open_recording
from scaleevent_ros.sources.recording import CHUNK_EVENTS, ReadOptions

if TYPE_CHECKING:
    from pathlib import Path

EVENTS = recorded_events(64, 48)
SIZED = ReadOptions(width=64, height=48)


def read_all(path: Path, options: ReadOptions = SIZED, t_start: int = 0) -> EventBatch:
    return EventBatch.concatenate(list(open_recording(path, options).events(t_start)))


def test_columns_in_a_group_with_their_size(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in "xp":
            file[f"events/{name}"] = getattr(EVENTS, name)
        file["events/y"] = EVENTS.y.astype(np.int64)
        file["events/t"] = EVENTS.t // 1000
        file["events/width"], file["events/height"] = 64, 48
    convert(tmp_path / "a.h5", tmp_path / "bag", ConvertOptions())
    assert_same_events(read_bag(tmp_path / "bag").events, EVENTS)


def test_monash_layout_with_its_pictures(tmp_path: Path) -> None:
    frames = photographs(2, 48, 64, colour=True)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["events/xs"], file["events/ys"] = EVENTS.x, EVENTS.y
        file["events/ts"], file["events/ps"] = EVENTS.t / 1e9, EVENTS.p.astype(bool)
        file.attrs["sensor_resolution"] = (48, 64)
        for index, frame in enumerate(frames):
            file[f"images/image{index:09d}"] = frame[..., ::-1]
            file[f"images/image{index:09d}"].attrs["timestamp"] = 1.1 + index / 10
    convert(tmp_path / "a.h5", tmp_path / "bag", ConvertOptions())
    bag = read_bag(tmp_path / "bag")
    assert_same_events(bag.events, EVENTS)
    images = bag.messages["/camera/image_raw"]
    assert [t for t, _ in images] == [1_100_000_000, 1_200_000_000]
    assert np.array_equal([pixels(m) for _, m in images], frames)


def test_a_table_of_fields(tmp_path: Path) -> None:
    dtype = [("x", "u2"), ("y", "u2"), ("p", "i2"), ("t", "i8")]
    rows = np.zeros(len(EVENTS), dtype)
    rows["x"], rows["y"], rows["p"], rows["t"] = EVENTS.x, EVENTS.y, EVENTS.p, EVENTS.t // 1000
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["CD/events"] = rows
        file["CD/indexes"] = np.zeros(3)
    assert_same_events(read_all(tmp_path / "a.h5"), EVENTS)


@pytest.mark.parametrize(
    ("column", "unit", "option"),
    [
        (EVENTS.t, "ns", None),
        (EVENTS.t, None, "ns"),
        (EVENTS.t / 1e6, "ms", None),
        (EVENTS.t / 1e3, None, "us"),
        (EVENTS.t / 1e9, None, None),
        (EVENTS.t // 1000, b"us", None),
    ],
)
def test_units_of_time(
    tmp_path: Path, column: np.ndarray, unit: str | None, option: str | None
) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"], file["y"], file["polarity"] = EVENTS.x, EVENTS.y, EVENTS.p * 2.0 - 1
        file["timestamps"] = column
        if unit is not None:
            file["timestamps"].attrs["unit"] = unit
    found = read_all(tmp_path / "a.h5", ReadOptions(width=64, height=48, time_unit=option))
    assert_same_events(found, EVENTS)


def test_chunks_join_and_a_late_start_is_found(tmp_path: Path) -> None:
    count = CHUNK_EVENTS + 10
    t_us = np.arange(count) // 3
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = file["y"] = np.zeros(count, np.uint16)
        file["t"], file["p"] = t_us, np.ones(count, bool)
    assert len(read_all(tmp_path / "a.h5")) == count
    late = read_all(tmp_path / "a.h5", t_start=100_000_000)
    assert len(late) == (t_us >= 100_000).sum()


def write_columns(path: Path, **columns: object) -> Path:
    with h5py.File(path, "w") as file:
        file.update({"x": [1, 2], "y": [1, 2], "t": [5, 6], "p": [0, 1], **columns})
    return path


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x": [1, 64]}, r"event 1: x = 64 is outside the sensor's 64x48"),
        ({"y": [-1, 2]}, r"event 0: y = -1 is outside"),
        ({"t": [6, 5]}, r"event 1: t in ns = 5000 is earlier than the event before"),
        ({"t": [-6, 5]}, r"event 0 is at -6000 ns"),
        ({"p": [0, 2]}, r"event 1: p = 2 is not a polarity"),
        ({"p": [0]}, r"columns of events differ in length"),
        (dict.fromkeys("xytp", np.zeros(0, "u2")), r"holds no events"),
    ],
)
def test_wrong_events_are_named(tmp_path: Path, columns: dict[str, object], message: str) -> None:
    path = write_columns(tmp_path / "a.h5", **columns)
    with pytest.raises(SourceError, match=rf"a\.h5: .*{message}"):
        read_all(path)


def test_an_unknown_sensor_or_unit_is_an_error(tmp_path: Path) -> None:
    path = write_columns(tmp_path / "a.h5")
    with pytest.raises(SourceError, match="give --width and --height"):
        open_recording(path, ReadOptions())
    with pytest.raises(SourceError, match="unknown unit of time 'hours'"):
        open_recording(path, ReadOptions(64, 48, time_unit="hours"))


def test_a_file_without_events_is_an_error(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = [1]
    with pytest.raises(SourceError, match="no group or table has columns x, y, t and p"):
        open_recording(tmp_path / "a.h5", SIZED)
