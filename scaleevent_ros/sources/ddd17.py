"""DDD17 and DDD20: DAVIS driving recordings, cAER packets in HDF5.

Layout: github.com/SensorsINI/ddd20-utils (``datasets.py``, ``interfaces/caer.py``); Binas et al.,
ICML 2017 workshops, and Hu et al., ITSC 2020. Each row of ``dvs/data`` holds three byte strings:
the host's time, a packet header of 28 bytes and the packet's events, as libcaer lays them out
(docs.inivation.com, AEDAT 3.1): polarity events of 8 bytes (valid bit 0, polarity bit 1, y bits 2
to 16, x bits 17 to 31, then µs), frames with 36 bytes of header and 16-bit pixels, special events.
Rows beyond the end of the recording are empty. ``dvs/timestamp`` holds the host's µs since 1970.

The sensor's 31-bit clock is extended by the header's overflow count. It restarts at a reset; every
part between resets is placed by the host's time of its first packet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scaleevent_ros.sources import caer
from scaleevent_ros.sources.errors import SourceError
from scaleevent_ros.sources.event_columns import Columns, event_batches
from scaleevent_ros.sources.hdf5 import dataset, open_hdf5
from scaleevent_ros.sources.recording import (
    FRAMES_TOPIC,
    ClockStatement,
    Picture,
    PictureStream,
    ReadOptions,
    Recording,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import h5py
    from numpy.typing import NDArray

    from scaleevent_ros.events import EventBatch
    from scaleevent_ros.sources.faults import Faults

WIDTH, HEIGHT = 346, 260

_TIMESTAMP_RESET = 1
_ROWS = 128  # the recorder's own chunk


class _ClockPart(NamedTuple):
    """Part of a recording between resets of the sensor's clock.

    Attributes:
        first_row: Index of its first row.
        offset_us: Host time minus sensor time in µs.
    """

    first_row: int
    offset_us: int


def open_recording(path: Path, options: ReadOptions) -> Recording:
    """Open a recording: events, and frames at the middle of their exposure.

    Raises:
        SourceError: If the file has another layout, or holds no events.
    """
    with open_hdf5(path) as file:
        rows = int(np.count_nonzero(dataset(file, "dvs/timestamp")[:]))
        shape = dataset(file, "dvs/data").shape
        if shape[1:] != (3,) or rows > shape[0]:
            msg = f"{path}: dvs/data is {shape}, not [N, 3] with N of at least {rows}"
            raise SourceError(msg)
    faults = options.faults()
    reader = _Reader(path, rows, faults, flip=options.rotate_180)
    return Recording(
        path,
        "ddd17",
        WIDTH,
        HEIGHT,
        reader.events,
        ClockStatement(
            "sensor_time", "One DAVIS346 stamps both, frames at mid-exposure; host time by packets."
        ),
        (PictureStream(FRAMES_TOPIC, str(path), reader.frames),),
        faults=faults,
    )


class _Reader:
    """Reader of one file's packets, each kind in a separate pass."""

    def __init__(self, path: Path, rows: int, faults: Faults, *, flip: bool) -> None:
        self._path = path
        self._rows = rows
        self._faults = faults
        self._flip = flip
        self._clock_parts = self._find_clock_parts()

    def events(self, t_start: int) -> Iterator[EventBatch]:
        """Stream the valid events from a time (ns) on."""
        return event_batches(self._columns(), WIDTH, HEIGHT, self._faults, t_start)

    def _columns(self) -> Iterator[Columns]:
        for row, words, t in self._packets(caer.POLARITY):
            valid, x, y, p = caer.polarities(words)
            if self._flip:
                x, y = WIDTH - 1 - x, HEIGHT - 1 - y
            place = f"{self._path}: packet {row}"
            yield Columns(place, 0, x, y, t[valid] * 1000, p)

    def frames(self, t_start: int) -> Iterator[Picture]:
        """Stream the frames from a time (ns) on, the upper 8 bits of each pixel."""
        for row, words, t in self._packets(caer.FRAME):
            for index, frame in enumerate(words):
                exposure = frame[3:5].astype(np.int64) + (t[index] - int(frame[2]))
                stamp = int(exposure.sum()) // 2 * 1000
                pixels = caer.frame_pixels(frame)
                if pixels is None:
                    self._damaged(row, f"a frame of {frame[5]}x{frame[6]} is cut off")
                elif stamp >= t_start:
                    flipped = np.ascontiguousarray(pixels[::-1, ::-1])
                    yield Picture(stamp, flipped if self._flip else pixels)

    def _find_clock_parts(self) -> list[_ClockPart]:
        """Find the parts between restarts of the sensor's clock, mostly from packet headers."""
        parts: list[_ClockPart] = []
        start: int | None = 0
        last: tuple[int, caer.PacketHeader] | None = None
        with open_hdf5(self._path) as file:
            host = file["dvs/timestamp"][: self._rows].astype(np.int64)
            for row, header in self._headers(file):
                if header.kind == caer.SPECIAL:
                    types = self._words(file, row, header)[:, 0] >> 1 & 0x7F
                    if (types == _TIMESTAMP_RESET).any():
                        start = row
                elif header.kind == caer.POLARITY and header.events:
                    if start is not None:
                        t = self._times(self._words(file, row, header), header)
                        if not len(t):
                            continue
                        offset = int(host[row]) - int(t[-1])
                        if last is not None:
                            ends = self._times(self._words(file, *last), last[1])
                            gaps = ends[-1:] + parts[-1].offset_us - t[0]
                            offset = max([offset, *gaps.tolist()])
                        parts.append(_ClockPart(start, offset))
                        start = None
                    last = row, header
        if not parts:
            msg = f"{self._path}: holds no events"
            raise SourceError(msg)
        return parts

    def _packets(self, kind: int) -> Iterator[tuple[int, NDArray[np.uint32], NDArray[np.int64]]]:
        """Yield row, words [count, size / 4] and host times [count], µs, of packets of a kind."""
        following = iter(self._clock_parts)
        part = next(following)
        upcoming = next(following, None)
        with open_hdf5(self._path) as file:
            for row, header in self._headers(file):
                if upcoming is not None and row >= upcoming.first_row:
                    part, upcoming = upcoming, next(following, None)
                if header.kind == kind and header.events:
                    words = self._words(file, row, header)
                    if len(words):
                        yield row, words, self._times(words, header) + part.offset_us

    def _headers(self, file: h5py.File) -> Iterator[tuple[int, caer.PacketHeader]]:
        for start in range(0, self._rows, _ROWS):
            stop = min(start + _ROWS, self._rows)
            for row, packed in enumerate(file["dvs/data"][start:stop, 1], start):
                if len(packed) != caer.HEADER_BYTES:
                    self._damaged(row, f"its header has {len(packed)} bytes, not 28")
                    continue
                yield row, caer.parse_packet_header(packed.tobytes())

    def _damaged(self, row: int, what: str) -> None:
        self._faults.add("damaged packets", f"{self._path}: packet {row}: {what}")

    def _words(self, file: h5py.File, row: int, header: caer.PacketHeader) -> NDArray[np.uint32]:
        """Read the words of a packet, uint32 [count, size / 4]; none if it is damaged."""
        packed: NDArray[np.uint8] = file["dvs/data"][row, 2]
        length = header.size * header.events
        if header.size < 8 or header.size % 4 or length > len(packed):
            what = (
                f"{header.events} events of {header.size} bytes do not fit its {len(packed)} bytes"
            )
            self._damaged(row, what)
            return np.empty((0, 9), np.uint32)
        return packed[:length].view(np.uint32).reshape(header.events, header.size // 4)

    def _times(self, words: NDArray[np.uint32], header: caer.PacketHeader) -> NDArray[np.int64]:
        """Return the sensor times of events in µs; of frames, those of the end of read-out."""
        column = 2 if header.kind == caer.FRAME else 1
        return words[:, column].astype(np.int64) + (header.overflow << 31)
