"""Conversion of bags to shards, in one process, in many, or on a cluster.

A task is a plain function of a part of one bag, so that any `concurrent.futures.Executor` can run
it: a process pool here, ``dask.distributed.Client.get_executor()`` on a cluster. The content of a
shard depends on its bag and the options alone; complete shards are not written again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from rich.progress import Progress

from scaleevent_ros.data.bag_pairs import BagPairs
from scaleevent_ros.data.errors import DataError
from scaleevent_ros.data.indexed_bag import CALIBRATION_NAME, BagOptions
from scaleevent_ros.data.recordings import BAG_MARK, find_recordings
from scaleevent_ros.data.shards import (
    MANIFEST_NAME,
    Manifest,
    Shard,
    read_manifest,
    store_map,
    whole_shard,
    write_manifest,
    write_shard,
)
from scaleevent_ros.data.stored_pair import Origin, encode_pair
from scaleevent_ros.errors import ScaleEventError
from scaleevent_ros.events.leaky import LEAKY_DECAYS, check_decays
from scaleevent_ros.events.windows import WindowOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Executor, Future

    from scaleevent_ros.events import LeakyState

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_LONGEST_NAME = 150  # of the 255 characters that file systems allow

_FINGERPRINT_BYTES = 64 * 2**10
_MESSAGES = re.compile(r"\.(mcap|db3)(-wal|-journal|\.zstd)?$")


@dataclass(frozen=True)
class ShardOptions:
    """Options of shards.

    Attributes:
        samples: Maximum number of samples in a shard.
        codec: Codec of frames: ``jpeg`` (quality 95) or ``png``.
        bags: Options for reading bags.
        window: Window of events before each frame; its maximum length is stored.
        leaky: Decays of the leaky integrals stored with each sample, in seconds.
    """

    samples: int = 500
    codec: str = "jpeg"
    bags: BagOptions = field(default_factory=BagOptions)
    window: WindowOptions = field(default_factory=WindowOptions)
    leaky: tuple[float, ...] = LEAKY_DECAYS

    def __post_init__(self) -> None:
        """Check ranges."""
        check_decays(self.leaky)
        if self.samples < 1:
            msg = f"a shard cannot hold {self.samples} samples; give 1 or more"
            raise DataError(msg)


class Task(NamedTuple):
    """Task of writing one shard.

    Attributes:
        bag: Bag of its pairs.
        name: Name of the bag in keys and names of shards.
        number: Number of the shard within the bag.
        options: Options of the shards.
        out: Folder of shards.
    """

    bag: Path
    name: str
    number: int
    options: ShardOptions
    out: Path


def count_pairs(bag: Path, options: ShardOptions) -> int | ScaleEventError:
    """Count the pairs of a bag and index its times; runs in a worker.

    Returns:
        Number of pairs; the error if it is not a bag, has no pairs, or cannot be read.
    """
    try:
        return len(BagPairs(bag, options.bags, options.window))
    except ScaleEventError as error:
        return error


def write_one(task: Task) -> Shard:
    """Write one shard, unless it is complete already; runs in a worker.

    Raises:
        ScaleEventError: If the bag cannot be read.
    """
    name = f"{task.name}-{task.number:05d}"
    return whole_shard(task.out, name) or write_shard(task.out, name, _samples(task))


def _samples(task: Task) -> Iterator[tuple[str, dict[str, bytes]]]:
    pairs = BagPairs(task.bag, task.options.bags, task.options.window)
    first = task.number * task.options.samples
    indices = range(first, min(first + task.options.samples, len(pairs)))
    decays = task.options.leaky
    states: Iterator[LeakyState | None] = (
        pairs.states(indices, decays) if decays else repeat(None, len(indices))
    )
    for index, state in zip(indices, states, strict=True):
        files = encode_pair(
            pairs.read(index)._replace(history=state),
            task.options.codec,
            Origin(task.name, index),
            partial(store_map, task.out),
            decays,
        )
        yield f"{task.name}-{index:07d}", files


def write_shards(
    source: str,
    out: Path,
    options: ShardOptions,
    *,
    workers: int = 1,
    executor: Executor | None = None,
    show_progress: bool = False,
) -> Manifest:
    """Write the pairs of bags as shards, or continue an earlier call that was interrupted.

    Args:
        source: Path of a bag or of a folder that holds bags at any depth, or a pattern of such
            paths.
        out: Folder of shards, which all workers must be able to write.
        options: Options of the shards.
        workers: Number of processes on this machine, if no executor is given.
        executor: Executor that runs the tasks, instead of local processes.
        show_progress: Show progress bars.

    Returns:
        Manifest of the folder, independent of the executor. Bags without pairs and bags that cannot
        be opened are left out with a warning.

    Raises:
        DataError: If there are no bags, or `out` holds something else.
        ScaleEventError: If no bag has pairs, or a message cannot be read; complete shards are kept.
    """
    bags = find_recordings(source)
    names = _names(bags)
    manifest = Manifest([], _describe(bags, names, options), complete=False)
    _start(out, manifest)
    with (
        nullcontext(executor) if executor else _local_executor(workers) as pool,
        Progress(disable=not show_progress) as bars,
    ):
        counting = bars.add_task("reading times", total=len(bags))
        counts = _run(
            [pool.submit(count_pairs, bag, options) for bag in bags],
            lambda: bars.advance(counting),
        )
        faults = [count for count in counts if isinstance(count, ScaleEventError)]
        if len(faults) == len(bags):
            raise faults[0]
        for fault in faults:
            logger.warning("a bag is left out: %s", fault)
        tasks = [
            Task(bag, name, number, options, out)
            for bag, name, count in zip(bags, names, counts, strict=True)
            if not isinstance(count, ScaleEventError)
            for number in range(-(-count // options.samples))
        ]
        writing = bars.add_task("writing shards", total=len(tasks))
        shards = _run(
            [pool.submit(write_one, task) for task in tasks], lambda: bars.advance(writing)
        )
    manifest = manifest._replace(shards=shards, complete=True)
    write_manifest(out, manifest)
    return manifest


def _local_executor(workers: int) -> Executor:
    if workers == 1:
        return ThreadPoolExecutor(1)
    # Not forked: other threads of this process may hold locks.
    return ProcessPoolExecutor(workers, get_context("spawn"))


def _run(futures: Sequence[Future[Result]], advance: Callable[[], None]) -> list[Result]:
    """Wait for all tasks and return their results; after an error, cancel those not started."""
    try:
        for future in as_completed(futures):
            future.result()
            advance()
    except BaseException:
        for future in futures:
            future.cancel()
        raise
    return [future.result() for future in futures]


def _names(bags: Sequence[Path]) -> list[str]:
    """Name bags by their relative paths, in characters that are allowed in keys.

    Raises:
        DataError: If two bags would get the same name.
    """
    shared = os.path.commonpath([bag.resolve().parent for bag in bags])
    paths = [str(bag.resolve().relative_to(shared)) for bag in bags]
    names = [_file_name(re.sub(r"[^A-Za-z0-9_-]", "_", path)) for path in paths]
    for name, count in Counter(names).items():
        if count > 1:
            msg = f"{count} bags would be named {name!r} in shards; rename all but one"
            raise DataError(msg)
    return names


def _file_name(name: str) -> str:
    """Shorten a name that is too long for a file, by a digest."""
    if len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
    return f"{name[: _LONGEST_NAME - len(digest) - 1]}-{digest}"


def _describe(bags: Sequence[Path], names: Sequence[str], options: ShardOptions) -> dict[str, Any]:
    """Describe bags and options as JSON values, which must be equal in calls that continue."""
    made_of = [
        {"name": name, "files": {file.name: _fingerprint(file) for file in _files(bag)}}
        for name, bag in zip(names, bags, strict=True)
    ]
    named = options.bags.calibration
    return {
        "window_ns": options.window.length_ns,
        "leaky": list(options.leaky),
        "made_of": made_of,
        "calibration": _fingerprint(Path(named)) if named else None,
        "options": asdict(options) | {"leaky": list(options.leaky)},
    }


def _files(bag: Path) -> list[Path]:
    """List the files of a bag that its pairs depend on: messages, their order, calibration."""
    if bag.is_file():
        return [bag]
    return [
        path
        for path in sorted(bag.iterdir())
        if path.name in {BAG_MARK, CALIBRATION_NAME} or _MESSAGES.search(path.name)
    ]


def _fingerprint(file: Path) -> str:
    """Compute a digest of a file's size and its first and last 64 KiB.

    A bag that grew or was replaced differs there, because storage formats keep their indexes and
    counters at these places. Modification times would differ for a copy of the same bag.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        size = file.stat().st_size
        digest = hashlib.blake2b(str(size).encode(), digest_size=16)
        with file.open("rb") as stream:
            digest.update(stream.read(_FINGERPRINT_BYTES))
            stream.seek(max(size - _FINGERPRINT_BYTES, 0))
            digest.update(stream.read())
    except OSError as error:
        msg = f"cannot read {file}: {error.strerror}"
        raise DataError(msg) from None
    return digest.hexdigest()


def _start(out: Path, manifest: Manifest) -> None:
    """Start a folder of shards, or check that an existing one was started with the same options."""
    if not (out / MANIFEST_NAME).exists():
        if out.exists() and any(out.iterdir()):
            msg = f"{out} holds other files than shards; give a folder that is empty or new"
            raise DataError(msg)
        out.mkdir(parents=True, exist_ok=True)
        write_manifest(out, manifest)
        return
    if read_manifest(out).options != manifest.options:
        msg = (
            f"{out} holds shards of other bags, or made with other options, see its "
            f"{MANIFEST_NAME}; give another folder, or remove it"
        )
        raise DataError(msg)
    for left_over in out.glob(".[0-9]*.*"):
        left_over.unlink()
