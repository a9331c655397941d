from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import h5py
import numpy as np
import pytest
import yaml
from bag_contents import assert_same_events, read_bag
from command_line import scaleevent
from mcap.reader import make_reader
from recording_events import photographs, recorded_events

from scaleevent_ros.bags import BagError
from scaleevent_ros.bags.reader import BagReader
from scaleevent_ros.sources import ConversionError, SourceError
from scaleevent_ros.sources.convert import ConvertOptions, convert, convert_recording
from scaleevent_ros.sources.formats import find_recordings
from scaleevent_ros.sources.recording import ReadOptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EVENTS = recorded_events(64, 48, 5000, length_s=4.0)
FRAMES = photographs(30, 48, 64, colour=True)
OPTIONS = ConvertOptions(stretch_ns=1_000_000_000)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write a recording of 4 s with 30 frames, which makes 5 stretches of 1 s."""
    path = tmp_path / "source.h5"
    with h5py.File(path, "w") as file:
        file["events/xs"], file["events/ys"] = EVENTS.x, EVENTS.y
        file["events/ts"], file["events/ps"] = EVENTS.t / 1e9, EVENTS.p.astype(bool)
        file.attrs["sensor_resolution"] = (48, 64)
        for index, frame in enumerate(FRAMES):
            file[f"images/image{index:09d}"] = frame[..., ::-1]
            file[f"images/image{index:09d}"].attrs["timestamp"] = 1.05 + index / 10
    return path


def stamps(bag: Path) -> dict[str, list[int]]:
    return {topic: [t for t, _ in some] for topic, some in read_bag(bag).messages.items()}


def stop_after(stamp_ns: int) -> Callable[[int], None]:
    def report(reached_ns: int) -> None:
        if reached_ns >= stamp_ns:
            raise KeyboardInterrupt

    return report


def test_a_bag_is_whole_and_says_where_it_comes_from(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "bag", OPTIONS)
    bag = read_bag(tmp_path / "bag")
    assert_same_events(bag.events, EVENTS)
    assert len(bag.messages["/camera/image_raw"]) == 30
    packets = [message for _, message in bag.messages["/event_camera/events"]]
    assert [p.seq for p in packets] == list(range(len(packets)))
    assert {p.encoding for p in packets} == {"evt3"}
    assert sorted(p.name for p in (tmp_path / "bag").iterdir()) == [
        *(f"bag_{i}.mcap" for i in range(4)),
        "conversion.json",
        "metadata.yaml",
    ]
    metadata = yaml.safe_load((tmp_path / "bag/metadata.yaml").read_text())
    custom = metadata["rosbag2_bagfile_information"]["custom_data"]
    assert custom["clock_method"] == "sensor_time"
    assert custom["source"] == str(source)
    state = json.loads((tmp_path / "bag/conversion.json").read_text())
    assert state["status"] == "complete"
    assert sum(part["events"] for part in state["parts"]) == len(EVENTS)
    assert not (tmp_path / "bag.partial").exists()
    assert BagReader(tmp_path / "bag").damage == {}


@pytest.mark.parametrize("stop_ns", [1_000_000_000, 2_500_000_000, 4_900_000_000])
def test_an_interrupted_conversion_goes_on(source: Path, tmp_path: Path, stop_ns: int) -> None:
    (found,) = find_recordings(source)
    convert(source, tmp_path / "whole", OPTIONS)
    recording = found.open(ReadOptions())
    with pytest.raises(KeyboardInterrupt):
        convert_recording(recording, tmp_path / "bag", OPTIONS, stop_after(stop_ns))
    assert not (tmp_path / "bag").exists()
    state = json.loads((tmp_path / "bag.partial/conversion.json").read_text())
    assert state["status"] == "partial"
    assert len(state["parts"]) == stop_ns // 1_000_000_000 - 1
    partial = tmp_path / "bag.partial"
    files = {"conversion.json", *(f"bag_{i}.mcap" for i in range(len(state["parts"]) + 1))}
    assert {path.name for path in partial.iterdir()} == files
    written = (partial / "bag_0.mcap").stat().st_mtime_ns
    convert_recording(recording, tmp_path / "bag", OPTIONS)
    assert not partial.exists()
    assert stamps(tmp_path / "bag") == stamps(tmp_path / "whole")
    bag = read_bag(tmp_path / "bag")
    assert_same_events(bag.events, EVENTS)
    packets = bag.messages["/event_camera/events"]
    assert [message.seq for _, message in packets] == list(range(len(packets)))
    if state["parts"]:
        assert (tmp_path / "bag/bag_0.mcap").stat().st_mtime_ns == written


def test_a_killed_conversion_goes_on(source: Path, tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from scaleevent_ros.sources import convert as c
from scaleevent_ros.sources.formats import find_recordings
from scaleevent_ros.sources.recording import ReadOptions
def report(t):
    if t > 3_300_000_000:
        os.kill(os.getpid(), signal.SIGKILL)
recording = find_recordings(Path({str(source)!r}))[0].open(ReadOptions())
c.convert_recording(recording, Path({str(tmp_path / "bag")!r}),
                    c.ConvertOptions(stretch_ns=1_000_000_000), report)
"""
    died = subprocess.run([sys.executable, "-c", program], check=False, timeout=60)
    assert died.returncode == -9
    assert (tmp_path / "bag.partial").exists()
    convert(source, tmp_path / "bag", OPTIONS)
    assert_same_events(read_bag(tmp_path / "bag").events, EVENTS)


