"""Shards: tar files of samples that many workers and nodes stream, from disk or object storage.

The layout is WebDataset's (github.com/webdataset/webdataset): consecutive files with the same name
up to the first dot are one sample. ``NAME.json`` beside each ``NAME.tar`` holds offset and size of
every file in it, so that samples can also be read in any order. It is written last: a shard that
has it is complete. ``shards.json`` lists the shards of a folder and their options; look-up tables
of alignments, which many samples share, are stored as ``map-*.npy``.

Folders are paths, or URLs of any storage that fsspec supports (``s3://``, ``gs://``, ``https://``).
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import fsspec
import numpy as np

from scaleevent_ros.data.alignment import MapAlignment
from scaleevent_ros.data.errors import DataError
from scaleevent_ros.data.stored_pair import decode_pair
from scaleevent_ros.errors import describe
from scaleevent_ros.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from scaleevent_ros.data.dataset import Pair
    from scaleevent_ros.events.windows import WindowOptions

MANIFEST_NAME = "shards.json"


class Shard(NamedTuple):
    """Name and size of a shard.

    Attributes:
        name: Name of its files, without suffix.
        samples: Number of samples.
    """

    name: str
    samples: int


class Manifest(NamedTuple):
    """Content of a folder's ``shards.json``.

    Attributes:
        shards: Shards in order.
        options: Options of the shards; ``window_ns`` is the duration of events before a frame.
        complete: Whether all shards have been written.
    """

    shards: list[Shard]
    options: dict[str, Any]
    complete: bool


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a folder of shards, atomically."""
    said = manifest._asdict()
    said["shards"] = [shard._asdict() for shard in manifest.shards]
    _write_file(folder / MANIFEST_NAME, json.dumps(said, indent=1).encode())


def read_manifest(folder: str | Path) -> Manifest:
    """Read the manifest of a folder or URL of shards.

    Raises:
        DataError: If it is missing or cannot be read.
    """
    url = f"{folder}/{MANIFEST_NAME}"
    try:
        said = json.loads(_read_file(url))
        shards = [Shard(**shard) for shard in said["shards"]]
        return Manifest(shards, said["options"], said["complete"])
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{url}: is not a list of shards: {error!r}"
        raise DataError(msg) from error


