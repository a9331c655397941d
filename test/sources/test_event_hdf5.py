from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import h5py
import hdf5plugin
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
        ({"x": [1, 64]}, r"event 1: x = 64, y = 2 is outside the sensor's 64x48"),
        ({"y": [-1, 2]}, r"event 0: x = 1, y = -1 is outside"),
        ({"t": [6, 5]}, r"event 1: t = 5000 ns is out of order"),
        ({"t": [-6, 5]}, r"event 0: t = -6000 ns is not between 1970 and 2038"),
        ({"p": [0, 2]}, r"event 1: p = 2 is not a polarity"),
        ({"p": [0]}, r"columns of events differ in length"),
        (dict.fromkeys("xytp", np.zeros(0, "u2")), r"holds no events"),
    ],
)
def test_wrong_events_are_named(tmp_path: Path, columns: dict[str, object], message: str) -> None:
    path = write_columns(tmp_path / "a.h5", **columns)
    with pytest.raises(SourceError, match=rf"a\.h5: .*{message}"):
        read_all(path, ReadOptions(64, 48, strict=True))


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


def columns_of(events: EventBatch, t: np.ndarray) -> dict[str, np.ndarray]:
    return {"x": events.x, "y": events.y, "t": t, "p": events.p}


def test_a_table_of_v2e(tmp_path: Path) -> None:
    """v2e writes t, x, y, p as uint32, with -1 as 4294967295."""
    polarity = np.where(EVENTS.p == 1, 1, -1).astype(np.int64).astype(np.uint32)
    columns = (EVENTS.t // 1000, EVENTS.x, EVENTS.y, polarity)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["events"] = np.stack(columns, 1).astype(np.uint32)
    assert_same_events(read_all(tmp_path / "a.h5"), EVENTS)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["events"] = np.stack([columns[1], columns[2], columns[0], columns[3]], 1)
    assert_same_events(read_all(tmp_path / "b.h5"), EVENTS)


@pytest.mark.parametrize("place", ["t_offset", "events/t_offset"])
@pytest.mark.parametrize("attribute", [False, True])
def test_an_offset_beside_the_columns_is_added(
    tmp_path: Path, place: str, *, attribute: bool
) -> None:
    offset_us = 49_599_300_523
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, column in columns_of(EVENTS, EVENTS.t // 1000).items():
            file[f"events/{name}"] = column
        if attribute:
            file["events" if "/" in place else "/"].attrs["t_offset"] = offset_us
        else:
            file[place] = offset_us
    events = read_all(tmp_path / "a.h5")
    assert events.t.tolist() == (EVENTS.t + offset_us * 1000).tolist()


@pytest.mark.parametrize(
    ("scale", "offset"),
    [(1e-9, 49_599.300523), (1, 1_700_000_000_000_000_000), (1e-3, np.int64(49_599_300_523))],
)
def test_an_offset_has_the_unit_of_the_times_and_may_have_a_fraction(
    tmp_path: Path, scale: float, offset: float
) -> None:
    """Seconds, nanoseconds and microseconds: the unit shows in the times with the offset."""
    times = EVENTS.t - EVENTS.t[0]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        t = times * scale if scale == 1e-9 else times if scale == 1 else times // 1000
        for name, column in columns_of(EVENTS, t).items():
            file[f"events/{name}"] = column
        file["t_offset"] = offset
    start = {1e-9: 49_599_300_523_000, 1: 1_700_000_000 * 10**9, 1e-3: 49_599_300_523_000}[scale]
    assert read_all(tmp_path / "a.h5").t.tolist() == (times + start).tolist()


def test_integer_nanoseconds_are_recognised(tmp_path: Path) -> None:
    start = 1_700_000_000_000_000_000
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, column in columns_of(EVENTS, EVENTS.t + start).items():
            file[name] = column
    assert read_all(tmp_path / "a.h5").t.tolist() == (EVENTS.t + start).tolist()
    with pytest.raises(SourceError, match=r"event 0: t = .* is not between 1970.*give --time-unit"):
        read_all(tmp_path / "a.h5", ReadOptions(64, 48, time_unit="us", strict=True))


@pytest.mark.parametrize("filters", [hdf5plugin.Blosc(), hdf5plugin.Zstd()])
def test_a_missing_filter_is_one_line_that_names_the_package(
    tmp_path: Path, filters: hdf5plugin.Blosc | hdf5plugin.Zstd
) -> None:
    """TUM-VIE and VECtor: ``events/{x,y,t,p}`` in µs with ``ms_to_idx`` and such filters."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for name, column in columns_of(EVENTS, EVENTS.t // 1000).items():
            file.create_dataset(f"events/{name}", data=column, chunks=(500,), **filters)
        file["ms_to_idx"] = np.searchsorted(EVENTS.t // 1_000_000, np.arange(2000))
    assert_same_events(read_all(path), EVENTS)
    program = f"""
import sys
sys.modules["hdf5plugin"] = None
from pathlib import Path
from scaleevent_ros.commands import exit_on_error
from scaleevent_ros.sources.formats import find_recordings
from scaleevent_ros.sources.recording import ReadOptions
with exit_on_error("test"):
    list(find_recordings(Path({str(path)!r}))[0].open(ReadOptions(64, 48)).events(0))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"test: {path}: is compressed by a filter that needs the package hdf5plugin: "
        "pip install hdf5plugin\n"
    )


def test_a_damaged_chunk_is_left_out(tmp_path: Path) -> None:
    events = recorded_events(64, 48, 20_000)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for name, column in columns_of(events, events.t // 1000).items():
            file.create_dataset(name, data=column, chunks=(1000,), compression="gzip")
        place = file["x"].id.get_chunk_info(5)
    content = bytearray(path.read_bytes())
    content[place.byte_offset : place.byte_offset + 100] = bytes(100)
    path.write_bytes(content)
    recording = open_recording(path, SIZED)
    kept = EventBatch.concatenate(list(recording.events(0)))
    assert 20_000 - 3 * 2048 <= len(kept) <= 19_000
    assert set(kept.t.tolist()) <= set(events.t.tolist())
    assert list(recording.faults.summary()) == ["pieces of events that cannot be read"]
    with pytest.raises(SourceError, match=r"a\.h5: events [\d,]+ to [\d,]+ cannot be read"):
        read_all(path, ReadOptions(64, 48, strict=True))
