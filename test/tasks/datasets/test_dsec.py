"""DSEC's truth from files in its layout, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import h5py
import numpy as np
import pytest
import yaml
from class_lists import numbered_classes
from recording_events import recorded_events

from scaleevent_ros.events import EventBatch
from scaleevent_ros.sources import SourceError
from scaleevent_ros.tasks import TaskError
from scaleevent_ros.tasks.classes import read_classes
from scaleevent_ros.tasks.datasets.dsec import SPLITS, DsecSequence, depth_from_disparity, find

if TYPE_CHECKING:
    from scaleevent_ros.tasks.labelled import LabelledWindow

LABELS = Path(__file__).parents[3] / "config" / "labels"
OFFSET_US = 49_599_300_523
MS = 1_000_000
WINDOW_NS = 50 * MS
# Baseline 0.6 m, focal length 550 px, as OpenCV's stereoRectify gives it.
Q = [[1, 0, 0, -320], [0, 1, 0, -240], [0, 0, 0, 550.0], [0, 0, 1 / 0.6, 0]]
EVENTS = recorded_events(640, 480, 20_000, OFFSET_US / 1e6, 1.0)
TIMES_US = OFFSET_US + np.arange(10) * 100_000  # of truth


def write_events(folder: Path) -> Path:
    """Write events whose rectification moves them 3 to the right."""
    left = folder / "events/left"
    left.mkdir(parents=True)
    t_us = EVENTS.t // 1000 - OFFSET_US
    with h5py.File(left / "events.h5", "w") as file:
        file["events/x"], file["events/y"], file["events/p"] = EVENTS.x, EVENTS.y, EVENTS.p
        file["events/t"] = t_us.astype("u4")
        file["t_offset"] = OFFSET_US
        file["ms_to_idx"] = np.searchsorted(t_us, np.arange(0, int(t_us[-1]), 1000))
    with h5py.File(left / "rectify_map.h5", "w") as file:
        x, y = np.meshgrid(np.arange(640), np.arange(480))
        file["rectify_map"] = np.stack([x + 2.9, y + 0.2], axis=-1).astype(np.float32)
    return folder


def write_pictures(folder: Path, pictures: list[np.ndarray]) -> None:
    folder.mkdir(parents=True)
    for index, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f"{index:06d}.png"), picture)


@pytest.fixture
def sequence(tmp_path: Path) -> Path:
    return write_events(tmp_path / "train" / "zurich_city_00_a")


def write_labels(sequence: Path, folder: str, size: tuple[int, int] = (440, 640)) -> None:
    """Write ten label maps, each full of its own number."""
    write_pictures(sequence / folder, [np.full(size, n, np.uint8) for n in range(10)])
    (sequence / "semantic/timestamps.txt").write_text("\n".join(map(str, TIMES_US)))


def expected_events(t_start: int, t_end: int, rows: int) -> EventBatch:
    """Pick the events of a window out of all, moved as the rectification says."""
    kept = (EVENTS.t >= t_start) & (EVENTS.t < t_end) & (EVENTS.x < 637) & (EVENTS.y < rows)
    x, y, t, p = (getattr(EVENTS, name)[kept] for name in "xytp")
    return EventBatch(x + np.uint16(3), y, t, p, 640, rows)


def assert_events(window: LabelledWindow, t_start: int, t_end: int, rows: int) -> None:
    wanted = expected_events(t_start, t_end, rows)
    assert len(wanted) > 100
    assert (window.events.width, window.events.height) == (640, rows)
    for name in "xytp":
        assert np.array_equal(getattr(window.events, name), getattr(wanted, name)), name


@pytest.mark.parametrize("folder", ["semantic/left/11classes/data", "semantic/11classes/data"])
def test_labels_are_those_that_ess_uses(sequence: Path, folder: str) -> None:
    write_labels(sequence, folder)
    source = DsecSequence(sequence, "segmentation", WINDOW_NS, read_classes(LABELS / "dsec11.yaml"))
    assert len(source) == 2  # the seventh, and every other one from there
    assert [source.key(n) for n in range(2)] == [
        "zurich_city_00_a/000006", "zurich_city_00_a/000008",
    ]  # fmt: skip
    for index, number in enumerate((6, 8)):
        window = source.read(index, 0)
        assert window.truth.dtype == np.uint8
        assert window.truth.shape == (440, 640)
        assert (window.truth == number).all()
        assert window.t_end == TIMES_US[number] * 1000
        assert window.t_start is None
        assert_events(window, window.t_end - WINDOW_NS, window.t_end, 440)


def test_nineteen_classes_come_from_their_own_folder(sequence: Path) -> None:
    write_labels(sequence, "semantic/left/19classes/data")
    classes = read_classes(LABELS / "dsec19.yaml")
    assert len(DsecSequence(sequence, "segmentation", WINDOW_NS, classes)) == 2
    with pytest.raises(SourceError, match="11classes/data: holds no pictures"):
        DsecSequence(sequence, "segmentation", WINDOW_NS, read_classes(LABELS / "dsec11.yaml"))


def test_disparity_becomes_metres(sequence: Path) -> None:
    stored = np.zeros((480, 640), np.uint16)
    stored[7, 9] = 12.5 * 256
    write_pictures(sequence / "disparity/event", [stored] * 3)
    (sequence / "disparity/timestamps.txt").write_text("\n".join(map(str, TIMES_US[:3])))
    (sequence / "calibration").mkdir()
    calibration = sequence / "calibration/cam_to_cam.yaml"
    calibration.write_text(yaml.safe_dump({"disparity_to_depth": {"cams_03": Q}}))
    source = DsecSequence(sequence, "depth", WINDOW_NS)
    assert [source.key(n) for n in range(len(source))] == [  # the first has no events before it
        "zurich_city_00_a/000001", "zurich_city_00_a/000002",
    ]  # fmt: skip
    window = source.read(0, 0)
    assert window.truth.dtype == np.float32
    assert window.truth[7, 9] == pytest.approx(0.6 * 550 / 12.5)
    assert np.isnan(window.truth).sum() == 480 * 640 - 1
    assert window.t_end == TIMES_US[1] * 1000
    assert_events(window, window.t_end - WINDOW_NS, window.t_end, 480)
    calibration.write_text("intrinsics: {}")
    with pytest.raises(TaskError, match=r"cam_to_cam\.yaml: has no disparity_to_depth/cams_03"):
        DsecSequence(sequence, "depth", WINDOW_NS)


def test_a_disparity_of_nothing_is_at_no_distance() -> None:
    disparity = np.array([[0, -1, np.nan, 5]], np.float32)
    depth = depth_from_disparity(disparity, np.array(Q))
    assert np.isnan(depth[0, :3]).all()
    assert depth[0, 3] == pytest.approx(66)


def test_flow_brings_its_own_window_and_the_one_before(sequence: Path) -> None:
    stored = np.zeros((480, 640, 3), np.uint16)
    # OpenCV writes blue first: valid, y, x.
    stored[5, 6] = (1, 2**15 - 3 * 128, 2**15 + 2 * 128 + 64)
    stored[6, 6] = (0, 2**15 + 128, 2**15 + 128)
    write_pictures(sequence / "flow/forward", [stored] * 3)
    (sequence / "flow/forward_timestamps.txt").write_text(
        "# from_timestamp_us, to_timestamp_us\n"
        + "\n".join(f"{TIMES_US[n]}, {TIMES_US[n + 1]}" for n in range(3))
    )
    source = DsecSequence(sequence, "flow", WINDOW_NS)
    assert source.key(0) == "zurich_city_00_a/000001"
    window = source.read(0, 0)
    assert (window.t_start, window.t_end) == (TIMES_US[1] * 1000, TIMES_US[2] * 1000)
    assert window.truth.dtype == np.float32
    assert window.truth[5, 6].tolist() == [2.5, -3]
    assert np.isfinite(window.truth).sum() == 2
    assert_events(window, int(TIMES_US[0]) * 1000, window.t_end, 480)


def test_the_splits_are_those_published() -> None:
    counts = {task: (len(one.train), len(one.validation)) for task, one in SPLITS.items()}
    assert counts == {"segmentation": (8, 3), "depth": (31, 10), "flow": (14, 4)}
    for split in SPLITS.values():
        assert len(set(split.train) | set(split.validation)) == len(split.train + split.validation)
    depth = SPLITS["depth"]
    assert set(SPLITS["flow"].train + SPLITS["flow"].validation) < {*depth.train, *depth.validation}


def test_sequences_are_found_by_name_at_any_depth(sequence: Path, tmp_path: Path) -> None:
    write_events(tmp_path / "test" / "zurich_city_13_a")
    (tmp_path / "labels" / "zurich_city_00_a").mkdir(parents=True)  # not a sequence
    names = ("zurich_city_13_a", "zurich_city_00_a")
    assert find(tmp_path, names) == [tmp_path / "test" / "zurich_city_13_a", sequence]
    with pytest.raises(TaskError, match="expected one sequence zurich_city_14_c, found nothing"):
        find(tmp_path, ("zurich_city_14_c",))
    write_events(tmp_path / "again" / "zurich_city_00_a")
    with pytest.raises(
        TaskError, match=r"expected one sequence zurich_city_00_a, found .*again/zurich_city_00_a"
    ):
        find(tmp_path, ("zurich_city_00_a",))


def test_what_is_wrong_is_named(sequence: Path) -> None:
    write_labels(sequence, "semantic/11classes/data")
    classes = numbered_classes(11)
    path = sequence / "semantic/11classes/data/000006.png"
    cv2.imwrite(str(path), np.full((440, 640), 11, np.uint8))
    with pytest.raises(TaskError, match=r"000006\.png: labels have the id 11"):
        DsecSequence(sequence, "segmentation", WINDOW_NS, classes).read(0, 0)
    cv2.imwrite(str(path), np.zeros((440, 640, 3), np.uint8))
    with pytest.raises(TaskError, match=r"000006\.png: labels are uint8 \(440, 640, 3\)"):
        DsecSequence(sequence, "segmentation", WINDOW_NS, classes).read(0, 0)
    times = sequence / "semantic/timestamps.txt"
    times.write_text(f"{TIMES_US[0]}\n")
    with pytest.raises(TaskError, match=r"has 10 pictures, but .*timestamps\.txt has 1 times"):
        DsecSequence(sequence, "segmentation", WINDOW_NS, classes)
    times.write_text("\n".join(str(n) for n in range(10)))
    with pytest.raises(TaskError, match="none of 10 times with ground truth has events before it"):
        DsecSequence(sequence, "segmentation", WINDOW_NS, classes)
    times.unlink()
    with pytest.raises(SourceError, match=r"timestamps\.txt: cannot be read"):
        DsecSequence(sequence, "segmentation", WINDOW_NS, classes)
