"""Write small AEDAT4 files: uncompressed, with the tables that dv-processing's schemas define."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import flatbuffers
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from scaleevent_ros.events import EventBatch

EVENTS, FRAMES, IMUS, TRIGGERS = range(4)
_TYPES = ("EVTS", "FRME", "IMUS", "TRIG")


def aedat4_header(width: int, height: int) -> bytes:
    """Write the magic line and the header, which lists four streams."""
    nodes = "".join(
        f'<node name="{i}" path="/mainloop/Recorder/outInfo/{i}/">'
        f'<attr key="compression" type="string">NONE</attr>'
        f'<attr key="typeIdentifier" type="string">{kind}</attr>'
        f'<node name="info" path="/mainloop/Recorder/outInfo/{i}/info/">'
        f'<attr key="sizeX" type="int">{width}</attr><attr key="sizeY" type="int">{height}</attr>'
        "</node></node>"
        for i, kind in enumerate(_TYPES)
    )
    outputs = f'<node name="outInfo" path="/mainloop/Recorder/outInfo/">{nodes}</node>'
    xml = f'<dv version="2.0">{outputs}</dv>'
    builder = flatbuffers.Builder()
    info = builder.CreateString(xml)
    builder.StartObject(3)
    builder.PrependInt32Slot(0, 0, -1)  # no compression
    builder.PrependInt64Slot(1, -1, 0)  # no table of packets
    builder.PrependUOffsetTRelativeSlot(2, info, 0)
    builder.FinishSizePrefixed(builder.EndObject(), b"IOHE")
    return b"#!AER-DAT4.0\r\n" + bytes(builder.Output())


def _packet(stream: int, builder: Any, elements: int) -> bytes:
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, elements, 0)
    return _finish(stream, builder, builder.EndObject())


def _finish(stream: int, builder: Any, root: int) -> bytes:
    builder.FinishSizePrefixed(root, _TYPES[stream].encode())
    data = bytes(builder.Output())
    return struct.pack("<ii", stream, len(data)) + data


def events_packet(batch: EventBatch) -> bytes:
    """Write a packet of events."""
    dtype = np.dtype(
        {
            "names": ["t", "x", "y", "on"],
            "formats": ["<i8", "<i2", "<i2", "u1"],
            "offsets": [0, 8, 10, 12],
            "itemsize": 16,
        }
    )
    rows = np.zeros(len(batch), dtype)
    rows["t"], rows["x"], rows["y"], rows["on"] = batch.t // 1000, batch.x, batch.y, batch.p
    builder = flatbuffers.Builder(len(rows) * 16 + 64)
    builder.StartVector(16, len(rows), 8)
    data = rows.tobytes()
    builder.head -= len(data)
    builder.Bytes[builder.head : builder.head + len(data)] = data
    return _packet(EVENTS, builder, builder.EndVector())


def frame_packet(
    pixels: NDArray[Any], begin_us: int, end_us: int, kind: int | None = None
) -> bytes:
    """Write a packet of one grey frame, of 8 or 16 bits, exposed between two times.

    `kind` is OpenCV's number of its type, if it is to be another than that.
    """
    height, width = pixels.shape
    builder = flatbuffers.Builder()
    data = builder.CreateByteVector(pixels.tobytes())
    builder.StartObject(11)
    for slot, value in enumerate((begin_us, begin_us, end_us, begin_us, end_us)):
        builder.PrependInt64Slot(slot, value, 0)
    if kind is None:
        kind = 2 if pixels.dtype == np.uint16 else 0  # OpenCV's 16U_C1 and 8U_C1
    builder.PrependInt8Slot(5, kind, -1)
    for slot, value in ((6, width), (7, height)):
        builder.PrependInt16Slot(slot, value, 0)
    builder.PrependUOffsetTRelativeSlot(10, data, 0)
    return _finish(FRAMES, builder, builder.EndObject())


def _tables_packet(stream: int, builder: Any, tables: Sequence[int]) -> bytes:
    builder.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        builder.PrependUOffsetTRelative(table)
    return _packet(stream, builder, builder.EndVector())


def imu_packet(t_us: int, acceleration: Sequence[float], rate: Sequence[float]) -> bytes:
    """Write a packet of one IMU sample: acceleration in g, turning rate in degrees a second."""
    builder = flatbuffers.Builder()
    builder.StartObject(11)
    builder.PrependInt64Slot(0, t_us, 0)
    for slot, value in enumerate((*acceleration, *rate), 2):
        builder.PrependFloat32Slot(slot, value, 0.0)
    return _tables_packet(IMUS, builder, [builder.EndObject()])


def trigger_packet(edges: Sequence[tuple[int, int]]) -> bytes:
    """Write a packet of triggers: times in µs and `TriggerType`s."""
    builder = flatbuffers.Builder()
    tables = []
    for t_us, kind in edges:
        builder.StartObject(2)
        builder.PrependInt64Slot(0, t_us, 0)
        builder.PrependInt8Slot(1, kind, -1)
        tables.append(builder.EndObject())
    return _tables_packet(TRIGGERS, builder, tables)


def write_aedat4(path: Path, width: int, height: int, packets: Sequence[bytes]) -> None:
    """Write a file of packets."""
    path.write_bytes(aedat4_header(width, height) + b"".join(packets))
