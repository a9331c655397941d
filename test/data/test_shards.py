from __future__ import annotations

import json
from typing import TYPE_CHECKING

import fsspec
import numpy as np
import pytest
import webdataset
from recording_events import photographs, recorded_events
from torch.utils.data import DataLoader

from scaleevent_ros.data.alignment import HomographyAlignment, MapAlignment
from scaleevent_ros.data.dataset import Pair
from scaleevent_ros.data.errors import DataError
from scaleevent_ros.data.shards import (
    Manifest,
    Shard,
    ShardSource,
    ShardStream,
    read_manifest,
    store_map,
    stream_shard,
    whole_shard,
    write_manifest,
    write_shard,
)
from scaleevent_ros.data.stored_pair import Origin, encode_pair
from scaleevent_ros.events.windows import WindowOptions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COUNTS = (3, 1, 4, 2)
FRAMES = photographs(1, 48, 64, colour=True)


def samples(folder: Path, first: int, count: int) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Make samples that their ``t_end`` tells apart; every third is aligned by a look-up."""
    grid = np.stack(np.meshgrid(np.arange(64.0), np.arange(48.0)), axis=-1).astype(np.float32)
    for number in range(first, first + count):
        alignment = MapAlignment(grid) if number % 3 == 0 else HomographyAlignment(np.eye(3))
        events = recorded_events(64, 48, 100, seed=number)
        pair = Pair(FRAMES[0], events, number, alignment)
        files = encode_pair(pair, "png", Origin("a", number), lambda a: store_map(folder, a))
        yield f"a-{number:07d}", files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write ten pairs in four shards."""
    starts = np.cumsum([0, *COUNTS])
    shards = [
        write_shard(tmp_path, f"a-{index:05d}", samples(tmp_path, int(start), count))
        for index, (start, count) in enumerate(zip(starts[:-1], COUNTS, strict=True))
    ]
    write_manifest(tmp_path, Manifest(shards, {"window_ns": 50_000_000}, complete=True))
    return tmp_path


def numbers(pairs: Iterator[Pair] | list[Pair]) -> list[int]:
    return [pair.t_end for pair in pairs]


def test_pairs_are_read_by_number_in_any_order(folder: Path) -> None:
    source = ShardSource(folder)
    assert len(source) == 10
    assert numbers([source.read(index) for index in range(10)]) == list(range(10))
    ninth = source.read(9)
    assert isinstance(ninth.alignment, MapAlignment)
    assert np.array_equal(ninth.events.t, recorded_events(64, 48, 100, seed=9).t)
    assert len(list(folder.glob("map-*.npy"))) == 1


def test_a_shard_is_read_in_one_go(folder: Path) -> None:
    found = list(stream_shard(folder, Shard("a-00002", 4)))
    assert [key for key, _ in found] == [f"a-{n:07d}" for n in (4, 5, 6, 7)]
    assert numbers([pair for _, pair in found]) == [4, 5, 6, 7]


def test_webdataset_reads_shards_too(folder: Path) -> None:
    urls = [str(folder / f"a-{index:05d}.tar") for index in range(4)]
    found = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in found] == [f"a-{n:07d}" for n in range(10)]
    assert np.array_equal(found[5]["png"], FRAMES[0])
    assert found[5]["json"]["t_end_ns"] == 5
    assert (found[5]["covered.png"] == 255).all()


@pytest.mark.parametrize("storage", ["file", "memory"])
def test_any_storage_is_as_good_as_a_path(folder: Path, storage: str) -> None:
    url = f"{storage}://{folder}"
    if storage == "memory":  # objects by name, as in a bucket
        fsspec.filesystem("memory").put(f"{folder}/", str(folder), recursive=True)
    source = ShardSource(url)
    assert numbers([source.read(index) for index in (0, 9)]) == [0, 9]
    assert len(list(stream_shard(url, Shard("a-00000", 3)))) == 3
    assert sorted(numbers(list(ShardStream(url)))) == list(range(10))
    with pytest.raises(DataError, match=r"://nowhere/shards\.json: cannot be read"):
        ShardSource(f"{storage}://nowhere")


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_each_pair_comes_to_one_worker_of_one_process(
    folder: Path, world_size: int, workers: int
) -> None:
    found: list[int] = []
    for rank in range(world_size):
        stream = ShardStream(folder, rank=rank, world_size=world_size, seed=3, buffer=4)
        loader = DataLoader(stream, batch_size=None, num_workers=workers)
        found += numbers(list(loader))
    assert sorted(found) == list(range(10))


def test_the_order_follows_from_seed_and_epoch(folder: Path) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        stream = ShardStream(folder, seed=seed, buffer=5)
        stream.epoch = epoch
        return numbers(list(stream))

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert order(0, 0) != list(range(10))


def test_the_same_samples_make_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_shard(tmp_path / name, "a", samples(tmp_path / name, 0, 3))
    for suffix in ("tar", "json"):
        first, second = (tmp_path / name / f"a.{suffix}" for name in ("one", "two"))
        assert first.read_bytes() == second.read_bytes()


def test_a_shard_is_whole_or_not_there(tmp_path: Path) -> None:
    def stop() -> Iterator[tuple[str, dict[str, bytes]]]:
        yield from samples(tmp_path, 0, 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path, "a", stop())
    assert whole_shard(tmp_path, "a") is None
    assert not (tmp_path / "a.tar").exists()
    write_shard(tmp_path, "a", samples(tmp_path, 0, 2))
    assert whole_shard(tmp_path, "a") == Shard("a", 2)


@pytest.mark.parametrize("left", [0.0, 0.3, 0.5, 0.6, 0.7])
def test_a_cut_shard_is_an_error_that_names_it(folder: Path, left: float) -> None:
    path = folder / "a-00002.tar"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * left)])
    with pytest.raises(
        DataError, match=r"a-00002\.tar: (is cut off|a-\d{7}: the sample is damaged)"
    ):
        list(stream_shard(folder, Shard("a-00002", 4)))
    with pytest.raises(DataError, match=r"a-00002\.tar: a-0000007: the sample is damaged"):
        ShardSource(folder).read(7)


def test_a_shard_cut_between_samples_is_an_error(folder: Path) -> None:
    places = json.loads((folder / "a-00002.json").read_text())["samples"]
    third = min(start for start, _ in places["a-0000006"].values()) - 512
    path = folder / "a-00002.tar"
    path.write_bytes(path.read_bytes()[:third])
    with pytest.raises(DataError, match=r"is cut off at sample 'a-0000005'"):
        list(stream_shard(folder, Shard("a-00002", 4)))


def test_a_folder_that_is_wrong_is_an_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing/shards\.json: cannot be read"):
        ShardSource(tmp_path / "nothing")
    with pytest.raises(DataError, match="holds 50 ms of events before each frame, less than"):
        ShardSource(folder, WindowOptions(length_ms=60))
    assert len(ShardSource(folder, WindowOptions(length_ms=50))) == 10
    write_manifest(folder, read_manifest(folder)._replace(complete=False))
    with pytest.raises(DataError, match="is not complete"):
        ShardSource(folder)
    (folder / "shards.json").write_text(json.dumps({"shards": 3}))
    with pytest.raises(DataError, match=r"shards\.json: is no list of shards"):
        read_manifest(folder)
