from __future__ import annotations

import json
from typing import TYPE_CHECKING

import cv2
import h5py
import numpy as np
import pytest
from bag_contents import assert_same_events, pixels, read_bag
from recording_events import photographs, recorded_events

from scaleevent_ros.sources import SourceError
from scaleevent_ros.sources.convert import ConvertOptions, convert
from scaleevent_ros.sources.recording import ReadOptions

if TYPE_CHECKING:
    from pathlib import Path

EVENTS = recorded_events(240, 180)
FRAMES = photographs(3, 180, 240)
STRICT = ConvertOptions(ReadOptions(strict=True))


def write_frames(folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    for index, frame in enumerate(FRAMES):
        cv2.imwrite(str(folder / f"images/frame_{index:08d}.png"), frame)


def write_text_events(folder: Path) -> None:
    rows = zip(EVENTS.t.tolist(), EVENTS.x, EVENTS.y, EVENTS.p, strict=True)
    text = "".join(f"{t / 1e9:.9f} {x} {y} {p}\n" for t, x, y, p in rows)
    (folder / "events.txt").write_text(text)


def write_ijrr(folder: Path) -> None:
    write_frames(folder)
    write_text_events(folder)
    listing = "".join(f"{1.1 + i / 10:.6f} images/frame_{i:08d}.png\n" for i in range(3))
    (folder / "images.txt").write_text(listing)
    (folder / "calib.txt").write_text("199.1 198.8 132.2 110.7 -0.37 0.15 -0.0003 -0.0016 0.0\n")
    (folder / "imu.txt").write_text("1.2 0.1 0.2 9.8 0.01 0.02 0.03\n")


def test_ijrr_arrives(tmp_path: Path) -> None:
    write_ijrr(tmp_path / "shapes_6dof")
    convert(tmp_path / "shapes_6dof", tmp_path / "bag", ConvertOptions())
    bag = read_bag(tmp_path / "bag")
    assert_same_events(bag.events, EVENTS)
    images = bag.messages["/camera/image_raw"]
    assert [t for t, _ in images] == [1_100_000_000, 1_200_000_000, 1_300_000_000]
    assert np.array_equal([pixels(m) for _, m in images], FRAMES)
    info = bag.messages["/event_camera/camera_info"][0][1]
    assert info.k[[0, 2, 4, 5]].tolist() == [199.1, 132.2, 198.8, 110.7]
    assert info.d.tolist() == [-0.37, 0.15, -0.0003, -0.0016, 0.0]
    ((t, imu),) = bag.messages["/event_camera/imu"]
    assert t == 1_200_000_000
    assert imu.linear_acceleration.z == 9.8
    assert imu.angular_velocity.x == 0.01


@pytest.mark.parametrize("place", ["timestamps.txt", "images/timestamps.txt"])
def test_hdf5_events_beside_timestamped_pictures(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "a"
    write_frames(folder)
    with h5py.File(folder / "events.h5", "w") as file:
        file["x"], file["y"], file["p"], file["t"] = EVENTS.x, EVENTS.y, EVENTS.p, EVENTS.t // 1000
    (folder / place).write_text("1100000\n1200000\n1300000\n")
    convert(folder, tmp_path / "bag", ConvertOptions())
    bag = read_bag(tmp_path / "bag")
    assert_same_events(bag.events, EVENTS)
    assert [t for t, _ in bag.messages["/camera/image_raw"]] == [
        1_100_000_000,
        1_200_000_000,
        1_300_000_000,
    ]


def test_a_sensor_of_another_size_than_the_frames(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    write_frames(folder)
    with h5py.File(folder / "events.h5", "w") as file:
        file["x"], file["y"], file["p"], file["t"] = EVENTS.x, EVENTS.y, EVENTS.p, EVENTS.t // 1000
        file.attrs["width"], file.attrs["height"] = 320, 200
    (folder / "timestamps.txt").write_text("1.1\n1.2\n1.3\n")
    convert(folder, tmp_path / "bag", ConvertOptions())
    bag = read_bag(tmp_path / "bag")
    assert (bag.events.width, bag.events.height) == (320, 200)
    images = bag.messages["/camera/image_raw"]
    assert {m.header.frame_id for _, m in images} == {"camera"}  # of another lens


def test_integer_nanoseconds_and_comments(tmp_path: Path) -> None:
    start = 1_700_000_000_000_000_000
    write_frames(tmp_path / "a")
    rows = zip((EVENTS.t + start).tolist(), EVENTS.x, EVENTS.y, EVENTS.p, strict=True)
    text = "".join(f"{t} {x} {y} {p}\n" for t, x, y, p in rows)
    (tmp_path / "a/events.txt").write_text(text)
    times = [start + 1_100_000_000 + i * 100_000_000 for i in range(3)]
    (tmp_path / "a/timestamps.txt").write_text("# ns\n" + "".join(f"{t}\n" for t in times))
    (tmp_path / "a/imu.txt").write_text(f"# t a w\n{times[0]} 0.1 0.2 9.8 0.01 0.02 0.03\n")
    convert(tmp_path / "a", tmp_path / "bag", STRICT)
    bag = read_bag(tmp_path / "bag")
    assert bag.events.t.tolist() == (EVENTS.t + start).tolist()
    assert [t for t, _ in bag.messages["/camera/image_raw"]] == times
    assert [t for t, _ in bag.messages["/event_camera/imu"]] == times[:1]


def test_torn_last_lines_are_left_out(tmp_path: Path) -> None:
    write_ijrr(tmp_path / "a")
    with (tmp_path / "a/images.txt").open("a") as file:
        file.write("1.4")
    with (tmp_path / "a/imu.txt").open("a") as file:
        file.write("1.3 0.1 0.2")
    convert(tmp_path / "a", tmp_path / "bag", ConvertOptions())
    bag = read_bag(tmp_path / "bag")
    assert len(bag.messages["/event_camera/imu"]) == 1
    assert len(bag.messages["/camera/image_raw"]) == 3
    faults = json.loads((tmp_path / "bag/conversion.json").read_text())["faults"]
    assert faults["lines that are not IMU samples"]["count"] == 1
    assert faults["lines that are not pictures"]["first"].endswith("is '1.4', not 'time name'")
    (tmp_path / "a/images.txt").unlink()
    (tmp_path / "a/timestamps.txt").write_text("1.1 1.2 1.3")
    with pytest.raises(SourceError, match=r"imu\.txt: a line is '1\.3 0\.1 0\.2'"):
        convert(tmp_path / "a", tmp_path / "strict", STRICT)


def test_events_alone_need_a_size(tmp_path: Path) -> None:
    write_text_events(tmp_path)
    with pytest.raises(SourceError, match="give --width and --height"):
        convert(tmp_path, tmp_path / "bag", ConvertOptions())
    convert(tmp_path, tmp_path / "bag", ConvertOptions(ReadOptions(width=240, height=180)))
    assert_same_events(read_bag(tmp_path / "bag").events, EVENTS)


def damage_picture(folder: Path) -> None:
    (folder / "images/frame_00000001.png").write_bytes(b"\x89PNG")


def shrink_picture(folder: Path) -> None:
    cv2.imwrite(str(folder / "images/frame_00000001.png"), FRAMES[0, :90])


def forget_times(folder: Path) -> None:
    (folder / "images.txt").unlink()


def reverse_times(folder: Path) -> None:
    lines = (folder / "images.txt").read_text().splitlines()
    (folder / "images.txt").write_text("\n".join(reversed(lines)))


def forget_a_name(folder: Path) -> None:
    (folder / "images.txt").write_text("1.1 images/frame_00000000.png\n1.2\n")


def forget_events(folder: Path) -> None:
    (folder / "events.txt").write_text("")


def stop_clock(folder: Path) -> None:
    (folder / "images.txt").write_text("9.1 images/frame_00000000.png\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_picture, r"frame_00000001\.png: cannot be read as a picture"),
        (shrink_picture, r"images: the picture at 1200000000 ns is 240x90, not 240x180"),
        (forget_times, r"its pictures have no times"),
        (reverse_times, r"time 0 is 1300000000 ns: times must increase"),
        (forget_a_name, r"images\.txt: entry 2 is '1\.2'"),
        (forget_events, r"events\.txt: holds no events"),
        (stop_clock, r"clocks do not overlap: /camera/image_raw is from 9100000000"),
    ],
)
def test_what_is_wrong_is_named_and_marked(tmp_path: Path, damage: object, message: str) -> None:
    write_ijrr(tmp_path / "a")
    damage(tmp_path / "a")  # type: ignore[operator]
    with pytest.raises(SourceError, match=message):
        convert(tmp_path / "a", tmp_path / "bag", STRICT)
    assert not (tmp_path / "bag").exists()


def turned_jpeg(picture: np.ndarray) -> bytes:
    """Write a JPEG file that is to be shown turned by 90 degrees (EXIF orientation 6)."""
    orientation = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"
    tiff = b"MM\x00\x2a\x00\x00\x00\x08\x00\x01" + orientation + bytes(4)
    segment = b"Exif\x00\x00" + tiff
    data = cv2.imencode(".jpg", picture)[1].tobytes()
    return data[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + data[2:]


def shown_size(data: bytes) -> tuple[int, ...]:
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return tuple(map(int, picture.shape[:2]))


@pytest.mark.parametrize("codec", ["jpeg", "png"])
def test_frames_that_are_stored_compressed_are_passed_through(tmp_path: Path, codec: str) -> None:
    write_ijrr(tmp_path / "shapes_6dof")
    colour = photographs(1, 180, 240, colour=True)[0]
    files = [tmp_path / f"shapes_6dof/images/frame_{i:08d}.png" for i in range(3)]
    stored = [
        cv2.imencode(".jpg", colour, [cv2.IMWRITE_JPEG_QUALITY, 40])[1].tobytes(),
        files[1].read_bytes(),
        turned_jpeg(colour),
    ]
    for path, data in zip(files, stored, strict=True):
        path.write_bytes(data)
    assert shown_size(stored[2]) == (240, 180)
    convert(tmp_path / "shapes_6dof", tmp_path / "bag", ConvertOptions(image_codec=codec))
    images = [m for _, m in read_bag(tmp_path / "bag").messages["/camera/image_raw/compressed"]]
    assert [bytes(image.data) for image in images[:2]] == stored[:2]
    assert [image.format for image in images[:2]] == ["jpeg", "png"]
    # Decoders disagree about this one: the bag holds what the calibration is for.
    assert images[2].format == f"rgb8; {codec} compressed bgr8"
    assert shown_size(images[2].data) == (180, 240)
