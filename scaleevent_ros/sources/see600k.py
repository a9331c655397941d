"""SEE-600K: the same scenes in many illuminations, with a DAVIS346, a folder for each video.

Layout: github.com/yunfanLu/SEE (``docs/TUTORIAL.md``, ``see/datasets/see_dataset.py``); Lu et al.,
"SEE: See Everything Every Time", 2025. ``frame_event/T_START_END_BEGIN_STOP.png`` is a frame
exposed from ``BEGIN`` to ``STOP``, ``frame_event/START_END.npy`` [N, 4] (t, x, y, polarity) the
events between two frames, in any order; all in µs since 1970.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from scaleevent_ros.sources.errors import SourceError
from scaleevent_ros.sources.event_columns import Columns, event_batches
from scaleevent_ros.sources.pictures import file_stream, pictures_in
from scaleevent_ros.sources.recording import (
    FRAMES_TOPIC,
    ClockStatement,
    ReadOptions,
    Recording,
    nanoseconds,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from scaleevent_ros.events import EventBatch

WIDTH, HEIGHT = 346, 260


def open_recording(folder: Path, options: ReadOptions) -> Recording:
    """Open a video: events, and frames at the middle of their exposure.

    Raises:
        SourceError: If a file has another name or layout.
    """
    data = folder / "frame_event"
    files = sorted(data.glob("*.npy"), key=lambda path: _stamps(path, 2))
    if not files:
        msg = f"{data}: holds no events (*.npy)"
        raise SourceError(msg)
    frames = [path for path in pictures_in(data) if not path.stem.endswith("_vis")]
    times = np.array([sum(_stamps(path, 5)[3:]) // 2 for path in frames], np.int64) * 1000
    unit = options.time_unit or "us"

    faults = options.faults()

    def pieces(t_start: int) -> Iterator[Columns]:
        for path in files:
            if _stamps(path, 2)[1] * 1000 < t_start:
                continue
            rows = faults.attempt("files of events that cannot be read", partial(_rows, path))
            if rows is not None:
                t, x, y, p = rows.T
                yield Columns(str(path), 0, x, y, nanoseconds(t, unit), p)

    def events(t_start: int) -> Iterator[EventBatch]:
        return event_batches(pieces(t_start), WIDTH, HEIGHT, faults, t_start)

    return Recording(
        folder,
        "see600k",
        WIDTH,
        HEIGHT,
        events,
        ClockStatement("sensor_time", "One DAVIS346 stamps both; frames at mid-exposure.", 0.0),
        (file_stream(data, FRAMES_TOPIC, frames, times, faults),),
        span_ns=(_stamps(files[0], 2)[0] * 1000, _stamps(files[-1], 2)[1] * 1000),
        faults=faults,
    )


def _stamps(path: Path, count: int) -> list[int]:
    parts = path.stem.split("_")
    if len(parts) != count or not all(part.isdigit() for part in parts):
        msg = f"{path}: its name does not hold {count} times, joined by underscores"
        raise SourceError(msg)
    return [int(part) for part in parts]


def _rows(path: Path) -> NDArray[Any]:
    try:
        rows: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        msg = f"{path}: is not a file of events: {error}"
        raise SourceError(msg) from error
    if rows.ndim != 2 or rows.shape[1] != 4:
        msg = f"{path}: holds {rows.shape}, not [N, 4]"
        raise SourceError(msg)
    in_order: NDArray[Any] = rows[np.argsort(rows[:, 0], kind="stable")]
    return in_order
