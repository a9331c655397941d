"""DSEC: a stereo event camera data set for driving scenarios, a folder for each sequence.

Layout: https://dsec.ifi.uzh.ch/data-format/ and github.com/uzh-rpg/DSEC; Gehrig et al., RA-L 2021.
``events/left/events.h5`` (640x480; ``events/{x,y,t,p}``, t in µs before ``t_offset``),
``events/left/rectify_map.h5`` [480, 640, 2], ``images/left/rectified/*.png`` (1440x1080) with
``images/timestamps.txt`` (µs, middle of the exposure), ``disparity/event/*.png`` (256 for a pixel,
0 unknown), ``flow/forward/*.png`` (2^15 + 128 for a pixel, third channel valid) and, from
DSEC-Semantic (Sun et al., ECCV 2022, github.com/uzh-rpg/ess),
``semantic/left/11classes/data/*.png`` (440 rows: the hood below is left out; 255 unknown) with
``semantic/timestamps.txt``.

Ground truth is given in the rectified view of the left event camera, so events are moved to the
nearest pixel of that view; those that leave the picture are dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from scaleevent_ros.events import EventBatch
from scaleevent_ros.sources.calibration import Rig
from scaleevent_ros.sources.errors import SourceError
from scaleevent_ros.sources.hdf5 import EventColumns, dataset, open_hdf5
from scaleevent_ros.sources.pictures import (
    file_stream,
    pictures_in,
    read_integers,
    read_raster,
)
from scaleevent_ros.sources.recording import (
    DISPARITY_TOPIC,
    EVENTS_INFO_TOPIC,
    FLOW_TOPIC,
    FRAMES_INFO_TOPIC,
    FRAMES_TOPIC,
    LABELS_TOPIC,
    CameraCalibration,
    ClockStatement,
    ReadOptions,
    Recording,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from scaleevent_ros.sources.faults import Faults
    from scaleevent_ros.sources.recording import PictureStream

WIDTH, HEIGHT = 640, 480

CLASSES_11 = (
    "background",
    "building",
    "fence",
    "person",
    "pole",
    "road",
    "sidewalk",
    "vegetation",
    "car",
    "wall",
    "traffic sign",
)

# In `cam_to_cam.yaml`: the event camera, the frame camera, the transformation between them.
_CAMERAS = {"left": (0, 1, "T_10"), "right": (3, 2, "T_32")}


def open_recording(folder: Path, options: ReadOptions) -> Recording:
    """Open a sequence: events, and the available frames, disparity, flow and labels.

    Raises:
        SourceError: If a file has another layout, or ``rectify_map.h5`` is missing.
    """
    side = options.camera
    faults = options.faults()
    events = open_events(folder / f"events/{side}/events.h5", faults)
    rectified = rectified_addresses(events.path.with_name("rectify_map.h5"))

    def batches(t_start: int) -> Iterator[EventBatch]:
        for batch in events.batches(WIDTH, HEIGHT, t_start):
            yield rectify(batch, rectified)

    pictures = []
    frames = folder / f"images/{side}/rectified"
    if frames.is_dir():
        times = read_integers(folder / "images/timestamps.txt", 1)[:, 0] * 1000
        pictures.append(file_stream(frames, FRAMES_TOPIC, pictures_in(frames), times, faults))
    if side == "left":
        pictures += _truth(folder, faults)
    cameras, rig = _cameras(folder / "calibration/cam_to_cam.yaml", side)
    return Recording(
        folder,
        "dsec",
        WIDTH,
        HEIGHT,
        batches,
        ClockStatement(
            "hardware_trigger", "One microcontroller triggers all cameras; frames at mid-exposure."
        ),
        tuple(pictures),
        cameras,
        rig,
        span_ns=events.span_ns,
        one_sensor=False,
        labels=CLASSES_11,
        faults=faults,
    )


def open_events(path: Path, faults: Faults | None = None) -> EventColumns:
    """Open an ``events.h5`` with the events in the sensor's own, unrectified view.

    Raises:
        SourceError: If the file has another layout.
    """
    with open_hdf5(path) as file:
        offset_us = int(dataset(file, "t_offset")[()])
    columns = ("events/x", "events/y", "events/t", "events/p")
    return EventColumns(path, columns, "us", offset=offset_us, faults=faults)


def read_events(
    events: EventColumns, rectified: NDArray[np.int32], t_start: int, t_end: int
) -> EventBatch:
    """Read the events of a window in the rectified view, found by the file's ``ms_to_idx``.

    Args:
        events: Events of `open_events`.
        rectified: Addresses of `rectified_addresses`.
        t_start: Start in ns.
        t_end: End in ns, excluded.

    Raises:
        SourceError: If the file is damaged.
    """
    with open_hdf5(events.path) as file:
        index, offset_ns = dataset(file, "ms_to_idx"), int(dataset(file, "t_offset")[()]) * 1000
        first_ms = max((t_start - offset_ns) // 1_000_000, 0)
        last_ms = max(-((offset_ns - t_end) // 1_000_000), 0)
        first, last = (
            int(index[ms]) if ms < len(index) else events.length for ms in (first_ms, last_ms)
        )
    batch = events.between(WIDTH, HEIGHT, t_start, t_end, (first, last))
    return rectify(batch, rectified)


def rectified_addresses(path: Path) -> NDArray[np.int32]:
    """Read the rectified position of each pixel, int32 [480, 640], as y·640 + x; -1 if outside.

    Raises:
        SourceError: If the file is missing or has another layout.
    """
    if not path.is_file():
        msg = f"{path}: is missing; ground truth and frames need it; it comes with the events"
        raise SourceError(msg)
    with open_hdf5(path) as file:
        moved = np.rint(dataset(file, "rectify_map")[:]).astype(np.int32)
    if moved.shape != (HEIGHT, WIDTH, 2):
        msg = f"{path}: rectify_map is {moved.shape}, not {(HEIGHT, WIDTH, 2)}"
        raise SourceError(msg)
    x, y = moved[..., 0], moved[..., 1]
    inside = (x >= 0) & (x < WIDTH) & (y >= 0) & (y < HEIGHT)
    return np.where(inside, y * WIDTH + x, -1)


def rectify(batch: EventBatch, rectified: NDArray[np.int32]) -> EventBatch:
    """Move events by `rectified_addresses`; those that leave the picture are dropped."""
    address = rectified[batch.y, batch.x]
    inside = address >= 0
    y, x = np.divmod(address[inside], WIDTH)
    return EventBatch(
        x.astype(np.uint16), y.astype(np.uint16), batch.t[inside], batch.p[inside], WIDTH, HEIGHT
    )


def _truth(folder: Path, faults: Faults) -> list[PictureStream]:
    streams = []
    for topic, pictures, times, columns, load in (
        (DISPARITY_TOPIC, "disparity/event", "disparity/timestamps.txt", 1, read_disparity),
        (FLOW_TOPIC, "flow/forward", "flow/forward_timestamps.txt", 2, read_flow),
        (LABELS_TOPIC, "semantic/left/11classes/data", "semantic/timestamps.txt", 1, _labels),
        (LABELS_TOPIC, "semantic/11classes/data", "semantic/timestamps.txt", 1, _labels),
    ):
        if (folder / pictures).is_dir():
            stamps = read_integers(folder / times, columns)[:, 0] * 1000
            files = pictures_in(folder / pictures)
            streams.append(file_stream(folder / pictures, topic, files, stamps, faults, load))
    return streams


def read_disparity(path: Path) -> NDArray[np.float32]:
    """Read a disparity map, float32 [480, 640] in px; NaN where it is not known.

    Raises:
        SourceError: If it cannot be decoded.
    """
    stored = read_raster(path)
    disparity: NDArray[np.float32] = stored.astype(np.float32) / np.float32(256)
    disparity[stored == 0] = np.nan
    return disparity


def read_flow(path: Path) -> NDArray[np.float32]:
    """Read a flow map, float32 [480, 640, 2] in px to the right and down; NaN where not known.

    Raises:
        SourceError: If it cannot be decoded, or is no such map.
    """
    stored = read_raster(path)
    if stored.dtype != np.uint16 or stored.ndim != 3:
        msg = f"{path}: is {stored.dtype} {stored.shape}, not 16-bit with three channels"
        raise SourceError(msg)
    # OpenCV reads blue first: valid, y, x.
    pixels = stored[..., :0:-1].astype(np.float32)
    flow: NDArray[np.float32] = (pixels - np.float32(2**15)) / np.float32(128)
    flow[stored[..., 0] == 0] = np.nan
    return flow


def _labels(path: Path) -> NDArray[Any]:
    labels = read_raster(path)
    hood = HEIGHT - labels.shape[0]
    return np.pad(labels, ((0, max(hood, 0)), (0, 0)), constant_values=255)


def _cameras(path: Path, side: str) -> tuple[tuple[CameraCalibration, ...], Rig | None]:
    """Read the rectified cameras, event camera first, and the rotation between them.

    ``T_10`` maps points from camera 0 to camera 1, ``R_rectN`` those of camera N to its rectified
    view. The translation, of some centimetres, is left out: the mapping is exact at infinite depth.
    """
    if not path.is_file():
        return (), None
    event, frame, between = _CAMERAS[side]
    try:
        content = yaml.safe_load(path.read_text())
        cameras = []
        for topic, number in ((EVENTS_INFO_TOPIC, event), (FRAMES_INFO_TOPIC, frame)):
            said = content["intrinsics"][f"camRect{number}"]
            width, height = (int(value) for value in said["resolution"])
            fx, fy, cx, cy = (float(value) for value in said["camera_matrix"])
            none = (0.0,) * 5  # rectified
            cameras.append(
                CameraCalibration(topic, width, height, "plumb_bob", (fx, fy, cx, cy), none)
            )
        extrinsics = {
            name: np.array(content["extrinsics"][name], np.float64)[:3, :3]
            for name in (between, f"R_rect{event}", f"R_rect{frame}")
        }
    except (yaml.YAMLError, KeyError, TypeError, ValueError, IndexError) as error:
        msg = f"{path}: is not the cam_to_cam.yaml of DSEC: {error!r}"
        raise SourceError(msg) from error
    turn = extrinsics[between]
    event_from_frame = turn.T if between.endswith(str(event)) else turn
    rotation = extrinsics[f"R_rect{event}"] @ event_from_frame @ extrinsics[f"R_rect{frame}"].T
    event_camera, frame_camera = (camera.camera() for camera in cameras)
    rig = Rig(frame_camera, event_camera, rotation, np.zeros(3), source=str(path))
    return tuple(cameras), rig
