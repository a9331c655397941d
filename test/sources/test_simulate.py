"""Videos and pictures become bags like any camera's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from photographs import photograph
from typer.testing import CliRunner

from scaleevent_ros.bags import BagReader
from scaleevent_ros.bags.images import image_array
from scaleevent_ros.bags.messages import CAMERA_INFO, ImageView
from scaleevent_ros.cli import app
from scaleevent_ros.errors import ScaleEventError
from scaleevent_ros.events import EventBatch, make_decoder
from scaleevent_ros.sources.camera_motion import exact_flow, random_motion
from scaleevent_ros.sources.convert import ConvertOptions
from scaleevent_ros.sources.errors import SimulationError, SourceError
from scaleevent_ros.sources.faults import UNREADABLE
from scaleevent_ros.sources.pixel_model import PIXEL_MODELS
from scaleevent_ros.sources.recording import FLOW_TOPIC, FRAMES_TOPIC, LABELS_TOPIC
from scaleevent_ros.sources.simulate import (
    EPOCH_NS,
    StillsOptions,
    VideoOptions,
    size_of,
    stills_recording,
    video_recording,
    write_bag,
)
from scaleevent_ros.sources.simulator import log_intensity
from scaleevent_ros.sources.stills import StillOptions, simulate_still

if TYPE_CHECKING:
    from pathlib import Path

MS = 1_000_000


def pan(number: int, step: float = 2.0) -> list[np.ndarray]:
    """Create frames of 160x120 that slide over a photograph."""
    picture = photograph()
    shift = np.array([[1.0, 0, -100], [0, 1, -150]])
    frames = []
    for index in range(number):
        shift[0, 2] = -100 - step * index
        frames.append(np.asarray(cv2.warpAffine(picture, shift, (160, 120))))
    return frames


def write_pictures(folder: Path, pictures: list[np.ndarray]) -> None:
    folder.mkdir()
    for index, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f"{index:03}.png"), picture[..., ::-1])


def bag_events(reader: BagReader) -> EventBatch:
    decoder = make_decoder("evt3", 160, 120)
    batches = [decoder.decode(view.payload, view.time_base) for _, view in reader.events()]
    return EventBatch.concatenate(batches)


def bag_images(reader: BagReader, topic: str) -> list[tuple[int, np.ndarray]]:
    found = []
    for stamp_ns, view in reader.images(topic):
        assert isinstance(view, ImageView)
        found.append((stamp_ns, image_array(view).copy()))
    return found


def test_a_folder_of_pictures_becomes_a_bag(tmp_path: Path) -> None:
    frames = pan(12)
    write_pictures(tmp_path / "frames", frames)
    arguments = ["simulate", str(tmp_path / "frames"), str(tmp_path / "bag"), "--frame-rate", "50"]
    result = CliRunner().invoke(app, [*arguments, "--pixels", "ideal", "--threshold", "0.1"])
    assert result.exit_code == 0, result.output

    reader = BagReader(tmp_path / "bag")
    types = {name: info.msgtype for name, info in reader.topics.items()}
    assert list(types.values()).count(CAMERA_INFO) == 2
    for (stamp_ns, image), frame, index in zip(
        bag_images(reader, FRAMES_TOPIC), frames, range(12), strict=True
    ):
        assert stamp_ns == EPOCH_NS + index * 20 * MS
        np.testing.assert_array_equal(image, frame)

    events = bag_events(reader)
    events.validate()
    assert (np.diff(events.t) >= 0).all()
    assert EPOCH_NS < events.t[0] <= events.t[-1] < EPOCH_NS + 220 * MS
    change = np.zeros((120, 160))
    np.add.at(change, (events.y, events.x), np.where(events.p == 1, 0.1, -0.1))
    first, last = (
        log_intensity(np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8), 20)
        for frame in (frames[0], frames[-1])
    )
    assert np.corrcoef(change.ravel(), (last - first).ravel())[0, 1] >= 0.98


def test_a_video_becomes_a_bag(tmp_path: Path) -> None:
    path = tmp_path / "pan.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, (160, 120))
    for frame in pan(10):
        writer.write(frame[..., ::-1])
    writer.release()
    write_bag(video_recording(path, VideoOptions()), tmp_path / "bag", ConvertOptions())
    reader = BagReader(tmp_path / "bag")
    images = bag_images(reader, FRAMES_TOPIC)
    assert [t for t, _ in images] == [EPOCH_NS + round(i * 1e6 / 30) * 1000 for i in range(10)]
    assert np.abs(images[5][1].astype(float) - pan(10)[5]).mean() < 8  # JPEG's own loss
    assert len(bag_events(reader)) > 1000


def test_size_scales_and_crops(tmp_path: Path) -> None:
    write_pictures(tmp_path / "frames", pan(3))
    recording = video_recording(tmp_path / "frames", VideoOptions(size=(60, 60)))
    assert (recording.width, recording.height) == (60, 60)
    shapes = {picture.pixels.shape for picture in recording.pictures[0].read(0)}
    assert shapes == {(60, 60, 3)}


def test_still_pictures_become_clips_with_labels_and_flow(tmp_path: Path) -> None:
    pictures = [photograph("astronaut")[:120, :160], photograph("chelsea")[:120, :160]]
    write_pictures(tmp_path / "pictures", pictures)
    labels = [(picture[..., 0] // 100).astype(np.uint8) for picture in pictures]
    (tmp_path / "labels").mkdir()
    for index, label in enumerate(labels):
        cv2.imwrite(str(tmp_path / f"labels/{index:03}.png"), label)
    arguments = ["simulate", str(tmp_path / "pictures"), str(tmp_path / "bag"), "--still"]
    arguments += ["--labels", str(tmp_path / "labels"), "--classes", "dark,middle,light"]
    result = CliRunner().invoke(app, [*arguments, "--frames", "3", "--seed", "5"])
    assert result.exit_code == 0, result.output

    reader = BagReader(tmp_path / "bag")
    frames = bag_images(reader, FRAMES_TOPIC)
    seen = bag_images(reader, LABELS_TOPIC)
    flows = bag_images(reader, FLOW_TOPIC)
    assert [t for t, _ in frames] == [t for t, _ in seen]
    assert [t for t, _ in flows] == [frames[i][0] for i in (0, 1, 3, 4)]
    period = frames[3][0] - frames[0][0]
    events = bag_events(reader)
    for index in range(2):
        seed = int(np.random.SeedSequence((5, index)).generate_state(1)[0])
        alone = simulate_still(
            pictures[index],
            labels[index],
            options=StillOptions(frames=3),
            seed=seed,
            start_ns=EPOCH_NS + index * period,
        )
        for i in range(3):
            np.testing.assert_array_equal(frames[3 * index + i][1], alone.frames[i])
            assert alone.labels is not None
            np.testing.assert_array_equal(seen[3 * index + i][1], alone.labels[i])
        np.testing.assert_array_equal(flows[2 * index][1], alone.flow(0))
        start = EPOCH_NS + index * period
        mine = events.between(start, start + period)
        np.testing.assert_array_equal(mine.t, alone.events.t)
        np.testing.assert_array_equal(mine.x, alone.events.x)
    clip = StillOptions(frames=3).length_us * 1000
    assert period - clip == 500 * MS
    assert len(events.between(EPOCH_NS + clip, EPOCH_NS + period)) == 0


def test_jobs_change_nothing_and_reading_can_start_anywhere(tmp_path: Path) -> None:
    write_pictures(
        tmp_path / "pictures", [photograph()[i : i + 60, :80] for i in range(0, 300, 60)]
    )
    film = StillOptions(frames=2, margin=0.02)
    one, three = (
        stills_recording(tmp_path / "pictures", StillsOptions(film, jobs=jobs)) for jobs in (1, 3)
    )
    whole = EventBatch.concatenate(list(one.events(0)))
    other = EventBatch.concatenate(list(three.events(0)))
    np.testing.assert_array_equal(whole.t, other.t)
    np.testing.assert_array_equal(whole.y, other.y)
    start = int(whole.t[len(whole) // 2])
    rest = EventBatch.concatenate(list(three.events(start)))
    np.testing.assert_array_equal(rest.t, whole.t[whole.t >= start])
    stamps = [picture.t for picture in one.pictures[0].read(0)]
    assert [p.t for p in one.pictures[0].read(start)] == [t for t in stamps if t >= start]


def test_streams_of_one_pass_share_one_simulation(tmp_path: Path) -> None:
    write_pictures(tmp_path / "frames", pan(4))
    recording = video_recording(tmp_path / "frames", VideoOptions(pixels=PIXEL_MODELS["ideal"]))
    pictures = recording.pictures[0].read(0)
    events = recording.events(0)
    assert next(pictures).t == EPOCH_NS
    first = EventBatch.concatenate(list(events))
    assert len(list(pictures)) == 3
    again = EventBatch.concatenate(list(recording.events(0)))
    np.testing.assert_array_equal(first.t, again.t)


def test_another_seed_is_not_mistaken_for_the_bag_that_is_there(tmp_path: Path) -> None:
    write_pictures(tmp_path / "frames", pan(3))
    for seed in (0, 0):
        recording = video_recording(tmp_path / "frames", VideoOptions(seed=seed))
        write_bag(recording, tmp_path / "bag", ConvertOptions())
    recording = video_recording(tmp_path / "frames", VideoOptions(seed=1))
    with pytest.raises(ScaleEventError, match="other options"):
        write_bag(recording, tmp_path / "bag", ConvertOptions())


def test_a_torn_still_picture_is_left_out_and_counted(tmp_path: Path) -> None:
    write_pictures(tmp_path / "p", [photograph()[i : i + 60, :80] for i in range(0, 240, 60)])
    film = StillOptions(frames=2, margin=0.02)
    whole = stills_recording(tmp_path / "p", StillsOptions(film))
    frames = {picture.t: picture.pixels for picture in whole.pictures[0].read(0)}
    for name in ("000.png", "002.png"):
        path = tmp_path / "p" / name
        path.write_bytes(path.read_bytes()[:100])
    recording = stills_recording(tmp_path / "p", StillsOptions(film))
    write_bag(recording, tmp_path / "bag", ConvertOptions())
    found = bag_images(BagReader(tmp_path / "bag"), FRAMES_TOPIC)
    times = sorted(frames)
    assert [t for t, _ in found] == [*times[2:4], *times[6:]]
    assert all(np.array_equal(picture, frames[t]) for t, picture in found)
    fault = json.loads((tmp_path / "bag/conversion.json").read_text())["faults"][UNREADABLE]
    assert fault["count"] == 2
    assert "000.png: cannot be read as a picture" in fault["first"]


def test_objects_move_through_still_pictures(tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures", [photograph("astronaut")[:120, :160]] * 2)
    (tmp_path / "objects").mkdir()
    disc = np.zeros((30, 30, 4), np.uint8)
    cv2.circle(disc, (15, 15), 12, (255, 255, 255, 255), -1)
    cv2.imwrite(str(tmp_path / "objects/disc.png"), disc)
    arguments = ["simulate", str(tmp_path / "pictures"), str(tmp_path / "bag"), "--still"]
    arguments += ["--cutouts", str(tmp_path / "objects"), "--still-share", "1", "--gap", "7"]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code != 0
    assert "no-flow" in str(refused.exception)
    arguments += ["--no-flow", "--frames", "3", "--frame-rate", "10", "--margin", "0.3"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    times = [t for t, _ in bag_images(BagReader(tmp_path / "bag"), FRAMES_TOPIC)]
    assert times[3] - times[0] == (2 * 300 + 2 * 100 + 7000) * MS
    assert len(bag_events(BagReader(tmp_path / "bag"))) > 100
    cv2.imwrite(str(tmp_path / "objects/plain.png"), disc[..., :3])
    arguments[2] = str(tmp_path / "other")
    assert "alpha" in str(CliRunner().invoke(app, arguments).exception)


def test_flow_over_stills_is_that_of_the_motion() -> None:
    sequence = simulate_still(photograph(), options=StillOptions(frames=2, strength=0.5), seed=3)
    motion = random_motion(np.random.default_rng(3), (512, 512), 0.5)
    before, after = (motion.homography(t * 1e-6) for t in StillOptions(frames=2).frames_us)
    np.testing.assert_array_equal(sequence.flow(0), exact_flow(before, after, (512, 512)))


def test_wrong_input_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="no pictures"):
        video_recording(tmp_path / "empty", VideoOptions())
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(SimulationError, match=r"broken\.mp4"):
        video_recording(tmp_path / "broken.mp4", VideoOptions())
    write_pictures(tmp_path / "one", pan(1))
    with pytest.raises(SimulationError, match="1 frames"):
        video_recording(tmp_path / "one", VideoOptions())
    write_pictures(tmp_path / "mixed", [*pan(2), photograph()])
    recording = video_recording(tmp_path / "mixed", VideoOptions())
    with pytest.raises(SimulationError, match="frame 2 is 512x512"):
        write_bag(recording, tmp_path / "bag", ConvertOptions())
    with pytest.raises(SimulationError, match="give --size"):
        list(stills_recording(tmp_path / "mixed", StillsOptions()).events(0))
    with pytest.raises(SimulationError, match="no labels"):
        stills_recording(tmp_path / "one", StillsOptions(labels=tmp_path / "empty"))
    write_pictures(tmp_path / "small", [photograph()[:50, :50, 0:1].repeat(3, 2)])
    recording = stills_recording(tmp_path / "one", StillsOptions(labels=tmp_path / "small"))
    with pytest.raises(SimulationError, match=r"one/000\.png"):
        list(recording.events(0))
    with pytest.raises(SimulationError, match="640by480"):
        size_of("640by480")
    with pytest.raises(SimulationError, match="frame rate"):
        VideoOptions(frame_rate=0)


def element(identity: str, *content: bytes) -> bytes:
    """Write an element of Matroska (RFC 9559), its size in 8 bytes."""
    body = b"".join(content)
    return bytes.fromhex(identity) + bytes([1]) + len(body).to_bytes(7, "big") + body


def write_matroska(path: Path, frames: list[np.ndarray], stamps_ms: list[int]) -> None:
    """Write a video as a pipe leaves it: no duration, no count, segment of unknown size."""
    video = element("e0", element("b0", b"\xa0"), element("ba", b"\x78"))  # 160x120
    track = element(
        "ae",
        element("d7", b"\1"),
        element("73c5", b"\1"),
        element("83", b"\1"),
        element("86", b"V_MJPEG"),
        video,
    )
    blocks = [
        element(
            "a3", b"\x81", t.to_bytes(2, "big"), b"\x80", cv2.imencode(".jpg", frame)[1].tobytes()
        )
        for frame, t in zip(frames, stamps_ms, strict=True)
    ]
    path.write_bytes(
        element("1a45dfa3", element("4282", b"matroska"), element("4287", b"\4"))
        + bytes.fromhex("18538067" + "01ffffffffffffff")
        + element("1549a966", element("2ad7b1", b"\x0f\x42\x40"))
        + element("1654ae6b", track)
        + element("1f43b675", element("e7", b"\0"), *blocks)
    )


def test_frames_keep_the_times_of_their_container(tmp_path: Path) -> None:
    stamps_ms = [0, 40, 50, 120, 400, 410, 1000]
    write_matroska(tmp_path / "pipe.mkv", pan(7), stamps_ms)
    recording = video_recording(tmp_path / "pipe.mkv", VideoOptions())
    times = [picture.t for picture in recording.pictures[0].read(0)]
    assert times == [EPOCH_NS + t * MS for t in stamps_ms]
    given = video_recording(tmp_path / "pipe.mkv", VideoOptions(frame_rate=100))
    assert [p.t for p in given.pictures[0].read(0)] == [EPOCH_NS + i * 10 * MS for i in range(7)]


@pytest.mark.parametrize("place", ["timestamps.txt", "images/timestamps.txt", "images.txt"])
def test_pictures_keep_the_times_beside_them(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    write_pictures(folder / "images", pan(4))
    times = ["0.000000000", "0.001865671", "0.298507462", "0.3"]
    if place == "images.txt":
        times = [f"{t} images/{index:03}.png" for index, t in enumerate(times)]
    (folder / place).write_text("\n".join(times))
    wanted = [EPOCH_NS + t * 1000 for t in (0, 1_866, 298_507, 300_000)]
    for source in (folder, folder / "images"):
        recording = video_recording(source, VideoOptions())
        assert [picture.t for picture in recording.pictures[0].read(0)] == wanted
    (folder / place).write_text("\n".join(times[:3]))
    if place != "images.txt":
        with pytest.raises(SimulationError, match="4 pictures but 3 timestamps"):
            video_recording(folder, VideoOptions())


def test_pictures_of_a_clock_that_runs_keep_its_times(tmp_path: Path) -> None:
    write_pictures(tmp_path / "frames", pan(2))
    (tmp_path / "timestamps.txt").write_text("1500000000.5\n1500000000.6\n")
    recording = video_recording(tmp_path / "frames", VideoOptions())
    assert recording.span_ns == (1_500_000_000_500_000_000, 1_500_000_000_600_000_000)
    (tmp_path / "timestamps.txt").write_text("1500000000500000000\n1500000000600000000\n")
    assert video_recording(tmp_path / "frames", VideoOptions()).span_ns == recording.span_ns
