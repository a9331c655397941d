from __future__ import annotations

import pickle
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from synthetic_pairs import SlidingTexture, write_bag

from scaleevent_ros.bags import BagReader, BagWriter
from scaleevent_ros.bags.pairing import pairs
from scaleevent_ros.data import bag_pairs, indexed_bag
from scaleevent_ros.data.alignment import HomographyAlignment
from scaleevent_ros.data.bag_pairs import BagPairs
from scaleevent_ros.data.errors import DataError
from scaleevent_ros.data.indexed_bag import BagOptions
from scaleevent_ros.data.recordings import open_recordings
from scaleevent_ros.errors import ScaleEventError
from scaleevent_ros.events import EventBatch, leaky_integrals
from scaleevent_ros.events.windows import WindowOptions
from scaleevent_ros.sources.calibration import Homography, write_calibration
from scaleevent_ros.sources.serialize import image_message

if TYPE_CHECKING:
    from scaleevent_ros.data.dataset import Pair

WINDOW = WindowOptions(length_ms=30)
TEXTURE = SlidingTexture(8)


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bags") / "texture"
    write_bag(TEXTURE, path)
    return path


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_every_pair_is_what_went_in_in_any_order(bag: Path) -> None:
    source = BagPairs(bag, BagOptions(), WINDOW)
    first = source.read(0).t_end
    offset = next(i for i in range(8) if TEXTURE.read(i).t_end == first)
    assert len(source) >= 6
    for index in (3, 0, 5, 1, 5):
        found, expected = source.read(index), TEXTURE.read(index + offset)
        assert found.t_end == expected.t_end
        assert np.array_equal(found.frame, expected.frame)
        window = expected.events.between(expected.t_end - WINDOW.length_ns, expected.t_end)
        seen = found.events.between(found.t_end - WINDOW.length_ns, found.t_end)
        assert len(window) > 50
        for name in ("x", "y", "p", "t"):
            assert np.array_equal(getattr(seen, name), getattr(window, name))


def test_it_agrees_with_reading_the_bag_through(bag: Path) -> None:
    source = BagPairs(bag, BagOptions(), WINDOW)
    through = list(pairs(BagReader(bag), before_ns=WINDOW.length_ns))
    assert len(through) == len(source)
    for index, expected in enumerate(through):
        found = source.read(index)
        assert np.array_equal(found.frame, expected.frame)
        assert np.array_equal(found.events.t, expected.events.t)


