from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import aedat4_files as files
import numpy as np
import pytest
from bag_contents import assert_same_events, pixels, read_bag
from recording_events import photographs, recorded_events

from scaleevent_ros.sources import SourceError
from scaleevent_ros.sources.aedat4 import open_recording
from scaleevent_ros.sources.convert import ConvertOptions, convert
from scaleevent_ros.sources.recording import ReadOptions

if TYPE_CHECKING:
    from pathlib import Path


def test_everything_arrives(tmp_path: Path) -> None:
    events = recorded_events(34, 26)
    frames = photographs(2, 26, 34)
    files.write_aedat4(
        tmp_path / "a.aedat4",
        34,
        26,
        [
            files.events_packet(events[:900]),
            files.frame_packet(frames[0], 1_100_000, 1_100_500),
            files.imu_packet(1_100_001, (1.0, 0.0, -1.0), (180.0, 0.0, 0.0)),
            files.trigger_packet([(1_100_000, 8), (1_200_000, 1), (1_200_100, 2)]),
            files.events_packet(events[900:]),
            files.frame_packet(frames[1], 1_300_000, 1_300_500),
        ],
    )
    convert(tmp_path / "a.aedat4", tmp_path / "bag", ConvertOptions())
    bag = read_bag(tmp_path / "bag")
    assert_same_events(bag.events, events)
    assert bag.triggers.t.tolist() == [1_200_000_000, 1_200_100_000]
    assert bag.triggers.edge.tolist() == [1, 0]
    images = bag.messages["/camera/image_raw"]
    assert [t for t, _ in images] == [1_100_250_000, 1_300_250_000]
    assert all(np.array_equal(pixels(m), f) for (_, m), f in zip(images, frames, strict=True))
    ((_, imu),) = bag.messages["/event_camera/imu"]
    assert imu.linear_acceleration.x == pytest.approx(9.80665)
    assert imu.linear_acceleration.z == pytest.approx(-9.80665)
    assert imu.angular_velocity.x == pytest.approx(math.pi)


def test_real_recording(test_data: Path, tmp_path: Path) -> None:
    convert(test_data / "aedat4/davis346_frames_events.aedat4", tmp_path / "bag", ConvertOptions())
    bag = read_bag(tmp_path / "bag")
    assert len(bag.events) == 6_676
    assert (bag.events.width, bag.events.height) == (346, 260)
    images = bag.messages["/camera/image_raw"]
    assert [pixels(m).shape for _, m in images] == [(260, 346)] * 4
    assert np.diff([t for t, _ in images]).tolist() == [40_000_000] * 3
    samples = [m.linear_acceleration for _, m in bag.messages["/event_camera/imu"]]
    assert len(samples) == 160
    size = np.mean([math.hypot(a.x, a.y, a.z) for a in samples])
    assert size == pytest.approx(9.81, abs=0.5)  # standing still, but for the shaking


@pytest.mark.parametrize("kept", [10, 200, 3000])
def test_a_cut_file_is_an_error_that_names_it_in_strict_reading(tmp_path: Path, kept: int) -> None:
    events = recorded_events(34, 26)
    files.write_aedat4(tmp_path / "a.aedat4", 34, 26, [files.events_packet(events)])
    whole = (tmp_path / "a.aedat4").read_bytes()
    (tmp_path / "a.aedat4").write_bytes(whole[:kept])
    with pytest.raises(SourceError, match=r"a\.aedat4: (cannot be read|is cut off)"):
        list(open_recording(tmp_path / "a.aedat4", ReadOptions(strict=True)).events(0))


def test_events_outside_the_sensor_are_an_error_that_names_the_event(tmp_path: Path) -> None:
    events = recorded_events(34, 26)
    files.write_aedat4(tmp_path / "a.aedat4", 20, 26, [files.events_packet(events)])
    first = int((events.x >= 20).argmax())
    with pytest.raises(
        SourceError, match=rf"a\.aedat4: event {first:,}: x = \d+, y = \d+ is outside"
    ):
        list(open_recording(tmp_path / "a.aedat4", ReadOptions(strict=True)).events(0))


def test_a_torn_file_gives_what_lies_before_the_tear(tmp_path: Path) -> None:
    events = recorded_events(34, 26)
    frames = photographs(2, 26, 34)
    packets = [
        files.events_packet(events[:900]),
        files.frame_packet(frames[0], 1_100_000, 1_100_500),
        files.events_packet(events[900:]),
    ]
    files.write_aedat4(tmp_path / "a.aedat4", 34, 26, packets)
    whole = (tmp_path / "a.aedat4").read_bytes()
    (tmp_path / "a.aedat4").write_bytes(whole[:-100])
    convert(tmp_path / "a.aedat4", tmp_path / "bag", ConvertOptions())
    bag = read_bag(tmp_path / "bag")
    assert_same_events(bag.events, events[:900])
    assert len(bag.messages["/camera/image_raw"]) == 1
    state = json.loads((tmp_path / "bag/conversion.json").read_text())
    assert state["faults"]["truncated files"]["count"] == 1  # though several passes met it


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_frames_of_16_bits_are_scaled_by_what_the_recording_uses(tmp_path: Path, bits: int) -> None:
    events = recorded_events(34, 26)
    frames = photographs(2, 26, 34)
    deep = [(frame.astype(np.uint16) << (bits - 8)) for frame in frames]
    deep[1][0, 0] = (1 << bits) - 1  # in the second frame alone
    packets = [files.events_packet(events)]
    packets += [
        files.frame_packet(frame, t, t + 500)
        for frame, t in zip(deep, (1_100_000, 1_200_000), strict=True)
    ]
    files.write_aedat4(tmp_path / "a.aedat4", 34, 26, packets)
    convert(tmp_path / "a.aedat4", tmp_path / "bag", ConvertOptions())
    images = [pixels(m) for _, m in read_bag(tmp_path / "bag").messages["/camera/image_raw"]]
    assert np.array_equal(images[0], frames[0])
    assert images[1][0, 0] == 255
    assert np.array_equal(images[1][1:], frames[1][1:])


@pytest.mark.filterwarnings("error")
def test_frames_of_unknown_type_are_skipped_and_counted(tmp_path: Path) -> None:
    events = recorded_events(34, 26)
    frames = photographs(3, 26, 34)
    packets = [files.events_packet(events[:900])]
    packets += [
        files.frame_packet(frame, t, t + 500, kind)
        for frame, t, kind in zip(
            frames, (1_100_000, 1_200_000, 1_300_000), (99, 0, 5), strict=True
        )
    ]
    packets += [files.events_packet(events[900:])]
    files.write_aedat4(tmp_path / "a.aedat4", 34, 26, packets)
    convert(tmp_path / "a.aedat4", tmp_path / "bag", ConvertOptions())
    bag = read_bag(tmp_path / "bag")
    assert_same_events(bag.events, events)
    assert len(bag.messages["/camera/image_raw"]) == 1
    state = json.loads((tmp_path / "bag/conversion.json").read_text())
    fault = state["faults"]["frames of unknown type"]
    assert fault["count"] == 2
    assert "frame format 99" in fault["first"]
