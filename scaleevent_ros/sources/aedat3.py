"""AEDAT 3.1, as caer and early DV write it: events, frames, IMU samples and external inputs.

Layout: docs.inivation.com, "AEDAT 3.1" (see `caer`): lines that start with ``#``, of which
``#Source`` names the camera, up to ``#!END-HEADER``, then packets. Times are µs since the camera's
last reset.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from scaleevent_ros.events import Triggers
from scaleevent_ros.sources import caer
from scaleevent_ros.sources.aedat2 import SENSOR_SIZES
from scaleevent_ros.sources.errors import SourceError
from scaleevent_ros.sources.event_columns import Columns, event_batches
from scaleevent_ros.sources.recording import (
    FRAMES_TOPIC,
    ClockStatement,
    ImuSample,
    Picture,
    PictureStream,
    Recording,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from scaleevent_ros.events import EventBatch
    from scaleevent_ros.sources.faults import Faults
    from scaleevent_ros.sources.recording import ReadOptions

_RISING, _FALLING = 2, 3
_METRES_PER_S2_IN_G = 9.80665


def open_recording(path: Path, options: ReadOptions) -> Recording:
    """Open an AEDAT 3.1 file.

    Raises:
        SourceError: If it is compressed or of another version, or the sensor's size is unknown.
    """
    fields, start = _read_header(path)
    if fields.get("Format", "RAW") != "RAW" or "3.1" not in fields["version"]:
        msg = f"{path}: is {fields['version']} in {fields.get('Format')}, not AEDAT 3.1 in RAW"
        raise SourceError(msg)
    source = fields.get("Source", "").lower()
    known = next((size for name, size in SENSOR_SIZES.items() if name in source), None)
    width, height = known if known and options.width is None else options.geometry(path)
    faults = options.faults()

    def pieces() -> Iterator[Columns]:
        first = 0
        for header, words in _packets(path, start, caer.POLARITY, faults):
            valid, x, y, p = caer.polarities(words)
            yield Columns(str(path), first, x, y, _times(header, words[valid, 1]), p)
            first += len(x)

    def events(t_start: int) -> Iterator[EventBatch]:
        return event_batches(pieces(), width, height, faults, t_start)

    return Recording(
        path,
        "aedat3",
        width,
        height,
        events,
        ClockStatement(
            "sensor_time", "One device stamps events and frames; frames at mid-exposure."
        ),
        (PictureStream(FRAMES_TOPIC, str(path), partial(_frames, path, start, faults)),),
        triggers=partial(_triggers, path, start, faults),
        imu=partial(_imu, path, start, faults),
        faults=faults,
    )


def _read_header(path: Path) -> tuple[dict[str, str], int]:
    """Return the fields of the header, and the offset of the first packet in bytes."""
    fields = {"version": ""}
    with path.open("rb") as file:
        while (line := file.readline(1 << 16)).startswith(b"#"):
            text = line.decode("latin-1").strip()
            if text.startswith("#!AER-DAT"):
                fields["version"] = text[2:]
            elif text == "#!END-HEADER":
                return fields, file.tell()
            key, _, value = text[1:].partition(":")
            fields.setdefault(key.split()[0] if key.split() else "", value.strip())
    msg = f"{path}: its header does not end"
    raise SourceError(msg)


def _packets(
    path: Path, start: int, kind: int, faults: Faults
) -> Iterator[tuple[caer.PacketHeader, NDArray[np.uint32]]]:
    """Yield the packets of a kind: header and words, uint32 [count, size / 4]."""
    with path.open("rb") as file:
        file.seek(start)
        while len(head := file.read(caer.HEADER_BYTES)) == caer.HEADER_BYTES:
            header = caer.parse_packet_header(head)
            length = header.size * header.capacity
            if header.size < 8 or header.size % 4 or not 0 <= header.events <= header.capacity:
                break
            if header.kind != kind:
                file.seek(length, 1)
                continue
            data = file.read(length)
            if len(data) < length:
                break
            words = np.frombuffer(data, "<u4").reshape(header.capacity, header.size // 4)
            yield header, words[: header.events]
        else:
            if not head:
                return
        msg = f"{path}: is cut off or damaged before byte {file.tell():,}"
        faults.add("truncated files", msg)


def _times(header: caer.PacketHeader, us: NDArray[np.uint32]) -> NDArray[np.int64]:
    return (us.astype(np.int64) + (header.overflow << 31)) * 1000


def _frames(path: Path, start: int, faults: Faults, t_start: int) -> Iterator[Picture]:
    for header, frames in _packets(path, start, caer.FRAME, faults):
        for words in frames:
            t = int(_times(header, words[3:5]).sum()) // 2000 * 1000
            pixels = caer.frame_pixels(words)
            if pixels is None:
                faults.add("frames that are cut off", f"{path}: the frame at {t} ns is cut off")
            elif words[0] & 1 and t >= t_start:
                yield Picture(t, pixels)


def _triggers(path: Path, start: int, faults: Faults, t_start: int) -> Iterator[Triggers]:
    for header, words in _packets(path, start, caer.SPECIAL, faults):
        kinds = words[:, 0] >> 1 & 0x7F
        t = _times(header, words[:, 1])
        kept = np.isin(kinds, (_RISING, _FALLING)) & (t >= t_start)
        if kept.any():
            edge = (kinds[kept] == _RISING).astype(np.uint8)
            yield Triggers(t[kept], np.zeros(len(edge), np.uint8), edge)


def _imu(path: Path, start: int, faults: Faults, t_start: int) -> Iterator[ImuSample]:
    for header, words in _packets(path, start, caer.IMU6, faults):
        times = _times(header, words[:, 1]).tolist()
        for t, row in zip(times, words[:, 2:8].view("<f4").astype(float).tolist(), strict=True):
            if t >= t_start:
                ax, ay, az = (value * _METRES_PER_S2_IN_G for value in row[:3])
                gx, gy, gz = (value * math.pi / 180 for value in row[3:])
                yield ImuSample(t, (ax, ay, az), (gx, gy, gz))
