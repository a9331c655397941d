"""Export of a bag's events to a file for other tools: RAW, HDF5, text or NumPy.

Times are in whole microseconds on the sensor's clock. If a bag was converted or simulated, its
packets are stamped with the time of their first event, and exported times are those of the original
recording.
"""

from __future__ import annotations

import io
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from scaleevent_ros.bags.event_stream import EventStream
from scaleevent_ros.events import EventBatch, Triggers
from scaleevent_ros.events.encoder import MAX_GAP
from scaleevent_ros.events.evt3 import EPOCH
from scaleevent_ros.sources.errors import ConversionError
from scaleevent_ros.sources.packets import encode_packets
from scaleevent_ros.sources.recording import CHUNK_EVENTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from _typeshed import ReadableBuffer

    from scaleevent_ros.bags.event_stream import DecodedPacket
    from scaleevent_ros.bags.reader import BagReader

    Packets = Callable[[], Iterator[DecodedPacket]]

NUMPY_EVENT = np.dtype([("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "u1")])
"""A row of an exported NumPy file; t in µs."""


def export_events(reader: BagReader, out: Path, topic: str | None = None) -> int:
    """Write the events of a bag to one file, in the format of its suffix.

    - ``.raw``: Prophesee RAW in EVT3, with trigger edges.
    - ``.h5``, ``.hdf5``: ``events/{x,y,t,p}``, ``ms_to_idx`` and ``t_offset``, as in DSEC.
    - ``.csv``, ``.txt``: lines of t (µs), x, y and p.
    - ``.npy``: a table of `NUMPY_EVENT`.

    Args:
        reader: Open bag.
        out: File to write.
        topic: Event topic; may be omitted if there is only one.

    Returns:
        Number of events.

    Raises:
        ConversionError: If the suffix is unknown, the file exists or cannot be written, or there
            are no events.
        BagError: If the topic is not in the bag or ambiguous.
    """
    write = _WRITERS.get(out.suffix.lower())
    if write is None:
        msg = f"{out}: events are written as {', '.join(_WRITERS)}; give one of these suffixes"
        raise ConversionError(msg)
    if out.exists():
        msg = f"{out} exists already and is not overwritten"
        raise ConversionError(msg)
    packets = partial(_packets, reader, topic)
    first = next((packet for packet in packets() if len(packet.events)), None)
    if first is None:
        msg = f"{reader.path}: holds no events"
        raise ConversionError(msg)
    temporary = out.with_name(f".{out.name}.partial")
    try:
        count = write(temporary, packets, first.events)
        temporary.replace(out)
    except OSError as error:
        msg = f"{out}: cannot be written: {error.strerror or error}"
        raise ConversionError(msg) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return count


def _packets(reader: BagReader, topic: str | None) -> Iterator[DecodedPacket]:
    """Decode packets; in converted bags, move their times to the original ones.

    Decoded EVT3 times lack whole periods of EVT3's clock. They are added if the first packet's
    stamp is the time of its first event but for such periods, as in converted bags.
    """
    shift: int | None = None
    for packet in EventStream(reader, topic).packets():
        events, edges = packet.events, packet.triggers
        firsts = [*events.t[:1].tolist(), *edges.t[:1].tolist()]
        if shift is None and firsts:
            apart = packet.stamp_ns - min(firsts)
            shift = apart if apart % EPOCH == 0 else 0
        if shift:
            moved = EventBatch(
                events.x, events.y, events.t + shift, events.p, events.width, events.height
            )
            yield packet._replace(
                events=moved, triggers=Triggers(edges.t + shift, edges.id, edges.edge)
            )
        else:
            yield packet


def _chunks(packets: Iterator[DecodedPacket]) -> Iterator[EventBatch]:
    """Join the events of packets to batches of about a million events."""
    waiting: list[EventBatch] = []
    for packet in packets:
        waiting.append(packet.events)
        if sum(map(len, waiting)) >= CHUNK_EVENTS:
            yield EventBatch.concatenate(waiting)
            waiting = []
    if waiting:
        yield EventBatch.concatenate(waiting)


def _write_raw(path: Path, packets: Packets, first: EventBatch) -> int:
    count = 0

    def batches() -> Iterator[EventBatch]:
        nonlocal count
        for packet in packets():
            count += len(packet.events)
            yield packet.events

    size = f"{first.width}x{first.height}"
    header = f"% evt 3.0\n% format EVT3;height={first.height};width={first.width}\n"
    # From time zero, unless the gap up to the first event is too long to be encoded.
    start_ns = 0 if first.t[0] < MAX_GAP else int(first.t[0])
    with path.open("wb") as file:
        file.write(f"{header}% geometry {size}\n% end\n".encode())
        edges = (packet.triggers for packet in packets())
        for packet in encode_packets(batches(), edges, start_ns):
            file.write(packet.payload)
    return count


class _Hdf5Output(io.FileIO):
    """File for HDF5, whose library crashes the process if the disk is full.

    Attributes:
        error: First error of writing; the library is not told of it.
    """

    error: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        """Write all data, or keep the error."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while len(rest):
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = self.error or error
        return size

    def truncate(self, size: int | None = None, /) -> int:
        """Set the size of the file, or keep the error."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0


def _write_hdf5(path: Path, packets: Packets, first: EventBatch) -> int:
    import h5py

    offset_us = int(first.t[0]) // 1000
    count, index, marks = 0, 0, []
    with _Hdf5Output(path, "w+") as output, h5py.File(output, "w") as file:
        columns = {
            name: file.create_dataset(
                f"events/{name}",
                (0,),
                kind,
                maxshape=(None,),
                chunks=(1 << 16,),
                compression="gzip",
            )
            for name, kind in (("x", "u2"), ("y", "u2"), ("t", "i8"), ("p", "u1"))
        }
        for batch in _chunks(packets()):
            t = batch.t // 1000 - offset_us
            # The first event of each millisecond that begins in this batch.
            ends = np.arange(index, int(t[-1]) // 1000 + 1) if len(t) else np.empty(0, np.int64)
            marks.append(count + np.searchsorted(t, ends * 1000))
            index += len(ends)
            for name, values in (("x", batch.x), ("y", batch.y), ("t", t), ("p", batch.p)):
                columns[name].resize((count + len(batch),))
                columns[name][count:] = values
            count += len(batch)
            if output.error is not None:
                break
        file["ms_to_idx"] = np.concatenate(marks).astype(np.uint64)
        file["t_offset"] = offset_us
        file.attrs["sensor_resolution"] = (first.height, first.width)
    if output.error is not None:
        raise output.error
    return count


def _write_text(path: Path, packets: Packets, _: EventBatch) -> int:
    separator = "," if path.name.removesuffix(".partial").endswith(".csv") else " "
    count = 0
    with path.open("w", encoding="ascii") as file:
        file.write(f"{separator.join(('timestamp', 'x', 'y', 'polarity'))}\n")
        for batch in _chunks(packets()):
            columns = (batch.t // 1000, batch.x, batch.y, batch.p)
            rows = zip(*(column.tolist() for column in columns), strict=True)
            file.writelines(separator.join(map(str, row)) + "\n" for row in rows)
            count += len(batch)
    return count


def _write_numpy(path: Path, packets: Packets, _: EventBatch) -> int:
    header: dict[str, Any] = {
        "descr": np.lib.format.dtype_to_descr(NUMPY_EVENT),
        "fortran_order": False,
        "shape": (0,),
    }
    count = 0
    with path.open("wb+") as file:
        # NumPy leaves room for a longer shape, so that the header is written again at the end.
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        for batch in _chunks(packets()):
            rows = np.empty(len(batch), NUMPY_EVENT)
            rows["t"], rows["x"], rows["y"], rows["p"] = batch.t // 1000, batch.x, batch.y, batch.p
            file.write(rows.tobytes())
            count += len(batch)
        file.seek(0)
        np.lib.format.write_array_header_1_0(file, {**header, "shape": (count,)})
        assert file.tell() == start
    return count


_WRITERS: dict[str, Callable[[Path, Packets, EventBatch], int]] = {
    ".raw": _write_raw,
    ".h5": _write_hdf5,
    ".hdf5": _write_hdf5,
    ".csv": _write_text,
    ".txt": _write_text,
    ".npy": _write_numpy,
}