def test_strict_reading_keeps_what_is_whole_and_says_what_is_wrong(
    source: Path, tmp_path: Path
) -> None:
    with h5py.File(source, "a") as file:
        del file["images/image000000025"]
        file["images/image000000025"] = FRAMES[0, :5]
        file["images/image000000025"].attrs["timestamp"] = 3.55
    with pytest.raises(SourceError, match="images: the picture at 3550000000 ns is 64x5"):
        convert(source, tmp_path / "bag", replace(OPTIONS, read=ReadOptions(strict=True)))
    state = json.loads((tmp_path / "bag.partial/conversion.json").read_text())
    assert state["status"] == "partial"
    assert "3550000000" in state["error"]
    assert len(state["parts"]) == 2


def test_a_complete_bag_stays_as_it_is(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "bag", OPTIONS)
    written = (tmp_path / "bag/metadata.yaml").stat().st_mtime_ns
    convert(source, tmp_path / "bag", OPTIONS)
    assert (tmp_path / "bag/metadata.yaml").stat().st_mtime_ns == written


def test_nothing_is_overwritten(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "bag", OPTIONS)
    with pytest.raises(ConversionError, match="with other options"):
        convert(source, tmp_path / "bag", replace(OPTIONS, compression="zstd"))
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConversionError, match="is not a conversion; nothing is overwritten"):
        convert(source, tmp_path / "mine", OPTIONS)
    (tmp_path / "mine" / "conversion.json").write_text('{"arguments": {}, "clock": {}}')
    with pytest.raises(ConversionError, match="is not a conversion; nothing is overwritten"):
        convert(source, tmp_path / "mine", OPTIONS)
    (tmp_path / "bag/bag_2.mcap").unlink()
    with pytest.raises(ConversionError, match=r"lacks bag_2\.mcap: remove the folder to restart"):
        convert(source, tmp_path / "bag", OPTIONS)


def test_a_file_of_a_converted_bag_can_be_read_alone(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "bag", OPTIONS)
    with (tmp_path / "bag/bag_1.mcap").open("rb") as file:
        (record,) = make_reader(file).iter_metadata()
    own = yaml.safe_load(record.metadata["serialized_metadata"])
    assert own["relative_file_paths"] == ["bag_1.mcap"]
    whole = yaml.safe_load((tmp_path / "bag/metadata.yaml").read_text())
    assert own["files"] == [whole["rosbag2_bagfile_information"]["files"][1]]