def write_shard(
    folder: Path, name: str, samples: Iterable[tuple[str, Mapping[str, bytes]]]
) -> Shard:
    """Write a shard, atomically; the same samples give the same bytes.

    Args:
        folder: Folder to write to.
        name: Name of the shard's files, without suffix.
        samples: Keys, which must not contain a dot, each with its files by suffix.

    Raises:
        DataError: If it cannot be written.
    """
    places: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        # PAX is USTAR with additional headers for names that are too long for it.
        with (
            atomic_write(folder / f"{name}.tar") as temporary,
            tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for key, files in samples:
                places[key] = {}
                for suffix, data in files.items():
                    member = tarfile.TarInfo(f"{key}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
                    padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                    places[key][suffix] = (tar.offset - padded, len(data))
        _write_file(folder / f"{name}.json", json.dumps({"samples": places}).encode())
    except OSError as error:
        msg = f"the shard {folder / name}.tar cannot be written: {describe(error)}"
        raise DataError(msg) from error
    return Shard(name, len(places))


def whole_shard(folder: Path, name: str) -> Shard | None:
    """Return a shard if it was written completely; None otherwise."""
    if not (folder / f"{name}.json").is_file():
        return None
    return Shard(name, len(_read_places(str(folder), name)))


def store_map(folder: Path, alignment: MapAlignment) -> str:
    """Store the look-up table of an alignment, once, and return the name of its file."""
    digest = hashlib.blake2b(alignment.sample_map.tobytes(), digest_size=8).hexdigest()
    path = folder / f"map-{digest}.npy"
    if not path.exists():
        stored = io.BytesIO()
        np.save(stored, alignment.sample_map)
        _write_file(path, stored.getvalue())
    return path.name


@lru_cache(maxsize=16)
def load_map(folder: str, name: str) -> MapAlignment:
    """Load the look-up table of an alignment.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        return MapAlignment(np.load(io.BytesIO(_read_file(f"{folder}/{name}"))))
    except (ValueError, EOFError) as error:
        msg = f"{folder}/{name}: is not a look-up table: {error}"
        raise DataError(msg) from error


def _write_file(path: Path, data: bytes) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def _read_file(url: str, start: int | None = None, end: int | None = None) -> bytes:
    """Read only the bytes from ``start`` to ``end``, in one request."""
    try:
        storage, path = fsspec.core.url_to_fs(url)
        return bytes(storage.cat_file(path, start=start, end=end))
    except Exception as error:  # storages share no narrower class
        msg = f"{url}: cannot be read: {error}"
        raise DataError(msg) from error


def _read_places(folder: str, name: str) -> dict[str, dict[str, tuple[int, int]]]:
    """Read the offset and size of every file of a shard, by key and suffix."""
    url = f"{folder}/{name}.json"
    try:
        return dict(json.loads(_read_file(url))["samples"])
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{url}: invalid index of samples: {error!r}"
        raise DataError(msg) from error


class _ShardIndex(NamedTuple):
    """Offsets and sizes of a shard's files, in 12 bytes each: workers keep those of all shards.

    Attributes:
        suffixes: Suffix of each column.
        starts: Offset of each file, int64 [samples, suffixes]; negative if a sample lacks it.
        sizes: Size of each file, uint32 [samples, suffixes].
    """

    suffixes: tuple[str, ...]
    starts: NDArray[np.int64]
    sizes: NDArray[np.uint32]


def _read_index(folder: str, name: str) -> _ShardIndex:
    places = _read_places(folder, name)
    suffixes = tuple(sorted({suffix for files in places.values() for suffix in files}))
    starts = np.full((len(places), len(suffixes)), -1, np.int64)
    sizes = np.zeros(starts.shape, np.uint32)
    for row, files in enumerate(places.values()):
        for suffix, place in files.items():
            column = suffixes.index(suffix)
            starts[row, column], sizes[row, column] = place
    return _ShardIndex(suffixes, starts, sizes)


class ShardSource:
    """The pairs of a folder of shards, a `PairSource`.

    Attributes:
        name: Path or URL of the folder.
    """

    def __init__(
        self,
        folder: str | Path,
        window: WindowOptions | None = None,
        leaky: Sequence[float] = (),
    ) -> None:
        """Open a folder; the index of a shard is read when it is first needed.

        Args:
            folder: Path or URL of the folder.
            window: Window that will be cut out of the events; None to skip the check.
            leaky: Decays of the leaky integrals to read, in seconds.

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
        self._known: dict[int, _ShardIndex] = {}

    def __len__(self) -> int:
        """Count the pairs."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, index: int) -> Pair:
        """Read a pair, in one request.

        Raises:
            DataError: If it cannot be read.
        """
        number = int(np.searchsorted(self._ends, index, side="right"))
        shard = self._shards[number]
        if number not in self._known:
            self._known[number] = _read_index(self.name, shard.name)
        suffixes, starts, sizes = self._known[number]
        row = index - int(self._ends[number]) + shard.samples
        places = {
            suffix: (int(start), int(start) + int(size))
            for suffix, start, size in zip(suffixes, starts[row], sizes[row], strict=True)
            if start >= 0 and (self._leaky or suffix != "leaky.z")
        }
        url = f"{self.name}/{shard.name}.tar"
        first = min(start for start, _ in places.values())
        data = _read_file(url, first, max(end for _, end in places.values()))
        files = {
            suffix: data[start - first : end - first] for suffix, (start, end) in places.items()
        }
        return decode_pair(files, f"{url}: sample {row}", partial(load_map, self.name), self._leaky)
