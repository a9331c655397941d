"""Shards: tar files of samples that many workers and nodes stream, from disk or object storage.

The layout is WebDataset's (github.com/webdataset/webdataset): files with one name up to the first
dot are one sample, and stand together. Beside each ``NAME.tar`` lies ``NAME.json`` with the place
of every file in it, so that samples can be read in any order too; it is written last, so that a
shard is whole if it is there. ``shards.json`` lists the shards of a folder and says how they were
made; look-ups of alignments, which many samples share, lie beside as ``map-*.npy``.

Folders are paths, or URLs of any storage that fsspec knows (``s3://``, ``gs://``, ``https://``).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import fsspec
import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from scaleevent_ros.data.alignment import MapAlignment
from scaleevent_ros.data.errors import DataError
from scaleevent_ros.data.stored_pair import decode_pair

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from scaleevent_ros.data.dataset import Pair
    from scaleevent_ros.events.windows import WindowOptions

    Places = list[tuple[str, dict[str, tuple[int, int]]]]

MANIFEST_NAME = "shards.json"


class Shard(NamedTuple):
    """One shard of a folder.

    Attributes:
        name: Of its files, without a suffix.
        samples: How many there are.
    """

    name: str
    samples: int


class Manifest(NamedTuple):
    """What a folder of shards says of itself.

    Attributes:
        shards: In their order.
        options: How they were made; ``window_ns`` says how long before a frame its events begin.
        complete: Whether all are there.
    """

    shards: list[Shard]
    options: dict[str, Any]
    complete: bool


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write what a folder of shards says of itself, so that the old or the new one is there."""
    said = manifest._asdict()
    said["shards"] = [shard._asdict() for shard in manifest.shards]
    _write_file(folder / MANIFEST_NAME, json.dumps(said, indent=1).encode())


def read_manifest(folder: str | Path) -> Manifest:
    """Read what a folder or URL of shards says of itself.

    Raises:
        DataError: If it says nothing, or that cannot be read.
    """
    url = f"{folder}/{MANIFEST_NAME}"
    try:
        said = json.loads(_read_file(url))
        shards = [Shard(**shard) for shard in said["shards"]]
        return Manifest(shards, said["options"], said["complete"])
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{url}: is no list of shards: {error!r}"
        raise DataError(msg) from error


def write_shard(
    folder: Path, name: str, samples: Iterable[tuple[str, Mapping[str, bytes]]]
) -> Shard:
    """Write a shard that appears as a whole, byte for byte the same for the same samples.

    Args:
        folder: Where to.
        name: Of its files, without a suffix.
        samples: Keys without a dot, each with its files by suffix.
    """
    places: dict[str, dict[str, tuple[int, int]]] = {}
    temporary = folder / f".{name}.{os.getpid()}.tmp"
    with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, files in samples:
            places[key] = {}
            for suffix, data in files.items():
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(data)
                places[key][suffix] = (tar.offset + tarfile.BLOCKSIZE, len(data))
                tar.addfile(member, io.BytesIO(data))
    temporary.replace(folder / f"{name}.tar")
    _write_file(folder / f"{name}.json", json.dumps({"samples": places}).encode())
    return Shard(name, len(places))


def whole_shard(folder: Path, name: str) -> Shard | None:
    """Look for a shard that was written as a whole."""
    if not (folder / f"{name}.json").is_file():
        return None
    return Shard(name, len(_places(str(folder), name)))


def store_map(folder: Path, alignment: MapAlignment) -> str:
    """Store the look-up of an alignment, if it is not there, and return the name of its file."""
    digest = hashlib.blake2b(alignment.sample_map.tobytes(), digest_size=8).hexdigest()
    path = folder / f"map-{digest}.npy"
    if not path.exists():
        stored = io.BytesIO()
        np.save(stored, alignment.sample_map)
        _write_file(path, stored.getvalue())
    return path.name


