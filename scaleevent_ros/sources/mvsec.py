"""MVSEC: the Multi Vehicle Stereo Event Camera data set, as HDF5.

Layout: https://daniilidis-group.github.io/mvsec/download/ and Zhu et al., "The Multivehicle Stereo
Event Camera Dataset", RA-L 2018. ``NAME_data.hdf5`` holds, for each DAVIS346 of the pair,
``davis/left/events`` [N, 4] (x, y, t in s since 1970, polarity -1 or 1), ``image_raw`` [M, 260,
346] and ``image_raw_ts``; ``NAME_gt.hdf5`` beside it ``depth_image_raw`` (m, NaN where unknown)
and ``flow_dist`` [K, 2, 260, 346] (px from one to the next), each with its ``_ts``, in the same
raw view.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scaleevent_ros.sources.errors import SourceError
from scaleevent_ros.sources.hdf5 import EventColumns, dataset, dataset_pictures, open_hdf5
from scaleevent_ros.sources.recording import (
    DEPTH_TOPIC,
    FLOW_TOPIC,
    FRAMES_TOPIC,
    ClockStatement,
    ReadOptions,
    Recording,
    nanoseconds,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from scaleevent_ros.sources.faults import Faults
    from scaleevent_ros.sources.recording import PictureStream

WIDTH, HEIGHT = 346, 260


def open_recording(path: Path, options: ReadOptions) -> Recording:
    """Open ``NAME_data.hdf5``, with ``NAME_gt.hdf5`` if that lies beside it.

    Raises:
        SourceError: If a file has another layout.
    """
    group = f"davis/{options.camera}"
    with open_hdf5(path) as file:
        shape = dataset(file, f"{group}/events").shape
    if len(shape) != 2 or shape[1] != 4:
        msg = f"{path}: {group}/events is {shape}, not [N, 4]"
        raise SourceError(msg)
    faults = options.faults()
    events = EventColumns(path, (0, 1, 2, 3), "s", table=f"{group}/events", faults=faults)
    pictures = [_stream(path, FRAMES_TOPIC, f"{group}/image_raw", faults)]
    truth = path.with_name(path.name.replace("_data.", "_gt."))
    if truth != path and truth.exists():
        for topic, name in ((DEPTH_TOPIC, "depth_image_raw"), (FLOW_TOPIC, "flow_dist")):
            with open_hdf5(truth) as file:
                present = f"{group}/{name}" in file
            if present:
                pictures.append(_stream(truth, topic, f"{group}/{name}", faults))
    return Recording(
        path,
        "mvsec",
        WIDTH,
        HEIGHT,
        lambda t_start: events.batches(WIDTH, HEIGHT, t_start),
        ClockStatement("sensor_time", "One DAVIS346 stamps events and frames."),
        tuple(pictures),
        span_ns=events.span_ns,
        faults=faults,
    )


def _stream(path: Path, topic: str, name: str, faults: Faults) -> PictureStream:
    with open_hdf5(path) as file:
        times = nanoseconds(dataset(file, f"{name}_ts")[:], "s")
    return dataset_pictures(path, topic, name, times, _pixels, faults)


def _pixels(row: NDArray[Any]) -> NDArray[Any]:
    if row.dtype == np.uint8:
        return row
    flow_or_depth = row.astype(np.float32)
    return (
        np.ascontiguousarray(np.moveaxis(flow_or_depth, 0, -1)) if row.ndim == 3 else flow_or_depth
    )