@pytest.mark.parametrize("codec", ["png", "jpeg"])
def test_frames_can_be_compressed(source: Path, tmp_path: Path, codec: str) -> None:
    convert(source, tmp_path / "bag", replace(OPTIONS, image_codec=codec, compression="zstd"))
    images = read_bag(tmp_path / "bag").messages["/camera/image_raw/compressed"]
    assert len(images) == 30
    assert images[0][1].format == f"rgb8; {codec} compressed bgr8"
    decoded = cv2.imdecode(images[0][1].data, cv2.IMREAD_COLOR)
    assert decoded is not None
    assert np.abs(decoded[..., ::-1].astype(float) - FRAMES[0]).mean() <= (
        0 if codec == "png" else 2
    )
    with pytest.raises(ConversionError, match="known are jpeg and png"):
        ConvertOptions(image_codec="gif")
    with pytest.raises(BagError, match="'gzip' is none of zstd, lz4"):
        ConvertOptions(compression="gzip")


def test_every_other_recording_is_converted_before_an_error(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    source.rename(folder / "good.h5")
    for name in ("bad_a", "bad_b"):
        (folder / f"{name}.raw").write_bytes(b"% evt 3.0\n% geometry 8x8\n% end\n")
    with pytest.raises(SourceError, match=r"(?s)2 recordings were not converted.*bad_a.*bad_b"):
        convert(folder, tmp_path / "out", OPTIONS)
    assert_same_events(read_bag(tmp_path / "out/good").events, EVENTS)
    assert (tmp_path / "out/bad_a.partial").is_dir()


def test_the_command_converts_and_says_what_is_wrong_in_one_line(
    source: Path, tmp_path: Path
) -> None:
    done = scaleevent("convert", source, tmp_path / "bag", "--codec", "png")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / "bag")
    assert "/camera/image_raw/compressed" in read_bag(tmp_path / "bag").messages
    (tmp_path / "bad.raw").write_bytes(b"% evt 3.0\n% geometry 8x8\n% end\n")
    failed = scaleevent("convert", tmp_path / "bad.raw", tmp_path / "bad")
    assert failed.returncode == 2
    assert failed.stderr == f"scaleevent: {tmp_path / 'bad.raw'}: holds no events\n"


def test_what_the_encoding_cannot_hold_is_an_error_that_names_the_recording(
    source: Path, tmp_path: Path
) -> None:
    large = ConvertOptions(ReadOptions(width=4096, height=4096))
    with pytest.raises(SourceError, match=r"source\.h5: a sensor of 4096x4096 pixels"):
        convert(source, tmp_path / "bag", large)


def test_faults_are_counted_once_over_an_interruption(source: Path, tmp_path: Path) -> None:
    with h5py.File(source, "a") as file:
        file["events/xs"][[100, 4000]] = 64
        del file["images/image000000025"]
        file["images/image000000025"] = FRAMES[0, :5]
        file["images/image000000025"].attrs["timestamp"] = 3.55
    recording = find_recordings(source)[0].open(ReadOptions())
    with pytest.raises(KeyboardInterrupt):
        convert_recording(recording, tmp_path / "bag", OPTIONS, stop_after(3_500_000_000))
    recording = find_recordings(source)[0].open(ReadOptions())
    faults = convert_recording(recording, tmp_path / "bag", OPTIONS)
    assert {kind: fault["count"] for kind, fault in faults.items()} == {
        "events outside the sensor": 2,
        "pictures of another size": 1,
    }
    first = faults["events outside the sensor"]["first"]
    assert first.startswith(f"{source}: event 100: x = 64")
    bag = read_bag(tmp_path / "bag")
    assert len(bag.events) == len(EVENTS) - 2
    assert len(bag.messages["/camera/image_raw"]) == 29
    assert convert_recording(recording, tmp_path / "bag", OPTIONS) == faults  # already complete


