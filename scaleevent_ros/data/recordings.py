"""Search for recordings: bags, folders of shards, and folders or patterns of either."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from scaleevent_ros.data.bag_pairs import BagPairs
from scaleevent_ros.data.errors import DataError
from scaleevent_ros.data.shards import MANIFEST_NAME, ShardSource
from scaleevent_ros.errors import describe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scaleevent_ros.data.dataset import PairSource
    from scaleevent_ros.data.indexed_bag import BagOptions
    from scaleevent_ros.events.windows import WindowOptions

logger = logging.getLogger(__name__)

_BAG_SUFFIXES = {".mcap", ".db3"}
BAG_MARK = "metadata.yaml"
_UNFINISHED_SUFFIX = ".partial"  # of the folder that an interrupted `scaleevent convert` leaves


def open_recordings(
    place: str,
    options: BagOptions,
    window: WindowOptions,
    leaky: tuple[float, ...] = (),
    history_ns: int = 0,
) -> list[PairSource]:
    """Open all recordings at a place, in the order of their names.

    Args:
        place: Path of a bag, path or URL of a folder of shards, path of a folder that holds bags or
            shards at any depth, or a pattern of such paths with ``*``, ``?`` or ``**``.
        options: Options for reading bags.
        window: Length of the windows of events.
        leaky: Decays of the student's leaky integrals in seconds, which shards must hold.
        history_ns: Duration of events to read before a window of a bag, in ns, for leaky integrals.

    Raises:
        DataError: If there is no recording.
        ScaleEventError: If a recording cannot be read.
    """
    if "://" in place:
        return [ShardSource(place, window, leaky)]
    return [
        ShardSource(path, window, leaky)
        if _is_shards(path)
        else BagPairs(path, options, window, history_ns)
        for path in find_recordings(place)
    ]


def find_recordings(place: str) -> list[Path]:
    """Find the bags and the folders of shards at a place, as `open_recordings` does.

    Raises:
        DataError: If there is no recording.
    """
    visited: set[Path] = set()
    recordings = [path for start in _matches(place) for path in _recordings(start, visited)]
    if not recordings:
        msg = f"there is no bag and no folder of shards at {place}"
        raise DataError(msg)
    return recordings


def _is_shards(path: Path) -> bool:
    return (path / MANIFEST_NAME).is_file()


def _matches(place: str) -> list[Path]:
    """List the paths that match a pattern; a path without special characters matches itself."""
    path = Path(place)
    if path.exists():  # with any special characters in its name
        return [path]
    fixed = Path(path.anchor)
    parts = path.parts[1:] if path.anchor else path.parts
    for number, part in enumerate(parts):
        if any(sign in part for sign in "*?[") and not (fixed / part).exists():
            return sorted(fixed.glob("/".join(parts[number:])))
        fixed /= part
    return [path]


def _recordings(path: Path, visited: set[Path]) -> Iterator[Path]:
    """Find recordings at a path or below it; each folder is searched once."""
    if path.is_file():
        if path.suffix in _BAG_SUFFIXES:
            yield path
        return
    if not path.is_dir() or path.suffix == _UNFINISHED_SUFFIX:
        return
    real = path.resolve()
    if real in visited:
        return
    visited.add(real)
    try:
        children = sorted(path.iterdir())
    except OSError as error:
        logger.warning("skipped: %s", describe(error))
        return
    names = {child.name for child in children}
    if names & {BAG_MARK, MANIFEST_NAME} or {child.suffix for child in children} & _BAG_SUFFIXES:
        yield path
        return
    for child in children:
        if child.is_dir():
            yield from _recordings(child, visited)
        elif child.is_symlink() and not child.exists():
            logger.warning("skipped: %s: broken link", child)
