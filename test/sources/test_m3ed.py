from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import h5py
import numpy as np
import pytest
from bag_contents import assert_same_events, pixels, read_bag
from recording_events import photographs, recorded_events

from scaleevent_ros.sources import SourceError
from scaleevent_ros.sources.calibration import Rig, read_calibration
from scaleevent_ros.sources.convert import ConvertOptions, convert
from scaleevent_ros.sources.m3ed import open_recording
from scaleevent_ros.sources.recording import ReadOptions

if TYPE_CHECKING:
    from pathlib import Path

    from scaleevent_ros.events import EventBatch

NAME = "car_urban_day_horse"
TURN, _ = cv2.Rodrigues(np.array([0.0, 0.03, 0.01]))


def write_calibration(
    group: h5py.Group, resolution: tuple[int, int], model: str, turn: np.ndarray
) -> None:
    group["calib/intrinsics"] = [1000.0, 1001.0, 640.0, 360.0]
    group["calib/distortion_coeffs"] = [0.1, 0.2, 0.3, 0.4]
    group["calib/distortion_model"] = model
    group["calib/camera_model"] = "pinhole"
    group["calib/resolution"] = resolution
    pose = np.eye(4)
    pose[:3, :3] = turn
    group["calib/T_to_prophesee_left"] = pose


def write_sequence(folder: Path, model: str = "radtan") -> tuple[EventBatch, np.ndarray]:
    events = recorded_events(1280, 720)
    ts = np.array([1_100_000, 1_200_000])
    frames = photographs(2, 800, 1280, colour=True)
    with h5py.File(folder / f"{NAME}_data.h5", "w") as file:
        for side in ("left", "right"):
            group = file.create_group(f"prophesee/{side}")
            group.create_dataset("t", data=events.t // 1000, compression="lzf")
            group["x"], group["y"], group["p"] = events.x, events.y, events.p.astype("i1")
            group["ms_map_idx"] = np.searchsorted(group["t"], np.arange(0, 1500) * 1000)
            write_calibration(group, (1280, 720), model, np.eye(3))
        file["ovc/ts"] = ts
        file.create_dataset("ovc/rgb/data", data=frames, compression="lzf")
        write_calibration(file["ovc/rgb"], (1280, 800), model, TURN)
    with h5py.File(folder / f"{NAME}_depth_gt.h5", "w") as file:
        file["ts"] = ts[:1]
        depth = np.full((1, 720, 1280), np.inf, np.float32)
        depth[0, 10, 20] = 7.5
        file["depth/prophesee/left"] = depth
    with h5py.File(folder / f"{NAME}_semantics.h5", "w") as file:
        file["ts"] = ts
        file["predictions"] = np.full((2, 720, 1280, 1), 13, np.uint8)
        file["warped_image"] = frames[:, :720]
    return events, frames


def test_everything_arrives(tmp_path: Path) -> None:
    events, frames = write_sequence(tmp_path)
    convert(tmp_path, tmp_path / "out", ConvertOptions())
    bag = read_bag(tmp_path / f"out/{NAME}_data")
    assert_same_events(bag.events, events)
    images = bag.messages["/camera/image_raw"]
    assert [t for t, _ in images] == [1_100_000_000, 1_200_000_000]
    assert np.array_equal([pixels(m) for _, m in images], frames)
    warped = [pixels(m) for _, m in bag.messages["/event_camera/image_warped"]]
    assert np.array_equal(warped, frames[:, :720])
    ((_, message),) = bag.messages["/event_camera/depth"]
    assert pixels(message)[10, 20] == 7.5
    assert np.isnan(pixels(message)[0, 0])
    assert (pixels(bag.messages["/event_camera/labels"][0][1]) == 13).all()
    ((_, names),) = bag.messages["/event_camera/label_info"]
    assert names.class_map[13].class_name == "car"
    info = bag.messages["/event_camera/camera_info"][0][1]
    assert (info.width, info.height, info.distortion_model) == (1280, 720, "plumb_bob")
    assert info.d.tolist() == [0.1, 0.2, 0.3, 0.4, 0.0]
    assert bag.messages["/camera/camera_info"][0][1].height == 800
    rig = read_calibration(tmp_path / f"out/{NAME}_data/calibration.yaml")
    assert isinstance(rig, Rig)
    assert np.allclose(rig.rotation, TURN)
    assert rig.frame_camera.distortion == (0.1, 0.2, 0.3, 0.4)


def test_the_right_camera_comes_without_the_left_ones_truth(tmp_path: Path) -> None:
    write_sequence(tmp_path)
    recording = open_recording(tmp_path / f"{NAME}_data.h5", ReadOptions(camera="right"))
    assert [stream.topic for stream in recording.pictures] == ["/camera/image_raw"]


def test_an_unknown_lens_model_is_an_error(tmp_path: Path) -> None:
    write_sequence(tmp_path, model="fov")
    with pytest.raises(SourceError, match="distortion model 'fov' is none of radtan"):
        open_recording(tmp_path / f"{NAME}_data.h5", ReadOptions())


def test_columns_of_different_length_are_an_error(tmp_path: Path) -> None:
    write_sequence(tmp_path)
    with h5py.File(tmp_path / f"{NAME}_data.h5", "a") as file:
        del file["prophesee/left/p"]
        file["prophesee/left/p"] = np.zeros(3, "i1")
    with pytest.raises(SourceError, match="columns of events differ in length"):
        open_recording(tmp_path / f"{NAME}_data.h5", ReadOptions(strict=True))
