"""MVSEC's truth from files in its layout, by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
from recording_events import recorded_events

from scaleevent_ros.events import EventBatch
from scaleevent_ros.tasks import TaskError
from scaleevent_ros.tasks.datasets.mvsec import SPLIT, MvsecSequence, find, follow

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

START_S = 1_504_645_177.25
START_NS = 1_504_645_177_250_000_000
MS = 1_000_000
WINDOW_NS = 50 * MS


def write_data(path: Path, events: EventBatch, frames_s: NDArray[np.float64]) -> Path:
    with h5py.File(path, "w") as file:
        rows = np.stack([events.x, events.y, events.t / 1e9, events.p * 2.0 - 1], axis=1)
        file["davis/left/events"] = rows
        file["davis/left/image_raw_ts"] = START_S + frames_s
        file.create_dataset("davis/left/image_raw", (len(frames_s), 260, 346), np.uint8)
    return path


def write_truth(
    folder: Path, name: str, topic: str, maps: dict[int, NDArray[Any]], times_s: NDArray[np.float64]
) -> None:
    """Write maps of which all but the given ones are empty, and take no space."""
    shape = (len(times_s), *next(iter(maps.values())).shape)
    with h5py.File(folder / f"{name}_gt.hdf5", "a") as file:
        stored = file.create_dataset(
            f"davis/left/{topic}", shape, np.float64, chunks=(1, *shape[1:])
        )
        for index, one in maps.items():
            stored[index] = one
        file[f"davis/left/{topic}_ts"] = START_S + times_s


def assert_events(batch: EventBatch, wanted: EventBatch) -> None:
    assert len(wanted) > 30
    assert (batch.width, batch.height) == (wanted.width, wanted.height)
    for name in "xytp":
        assert np.array_equal(getattr(batch, name), getattr(wanted, name)), name


def test_depth_is_known_up_to_80_metres(tmp_path: Path) -> None:
    events = recorded_events(346, 260, start_s=START_S)
    path = write_data(tmp_path / "outdoor_day1_data.hdf5", events, np.array([0.1]))
    depth = np.full((260, 346), 7.25)
    depth[0, :4] = np.nan, 79.5, 80, 100
    times = np.array([0.0, 0.1, 0.2])
    write_truth(tmp_path, "outdoor_day1", "depth_image_raw", {1: depth, 2: depth + 1}, times)
    source = MvsecSequence(path, "depth", WINDOW_NS)
    assert [source.key(n) for n in range(len(source))] == ["outdoor_day1/1", "outdoor_day1/2"]
    window = source.read(0, 0)
    t_end = START_NS + 100 * MS
    assert (window.t_end, window.t_start) == (t_end, None)
    assert window.truth.dtype == np.float32
    assert np.isnan(window.truth[0, [0, 2, 3]]).all()
    assert window.truth[0, 1] == 79.5
    assert (window.truth[1:] == 7.25).all()
    assert_events(window.events, events.between(t_end - WINDOW_NS, t_end))
    assert source.read(1, 0).truth[5, 5] == 8.25


def flow_of(x: float, y: float) -> NDArray[np.float64]:
    return np.stack([np.full((260, 346), x, float), np.full((260, 346), y, float)])


def test_flow_goes_from_a_map_to_the_next_in_the_middle_of_the_picture(tmp_path: Path) -> None:
    events = recorded_events(346, 260, 20_000, START_S, 5.0)
    path = write_data(tmp_path / "outdoor_night1_data.hdf5", events, np.array([0.1]))
    first = flow_of(1, -2)
    first[:, 2, 45] = 0, 3
    first[:, 3, 45] = 0, 0
    first[:, 4, 45] = np.nan, 1
    times = np.array([1.0, 1.05, 1.1])
    write_truth(tmp_path, "outdoor_night1", "flow_dist", {0: first, 1: flow_of(5, 5)}, times)
    source = MvsecSequence(path, "flow", WINDOW_NS)
    assert [source.key(n) for n in range(len(source))] == ["outdoor_night1/0", "outdoor_night1/1"]
    window = source.read(0, 0)
    start, end = START_NS + 1000 * MS, START_NS + 1050 * MS
    assert (window.t_start, window.t_end) == (start, end)
    assert window.truth.shape == (256, 256, 2)
    assert window.truth[0, 0].tolist() == [0, 3]
    assert np.isnan(window.truth[1:3, 0]).all()
    assert window.truth[190, 255].tolist() == [1, -2]  # row 192 of the sensor
    assert np.isnan(window.truth[191:]).all()  # below is the hood
    both = events.between(2 * start - end, end)
    kept = (both.x >= 45) & (both.x < 301) & (both.y >= 2) & (both.y < 258)
    x, y, t, p = (getattr(both, name)[kept] for name in "xytp")
    moved = EventBatch(x - np.uint16(45), y - np.uint16(2), t, p, 256, 256)
    assert_events(window.events, moved)


def test_flow_over_frames_takes_its_share_or_is_followed(tmp_path: Path) -> None:
    events = recorded_events(346, 260, 500, START_S, 8.0)
    frames = np.array([3.9, 4.1, 4.12, 4.2, 4.25])
    path = write_data(tmp_path / "indoor_flying1_data.hdf5", events, frames)
    times = np.array([4.0, 4.1, 4.2, 4.3])
    maps = {0: flow_of(10, 0), 1: flow_of(0, 5), 2: flow_of(4, 0)}
    write_truth(tmp_path, "indoor_flying1", "flow_dist", maps, times)
    one = MvsecSequence(path, "flow", WINDOW_NS, frames=1)
    # Frame 0 lies before the 4 s at which this one starts to fly.
    assert [one.key(n) for n in range(len(one))] == [f"indoor_flying1/{n}" for n in (1, 2, 3)]
    assert one.read(0, 0).truth[100, 100] == pytest.approx([0, 1])  # 20 of 100 ms
    assert one.read(0, 0).truth[255, 100] == pytest.approx([0, 1])  # no hood indoors
    assert one.read(2, 0).truth[100, 100] == pytest.approx([2, 0])
    two = MvsecSequence(path, "flow", WINDOW_NS, frames=3)
    assert [two.key(n) for n in range(len(two))] == ["indoor_flying1/1"]
    assert two.read(0, 0).truth[100, 100] == pytest.approx([2, 5])  # all of map 1, half of map 2
    assert (two.read(0, 0).t_start, two.read(0, 0).t_end) == (
        START_NS + 4100 * MS, START_NS + 4250 * MS,
    )  # fmt: skip


def test_flow_is_followed_from_where_it_has_come() -> None:
    times = np.array([0, 100, 200, 300])
    x = np.arange(1.0, 7.0)
    maps = np.zeros((3, 2, 1, 6))
    maps[0, 0] = 1.7  # 2 columns to the right
    maps[1, 0, 0] = x  # there, as far as the column's number, counted from 1
    maps[2, 0] = 50
    flow = follow(maps, times, 0, 200)[0]
    # Column 0 comes to 1.7, which is nearest to column 2, whose flow is 3; 3 comes to column 5.
    assert flow[:4, 0] == pytest.approx([4.7, 5.7, 6.7, 7.7])
    assert np.isnan(flow[4:]).all()  # column 4 has left the picture by then
    assert follow(maps, times, 50, 200)[0, 0, 0] == pytest.approx(0.85 + 2)
    assert follow(maps, times, 25, 75)[0, 0, 0] == pytest.approx(0.85)
    maps[1, :, 0, 2] = 0  # not known
    assert np.isnan(follow(maps, times, 0, 200)[0, 0]).all()


def test_of_outdoor_day1_the_published_part_is_judged(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    t = np.sort(rng.integers(0, 240_000_000, 3000)) * 1000 + START_NS
    x, y = rng.integers(0, (346, 260), (3000, 2), np.uint16).T
    events = EventBatch(x, y, t, np.ones(3000, np.uint8), 346, 260)
    frames = np.arange(10_960) / 45.6
    path = write_data(tmp_path / "outdoor_day1_data.hdf5", events, frames)
    write_truth(tmp_path, "outdoor_day1", "flow_dist", {0: flow_of(1, 1)}, np.arange(4750) / 20)
    maps = MvsecSequence(path, "flow", WINDOW_NS)
    assert len(maps) == 350
    assert (maps.key(0), maps.key(349)) == ("outdoor_day1/4356", "outdoor_day1/4705")
    by_frames = MvsecSequence(path, "flow", WINDOW_NS, frames=1)
    assert by_frames.key(0) == "outdoor_day1/10167"


def test_sequences_are_found_and_what_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "outdoor_day").mkdir()
    events = recorded_events(346, 260, start_s=START_S)
    path = write_data(tmp_path / "outdoor_day/outdoor_day2_data.hdf5", events, np.array([0.1]))
    assert find(tmp_path, SPLIT.train) == [path]
    with pytest.raises(TaskError, match="expected one sequence outdoor_day1, found nothing"):
        find(tmp_path, SPLIT.validation)
    write_truth(path.parent, "outdoor_day2", "flow_dist", {0: flow_of(1, 1)}, np.array([0.1, 0.2]))
    with pytest.raises(TaskError, match="no flow is in the part of outdoor_day2"):
        MvsecSequence(path, "flow", WINDOW_NS)
    with h5py.File(path.with_name("outdoor_day2_gt.hdf5"), "a") as file:
        del file["davis/left/flow_dist_ts"]
        file["davis/left/flow_dist_ts"] = [START_S]
    with pytest.raises(TaskError, match="flow_dist: has 2 maps but 1 times"):
        MvsecSequence(path, "flow", WINDOW_NS)
