from __future__ import annotations

import hashlib
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from paired_bags import HEIGHT, WIDTH, write_paired_bag

from scaleevent_ros.bags import BagReader
from scaleevent_ros.data.bag_pairs import BagPairs
from scaleevent_ros.data.errors import DataError
from scaleevent_ros.data.indexed_bag import BagOptions
from scaleevent_ros.data.sharding import ShardOptions, write_shards
from scaleevent_ros.data.shards import ShardSource, read_manifest
from scaleevent_ros.data.stored_pair import encode_pair
from scaleevent_ros.errors import ScaleEventError
from scaleevent_ros.events import InputSpec, leaky_integrals
from scaleevent_ros.events.windows import WindowOptions
from scaleevent_ros.sources.calibration import Homography, write_calibration

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS = ShardOptions(samples=3, codec="png")


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write three bags of 8, 2 and 5 frames."""
    folder = tmp_path_factory.mktemp("bags")
    for name, frames in (("day/one.1", 8), ("day/two", 2), ("night", 5)):
        write_paired_bag(folder / name, frames, seed=frames)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def digests(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }


def test_shards_hold_the_pairs_of_their_bags(bags: Path, tmp_path: Path) -> None:
    manifest = write_shards(str(bags), tmp_path / "out", OPTIONS)
    assert [tuple(shard) for shard in manifest.shards] == [
        ("day_one_1-00000", 3),
        ("day_one_1-00001", 3),
        ("day_one_1-00002", 2),
        ("day_two-00000", 2),
        ("night-00000", 3),
        ("night-00001", 2),
    ]
    source = ShardSource(tmp_path / "out", OPTIONS.window)
    index = 0
    for name in ("day/one.1", "day/two", "night"):
        pairs = BagPairs(bags / name, BagOptions(), WindowOptions())
        for number in range(len(pairs)):
            wanted, found = pairs.read(number), source.read(index)
            assert np.array_equal(found.frame, wanted.frame)
            assert found.t_end == wanted.t_end
            assert (found.events.width, found.events.height) == (WIDTH, HEIGHT)
            for column in "xytp":
                assert np.array_equal(getattr(found.events, column), getattr(wanted.events, column))
            assert len(found.events) > 50
            index += 1
    assert index == len(source) == 15


def test_the_number_of_workers_changes_nothing(bags: Path, tmp_path: Path) -> None:
    write_shards(str(bags), tmp_path / "one", OPTIONS)
    write_shards(str(bags), tmp_path / "two", OPTIONS, workers=2)
    with ThreadPoolExecutor(3) as mine:
        write_shards(str(bags), tmp_path / "mine", OPTIONS, executor=mine)
    assert digests(tmp_path / "one") == digests(tmp_path / "two") == digests(tmp_path / "mine")


def test_an_interrupted_job_goes_on(
    bags: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shards(str(bags), tmp_path / "whole", OPTIONS)
    calls = []

    def stop(*arguments: object) -> dict[str, bytes]:
        calls.append(1)
        if len(calls) > 7:
            raise KeyboardInterrupt
        return encode_pair(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("scaleevent_ros.data.sharding.encode_pair", stop)
    with pytest.raises(KeyboardInterrupt):
        write_shards(str(bags), tmp_path / "out", OPTIONS)
    assert not read_manifest(tmp_path / "out").complete
    kept = sorted(path.name for path in (tmp_path / "out").glob("*.tar"))
    assert kept == ["day_one_1-00000.tar", "day_one_1-00001.tar"]
    monkeypatch.setattr("scaleevent_ros.data.sharding.encode_pair", encode_pair)
    before = (tmp_path / "out" / kept[0]).stat().st_mtime_ns
    left_over = tmp_path / "out" / ".123.scene-00001.tar"
    left_over.touch()
    write_shards(str(bags), tmp_path / "out", OPTIONS)
    assert (tmp_path / "out" / kept[0]).stat().st_mtime_ns == before
    assert not left_over.exists()
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_other_options_do_not_mix(bags: Path, tmp_path: Path) -> None:
    write_shards(str(bags), tmp_path / "out", OPTIONS)
    with pytest.raises(DataError, match="made with other options"):
        write_shards(str(bags), tmp_path / "out", replace(OPTIONS, codec="jpeg"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").touch()
    with pytest.raises(DataError, match="holds other files than shards"):
        write_shards(str(bags), tmp_path / "mine", OPTIONS)


def test_another_bag_of_the_same_name_is_refused(bags: Path, tmp_path: Path) -> None:
    for name in ("A", "B"):
        (tmp_path / name).mkdir()
        shutil.copytree(bags / ("day/one.1" if name == "A" else "night"), tmp_path / name / "drive")
    write_shards(str(tmp_path / "A/drive"), tmp_path / "out", OPTIONS)
    with pytest.raises(DataError, match="shards of other bags"):
        write_shards(str(tmp_path / "B/drive"), tmp_path / "out", OPTIONS)
    # The same bag at another place, with other modification times, makes the same shards.
    shutil.copytree(tmp_path / "A/drive", tmp_path / "C/drive", copy_function=shutil.copyfile)
    before = digests(tmp_path / "out")
    write_shards(str(tmp_path / "C/drive"), tmp_path / "out", OPTIONS)
    assert digests(tmp_path / "out") == before


@pytest.mark.parametrize("change", ["grew", "replaced", "calibrated", "metadata"])
def test_a_bag_that_changed_is_refused(bags: Path, tmp_path: Path, change: str) -> None:
    bag = tmp_path / "drive"
    shutil.copytree(bags / "night", bag)
    write_shards(str(bag), tmp_path / "out", OPTIONS)
    (messages,) = bag.glob("*.mcap")
    if change == "grew":
        shutil.copyfile(messages, bag / f"{messages.stem[:-1]}1.mcap")
    elif change == "replaced":
        content = bytearray(messages.read_bytes())
        content[-200] ^= 1
        messages.write_bytes(content)
    elif change == "calibrated":
        write_calibration(
            bag / "calibration.yaml", Homography((WIDTH, HEIGHT), (WIDTH, HEIGHT), np.eye(3))
        )
    else:
        with (bag / "metadata.yaml").open("a") as metadata:
            metadata.write("# another clock\n")
    with pytest.raises(DataError, match="shards of other bags"):
        write_shards(str(bag), tmp_path / "out", OPTIONS)


def test_another_named_calibration_is_refused(bags: Path, tmp_path: Path) -> None:
    path = tmp_path / "calibration.yaml"
    options = replace(OPTIONS, bags=BagOptions(calibration=str(path)))
    for shift, match in ((0.0, None), (0.0, None), (2.0, "made with other options")):
        matrix = np.array([[1, 0, shift], [0, 1, 0], [0, 0, 1]])
        write_calibration(path, Homography((WIDTH, HEIGHT), (WIDTH, HEIGHT), matrix))
        with pytest.raises(DataError, match=match) if match else nullcontext():
            write_shards(str(bags / "day"), tmp_path / "out", options)


@pytest.mark.parametrize(("codec", "suffix"), [("jpeg", "jpg"), ("png", "png")])
def test_recorded_files_of_frames_are_stored_as_they_are(
    tmp_path: Path, codec: str, suffix: str
) -> None:
    write_paired_bag(tmp_path / "bag", 3, codec=codec)
    other = "png" if codec == "jpeg" else "jpeg"
    write_shards(str(tmp_path / "bag"), tmp_path / "out", ShardOptions(codec=other))
    recorded = [bytes(image.data) for _, image in BagReader(tmp_path / "bag").images()]
    with tarfile.open(tmp_path / "out" / "bag-00000.tar") as tar:
        members = [tar.extractfile(member) for member in tar if member.name.endswith(f"0.{suffix}")]
        frames = [member.read() for member in members if member is not None]
    assert len(frames) == 1
    assert frames[0] in recorded
    pair = BagPairs(tmp_path / "bag", BagOptions(), WindowOptions()).read(0)
    assert np.array_equal(ShardSource(tmp_path / "out").read(0).frame, pair.frame)


def test_names_too_long_for_files_are_shortened(tmp_path: Path) -> None:
    folder = tmp_path / "bags" / ("a" * 200)
    for name in ("b" * 200, "c" * 200):
        write_paired_bag(folder / name, 2)
    write_paired_bag(tmp_path / "bags" / "d", 2)
    manifest = write_shards(str(tmp_path / "bags"), tmp_path / "out", OPTIONS)
    assert len({shard.name for shard in manifest.shards}) == 3
    assert len(ShardSource(tmp_path / "out")) == 6


def test_what_cannot_be_is_an_error(bags: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no bag"):
        write_shards(str(tmp_path / "nothing"), tmp_path / "out", OPTIONS)
    with pytest.raises(DataError, match="cannot hold 0 samples"):
        ShardOptions(samples=0)
    shutil.copytree(bags / "day/two", bags / "day_two")
    try:
        with pytest.raises(DataError, match="2 bags would be named 'day_two'"):
            write_shards(str(bags), tmp_path / "out", OPTIONS)
    finally:
        shutil.rmtree(bags / "day_two")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bag_that_cannot_be_read_is_left_out(
    bags: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    shutil.copytree(bags / "night", tmp_path / "bags" / "good")
    torn = shutil.copytree(bags / "night", tmp_path / "bags" / "torn")
    (data,) = torn.glob("*.mcap")
    data.write_bytes(b"no bag at all")
    manifest = write_shards(str(tmp_path / "bags"), tmp_path / "out", OPTIONS, workers=workers)
    assert manifest.complete
    assert [tuple(shard) for shard in manifest.shards] == [("good-00000", 3), ("good-00001", 2)]
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("a bag is left out: ")
    assert str(data) in caplog.messages[0]
    with pytest.raises(ScaleEventError, match="torn"):
        write_shards(str(torn), tmp_path / "alone", OPTIONS)


def test_leaky_integrals_are_stored_with_each_pair(bags: Path, tmp_path: Path) -> None:
    options = replace(OPTIONS, leaky=(0.02, 2.0), samples=3, window=WindowOptions(length_ms=20))
    write_shards(str(bags / "night"), tmp_path / "out", options)
    pairs = BagPairs(bags / "night", BagOptions(), options.window, 10**10)
    source = ShardSource(tmp_path / "out", options.window, (2.0,))
    for index in range(len(source)):
        found, whole = source.read(index), pairs.read(index)
        assert found.history is not None
        assert found.history.t == found.t_end - options.window.length_ns
        expected = leaky_integrals(whole.events, found.history.t, (2.0,))
        assert np.abs(expected).max() > 0.5
        np.testing.assert_allclose(found.history.values, expected, rtol=1e-3, atol=1e-4)
        spec = InputSpec(leaky=(2.0,))
        start = found.t_end - options.window.length_ns
        tensor = spec.build(found.events, start, found.t_end, found.history)
        wanted = spec.build(whole.events, start, found.t_end)
        np.testing.assert_allclose(tensor, wanted, rtol=1e-3, atol=2e-3)
    assert ShardSource(tmp_path / "out").read(0).history is None
    with pytest.raises(DataError, match=r"decays of \[0.02, 2.0\] s, not of \[0.5\] s"):
        ShardSource(tmp_path / "out", options.window, (0.5, 2.0))
