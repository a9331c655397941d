from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import h5py
import hdf5plugin
import numpy as np
import pytest
import yaml
from bag_contents import assert_same_events, pixels, read_bag
from recording_events import photographs, recorded_events

from scaleevent_ros.events import EventBatch
from scaleevent_ros.sources import SourceError
from scaleevent_ros.sources.calibration import read_calibration
from scaleevent_ros.sources.convert import ConvertOptions, convert
from scaleevent_ros.sources.recording import ReadOptions

if TYPE_CHECKING:
    from pathlib import Path

OFFSET_US = 49_599_300_523
TURN, _ = cv2.Rodrigues(np.array([0.0, 0.02, 0.0]))  # from the frame camera to the event camera


def write_pictures(folder: Path, pictures: np.ndarray) -> None:
    folder.mkdir(parents=True)
    for index, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f"{index:06d}.png"), picture)


def write_sequence(folder: Path, events: EventBatch) -> dict[str, np.ndarray]:
    """Write a sequence whose rectification moves events 3 to the right; return its pictures."""
    (folder / "events/left").mkdir(parents=True)
    with h5py.File(folder / "events/left/events.h5", "w") as file:
        blosc = hdf5plugin.Blosc(cname="zstd")
        for name, dtype in (("x", "u2"), ("y", "u2"), ("p", "u1")):
            file.create_dataset(f"events/{name}", data=getattr(events, name).astype(dtype), **blosc)
        t_us = (events.t // 1000 - OFFSET_US).astype("u4")
        file.create_dataset("events/t", data=t_us, **blosc)
        file["t_offset"] = OFFSET_US
        file["ms_to_idx"] = np.searchsorted(t_us, np.arange(0, int(t_us[-1]), 1000))
    with h5py.File(folder / "events/left/rectify_map.h5", "w") as file:
        x, y = np.meshgrid(np.arange(640), np.arange(480))
        file["rectify_map"] = np.stack([x + 2.9, y + 0.2], axis=-1).astype(np.float32)
    times_us = OFFSET_US + np.array([100_000, 200_000])
    frames = photographs(2, 108, 144, colour=True)
    write_pictures(folder / "images/left/rectified", frames[..., ::-1])
    (folder / "images/timestamps.txt").write_text("\n".join(map(str, times_us)))
    disparity = np.zeros((1, 480, 640), np.uint16)
    disparity[0, 7, 9] = 256 * 12 + 128
    write_pictures(folder / "disparity/event", disparity)
    (folder / "disparity/timestamps.txt").write_text(f"{times_us[0]}\n")
    flow = np.zeros((1, 480, 640, 3), np.uint16)
    flow[0, 5, 6] = (1, 2**15 - 3 * 128, 2**15 + 2 * 128)  # OpenCV writes blue first: valid, y, x
    write_pictures(folder / "flow/forward", flow)
    (folder / "flow/forward_timestamps.txt").write_text(
        f"# from_timestamp_us, to_timestamp_us\n{times_us[0]}, {times_us[1]}\n"
    )
    labels = np.random.default_rng(2).integers(0, 11, (1, 440, 640)).astype(np.uint8)
    write_pictures(folder / "semantic/left/11classes/data", labels)
    (folder / "semantic/timestamps.txt").write_text(f"{times_us[0]}\n")
    (folder / "calibration").mkdir()
    cameras = {
        "camRect0": {"camera_matrix": [500.0, 501.0, 320.0, 240.0], "resolution": [640, 480]},
        "camRect1": {"camera_matrix": [900.0, 901.0, 72.0, 54.0], "resolution": [144, 108]},
    }
    extrinsics = {
        "T_10": [*np.c_[TURN.T, [0.1, 0, 0]].tolist(), [0, 0, 0, 1]],  # from camera 0 to camera 1
        "R_rect0": np.eye(3).tolist(),
        "R_rect1": np.eye(3).tolist(),
    }
    content = {"intrinsics": cameras, "extrinsics": extrinsics}
    (folder / "calibration/cam_to_cam.yaml").write_text(yaml.safe_dump(content))
    return {"frames": frames, "labels": labels[0]}


@pytest.fixture
def events() -> EventBatch:
    return recorded_events(640, 480, start_s=OFFSET_US / 1e6)


def test_everything_arrives_in_the_rectified_view(tmp_path: Path, events: EventBatch) -> None:
    wanted = write_sequence(tmp_path / "seq", events)
    convert(tmp_path / "seq", tmp_path / "bag", ConvertOptions())
    bag = read_bag(tmp_path / "bag")
    kept = events.x < 637
    moved = EventBatch(
        events.x[kept] + np.uint16(3), events.y[kept], events.t[kept], events.p[kept], 640, 480
    )
    assert_same_events(bag.events, moved)
    images = bag.messages["/camera/image_raw"]
    assert [t for t, _ in images] == [(OFFSET_US + 100_000) * 1000, (OFFSET_US + 200_000) * 1000]
    for (_, message), frame in zip(images, wanted["frames"], strict=True):
        assert np.array_equal(pixels(message), frame)
    ((_, message),) = bag.messages["/event_camera/disparity"]
    disparity = pixels(message)
    assert disparity[7, 9] == 12.5
    assert np.isnan(disparity).sum() == 480 * 640 - 1
    ((_, message),) = bag.messages["/event_camera/flow"]
    assert pixels(message)[5, 6].tolist() == [2.0, -3.0]
    assert np.isfinite(pixels(message)).sum() == 2
    ((_, message),) = bag.messages["/event_camera/labels"]
    assert np.array_equal(pixels(message)[:440], wanted["labels"])
    assert (pixels(message)[440:] == 255).all()
    ((_, names),) = bag.messages["/event_camera/label_info"]
    assert [c.class_name for c in names.class_map][8] == "car"
    info = bag.messages["/event_camera/camera_info"][0][1]
    assert info.k.tolist() == [500, 0, 320, 0, 501, 240, 0, 0, 1]
    assert len(bag.messages["/camera/camera_info"]) == 2
    assert {m.header.frame_id for _, m in images} == {"camera"}
    rig = read_calibration(tmp_path / "bag/calibration.yaml")
    # A point far away, seen by both rectified cameras.
    point = np.array([0.2, -0.1, 1.0])
    seen = TURN @ point
    x, y = 500 * seen[0] / seen[2] + 320, 501 * seen[1] / seen[2] + 240
    expected = (900 * point[0] + 72, 901 * point[1] + 54)
    found = rig.sample_map()[round(y), round(x)]
    assert found == pytest.approx(expected, abs=2)  # a pixel of events is 1.8 of frames


def test_a_missing_rectification_is_an_error(tmp_path: Path, events: EventBatch) -> None:
    write_sequence(tmp_path / "seq", events)
    (tmp_path / "seq/events/left/rectify_map.h5").unlink()
    with pytest.raises(SourceError, match=r"rectify_map\.h5: is missing"):
        convert(tmp_path / "seq", tmp_path / "bag", ConvertOptions())


def test_missing_timestamps_are_an_error(tmp_path: Path, events: EventBatch) -> None:
    write_sequence(tmp_path / "seq", events)
    (tmp_path / "seq/images/timestamps.txt").write_text("49599400523\n")
    with pytest.raises(SourceError, match="rectified: holds 2 pictures but 1 timestamps"):
        convert(tmp_path / "seq", tmp_path / "bag", ConvertOptions())


def test_labels_of_another_size_are_an_error(tmp_path: Path, events: EventBatch) -> None:
    write_sequence(tmp_path / "seq", events)
    path = tmp_path / "seq/semantic/left/11classes/data/000000.png"
    cv2.imwrite(str(path), np.zeros((220, 320), np.uint8))
    strict = ConvertOptions(ReadOptions(strict=True))
    with pytest.raises(SourceError, match=r"11classes/data: the picture at \d+ ns is 320x480"):
        convert(tmp_path / "seq", tmp_path / "bag", strict)


def test_clocks_that_do_not_overlap_are_an_error(tmp_path: Path, events: EventBatch) -> None:
    write_sequence(tmp_path / "seq", events)
    (tmp_path / "seq/images/timestamps.txt").write_text("100000\n200000\n")
    with pytest.raises(SourceError, match="rectified: clocks do not overlap"):
        convert(tmp_path / "seq", tmp_path / "bag", ConvertOptions())


def test_a_line_that_is_no_time_is_an_error(tmp_path: Path, events: EventBatch) -> None:
    write_sequence(tmp_path / "seq", events)
    (tmp_path / "seq/images/timestamps.txt").write_text("49599400523\nnoon\n")
    with pytest.raises(SourceError, match=r"timestamps\.txt: line 2 is 'noon'"):
        convert(tmp_path / "seq", tmp_path / "bag", ConvertOptions())
