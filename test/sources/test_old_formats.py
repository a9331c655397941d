"""Prophesee DAT, AEDAT 2.0 and AEDAT 3.1, written word by word as their specifications say."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest
from bag_contents import assert_same_events, pixels, read_bag
from recording_events import photographs, recorded_events

from scaleevent_ros.sources import SourceError
from scaleevent_ros.sources.convert import ConvertOptions, convert
from scaleevent_ros.sources.formats import find_recordings
from scaleevent_ros.sources.recording import ReadOptions, unwrapped

if TYPE_CHECKING:
    from pathlib import Path

    from scaleevent_ros.events import EventBatch

DAT_HEADER = b"% Data file containing CD events.\n% Version 2\n% Height 48\n% Width 64\n\x0c\x08"
STRICT = ConvertOptions(ReadOptions(strict=True))


def test_dat(tmp_path: Path) -> None:
    events = recorded_events(64, 48)
    words = np.empty((len(events), 2), "<u4")
    words[:, 0] = events.t // 1000
    x, y, p = (column.astype(np.uint32) for column in (events.x, events.y, events.p))
    words[:, 1] = p << 28 | y << 14 | x
    (tmp_path / "a_td.dat").write_bytes(DAT_HEADER + words.tobytes())
    convert(tmp_path / "a_td.dat", tmp_path / "bag", STRICT)
    assert_same_events(read_bag(tmp_path / "bag").events, events)
    (tmp_path / "a_td.dat").write_bytes(DAT_HEADER + words.tobytes()[:-3])
    with pytest.raises(SourceError, match="is cut off inside event 1,999"):
        convert(tmp_path / "a_td.dat", tmp_path / "strict", STRICT)
    convert(tmp_path / "a_td.dat", tmp_path / "torn", ConvertOptions())
    assert_same_events(read_bag(tmp_path / "torn").events, events[:-1])


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"% Version 1\n\x0c\x08", "not a DAT file of version 2"),
        (b"% Version 2\n", "not a DAT file of version 2"),
        (b"% Version 2\n\x0e\x08", "events of type 14 and 8 bytes"),
        (b"% Version 2\n\x0c\x08", "give --width and --height"),
    ],
)
def test_other_dat_files_are_errors(tmp_path: Path, header: bytes, message: str) -> None:
    (tmp_path / "a.dat").write_bytes(header)
    (found,) = find_recordings(tmp_path / "a.dat")
    with pytest.raises(SourceError, match=message):
        found.open(ReadOptions())


def test_counters_are_unwrapped() -> None:
    truth = np.array([5, 100, 200, 250, 260, 300, 400, 520, 519])
    assert unwrapped(truth % 256, 8).tolist() == truth.tolist()
    assert unwrapped(np.array([4]), 8, before=250).tolist() == [260]
    assert unwrapped(np.array([249]), 8, before=250).tolist() == [249]


@pytest.mark.parametrize("chip", ["DAVIS240C", "DVS128"])
def test_aedat2(tmp_path: Path, chip: str) -> None:
    width, height = (240, 180) if chip == "DAVIS240C" else (128, 128)
    events = recorded_events(width, height)
    words = np.empty((len(events), 2), ">u4")
    words[:, 1] = events.t // 1000
    x, p = events.x.astype(np.uint32), events.p.astype(np.uint32)
    y = height - 1 - events.y.astype(np.uint32)  # rows count from the bottom
    if chip == "DVS128":
        words[:, 0] = y << 8 | x << 1 | p
        others = np.array([[1 << 15, 1_100_000]], ">u4")
    else:
        words[:, 0] = y << 22 | (width - 1 - x) << 12 | p << 11
        others = np.array([[1 << 31 | 77, 1_100_000], [1 << 10, 1_100_000]], ">u4")
    header = f"#!AER-DAT2.0\r\n# AEChip: eu.seebetter.ini.chips.davis.{chip}\r\n#\tx\r\n".encode()
    first = int(np.searchsorted(events.t, 1_100_000_000))
    parts = (words[:first], others, words[first:])
    (tmp_path / "a.aedat").write_bytes(header + b"".join(part.tobytes() for part in parts))
    convert(tmp_path / "a.aedat", tmp_path / "bag", STRICT)
    assert_same_events(read_bag(tmp_path / "bag").events, events)


def packet(kind: int, size: int, overflow: int, events: list[bytes]) -> bytes:
    count = len(events)
    head = struct.pack("<hhiiiiii", kind, 1, size, 4, overflow, count, count, count)
    return head + b"".join(events)


def polarity(events: EventBatch, overflow_us: int = 0) -> list[bytes]:
    rows = zip(events.x, events.y, (events.t // 1000).tolist(), events.p, strict=True)
    return [
        struct.pack("<Ii", int(x) << 17 | int(y) << 2 | int(p) << 1 | 1, t - overflow_us)
        for x, y, t, p in rows
    ]


def test_aedat3(tmp_path: Path) -> None:
    events = recorded_events(240, 180, start_s=2147.0, length_s=1.0)  # over the clock's 31 bits
    half = int(np.searchsorted(events.t, (1 << 31) * 1000))
    (frame,) = photographs(1, 180, 240)
    begin, end = 2_147_100_000, 2_147_101_000
    image = struct.pack("<IiiiiiiII", 1 | 1 << 1, begin, end, begin, end, 240, 180, 0, 0)
    image += (frame.astype("<u2") << 8).tobytes()
    imu = struct.pack("<Ii7f", 1, begin, 1.0, 0.0, -1.0, 180.0, 0.0, 0.0, 20.0)
    edges = [struct.pack("<Ii", kind << 1 | 1, begin + kind) for kind in (2, 3, 8)]
    invalid = struct.pack("<Ii", 5 << 17, 2_147_000_001)
    header = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DAVIS240C\r\n#!END-HEADER\r\n"
    content = header + b"".join(
        (
            packet(1, 8, 0, [*polarity(events[:half]), invalid]),
            packet(2, len(image), 0, [image]),
            packet(3, 36, 0, [imu]),
            packet(0, 8, 0, edges),
            packet(1, 8, 1, polarity(events[half:], 1 << 31)),
        )
    )
    (tmp_path / "a.aedat").write_bytes(content)
    convert(tmp_path / "a.aedat", tmp_path / "bag", STRICT)
    bag = read_bag(tmp_path / "bag")
    assert_same_events(bag.events, events)
    assert bag.triggers.t.tolist() == [(begin + 2) * 1000, (begin + 3) * 1000]
    assert bag.triggers.edge.tolist() == [1, 0]
    ((t, message),) = bag.messages["/camera/image_raw"]
    assert t == (begin + end) // 2 * 1000
    assert np.array_equal(pixels(message), frame)
    ((_, sample),) = bag.messages["/event_camera/imu"]
    assert sample.linear_acceleration.z == pytest.approx(-9.80665)
    assert sample.angular_velocity.x == pytest.approx(math.pi)

    (tmp_path / "torn.aedat").write_bytes(content[:-4])
    convert(tmp_path / "torn.aedat", tmp_path / "torn", ConvertOptions())
    assert_same_events(read_bag(tmp_path / "torn").events, events[:half])
    with pytest.raises(SourceError, match=r"torn\.aedat: is cut off or damaged"):
        convert(tmp_path / "torn.aedat", tmp_path / "strict", STRICT)
