"""Events in HDF5 as columns ``x, y, t, p``, in the layouts of many tools and data sets.

Supported, anywhere in the file:

- columns in one group, by the names that are in use: ``events/{x,y,t,p}`` (RVT,
  github.com/uzh-rpg/RVT; DSEC; TUM-VIE, cvg.cit.tum.de; VECtor, star-datasets.github.io/vector),
  ``events/{xs,ys,ts,ps}`` with ``images/image000000000`` that carry ``timestamp`` (Monash
  University, github.com/TimoStoff/event_utils);
- one table with such fields: ``CD/events`` (docs.prophesee.ai, "HDF5 Event File Format");
- a table ``events`` [N, 4] of t, x, y, p (v2e, github.com/SensorsINI/v2e) or x, y, t, p.

Sensor size: attributes ``sensor_resolution`` (height, width) or ``width`` and ``height``, or
datasets of those names beside the columns. Unit of time: an attribute ``unit`` or ``units`` of the
column; else as `likely_unit` finds. A ``t_offset`` in the same group or file is added to all times.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import h5py
import numpy as np

from scaleevent_ros.sources.errors import SourceError
from scaleevent_ros.sources.hdf5 import EventColumns, open_hdf5, picture_stream
from scaleevent_ros.sources.recording import (
    FRAMES_TOPIC,
    ClockStatement,
    ReadOptions,
    Recording,
    nanoseconds,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from scaleevent_ros.sources.faults import Faults
    from scaleevent_ros.sources.recording import PictureStream

_NAMES = (
    ("x", "xs"),
    ("y", "ys"),
    ("t", "ts", "timestamp", "timestamps"),
    ("p", "ps", "pol", "polarity", "polarities"),
)


class Layout(NamedTuple):
    """Location of the event columns.

    Attributes:
        columns: x, y, t and p: paths of datasets, names of a table's fields, or indices of its
            columns.
        table: Path of the table; None if each column is a dataset.
        unit: Unit of t, a key of `TIME_UNITS`; None if unknown.
        size: Width and height of the sensor; None if unknown.
        offset: Offset to add to every time, in the unit of t.
    """

    columns: tuple[str, str, str, str] | tuple[int, int, int, int]
    table: str | None
    unit: str | None
    size: tuple[int, int] | None
    offset: float


def match_columns(names: list[str]) -> tuple[str, str, str, str] | None:
    """Find the names of x, y, t and p in a list of names; None if one is missing."""
    found = [next((n for n in known if n in names), None) for known in _NAMES]
    x, y, t, p = found
    return (x, y, t, p) if x and y and t and p else None


def find_layout(file: h5py.File) -> Layout | None:
    """Find the columns or the table of events nearest to the file's root; None without any."""
    nodes: list[h5py.Group | h5py.Dataset] = [file]
    file.visititems(lambda _, node: nodes.append(node))
    for node in sorted(nodes, key=lambda node: node.name.count("/")):
        if isinstance(node, h5py.Dataset):
            fields = match_columns(list(node.dtype.names or ())) or _order(node)
            if fields is not None:
                size = _size(node) or _size(node.parent) or _size(file)
                return Layout(fields, node.name, _unit(node), size, _offset(node.parent))
        else:
            names = match_columns([k for k, v in node.items() if isinstance(v, h5py.Dataset)])
            if names is not None:
                x, y, t, p = (f"{node.name.rstrip('/')}/{name}" for name in names)
                size = _size(node) or _size(file)
                return Layout((x, y, t, p), None, _unit(file[t]), size, _offset(node))
    return None


def _order(table: h5py.Dataset) -> tuple[int, int, int, int] | None:
    """Find the indices of x, y, t, p in a table [N, 4] named ``events``, by where times rise."""
    if table.name.rpartition("/")[2] != "events" or table.shape[1:] != (4,) or not len(table):
        return None
    rows = table[:1000]
    rises = [
        (np.diff(rows[:, t].astype(np.float64)) >= 0).mean() if len(rows) > 1 else 1 for t in (0, 2)
    ]
    return (1, 2, 0, 3) if rises[0] >= rises[1] else (0, 1, 2, 3)


