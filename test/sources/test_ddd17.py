from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
from bag_contents import assert_same_events, pixels, read_bag
from recording_events import recorded_events

from scaleevent_ros.events import EventBatch
from scaleevent_ros.sources import SourceError
from scaleevent_ros.sources.convert import ConvertOptions, convert
from scaleevent_ros.sources.ddd17 import open_recording
from scaleevent_ros.sources.recording import ReadOptions

if TYPE_CHECKING:
    from pathlib import Path

HOST_US = 1_487_339_175_000_000

Row = tuple[int, bytes, bytes]


def packet(kind: int, size: int, count: int, data: bytes, host_us: int, overflow: int = 0) -> Row:
    """Create a row of a recording: host's time, cAER header, data with one unused event behind."""
    header = struct.pack("<hhiiiiii", kind, 1, size, 4, overflow, count + 1, count, count)
    return host_us, header, data + bytes(size)


def polarity_packet(events: EventBatch, host_us: int, overflow: int = 0) -> Row:
    t_us = events.t // 1000
    data = events.x.astype(np.uint32) << 17 | events.y.astype(np.uint32) << 2
    data |= events.p.astype(np.uint32) << 1 | 1
    words = np.stack([data, (t_us - (overflow << 31)).astype(np.uint32)], axis=1)
    return packet(1, 8, len(events), words.tobytes(), host_us, overflow)


def frame_packet(grey: np.ndarray, begin_us: int, end_us: int, host_us: int) -> Row:
    height, width = grey.shape
    head = struct.pack("<9i", 1, begin_us - 30, end_us + 90, begin_us, end_us, width, height, 0, 0)
    data = head + (grey.astype(np.uint16) << 8 | 7).tobytes()
    return packet(2, len(data), 1, data, host_us)


def special_packet(kind: int, t_us: int, host_us: int) -> Row:
    return packet(0, 8, 1, struct.pack("<2I", kind << 1 | 1, t_us), host_us)


def write_recording(path: Path, rows: list[Row], unused_rows: int = 3) -> None:
    """Write rows as the recorder does, with unused ones behind them."""
    with h5py.File(path, "w") as file:
        length = len(rows) + unused_rows
        stamps = file.create_dataset("dvs/timestamp", (length,), "i8")
        dtype = h5py.special_dtype(vlen=np.uint8)
        data = file.create_dataset("dvs/data", (length, 3), dtype)
        for index, (host_us, header, payload) in enumerate(rows):
            stamps[index] = host_us
            for column, text in enumerate((str(host_us).encode(), header, payload)):
                data[index, column] = np.frombuffer(text, np.uint8)


def shifted(events: EventBatch, by_us: int) -> EventBatch:
    return EventBatch(
        events.x, events.y, events.t + by_us * 1000, events.p, events.width, events.height
    )


def test_everything_arrives_on_the_hosts_clock(tmp_path: Path) -> None:
    events = recorded_events(346, 260)
    grey = np.random.default_rng(0).integers(0, 256, (260, 346)).astype(np.uint8)
    last_us = int(events.t[999]) // 1000
    rows = [
        polarity_packet(events[:1000], HOST_US),
        frame_packet(grey, 1_200_000, 1_210_000, HOST_US + 1),
        polarity_packet(events[1000:], HOST_US + 300_000),
    ]
    write_recording(tmp_path / "rec1487339175.hdf5", rows)
    convert(tmp_path / "rec1487339175.hdf5", tmp_path / "bag", ConvertOptions())
    bag = read_bag(tmp_path / "bag")
    offset = HOST_US - last_us
    assert_same_events(bag.events, shifted(events, offset))
    ((t, message),) = bag.messages["/camera/image_raw"]
    assert t == (1_205_000 + offset) * 1000
    assert np.array_equal(pixels(message), grey)


def test_the_clock_runs_on_over_overflow_and_reset(tmp_path: Path) -> None:
    wrap_s = 2**31 / 1e6
    before = recorded_events(346, 260, 100, wrap_s - 1, 0.9)
    after = recorded_events(346, 260, 100, wrap_s, 0.5, seed=1)
    anew = recorded_events(346, 260, 100, 0.0, 0.5, seed=2)
    host = [HOST_US, HOST_US + 1_400_000, HOST_US + 5_000_000]
    rows = [
        polarity_packet(before, host[0]),
        polarity_packet(after, host[1], overflow=1),
        special_packet(1, 0, host[1] + 10),
        polarity_packet(anew, host[2]),
    ]
    write_recording(tmp_path / "a.hdf5", rows)
    found = EventBatch.concatenate(
        list(open_recording(tmp_path / "a.hdf5", ReadOptions()).events(0))
    )
    offset = host[0] - int(before.t[-1]) // 1000
    offset_anew = host[2] - int(anew.t[-1]) // 1000
    wanted = [shifted(before, offset), shifted(after, offset), shifted(anew, offset_anew)]
    assert_same_events(found, EventBatch.concatenate(wanted))


def test_invalid_events_are_left_out_and_pictures_can_be_turned(tmp_path: Path) -> None:
    events = recorded_events(346, 260, 3)
    host, header, data = polarity_packet(events, HOST_US)
    words = np.frombuffer(data, np.uint32).copy()
    words[2] &= ~np.uint32(1)
    grey = np.zeros((260, 346), np.uint8)
    grey[0, 1] = 200
    rows = [(host, header, words.tobytes()), frame_packet(grey, 1_000_000, 1_000_002, HOST_US)]
    write_recording(tmp_path / "a.hdf5", rows)
    recording = open_recording(tmp_path / "a.hdf5", ReadOptions(rotate_180=True))
    (found,) = recording.events(0)
    assert found.x.tolist() == (345 - events.x[[0, 2]]).tolist()
    assert found.y.tolist() == (259 - events.y[[0, 2]]).tolist()
    (frame,) = recording.pictures[0].read(0)
    assert frame.pixels[259, 344] == 200


def test_a_late_start_passes_over_earlier_packets(tmp_path: Path) -> None:
    events = recorded_events(346, 260)
    write_recording(tmp_path / "a.hdf5", [polarity_packet(events, HOST_US)])
    recording = open_recording(tmp_path / "a.hdf5", ReadOptions())
    middle = HOST_US * 1000 - int(events.t[-1]) + int(events.t[1500])
    assert sum(map(len, recording.events(middle))) == 500


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "holds no events"),
        ([(HOST_US, b"short", b"")], "packet 0: its header has 5 bytes"),
        (
            [(HOST_US, struct.pack("<hhiiiiii", 1, 1, 8, 4, 0, 9, 9, 9), bytes(16))],
            "packet 0: 9 events of 8 bytes do not fit its 16 bytes",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, rows: list[Row], message: str) -> None:
    write_recording(tmp_path / "a.hdf5", rows)
    with pytest.raises(SourceError, match=message):
        open_recording(tmp_path / "a.hdf5", ReadOptions(strict=True))
