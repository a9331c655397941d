"""Events in one NumPy file: a table with fields x, y, t and p, or an array [N, 4] of t, x, y, p.

Names of fields and units of time are those of `event_hdf5`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from scaleevent_ros.sources.errors import SourceError
from scaleevent_ros.sources.event_columns import Columns, event_batches
from scaleevent_ros.sources.event_hdf5 import match_columns
from scaleevent_ros.sources.recording import (
    CHUNK_EVENTS,
    ClockStatement,
    Recording,
    likely_unit,
    nanoseconds,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from scaleevent_ros.events import EventBatch
    from scaleevent_ros.sources.faults import Faults
    from scaleevent_ros.sources.recording import ReadOptions


def open_recording(path: Path, options: ReadOptions) -> Recording:
    """Open a ``.npy`` file.

    Raises:
        SourceError: If it holds no events, or the options lack the sensor's size.
    """
    faults = options.faults()
    rows = _read_rows(path, faults)
    names = match_columns(list(rows.dtype.names or ()))
    if not len(rows.shape) or not len(rows) or (names is None and rows.shape[1:] != (4,)):
        held = f"{rows.dtype} {rows.shape}"
        msg = f"{path}: holds no events but {held}: no fields x, y, t and p, and not [N, 4]"
        raise SourceError(msg)
    columns = [rows[name] for name in names] if names else [rows[:, i] for i in (1, 2, 0, 3)]
    unit = options.time_unit or likely_unit(np.asarray(columns[2][-1:]))
    width, height = options.geometry(path)

    def pieces() -> Iterator[Columns]:
        for first in range(0, len(rows), CHUNK_EVENTS):
            x, y, t, p = (np.array(column[first : first + CHUNK_EVENTS]) for column in columns)
            yield Columns(str(path), first, x, y, nanoseconds(t, unit), p)

    def events(t_start: int) -> Iterator[EventBatch]:
        return event_batches(pieces(), width, height, faults, t_start)

    return Recording(
        path,
        "event_numpy",
        width,
        height,
        events,
        ClockStatement("sensor_time", "Events with the file's stamps."),
        faults=faults,
    )


def _read_rows(path: Path, faults: Faults) -> NDArray[Any]:
    """Map a file to memory; one that is cut off up to its last whole row."""
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0
            if version != (1, 0):
                read = np.lib.format.read_array_header_2_0
            shape, columns_first, dtype = read(file)
            start = file.tell()
        rows_there = (path.stat().st_size - start) // (dtype.itemsize * math.prod(shape[1:]) or 1)
        if dtype.hasobject or not shape or columns_first or rows_there >= shape[0]:
            whole: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
            return whole
        if not rows_there:
            msg = f"{path}: is cut off before its first event"
            raise SourceError(msg)
    except (OSError, ValueError, EOFError) as error:
        msg = f"{path}: cannot be read as a NumPy file of plain numbers: {error}"
        raise SourceError(msg) from error
    faults.add("truncated files", f"{path}: is cut off inside event {rows_there:,}")
    return np.memmap(path, dtype, "r", start, (rows_there, *shape[1:]))
