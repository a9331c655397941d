"""HighREV: sharp and blurred frames at 1632x1224 with events, a folder for each split.

Layout: github.com/AHupuJR/NTIRE2025_EventDeblur_challenge (``basicsr/data/npz_image_dataset.py``);
Sun et al., "Event-based Frame Interpolation with Ad-hoc Deblurring", CVPR 2023.
``sharp/SEQ_%5d.png``, ``blur/SEQ_%5d.png`` and ``event/SEQ_%5d_%2d.npz``, whose arrays
``timestamp``, ``x``, ``y`` and ``polarity`` [N, 1] hold the events during one exposure, in steps;
the last file begins after its end. ``x`` holds rows and ``y`` columns. Frames have no times: that
of a sharp frame is the middle of the events of its exposure. Times are microseconds unless the
options differ.
"""

from __future__ import annotations

import zipfile
from functools import partial
from glob import escape
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from scaleevent_ros.sources.errors import SourceError
from scaleevent_ros.sources.event_columns import Columns, event_batches
from scaleevent_ros.sources.faults import Faults
from scaleevent_ros.sources.pictures import file_stream, picture_size_of, pictures_in
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

    from scaleevent_ros.events import EventBatch


_UNREADABLE_EVENTS = "files of events that cannot be read"


def sequences(folder: Path) -> list[str]:
    """List the sequences of a split by name."""
    names = (path.stem.rpartition("_")[0] for path in pictures_in(folder / "sharp"))
    return [name for name, _ in groupby(names)]


def open_recording(folder: Path, name: str, options: ReadOptions) -> Recording:
    """Open one sequence of a split.

    Raises:
        SourceError: If a file has another layout.
    """
    frames = [p for p in pictures_in(folder / "sharp") if p.stem.rpartition("_")[0] == name]
    width, height = picture_size_of(frames)
    unit = options.time_unit or "us"
    faults = options.faults()
    files = [sorted((folder / "event").glob(f"{escape(frame.stem)}_*.npz")) for frame in frames]
    middles = [_middle(exposure, unit) for exposure in files]
    for frame, middle in zip(frames, middles, strict=True):
        if middle is None:
            message = f"{folder / 'event'}: holds no events for {frame.name}"
            faults.add("frames without events", message)
    seen = [pair for pair in zip(frames, middles, strict=True) if pair[1] is not None]

    def pieces() -> Iterator[Columns]:
        for path in (path for exposure in files for path in exposure):
            columns = faults.attempt(_UNREADABLE_EVENTS, partial(_columns, path, unit))
            if columns is not None:
                yield columns

    def events(t_start: int) -> Iterator[EventBatch]:
        return event_batches(pieces(), width, height, faults, t_start)

    return Recording(
        folder / "sharp" / name,
        "highrev",
        width,
        height,
        events,
        ClockStatement("estimated", "Frames are put at the middle of their exposure's events."),
        (
            file_stream(
                folder / "sharp",
                FRAMES_TOPIC,
                [frame for frame, _ in seen],
                np.array([middle for _, middle in seen], np.int64),
                faults,
            ),
        ),
        faults=faults,
    )


def _middle(files: list[Path], unit: str) -> int | None:
    """Compute the middle of an exposure in ns from its events; None if none can be read."""
    # Unreadable files are counted when the events are streamed.
    columns = [Faults().attempt("", partial(_columns, path, unit)) for path in files[:-1]]
    stamps = [piece.t for piece in columns if piece is not None]
    t = np.concatenate([np.empty(0, np.int64), *stamps])
    return (int(t[0]) + int(t[-1])) // 2 if len(t) else None


def _columns(path: Path, unit: str) -> Columns:
    try:
        with np.load(path) as arrays:
            columns = [arrays[name].ravel() for name in ("y", "x", "timestamp", "polarity")]
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        msg = f"{path}: is not an event file of HighREV: {error}"
        raise SourceError(msg) from error
    x, y, t, p = columns
    return Columns(str(path), 0, x, y, nanoseconds(t, unit), p)
