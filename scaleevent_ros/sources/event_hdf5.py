"""Events in HDF5 as columns ``x, y, t, p``: no one data set's layout, but that of many tools.

Read are, wherever they lie in the file: columns in one group, by the names that are in use (RVT
and DSEC: ``events/{x,y,t,p}``, github.com/uzh-rpg/RVT; Monash University: ``events/{xs,ys,ts,ps}``
with ``images/image000000000`` that carry ``timestamp``, github.com/TimoStoff/event_utils); or one
table with such fields (Prophesee: ``CD/events``, docs.prophesee.ai, "HDF5 Event File Format").
Sensor size: attributes ``sensor_resolution`` (height, width) or ``width`` and ``height``, or
datasets of those names beside the columns. Unit of time: an attribute ``unit`` or ``units`` of the
column; else floating-point is seconds and integers are microseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import h5py
import numpy as np

from scaleevent_ros.sources.errors import SourceError
from scaleevent_ros.sources.hdf5 import EventColumns, open_hdf5
from scaleevent_ros.sources.recording import (
    FRAMES_TOPIC,
    ClockStatement,
    Picture,
    PictureStream,
    ReadOptions,
    Recording,
    nanoseconds,
    ordered_times,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NAMES = (
    ("x", "xs"),
    ("y", "ys"),
    ("t", "ts", "timestamp", "timestamps"),
    ("p", "ps", "pol", "polarity", "polarities"),
)


class Layout(NamedTuple):
    """Where the columns of events are.

    Attributes:
        columns: Of x, y, t and p: paths of datasets, or names of a table's fields.
        table: The path of the table; None if each column is a dataset.
        unit: Of t: a key of `TIME_UNITS`.
        size: Width and height of the sensor; None if the file does not say.
    """

    columns: tuple[str, str, str, str]
    table: str | None
    unit: str
    size: tuple[int, int] | None


def _match(names: list[str]) -> tuple[str, str, str, str] | None:
    found = [next((n for n in known if n in names), None) for known in _NAMES]
    x, y, t, p = found
    return (x, y, t, p) if x and y and t and p else None


def find_layout(file: h5py.File) -> Layout | None:
    """Find columns or a table of events in a file, the uppermost ones; None if there are none."""
    nodes: list[h5py.Group | h5py.Dataset] = [file]
    file.visititems(lambda _, node: nodes.append(node))
    for node in sorted(nodes, key=lambda node: node.name.count("/")):
        if isinstance(node, h5py.Dataset):
            names = _match(list(node.dtype.names or ()))
            if names is not None:
                field = node.dtype[names[2]]
                size = _size(node) or _size(node.parent) or _size(file)
                return Layout(names, node.name, _unit(node, field), size)
        else:
            names = _match([k for k, v in node.items() if isinstance(v, h5py.Dataset)])
            if names is not None:
                x, y, t, p = (f"{node.name.rstrip('/')}/{name}" for name in names)
                size = _size(node) or _size(file)
                return Layout((x, y, t, p), None, _unit(file[t], file[t].dtype), size)
    return None


def _unit(node: h5py.Dataset, dtype: np.dtype[np.generic]) -> str:
    for key in ("unit", "units"):
        said = node.attrs.get(key)
        said = said.decode() if isinstance(said, bytes) else said
        if said is not None:
            return "us" if said in {"µs", "microseconds"} else str(said)
    return "s" if np.issubdtype(dtype, np.floating) else "us"


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
    path: Path, options: ReadOptions, likely_size: tuple[int, int] | None = None
) -> tuple[EventColumns, tuple[int, int]]:
    """Open the events of a file.

    Args:
        path: Of the file.
        options: Whose size and unit go before the file's.
        likely_size: Of the sensor, if neither options nor file say it.

    Returns:
        The columns, and the sensor's width and height.

    Raises:
        SourceError: If there are none, or the sensor's size is not known.
    """
    with open_hdf5(path) as file:
        layout = find_layout(file)
    if layout is None:
        msg = f"{path}: holds no events: no group or table has columns x, y, t and p"
        raise SourceError(msg)
    known = (layout.size or likely_size) if options.width is None else None
    size = known or options.geometry(path)
    unit = options.time_unit or layout.unit
    return EventColumns(path, layout.columns, unit, table=layout.table), size


def open_recording(path: Path, options: ReadOptions) -> Recording:
    """Open a file of events, with the frames inside it if it is of the Monash layout.

    Raises:
        SourceError: If there are no events, or the sensor's size is not known.
    """
    events, (width, height) = event_source(path, options)
    pictures = _images(path)
    return Recording(
        path,
        "event_hdf5",
        width,
        height,
        lambda t_start: events.batches(width, height, t_start),
        ClockStatement("sensor_time", "As the file stamps both."),
        pictures,
        span_ns=events.span_ns,
    )


def _images(path: Path) -> tuple[PictureStream, ...]:
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
    times = ordered_times(nanoseconds(stamps, "s"), place)

    def read(t_start: int) -> Iterator[Picture]:
        with open_hdf5(path) as file:
            for index in range(int(np.searchsorted(times, t_start)), len(names)):
                pixels = file["images"][names[index]][:]
                # OpenCV wrote them: colours are blue first.
                yield Picture(
                    int(times[index]),
                    pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels[..., ::-1]),
                )

    return (PictureStream(FRAMES_TOPIC, place, read, (int(times[0]), int(times[-1]))),)
