"""HighREV: sharp and blurred frames at 1632x1224 with events, a folder for each split.

Layout: github.com/AHupuJR/NTIRE2025_EventDeblur_challenge (``basicsr/data/npz_image_dataset.py``);
Sun et al., "Event-based Frame Interpolation with Ad-hoc Deblurring", CVPR 2023.
``sharp/SEQ_%5d.png``, ``blur/SEQ_%5d.png`` and ``event/SEQ_%5d_%2d.npz``, whose arrays
``timestamp``, ``x``, ``y`` and ``polarity`` [N, 1] hold the events during one exposure, in steps;
the last file lies behind its end. ``x`` holds rows and ``y`` columns. Nothing says when a frame
was taken but its events: a sharp frame is put at the middle of its exposure. Times are
microseconds unless the options say otherwise.
"""

from __future__ import annotations

import zipfile
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from scaleevent_ros.sources.errors import SourceError
from scaleevent_ros.sources.pictures import file_stream, pictures_in, read_raster
from scaleevent_ros.sources.recording import (
    FRAMES_TOPIC,
    ClockStatement,
    ReadOptions,
    Recording,
    event_batch,
    nanoseconds,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from scaleevent_ros.events import EventBatch


def sequences(folder: Path) -> list[str]:
    """List the sequences of a split by name."""
    names = (path.stem.rpartition("_")[0] for path in pictures_in(folder / "sharp"))
    return [name for name, _ in groupby(names)]


def open_recording(folder: Path, name: str, options: ReadOptions) -> Recording:
    """Open one sequence of a split.

    Raises:
        SourceError: If something is not laid out like that.
    """
    frames = [p for p in pictures_in(folder / "sharp") if p.stem.rpartition("_")[0] == name]
    height, width = read_raster(frames[0]).shape[:2]
    unit = options.time_unit or "us"
    files = [sorted((folder / "event").glob(f"{frame.stem}_*.npz")) for frame in frames]
    times = np.array([_middle(folder, *pair, unit) for pair in zip(frames, files, strict=True)])

    def events(t_start: int) -> Iterator[EventBatch]:
        after = None
        for path in (path for exposure in files for path in exposure):
            x, y, t, p = _columns(path, unit)
            batch = event_batch(x, y, t, p, width, height, place=str(path), after=after)
            if len(batch):
                after = int(batch.t[-1])
                yield batch.between(t_start, after + 1)

    return Recording(
        folder / "sharp" / name,
        "highrev",
        width,
        height,
        events,
        ClockStatement("estimated", "Frames are put at the middle of their exposure's events."),
        (file_stream(folder / "sharp", FRAMES_TOPIC, frames, times),),
    )


def _middle(folder: Path, frame: Path, files: list[Path], unit: str) -> int:
    stamps = [t for path in files[:-1] if len(t := _columns(path, unit)[2])]
    if not stamps:
        msg = f"{folder / 'event'}: holds no events for {frame.name}"
        raise SourceError(msg)
    return (int(stamps[0][0]) + int(stamps[-1][-1])) // 2


def _columns(
    path: Path, unit: str
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64], NDArray[Any]]:
    try:
        with np.load(path) as arrays:
            columns = [arrays[name].ravel() for name in ("y", "x", "timestamp", "polarity")]
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        msg = f"{path}: is not an event file of HighREV: {error}"
        raise SourceError(msg) from error
    x, y, t, p = columns
    return x, y, nanoseconds(t, unit), p
