"""Which format a path holds: told by what lies there, never by a name alone."""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from scaleevent_ros.sources.errors import SourceError, UnknownFormatError
from scaleevent_ros.sources.pictures import PICTURE_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from scaleevent_ros.sources.recording import ReadOptions, Recording

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_AEDAT4_SIGNATURE = b"#!AER-DAT4"

# Files that come with a recording, by the ends of their names.
_COMPANIONS = ("_gt.hdf5", "_depth_gt.h5", "_pose_gt.h5", "_semantics.h5", "rectify_map.h5")


class Found(NamedTuple):
    """One recording that was found.

    Attributes:
        name: Its path below where the search began, without a suffix; empty if it is that itself.
        format: The name of its format's module.
        open: Opens it.
    """

    name: str
    format: str
    open: Callable[[ReadOptions], Recording]


def find_recordings(source: Path) -> list[Found]:
    """Find the recordings at a path: a file, a folder that is one, or all those below a folder.

    Links are followed, each folder is searched once. What cannot be read, and what belongs to a
    format whose library is not installed, is found too: opening it raises the reason.

    Raises:
        UnknownFormatError: If there are none.
    """
    if not source.exists():
        msg = f"{source}: does not exist"
        raise UnknownFormatError(msg)
    found = list(_recordings_at(source, source, set()))
    if not found:
        msg = (
            f"{source}: no recording of a known format: Prophesee RAW, AEDAT4, DSEC, MVSEC, M3ED, "
            "DDD17, DDD20, HDF5 with columns x, y, t, p, or a folder of pictures and events as "
            "IJRR, HighREV or SEE-600K lay it out"
        )
        raise UnknownFormatError(msg)
    return found


def _recordings_at(path: Path, top: Path, visited: set[Path]) -> Iterator[Found]:
    try:
        if not path.is_dir():
            yield from _file_recording(path, top)
            return
        real = path.resolve()
        if real in visited:
            return
        visited.add(real)
        in_folder = list(_folder_recordings(path, top))
        inside = [] if in_folder else sorted(path.iterdir())
    except (SourceError, OSError) as error:
        yield Found(_name(path, top), "", partial(_fail, path, error))
        return
    yield from in_folder
    for child in inside:
        if not child.name.startswith(".") and not child.name.endswith(_COMPANIONS):
            yield from _recordings_at(child, top, visited)


def _file_recording(path: Path, top: Path) -> Iterator[Found]:
    if not (path.is_file() or path.is_symlink()):  # a pipe would block
        return
    format_name = _file_format(path)
    if format_name is not None:
        opener = partial(_module(format_name).open_recording, path)
        yield Found(_name(path, top), format_name, opener)


def _fail(path: Path, error: SourceError | OSError, _: ReadOptions) -> Recording:
    """Raise why something that was found cannot be opened."""
    if isinstance(error, SourceError):
        raise error
    msg = f"{path}: cannot be read: {error.strerror or error}"
    raise SourceError(msg)


def _folder_recordings(folder: Path, top: Path) -> Iterator[Found]:
    """Yield the recordings that a folder as a whole is; each format's own module tells."""
    if any((folder / f"events/{side}/events.h5").is_file() for side in ("left", "right")):
        yield Found(_name(folder, top), "dsec", partial(_module("dsec").open_recording, folder))
    elif (folder / "frame_event").is_dir():
        opener = partial(_module("see600k").open_recording, folder)
        yield Found(_name(folder, top), "see600k", opener)
    elif (folder / "sharp").is_dir() and (folder / "event").is_dir():
        highrev = _module("highrev")
        for name in highrev.sequences(folder):
            opener = partial(highrev.open_recording, folder, name)
            yield Found(_name(folder / name, top), "highrev", opener)
    elif any((folder / f"events.{suffix}").is_file() for suffix in ("txt", "csv", "h5", "hdf5")):
        opener = partial(_module("image_folder").open_recording, folder)
        yield Found(_name(folder, top), "image_folder", opener)


def _file_format(path: Path) -> str | None:
    if path.suffix.lower() in PICTURE_SUFFIXES:  # data sets hold hundreds of thousands
        return None
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(_HDF5_SIGNATURE):
        return _hdf5_format(path)
    if head.startswith(_AEDAT4_SIGNATURE):
        return "aedat4"
    if head.startswith(b"% ") and path.suffix.lower() == ".raw":
        return "prophesee_raw"
    return None


def _hdf5_format(path: Path) -> str | None:
    hdf5 = _module("hdf5")
    with hdf5.open_hdf5(path) as file:
        if "prophesee" in file and "ovc" in file:
            return "m3ed"
        if "davis" in file:
            return "mvsec"
        if "dvs/data" in file:
            return "ddd17"
        if _module("event_hdf5").find_layout(file) is not None:
            return "event_hdf5"
    return None


def _name(path: Path, top: Path) -> str:
    name = path.relative_to(top)
    if name == Path():
        return ""
    return str(name.with_suffix("")) if path.is_file() else str(name)


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"scaleevent_ros.sources.{name}")
    except ImportError as error:
        msg = f"{error.name} is not installed: pip install 'scaleevent_ros[data]'"
        raise SourceError(msg) from error
