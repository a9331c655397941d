from __future__ import annotations

import http.server
import json
import re
import tarfile
import threading
import tracemalloc
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import fsspec
import numpy as np
import pytest
import webdataset
from recording_events import photographs, recorded_events

from scaleevent_ros.data.alignment import HomographyAlignment, MapAlignment
from scaleevent_ros.data.dataset import Pair
from scaleevent_ros.data.errors import DataError
from scaleevent_ros.data.shards import (
    Manifest,
    Shard,
    ShardSource,
    _read_index,
    read_manifest,
    store_map,
    whole_shard,
    write_manifest,
    write_shard,
)
from scaleevent_ros.data.stored_pair import Origin, encode_pair
from scaleevent_ros.events.windows import WindowOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

COUNTS = (3, 1, 4, 2)
FRAMES = photographs(1, 48, 64, colour=True)


def samples(folder: Path, first: int, count: int) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Create samples with distinct ``t_end``; every third is aligned by a look-up."""
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
    with pytest.raises(DataError, match=r"://nowhere/shards\.json: cannot be read"):
        ShardSource(f"{storage}://nowhere")


class RangeServer(http.server.SimpleHTTPRequestHandler):
    """Serves files with ranges, as object storages do, and counts the bytes that it sends."""

    sent = 0

    def do_GET(self) -> None:
        data = Path(self.translate_path(self.path)).read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked:
            data = data[int(asked[1]) : int(asked[2]) + 1]
        type(self).sent += len(data)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        """Suppress the log."""


def test_only_what_a_sample_needs_is_fetched(folder: Path) -> None:
    handler = partial(RangeServer, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        source = ShardSource(f"http://127.0.0.1:{server.server_port}")
        source.read(4)  # with the index of its shard and the map of the alignment
        before = RangeServer.sent
        assert source.read(7).t_end == 7
        server.shutdown()
    with tarfile.open(folder / "a-00002.tar") as tar:
        sizes = [member.size for member in tar if member.name.startswith("a-0000007.")]
    assert sum(sizes) <= RangeServer.sent - before <= sum(sizes) + 1024 * len(sizes)


def test_an_index_takes_little_memory(tmp_path: Path) -> None:
    files = dict.fromkeys(("covered.png", "evt3", "jpg", "json", "leaky.z"), b"x")
    write_shard(tmp_path, "a", ((f"recording-{n:07d}", files) for n in range(2000)))
    tracemalloc.start()
    index = _read_index(str(tmp_path), "a")
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(index.starts) == 2000
    assert held < 100 * 2000


def test_keys_of_any_length_are_read_by_others_too(tmp_path: Path) -> None:
    keys = [f"{'x' * length}-{length}" for length in (3, 90, 120, 300, 1000)]
    written = [(key, files) for key, (_, files) in zip(keys, samples(tmp_path, 1, 5), strict=True)]
    shard = write_shard(tmp_path, "a-00000", written)
    write_manifest(tmp_path, Manifest([shard], {"window_ns": 1}, complete=True))
    assert numbers([ShardSource(tmp_path).read(index) for index in range(5)]) == [1, 2, 3, 4, 5]
    found = list(webdataset.WebDataset([str(tmp_path / "a-00000.tar")], shardshuffle=False))
    assert [sample["__key__"] for sample in found] == keys
    assert [sample["evt3"] for sample in found] == [files["evt3"] for _, files in written]


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
    with pytest.raises(DataError, match=r"a-00002\.tar: sample 3: the sample is damaged"):
        ShardSource(folder).read(7)


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
    with pytest.raises(DataError, match=r"shards\.json: is not a list of shards"):
        read_manifest(folder)
