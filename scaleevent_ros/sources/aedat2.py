"""AEDAT 2.0, as jAER writes it: lines of comments, then pairs of address and time.

Layout: docs.inivation.com, "AEDAT 2.0": big-endian 32 bits of address and of µs. The line
``# AEChip:`` names the camera. DAVIS addresses: bit 31 set for frames and IMU samples, bit 10 for
external inputs, else an event: y in bits 22 to 30, x in 12 to 21 from the right edge (jAER's
``DavisBaseCamera``), polarity in bit 11. DVS128: y in bits 8 to 14, x in 1 to 7, polarity in bit 0,
bit 15 for external inputs. Rows count from the bottom. Only events are read: frames are stored as
samples of single pixels, which have no exposure times.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scaleevent_ros.sources.errors import SourceError
from scaleevent_ros.sources.event_columns import Columns, event_batches
from scaleevent_ros.sources.recording import (
    CHUNK_EVENTS,
    ClockStatement,
    Recording,
    unwrapped,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from scaleevent_ros.events import EventBatch
    from scaleevent_ros.sources.recording import ReadOptions

SENSOR_SIZES = {
    "dvs128": (128, 128),
    "davis128": (128, 128),
    "davis208": (208, 192),
    "davis240": (240, 180),
    "davis346": (346, 260),
    "davis640": (640, 480),
}
"""Width and height by prefix of the names of iniVation's cameras, in lower case."""

_EVENT = np.dtype([("address", ">u4"), ("t", ">u4")])


def open_recording(path: Path, options: ReadOptions) -> Recording:
    """Open an AEDAT 2.0 file.

    Raises:
        SourceError: If the camera or the sensor's size is unknown.
    """
    chip, start = _read_header(path)
    known = next((size for name, size in SENSOR_SIZES.items() if name in chip), None)
    width, height = known if known and options.width is None else options.geometry(path)
    faults = options.faults()
    is_dvs128 = (width, height) == (128, 128)

    def pieces() -> Iterator[Columns]:
        first, before_us = 0, 0
        with path.open("rb") as file:
            file.seek(start)
            while chunk := file.read(CHUNK_EVENTS * _EVENT.itemsize):
                whole = len(chunk) - len(chunk) % _EVENT.itemsize
                rows = np.frombuffer(chunk, _EVENT, whole // _EVENT.itemsize)
                t_us = unwrapped(rows["t"].astype(np.uint32), 32, before_us)
                before_us = int(t_us[-1]) if len(t_us) else before_us
                x, y, p, is_event = _decode(rows["address"].astype(np.int64), is_dvs128, width)
                t = t_us[is_event] * 1000
                yield Columns(
                    str(path), first, x[is_event], height - 1 - y[is_event], t, p[is_event]
                )
                first += len(t)
                if whole < len(chunk):
                    faults.add("truncated files", f"{path}: is cut off after event {first:,}")

    def events(t_start: int) -> Iterator[EventBatch]:
        return event_batches(pieces(), width, height, faults, t_start)

    return Recording(
        path,
        "aedat2",
        width,
        height,
        events,
        ClockStatement("sensor_time", "The camera's clock, from when it was last reset."),
        faults=faults,
    )


def _read_header(path: Path) -> tuple[str, int]:
    """Return the name of the camera in lower case, and the offset of the events in bytes."""
    chip = ""
    with path.open("rb") as file:
        while True:
            start = file.tell()
            line = file.readline(1 << 16)
            text = line.decode("latin-1").rstrip("\r\n")
            if not text.startswith("#") or not text.replace("\t", " ").isprintable():
                break
            if "AEChip:" in text:
                chip = text.rpartition(".")[2].lower()
    if not line:
        msg = f"{path}: holds no events"
        raise SourceError(msg)
    return chip, start


def _decode(
    address: NDArray[np.int64], is_dvs128: bool, width: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
    if is_dvs128:
        return address >> 1 & 0x7F, address >> 8 & 0x7F, address & 1, address >> 15 == 0
    x = width - 1 - (address >> 12 & 0x3FF)
    return x, address >> 22 & 0x1FF, address >> 11 & 1, (address >> 31 | address >> 10 & 1) == 0