def test_a_bag_is_indexed_once_until_it_changes(
    bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scaleevent_ros.bags import timeline

    read: list[object] = []
    original = timeline.read_timeline

    def counting(*arguments: object) -> object:
        read.append(arguments)
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(timeline, "read_timeline", counting)
    once = BagPairs(bag, BagOptions(), WINDOW)
    again = BagPairs(bag, BagOptions(), WINDOW)
    assert len(read) == 1
    assert np.array_equal(once.read(2).events.t, again.read(2).events.t)
    (index,) = (tmp_path / "cache").rglob("*.npz")
    index.write_bytes(b"damaged")
    BagPairs(bag, BagOptions(), WINDOW)
    assert len(read) == 2
    BagPairs(bag, BagOptions(clock="header_stamps"), WINDOW)
    assert len(read) == 3


def test_the_index_is_kept_elsewhere_where_the_cache_cannot_be_written(
    bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()  # no folder can be made in a file, not even by root
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    source = BagPairs(bag, BagOptions(quality="usable"), WINDOW)
    assert len(source) > 0
    assert list(tmp_path.glob("scaleevent-*/bags/*.npz"))
    assert list(tmp_path.glob("scaleevent-*/bags/*-quality-*.json"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "none"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))  # nothing can be kept
    assert len(BagPairs(bag, BagOptions(quality="usable"), WINDOW)) == len(source)


def test_it_travels_to_workers_without_open_files(bag: Path) -> None:
    source = BagPairs(bag, BagOptions(), WINDOW)
    expected = source.read(1)
    copy = pickle.loads(pickle.dumps(source))
    assert np.array_equal(copy.read(1).events.t, expected.events.t)


def test_a_calibration_beside_or_named_is_used(bag: Path, tmp_path: Path) -> None:
    matrix = np.array([[1, 0, 4.0], [0, 1, 0], [0, 0, 1]])
    path = tmp_path / "calibration.yaml"
    write_calibration(path, Homography((64, 48), (64, 48), matrix))
    alignment = BagPairs(bag, BagOptions(calibration=str(path)), WINDOW).read(0).alignment
    assert isinstance(alignment, HomographyAlignment)
    assert np.array_equal(alignment.matrix, matrix)
    plain = BagPairs(bag, BagOptions(), WINDOW).read(0).alignment
    assert isinstance(plain, HomographyAlignment)
    assert np.array_equal(plain.matrix, np.eye(3))
    write_calibration(path, Homography((640, 480), (64, 48), matrix))
    with pytest.raises(DataError, match=r"its frames are 64x48.*its calibration is for"):
        BagPairs(bag, BagOptions(calibration=str(path)), WINDOW).read(0)


def test_windows_longer_than_the_bag_leave_nothing(bag: Path) -> None:
    with pytest.raises(DataError, match="none of its 8 frames has 5000 ms of events"):
        BagPairs(bag, BagOptions(), WindowOptions(length_ms=5000))


def test_recordings_are_found_by_path_folder_and_pattern(bag: Path, tmp_path: Path) -> None:
    (tmp_path / "some" / "deep").mkdir(parents=True)
    (tmp_path / "some" / "deep" / "one").symlink_to(bag)
    shutil.copytree(bag, tmp_path / "some" / "two")
    for place, count in (
        (str(bag), 1),
        (str(next(bag.glob("*.mcap"))), 1),
        (str(tmp_path / "some"), 2),
        (str(tmp_path / "so*" / "*"), 2),
        (str(tmp_path / "**" / "two"), 1),
    ):
        assert len(open_recordings(place, BagOptions(), WINDOW)) == count
    for place in ("nowhere", "no*where"):
        with pytest.raises(DataError, match="no bag and no folder of shards"):
            open_recordings(str(tmp_path / place), BagOptions(), WINDOW)


def test_a_bag_without_frames_is_refused(test_data: Path) -> None:
    with pytest.raises(ScaleEventError, match="image"):
        open_recordings(str(test_data / "bags" / "evt3_640x480"), BagOptions(), WINDOW)


def test_bags_are_read_only_where_they_are_needed() -> None:
    for module in (bag_pairs, indexed_bag):
        source = Path(str(module.__file__)).read_text()
        assert "import scaleevent_ros.bags" not in source
        assert "\nfrom scaleevent_ros.bags" not in source


def test_history_is_read_as_far_as_there_is_any(bag: Path) -> None:
    short, long = (BagPairs(bag, BagOptions(), WINDOW, history) for history in (0, 60_000_000))
    assert len(short) == len(long)
    lengths = [
        (pair.t_end - int(pair.events.t[0])) / 1e6 for pair in map(long.read, range(len(long)))
    ]
    assert lengths[0] < 60  # all that was recorded before
    assert all(80 < length <= 90 for length in lengths[2:])
    for index in range(len(short)):
        one, other = short.read(index), long.read(index)
        window = other.events.between(one.t_end - WINDOW.length_ns, one.t_end)
        assert np.array_equal(one.events.t, window.t)


def test_states_are_integrals_of_all_that_was_recorded_before(bag: Path) -> None:
    source = BagPairs(bag, BagOptions(), WINDOW, 10**10)
    states = list(source.states(range(2, 6), (0.02, 2.0)))
    for index, state in zip(range(2, 6), states, strict=True):
        events: EventBatch = source.read(index).events
        assert state.t == source.read(index).t_end - WINDOW.length_ns
        assert len(events.between(0, state.t)) > 50
        expected = leaky_integrals(events, state.t, (0.02, 2.0))
        np.testing.assert_allclose(state.values, expected, rtol=1e-4, atol=1e-4)


@dataclass(frozen=True)
class Faulty(SlidingTexture):
    """Frame 3 is black, and frame 6 is frame 5 again."""

    def read(self, index: int) -> Pair:
        pair = super().read(index)
        if index == 3:
            return pair._replace(frame=np.zeros_like(pair.frame))
        return pair._replace(frame=super().read(5).frame) if index == 6 else pair


def test_pairs_that_a_check_rejects_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    texture = Faulty(9)
    write_bag(texture, tmp_path / "bag")
    usable = BagOptions(quality="usable")
    times = [texture.read(index).t_end for index in range(9)]

    def read_times(options: BagOptions) -> list[int]:
        source = BagPairs(tmp_path / "bag", options, WINDOW)
        return [source.read(index).t_end for index in range(len(source))]

    everything = read_times(BagOptions())
    with caplog.at_level("INFO"):
        kept = read_times(usable)
    assert [times.index(time) for time in everything if time not in kept] == [3, 6]
    message = next(r.getMessage() for r in caplog.records if "left out" in r.getMessage())
    assert f"2 of {len(everything)} pairs left out" in message
    assert "dark 1" in message
    assert "duplicate 1" in message
    # Kept from the last time, so that the bag is not checked again.
    monkeypatch.setattr("scaleevent_ros.bags.check.check_bag", None)
    assert read_times(usable) == kept


def test_a_check_skips_damaged_parts_as_reading_does(bag: Path, tmp_path: Path) -> None:
    reader, path = BagReader(bag), tmp_path / "damaged"
    size = sum(file.stat().st_size for file in bag.glob("*.mcap"))
    with BagWriter(path, max_bytes=size // 3) as writer:
        for name, info in reader.topics.items():
            writer.add_topic(name, info.msgtype, definition=info.definition)
        for message in reader.messages():
            writer.write(message.topic, message.record_time_ns, message.data)
    part = sorted(path.glob("*.mcap"))[2]
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 0xFF
    part.write_bytes(content)
    everything = BagPairs(path, BagOptions(), WINDOW)
    usable = BagPairs(path, BagOptions(quality="usable"), WINDOW)
    assert 0 < len(everything) < len(BagPairs(bag, BagOptions(), WINDOW))
    assert 0 < len(usable) <= len(everything)


def test_an_image_that_is_no_picture_is_named_with_its_bag(bag: Path, tmp_path: Path) -> None:
    reader, path = BagReader(bag), tmp_path / "depth"
    topic = reader.image_topic()
    with BagWriter(path) as writer:
        for name, info in reader.topics.items():
            writer.add_topic(name, info.msgtype, definition=info.definition)
        for message in reader.messages():
            data = message.data
            if message.topic == topic:
                stamp_ns = reader.parse_image(message).stamp_ns
                data = image_message(np.ones((48, 64), np.float32), stamp_ns, "camera")
            writer.write(message.topic, message.record_time_ns, data)
    source = BagPairs(path, BagOptions(clock="header_stamps"), WINDOW)
    with pytest.raises(ScaleEventError, match=f"{path}: {topic}: .* encoding '32FC1'"):
        source.read(0)