@lru_cache(maxsize=16)
def load_map(folder: str, name: str) -> MapAlignment:
    """Load the look-up of an alignment.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        return MapAlignment(np.load(io.BytesIO(_read_file(f"{folder}/{name}"))))
    except (ValueError, EOFError) as error:
        msg = f"{folder}/{name}: is no look-up: {error}"
        raise DataError(msg) from error


def _write_file(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def _read_file(url: str, start: int = 0, size: int | None = None) -> bytes:
    try:
        with fsspec.open(url, "rb") as file:
            file.seek(start)
            return bytes(file.read() if size is None else file.read(size))
    except (OSError, ValueError, ImportError) as error:
        msg = f"{url}: cannot be read: {error}"
        raise DataError(msg) from error


def _places(folder: str, name: str) -> Places:
    url = f"{folder}/{name}.json"
    try:
        return list(json.loads(_read_file(url))["samples"].items())
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{url}: does not say where samples are: {error!r}"
        raise DataError(msg) from error


def stream_shard(folder: str | Path, shard: Shard) -> Iterator[tuple[str, Pair]]:
    """Read a shard from its beginning to its end, in one go.

    Yields:
        Keys and pairs, in the order in which they were written.

    Raises:
        DataError: If it is cut off or damaged, naming the sample.
    """
    url = f"{folder}/{shard.name}.tar"
    count = 0
    lookup = partial(load_map, str(folder))
    key = ""
    files: dict[str, bytes] = {}
    try:
        with fsspec.open(url, "rb") as file, tarfile.open(fileobj=file, mode="r|") as tar:
            for member in tar:
                stem, _, suffix = member.name.partition(".")
                if files and stem != key:
                    yield key, decode_pair(files, f"{url}: {key}", lookup)
                    count += 1
                    files = {}
                key = stem
                content = tar.extractfile(member)
                files[suffix] = content.read() if content is not None else b""
    except (OSError, tarfile.TarError, ValueError, ImportError) as error:
        msg = f"{url}: is cut off or damaged at sample {key!r}: {error}"
        raise DataError(msg) from error
    if count + bool(files) != shard.samples:
        msg = f"{url}: is cut off at sample {key!r}, {count} of {shard.samples}"
        raise DataError(msg)
    if files:
        yield key, decode_pair(files, f"{url}: {key}", lookup)


class ShardSource:
    """The pairs of a folder of shards by number, a `PairSource`.

    Attributes:
        name: The folder or URL.
    """

    def __init__(
        self,
        folder: str | Path,
        window: WindowOptions | None = None,
        leaky: Sequence[float] = (),
    ) -> None:
        """List the shards; where samples lie in one is read when it is first needed.

        Args:
            folder: A path or URL.
            window: Window that is to be cut out of the events.
            leaky: Decays of the leaky integrals that are to be read, in seconds.

        Raises:
            DataError: If the folder has no list of shards or is not complete, its events are
                shorter than the window, or it does not hold the leaky integrals.
        """
        self.name = str(folder)
        manifest = read_manifest(folder)
        if not manifest.complete:
            msg = f"{folder}: is not complete; run the same `scaleevent shard` again"
            raise DataError(msg)
        stored_ns = int(manifest.options["window_ns"])
        if window is not None and window.length_ns > stored_ns:
            msg = (
                f"{folder}: holds {stored_ns / 1e6:g} ms of events before each frame, less than "
                f"the window of {window.length_ms:g} ms"
            )
            raise DataError(msg)
        stored = manifest.options.get("leaky", [])
        if missing := [decay for decay in leaky if decay not in stored]:
            msg = (
                f"{folder}: holds leaky integrals with decays of {stored} s, not of {missing} s; "
                f"write the shards again with --leaky '{' '.join(map(str, leaky))}'"
            )
            raise DataError(msg)
        self._leaky = tuple(leaky)
        self._shards = manifest.shards
        self._ends = np.cumsum([shard.samples for shard in self._shards], dtype=np.int64)
        self._known: dict[int, Places] = {}

    def __len__(self) -> int:
        """Count the pairs."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, index: int) -> Pair:
        """Read a pair.

        Raises:
            DataError: If it cannot be read.
        """
        number = int(np.searchsorted(self._ends, index, side="right"))
        shard = self._shards[number]
        if number not in self._known:
            self._known[number] = _places(self.name, shard.name)
        key, places = self._known[number][index - int(self._ends[number]) + shard.samples]
        url = f"{self.name}/{shard.name}.tar"
        if not self._leaky:
            places = {suffix: place for suffix, place in places.items() if suffix != "leaky.z"}
        first = min(start for start, _ in places.values())
        end = max(start + size for start, size in places.values())
        data = _read_file(url, first, end - first)
        files = {
            suffix: data[start - first : start - first + size]
            for suffix, (start, size) in places.items()
        }
        return decode_pair(files, f"{url}: {key}", partial(load_map, self.name), self._leaky)


class ShardStream(IterableDataset["Pair"]):
    """The pairs of a folder of shards, each one once, as one stream for each worker.

    Shards come in an order that follows from the seed and the epoch, each to one worker of one
    process; a buffer then mixes the pairs of successive shards. What a process gets depends on its
    shards, so processes may get different numbers of pairs.

    Attributes:
        epoch: Of the order; set it before each pass.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        buffer: int = 256,
    ) -> None:
        """List the shards.

        Args:
            folder: A path or URL.
            rank: Of this process.
            world_size: How many processes there are.
            seed: Of the order.
            buffer: How many pairs are mixed; 1 keeps the order within shards.

        Raises:
            DataError: If the folder has no list of shards.
        """
        super().__init__()
        self.epoch = 0
        self._folder = folder
        self._shards = read_manifest(folder).shards
        self._rank = rank
        self._world_size = world_size
        self._seed = seed
        self._buffer = buffer

    def __iter__(self) -> Iterator[Pair]:
        """Stream the pairs of this worker."""
        worker = get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        order = np.random.default_rng((self._seed, self.epoch)).permutation(len(self._shards))
        mine = order[self._rank * workers + number :: self._world_size * workers]
        rng = np.random.default_rng((self._seed, self.epoch, self._rank, number))
        waiting: list[Pair] = []
        for index in mine:
            for _, pair in stream_shard(self._folder, self._shards[index]):
                waiting.append(pair)
                if len(waiting) >= self._buffer:
                    yield waiting.pop(int(rng.integers(len(waiting))))
        while waiting:
            yield waiting.pop(int(rng.integers(len(waiting))))
