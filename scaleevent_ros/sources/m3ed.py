"""M3ED: the Multi-Robot, Multi-Sensor, Multi-Environment Event Dataset, as HDF5.

Layout: https://m3ed.io/data_overview/datafiles/ and github.com/daniilidis-group/m3ed
(``build_system``); Chaney et al., CVPR 2023 workshops. ``NAME_data.h5`` holds
``prophesee/{left,right}/{x,y,t,p}`` (1280x720, t in µs), ``ovc/rgb/data`` and ``ovc/ts``
(1280x800, triggered by one board, µs of the same clock), and a ``calib`` group for each camera, as
Kalibr names. Beside it ``NAME_depth_gt.h5``: ``depth/prophesee/left`` (m, infinite where unknown)
and ``ts``; and ``NAME_semantics.h5``: ``predictions`` (classes of Cityscapes, 255 where unknown)
and ``warped_image``, the colour frames moved into the left event camera's view, both at ``ts``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scaleevent_ros.sources.calibration import Rig
from scaleevent_ros.sources.errors import SourceError
from scaleevent_ros.sources.hdf5 import EventColumns, dataset, dataset_pictures, open_hdf5
from scaleevent_ros.sources.recording import (
    DEPTH_TOPIC,
    EVENTS_INFO_TOPIC,
    FRAMES_INFO_TOPIC,
    FRAMES_TOPIC,
    LABELS_TOPIC,
    WARPED_TOPIC,
    CameraCalibration,
    ClockStatement,
    ReadOptions,
    Recording,
    nanoseconds,
)

if TYPE_CHECKING:
    from pathlib import Path

    import h5py
    from numpy.typing import NDArray

    from scaleevent_ros.sources.faults import Faults
    from scaleevent_ros.sources.recording import PictureStream

WIDTH, HEIGHT = 1280, 720
CITYSCAPES = (
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
)
"""The 19 classes on which Cityscapes is evaluated, by id."""

_DISTORTION_MODELS = {"radtan": "plumb_bob", "equidistant": "equidistant"}


def open_recording(path: Path, options: ReadOptions) -> Recording:
    """Open ``NAME_data.h5``, with depth and semantics if their files lie beside it.

    Ground truth exists only for the left event camera, so the right one comes with frames only.

    Raises:
        SourceError: If a file has another layout.
    """
    group = f"prophesee/{options.camera}"
    names = (f"{group}/x", f"{group}/y", f"{group}/t", f"{group}/p")
    faults = options.faults()
    events = EventColumns(path, names, "us", faults=faults)
    with open_hdf5(path) as file:
        frame_times = _times(file, "ovc/ts")
        cameras, rig = _cameras(file, group)
    pictures = [
        dataset_pictures(path, FRAMES_TOPIC, "ovc/rgb/data", frame_times, _photograph, faults)
    ]
    if options.camera == "left":
        pictures += _truth(path, faults)
    return Recording(
        path,
        "m3ed",
        WIDTH,
        HEIGHT,
        lambda t_start: events.batches(WIDTH, HEIGHT, t_start),
        ClockStatement("hardware_trigger", "One board triggers all cameras, at each exposure."),
        tuple(pictures),
        cameras,
        rig,
        span_ns=events.span_ns,
        one_sensor=False,
        labels=CITYSCAPES,
        faults=faults,
    )


def _truth(path: Path, faults: Faults) -> list[PictureStream]:
    streams = []
    for suffix, topic, name, prepare in (
        ("depth_gt", DEPTH_TOPIC, "depth/prophesee/left", _depth),
        ("semantics", LABELS_TOPIC, "predictions", _labels),
        ("semantics", WARPED_TOPIC, "warped_image", _photograph),
    ):
        beside = path.with_name(path.name.replace("_data.", f"_{suffix}."))
        if beside != path and beside.exists():
            with open_hdf5(beside) as file:
                times = _times(file, "ts")
            streams.append(dataset_pictures(beside, topic, name, times, prepare, faults))
    return streams


def _times(file: h5py.File, name: str) -> NDArray[np.int64]:
    return nanoseconds(dataset(file, name)[:], "us")


def _photograph(row: NDArray[Any]) -> NDArray[Any]:
    return row[..., 0] if row.shape[-1] == 1 else row


def _labels(row: NDArray[Any]) -> NDArray[Any]:
    return row.reshape(row.shape[:2])


def _depth(row: NDArray[Any]) -> NDArray[Any]:
    depth = row.astype(np.float32)
    depth[~np.isfinite(depth)] = np.nan
    return depth


def _cameras(file: h5py.File, group: str) -> tuple[tuple[CameraCalibration, ...], Rig | None]:
    """Read the cameras, event camera first, and the rotation between them.

    The translation, of some centimetres, is left out: the mapping is exact at infinite depth.
    """
    groups = [f"{group}/calib", "ovc/rgb/calib"]
    if any(name not in file for name in groups):
        return (), None
    event = _calibration(file[groups[0]], EVENTS_INFO_TOPIC)
    frame = _calibration(file[groups[1]], FRAMES_INFO_TOPIC)
    to_left = [dataset(file, f"{name}/T_to_prophesee_left")[:3, :3] for name in groups]
    rotation = to_left[0].T @ to_left[1]
    source = f"{file.filename}: T_to_prophesee_left"
    rig = Rig(frame.camera(), event.camera(), rotation, np.zeros(3), source=source)
    return (event, frame), rig


def _calibration(group: h5py.Group, topic: str) -> CameraCalibration:
    said = dataset(group, "distortion_model")[()]
    model = said.decode() if isinstance(said, bytes) else str(said)
    if model not in _DISTORTION_MODELS:
        known = ", ".join(_DISTORTION_MODELS)
        msg = f"{group.file.filename}: {group.name}: distortion model {model!r} is none of {known}"
        raise SourceError(msg)
    fx, fy, cx, cy = (float(value) for value in dataset(group, "intrinsics")[:])
    width, height = (int(value) for value in dataset(group, "resolution")[:])
    distortion = tuple(float(value) for value in dataset(group, "distortion_coeffs")[:])
    return CameraCalibration(
        topic, width, height, _DISTORTION_MODELS[model], (fx, fy, cx, cy), distortion
    )
