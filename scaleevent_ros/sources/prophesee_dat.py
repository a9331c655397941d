"""Prophesee DAT, version 2: a header like RAW's, then CD events of 8 bytes.

Layout: docs.prophesee.ai, "DAT File Format": header lines that start with "% " (``Version``,
``Width``, ``Height``), a byte of the event's type, a byte of its size; then u32 µs, and u32 of x
(14 bits), y (14 bits) and polarity (4 bits).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scaleevent_ros.sources.errors import SourceError
from scaleevent_ros.sources.event_columns import Columns, event_batches
from scaleevent_ros.sources.prophesee_raw import parse_header
from scaleevent_ros.sources.recording import (
    CHUNK_EVENTS,
    ClockStatement,
    ReadOptions,
    Recording,
    unwrapped,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scaleevent_ros.events import EventBatch

_EVENT = np.dtype([("t", "<u4"), ("data", "<u4")])
_CD_TYPES = (0x00, 0x0C)


def open_recording(path: Path, options: ReadOptions) -> Recording:
    """Open a DAT file of CD events.

    Raises:
        SourceError: If the header is invalid or of another version, or the sensor's size is
            unknown.
    """
    with path.open("rb") as file:
        head = file.read(1 << 16)
    fields, start = parse_header(head)
    if fields.get("Version") != "2" or len(head) < start + 2:
        msg = f"{path}: is not a DAT file of version 2"
        raise SourceError(msg)
    kind, size = head[start], head[start + 1]
    if kind not in _CD_TYPES or size != _EVENT.itemsize:
        msg = f"{path}: holds events of type {kind} and {size} bytes, not CD events of 8 bytes"
        raise SourceError(msg)
    said = fields.get("Width", ""), fields.get("Height", "")
    if options.width is None and all(side.isdigit() for side in said):
        width, height = (int(side) for side in said)
    else:
        width, height = options.geometry(path)
    faults = options.faults()

    def pieces() -> Iterator[Columns]:
        first, before_us = 0, 0
        with path.open("rb") as file:
            file.seek(start + 2)
            while chunk := file.read(CHUNK_EVENTS * _EVENT.itemsize):
                whole = len(chunk) - len(chunk) % _EVENT.itemsize
                rows = np.frombuffer(chunk, _EVENT, whole // _EVENT.itemsize)
                t_us = unwrapped(rows["t"], 32, before_us)
                x, y, p = rows["data"] & 0x3FFF, rows["data"] >> 14 & 0x3FFF, rows["data"] >> 28
                yield Columns(str(path), first, x, y, t_us * 1000, p)
                first += len(rows)
                before_us = int(t_us[-1]) if len(t_us) else before_us
                if whole < len(chunk):
                    faults.add("truncated files", f"{path}: is cut off inside event {first:,}")

    def events(t_start: int) -> Iterator[EventBatch]:
        return event_batches(pieces(), width, height, faults, t_start)

    return Recording(
        path,
        "prophesee_dat",
        width,
        height,
        events,
        ClockStatement("sensor_time", "The sensor's clock, from when the camera started."),
        faults=faults,
    )
