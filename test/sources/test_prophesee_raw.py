from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import yaml
from bag_contents import assert_same_events, read_bag
from recording_events import recorded_events

from scaleevent_ros.events import make_encoder
from scaleevent_ros.sources import SourceError
from scaleevent_ros.sources.convert import ConvertOptions, convert
from scaleevent_ros.sources.prophesee_raw import open_recording, read_header
from scaleevent_ros.sources.recording import ReadOptions

if TYPE_CHECKING:
    from pathlib import Path

EVT3_HEADER = b"% date 2023-03-29 16:37:46\n% evt 3.0\n% format EVT3;height=72;width=128\n% end\n"


def write_raw(path: Path, header: bytes, data: bytes) -> Path:
    path.write_bytes(header + data)
    return path


@pytest.mark.parametrize("encoding", ["evt2", "evt3"])
def test_events_and_triggers_arrive(tmp_path: Path, encoding: str) -> None:
    events = recorded_events(128, 72)
    encoder = make_encoder(encoding)
    data = encoder.encode(events[:1000])
    edges = []
    if encoding == "evt3":
        edge_t = int(events.t[1000])
        data += encoder.encode_trigger(edge_t, 6, 1)
        edges.append((edge_t, 6, 1))
    data += encoder.encode(events[1000:])
    header = EVT3_HEADER.replace(b"EVT3", encoding.upper().encode()).replace(
        b"evt 3", b"evt " + encoding[-1:].encode()
    )
    source = write_raw(tmp_path / "a.raw", header, data)
    assert convert(source, tmp_path / "bag", ConvertOptions()) == [tmp_path / "bag"]
    bag = read_bag(tmp_path / "bag")
    assert_same_events(bag.events, events)
    triggers = bag.triggers
    assert list(zip(triggers.t, triggers.id, triggers.edge, strict=True)) == edges


@pytest.mark.parametrize("order", ["little", "legacy"])
def test_evt21_arrives(tmp_path: Path, order: str) -> None:
    # One TIME_HIGH (type 8, 28 bits of 64 µs), then vectors: polarity in the type, 6 bits of time,
    # x of the first pixel, y, 32 valid bits. Words of 64 bits; `legacy` swaps their halves.
    words = np.array([8 << 60 | 500 << 32, 1 << 60 | 7 << 54 | 32 << 43 | 5 << 32 | 0b1001], "<u8")
    halves = words.view("<u4").reshape(-1, 2)
    source = write_raw(
        tmp_path / "a.raw",
        f"% format EVT21;endianness={order};height=320;width=320\n% end\n".encode(),
        (halves if order == "little" else halves[:, ::-1]).tobytes(),
    )
    events = next(open_recording(source, ReadOptions()).events(0))
    assert events.x.tolist() == [32, 35]
    assert events.y.tolist() == [5, 5]
    assert events.p.tolist() == [1, 1]
    assert events.t.tolist() == [(500 * 64 + 7) * 1000] * 2


@pytest.mark.parametrize(
    ("header", "size"),
    [
        (b"% evt 2.0\n% geometry 304x240\n", (304, 240)),
        (b"% evt 3.0\n% plugin_name hal_plugin_gen3_fx3\n", (640, 480)),
        (b"% evt 3.0\n% plugin_name hal_plugin_imx636_evk4\n", (1280, 720)),
        (b"% evt 3.0\n% width 640\n% height 400\n", (640, 400)),
        (b"% evt 3.0\n", (None, None)),
    ],
)
def test_size_comes_from_wherever_the_header_says(
    tmp_path: Path, header: bytes, size: tuple[int | None, int | None]
) -> None:
    found = read_header(write_raw(tmp_path / "a.raw", header, b"\0\0\0\0"))
    assert (found.width, found.height) == size
    assert found.data_start == len(header)


def test_real_recording(test_data: Path, tmp_path: Path) -> None:
    convert(test_data / "raw/evt2_640x480.raw", tmp_path / "bag", ConvertOptions())
    events = read_bag(tmp_path / "bag").events
    assert len(events) == 521_252
    assert (events.width, events.height) == (640, 480)
    assert int(events.p.sum()) == 185_861  # this and the times as faery reads them
    assert events.t[-1] - events.t[0] == (913_812_095 - 913_716_224) * 1000


def test_a_late_start_passes_over_earlier_events(tmp_path: Path) -> None:
    events = recorded_events(128, 72)
    source = write_raw(tmp_path / "a.raw", EVT3_HEADER, make_encoder("evt3").encode(events))
    late = list(open_recording(source, ReadOptions()).events(int(events.t[700])))
    assert sum(map(len, late)) == 1300


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (b"no header", b"", "is not a Prophesee RAW file"),
        (b"% format HISTO3D;width=8;height=8\n% end\n", b"", "holds HISTO3D"),
        (b"% evt 3.0\n", b"\0\0", "give --width and --height"),
        (b"% evt 3.0\n% geometry 8x8\n", b"\1\x80\1\x60\1\0", "holds no events"),
        (b"% evt 3.0\n% geometry 8x8\n% endianness big\n", b"", "big-endian"),
        (b"% " + b"a" * 70_000, b"", "is not a Prophesee RAW file"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, header: bytes, data: bytes, message: str) -> None:
    source = write_raw(tmp_path / "a.raw", header, data)
    with pytest.raises(SourceError, match=message) as error:
        list(open_recording(source, ReadOptions()).events(0))
    assert str(source) in str(error.value)