def _unit(node: h5py.Dataset) -> str | None:
    for key in ("unit", "units"):
        said = node.attrs.get(key)
        said = said.decode() if isinstance(said, bytes) else said
        if said is not None:
            return "us" if said in {"µs", "microseconds"} else str(said)
    return None


def _offset(group: h5py.Group) -> float:
    """Return the offset of times, an int unless it is stored as a floating-point number."""
    for place in (group, group.file):
        node = place.get("t_offset")
        value = node[()] if isinstance(node, h5py.Dataset) else place.attrs.get("t_offset")
        stored = np.asarray(value)
        if stored.size == 1 and stored.dtype.kind in "iuf" and np.isfinite(stored).all():
            offset: float = stored.item()
            return offset
    return 0


def _size(node: h5py.Group | h5py.Dataset) -> tuple[int, int] | None:
    if "sensor_resolution" in node.attrs:
        height, width = node.attrs["sensor_resolution"][:2]
        return int(width), int(height)
    said = []
    for name in ("width", "height"):
        value = node.attrs.get(name)
        if (
            value is None
            and isinstance(node, h5py.Group)
            and isinstance(node.get(name), h5py.Dataset)
        ):
            value = node[name][()]
        said.append(value)
    return (int(said[0]), int(said[1])) if None not in said else None


def event_source(
    path: Path,
    options: ReadOptions,
    faults: Faults,
    likely_size: tuple[int, int] | None = None,
) -> tuple[EventColumns, tuple[int, int]]:
    """Open the events of a file.

    Args:
        path: Path of the file.
        options: Options of the reader; its size and unit take precedence over the file's.
        faults: Counter of faults.
        likely_size: Sensor size, if neither options nor file have it.

    Returns:
        The columns, and the sensor's width and height.

    Raises:
        SourceError: If there are no events, or the sensor's size is unknown.
    """
    with open_hdf5(path) as file:
        layout = find_layout(file)
    if layout is None:
        msg = f"{path}: holds no events: no group or table has columns x, y, t and p"
        raise SourceError(msg)
    known = (layout.size or likely_size) if options.width is None else None
    size = known or options.geometry(path)
    unit = options.time_unit or layout.unit
    columns = EventColumns(
        path, layout.columns, unit, table=layout.table, offset=layout.offset, faults=faults
    )
    return columns, size


def open_recording(path: Path, options: ReadOptions) -> Recording:
    """Open a file of events, with the frames inside it if it is of the Monash layout.

    Raises:
        SourceError: If there are no events, or the sensor's size is unknown.
    """
    faults = options.faults()
    events, (width, height) = event_source(path, options, faults)
    pictures = _images(path, faults)
    return Recording(
        path,
        "event_hdf5",
        width,
        height,
        lambda t_start: events.batches(width, height, t_start),
        ClockStatement("sensor_time", "Events and frames with the file's stamps."),
        pictures,
        span_ns=events.span_ns,
        faults=faults,
    )


def _images(path: Path, faults: Faults) -> tuple[PictureStream, ...]:
    place = f"{path}: images"
    with open_hdf5(path) as file:
        group = file.get("images")
        if not isinstance(group, h5py.Group) or not len(group):
            return ()
        names = sorted(group)
        if any("timestamp" not in group[name].attrs for name in names):
            msg = f"{place}: not every picture has an attribute 'timestamp'"
            raise SourceError(msg)
        stamps = np.array([group[name].attrs["timestamp"] for name in names], np.float64)

    def prepare(file: h5py.File, index: int) -> NDArray[Any]:
        pixels: NDArray[Any] = file["images"][names[index]][:]
        # OpenCV wrote them: colours are blue first.
        return pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels[..., ::-1])

    return (picture_stream(path, FRAMES_TOPIC, place, nanoseconds(stamps, "s"), prepare, faults),)
