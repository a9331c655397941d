"""Detection of recordings and their formats, by content and not by name alone."""

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
_AEDAT = {b"#!AER-DAT4": "aedat4", b"#!AER-DAT3": "aedat3", b"#!AER-DAT2": "aedat2"}
_PROPHESEE = {".raw": "prophesee_raw", ".dat": "prophesee_dat"}
_TABLES = {".txt": "event_text", ".csv": "event_text", ".npy": "event_numpy"}
_ROSBAG1_SIGNATURE = b"#ROSBAG V2.0"
_ROSBAG2_SUFFIXES = {".mcap", ".db3"}

# Files that come with a recording, by the ends of their names.
_COMPANIONS = ("_gt.hdf5", "_depth_gt.h5", "_pose_gt.h5", "_semantics.h5", "rectify_map.h5")


class Found(NamedTuple):
    """A recording found at a path.

    Attributes:
        name: Path relative to the searched folder, without suffix; empty for the path itself.
        format: Name of the module of its format; empty if it cannot be read.
        open: Function that opens it, or raises the reason why it cannot be opened.
    """

    name: str
    format: str
    open: Callable[[ReadOptions], Recording]


def find_recordings(source: Path) -> list[Found]:
    """Find the recordings at a path: a file, a folder that is one, or all those below a folder.

    Links are followed, and each folder is searched once. Files that cannot be read, or whose format
    needs a library that is not installed, are returned too; opening them raises the reason.

    Raises:
        UnknownFormatError: If there are none.
    """
    if not source.exists():
        msg = f"{source}: does not exist"
        raise UnknownFormatError(msg)
    found = list(_recordings_at(source, source, set()))
    if not found:
        msg = (
            f"{source}: no recording of a known format: Prophesee RAW and DAT, AEDAT 2.0, 3.1 and "
            "4, bags with event arrays, DSEC, MVSEC, M3ED, DDD17, DDD20, HDF5 with columns x, y, "
            "t, p, text or NumPy files of events, or a folder of pictures and events as IJRR, "
            "HighREV or SEE-600K lay it out"
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
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(_ROSBAG1_SIGNATURE) or path.suffix in _ROSBAG2_SUFFIXES:
        yield from _event_arrays(path, top)
        return
    # Text and NumPy files may hold anything: only the given path itself is taken for events.
    named = _TABLES.get(path.suffix.lower()) if path == top else None
    format_name = named or _file_format(path)
    if format_name is not None:
        opener = partial(_module(format_name).open_recording, path)
        yield Found(_name(path, top), format_name, opener)


def _fail(path: Path, error: SourceError | OSError, _: ReadOptions) -> Recording:
    """Raise the reason why a recording cannot be opened, as a `SourceError`."""
    if isinstance(error, SourceError):
        raise error
    msg = f"{path}: cannot be read: {error.strerror or error}"
    raise SourceError(msg)


def _event_arrays(bag: Path, top: Path) -> Iterator[Found]:
    """Yield the topics of event arrays in a bag."""
    module = _module("ros_arrays")
    topics = module.event_topics(bag)
    for topic in topics:
        name = _name(bag, top)
        if len(topics) > 1:
            name = f"{name}/{topic.strip('/').replace('/', '_')}".lstrip("/")
        yield Found(name, "ros_arrays", partial(module.open_recording, bag, topic))


def _folder_recordings(folder: Path, top: Path) -> Iterator[Found]:
    """Yield the recordings that consist of a whole folder."""
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
    elif (folder / "metadata.yaml").is_file():
        yield from _event_arrays(folder, top)


def _file_format(path: Path) -> str | None:
    if path.suffix.lower() in PICTURE_SUFFIXES:  # not opened: data sets hold hundreds of thousands
        return None
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(_HDF5_SIGNATURE):
        return _hdf5_format(path)
    for signature, format_name in _AEDAT.items():
        if head.startswith(signature):
            return format_name
    if head.startswith(b"% ") and path.suffix.lower() in _PROPHESEE:
        return _PROPHESEE[path.suffix.lower()]
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