def test_strict_reading_stops_at_the_first_recording_with_a_fault(
    source: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    (folder / "a.h5").write_bytes(source.read_bytes()[:1000])
    source.rename(folder / "b.h5")
    strict = replace(OPTIONS, read=ReadOptions(strict=True))
    with pytest.raises(SourceError, match=r"a\.h5: cannot be read as HDF5"):
        convert(folder, tmp_path / "strict", strict)
    assert not (tmp_path / "strict/b").exists()
    with pytest.raises(SourceError, match=r"a\.h5: cannot be read as HDF5"):
        convert(folder, tmp_path / "out", OPTIONS)
    assert_same_events(read_bag(tmp_path / "out/b").events, EVENTS)


def test_most_pictures_of_another_size_are_an_error(source: Path, tmp_path: Path) -> None:
    with h5py.File(source, "a") as file:
        for index in (3, 4):
            del file[f"images/image00000000{index}"]
            file[f"images/image00000000{index}"] = FRAMES[0, :5]
            file[f"images/image00000000{index}"].attrs["timestamp"] = 1.05 + index / 10
    with pytest.raises(SourceError, match="the picture at 1450000000 ns is 64x5, not 64x48"):
        convert(source, tmp_path / "bag", OPTIONS)


def without_override(folder: Path) -> list[str]:
    """Return what starts a command that may not write a read-only folder, though run by root."""
    if not os.access(folder, os.W_OK):
        return []
    prefix = ["setpriv", "--bounding-set", "-dac_override", "--inh-caps", "-dac_override"]
    if shutil.which("setpriv") is None:
        pytest.skip("root writes everywhere, and there is no setpriv to give that up")
    tried = subprocess.run(
        [*prefix, "touch", folder / "tried"], check=False, capture_output=True, text=True
    )
    if "Permission denied" not in tried.stderr:
        pytest.skip(f"root cannot give up writing everywhere: {tried.stderr or 'it still writes'}")
    return prefix


@pytest.mark.parametrize(
    "arguments",
    [
        ["convert", "{source}", "{out}"],
        ["simulate", "{pictures}", "{out}"],
        ["shard", "{bag}", "{out}"],
        ["align", "{kalibr}", "--frame-camera", "cam0", "--event-camera", "cam1", "--out", "{out}"],
        ["export-events", "{bag}", "{out}.csv"],
    ],
)
@pytest.mark.parametrize("place", ["a file", "a read-only folder"])
def test_a_place_that_cannot_be_written_is_one_line(
    source: Path, tmp_path: Path, arguments: list[str], place: str
) -> None:
    parent = tmp_path / "parent"
    as_user: list[str] = []
    if place == "a file":
        parent.touch()
    else:
        parent.mkdir(mode=0o555)
        as_user = without_override(parent)
    (tmp_path / "pictures").mkdir()
    for index in range(2):
        cv2.imwrite(str(tmp_path / f"pictures/{index}.png"), FRAMES[index])
    camera = {
        "camera_model": "pinhole",
        "distortion_coeffs": [0.0] * 4,
        "distortion_model": "radtan",
        "intrinsics": [60.0, 60.0, 32.0, 24.0],
        "resolution": [64, 48],
    }
    second = {**camera, "T_cn_cnm1": np.eye(4).tolist()}
    kalibr = {"cam0": camera, "cam1": second}
    (tmp_path / "camchain.yaml").write_text(yaml.safe_dump(kalibr))
    convert(source, tmp_path / "bag", OPTIONS)
    places = {
        "source": source,
        "pictures": tmp_path / "pictures",
        "bag": tmp_path / "bag",
        "kalibr": tmp_path / "camchain.yaml",
        "out": parent / "out",
    }
    words = [word.format(**places) for word in arguments]
    if as_user:
        done = subprocess.run(
            [*as_user, sys.executable, "-m", "scaleevent_ros.cli", *words],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
    else:
        done = scaleevent(*words)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    *before, last = done.stderr.splitlines()
    assert str(parent) in last
    assert not [line for line in before if "rror" in line]


def test_a_part_is_converted(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "bag", replace(OPTIONS, start_s=1.0, duration_s=1.5))
    bag = read_bag(tmp_path / "bag")
    start = int(EVENTS.t[0]) + 1_000_000_000
    end = start + 1_500_000_000
    assert_same_events(bag.events, EVENTS.between(start, end))
    frames = [1_050_000_000 + 100_000_000 * index for index in range(30)]
    stamps_ns = [t for t, _ in bag.messages["/camera/image_raw"]]
    assert stamps_ns == [t for t in frames if start <= t < end]
    with pytest.raises(SourceError, match="holds no events"):
        convert(source, tmp_path / "none", replace(OPTIONS, start_s=100.0))