def test_a_cut_file_is_an_error_that_names_the_byte(tmp_path: Path) -> None:
    data = make_encoder("evt3").encode(recorded_events(128, 72))
    source = write_raw(tmp_path / "a.raw", EVT3_HEADER, data[:-1])
    recording = open_recording(source, ReadOptions(strict=True))
    position = len(EVT3_HEADER) + len(data) - 2
    with pytest.raises(SourceError, match=f"cut off at byte {position:,}"):
        list(recording.events(0))


def test_events_outside_the_sensor_are_an_error(tmp_path: Path) -> None:
    data = make_encoder("evt3").encode(recorded_events(128, 72))
    source = write_raw(tmp_path / "a.raw", EVT3_HEADER, data)
    with pytest.raises(SourceError, match=r"a\.raw: event \d+: .* outside the sensor's 64x64"):
        list(open_recording(source, ReadOptions(64, 64, strict=True)).events(0))
    with pytest.raises(SourceError, match=r"64x64; addresses reach 127, 71: .*give --width"):
        convert(source, tmp_path / "bag", ConvertOptions(ReadOptions(64, 64)))


def test_a_torn_and_noisy_file_is_converted_and_its_faults_are_counted(tmp_path: Path) -> None:
    events = recorded_events(128, 72)
    encoder = make_encoder("evt3")
    # An event at row 100, and a word of type 9, which EVT3 does not define.
    noise = (0 << 12 | 100, 2 << 12 | 5, 0x9001)
    noisy = encoder.encode(events[:1000]) + np.array(noise, "<u2").tobytes()
    data = noisy + encoder.encode(events[1000:]) + b"\x07"
    source = write_raw(tmp_path / "a.raw", EVT3_HEADER, data)
    convert(source, tmp_path / "bag", ConvertOptions())
    assert_same_events(read_bag(tmp_path / "bag").events, events)
    state = json.loads((tmp_path / "bag/conversion.json").read_text())
    assert {kind: fault["count"] for kind, fault in state["faults"].items()} == {
        "events outside the sensor": 1,
        "words of unknown type": 1,
        "truncated files": 1,
    }
    first = state["faults"]["events outside the sensor"]["first"]
    assert first.startswith(f"{source}: event 1,000: x = 5, y = 100 is outside")
    metadata = yaml.safe_load((tmp_path / "bag/metadata.yaml").read_text())
    custom = metadata["rosbag2_bagfile_information"]["custom_data"]
    assert json.loads(custom["faults"]) == state["faults"]
    with pytest.raises(SourceError):
        convert(source, tmp_path / "strict", ConvertOptions(ReadOptions(strict=True)))


@pytest.mark.parametrize("header", [EVT3_HEADER, EVT3_HEADER.replace(b"% end\n", b"")])
@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_a_header_line_is_printable_text(tmp_path: Path, header: bytes, ending: bytes) -> None:
    header = header.replace(b"\n", ending)
    # Row 0x025 in a word of type 2 is "% " in little-endian bytes.
    payload = b"% \x00\x01\n"
    found = read_header(write_raw(tmp_path / "a.raw", header, payload))
    assert found == ("evt3", 128, 72, len(header), "little")


def test_pairs_of_the_format_come_in_any_order(tmp_path: Path) -> None:
    header = b"% format EVT21;endianness=little;height=240;width=320\n% end\n"
    found = read_header(write_raw(tmp_path / "a.raw", header, b""))
    assert found == ("evt21", 320, 240, len(header), "little")
    header = b"% evt 2.1\n% sensor_name GenX320\n% end\n"
    found = read_header(write_raw(tmp_path / "a.raw", header, b""))
    assert (found.width, found.height) == (320, 320)


@pytest.mark.parametrize("encoding", ["evt2", "evt3"])
def test_an_encoding_that_no_header_names_shows_in_the_words(tmp_path: Path, encoding: str) -> None:
    events = recorded_events(640, 480, 5000)
    header = b"% Date 2017-03-29 16:37:46\n% geometry 640x480\n"
    source = write_raw(tmp_path / "a.raw", header, make_encoder(encoding).encode(events))
    assert read_header(source).encoding == encoding
    convert(source, tmp_path / "bag", ConvertOptions())
    assert_same_events(read_bag(tmp_path / "bag").events, events)
    noise = np.random.default_rng(0).integers(0, 256, 50_000, np.uint8).tobytes()
    with pytest.raises(SourceError, match="an encoding that its header does not name"):
        read_header(write_raw(tmp_path / "a.raw", header, noise))
