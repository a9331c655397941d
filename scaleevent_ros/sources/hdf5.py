"""Access to HDF5 files, datasets, event columns and pictures."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from scaleevent_ros.events import EventBatch
from scaleevent_ros.sources.errors import SourceError
from scaleevent_ros.sources.event_columns import Columns, event_batches
from scaleevent_ros.sources.faults import UNREADABLE, Faults
from scaleevent_ros.sources.recording import (
    CHUNK_EVENTS,
    MAX_TIME_NS,
    TIME_UNITS,
    Picture,
    PictureStream,
    likely_unit,
    nanoseconds,
    rising,
)

try:
    import hdf5plugin  # noqa: F401  (registers the Blosc and Zstandard filters of data sets)
except ImportError:
    _MISSING_FILTERS = "a filter that needs the package hdf5plugin: pip install hdf5plugin"
else:
    _MISSING_FILTERS = (
        "a filter that is not installed; Prophesee's ECF files: convert them to RAW first "
        "(metavision_file_to_raw)"
    )

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray


_SMALLEST_PIECE = CHUNK_EVENTS >> 9


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading.

    Raises:
        SourceError: If it is not HDF5 or is cut off, or data cannot be read in the `with` block.
    """
    try:
        with h5py.File(path, "r") as file:
            yield file
    except OSError as error:
        msg = f"{path}: cannot be read as HDF5, it may be cut off: {error}"
        if _lacks_filter(error):
            msg = f"{path}: is compressed by {_MISSING_FILTERS}"
        raise SourceError(msg) from error


def _lacks_filter(error: OSError) -> bool:
    return any(word in str(error) for word in ("plugin", "not registered", "required filter"))


def _shifted(times: NDArray[Any], offset: float) -> NDArray[Any]:
    """Add an offset to times; integers stay integers, and do not overflow up to 2^63."""
    return np.array([time + offset for time in times.tolist()])


def dataset(file: h5py.Group, name: str) -> h5py.Dataset:
    """Return a dataset by name.

    Raises:
        SourceError: If there is none of that name.
    """
    try:
        found = file.get(name)
    except (KeyError, RuntimeError):  # the file's own tree is damaged there
        found = None
    if not isinstance(found, h5py.Dataset):
        msg = f"{file.file.filename}: has no dataset {file.name.rstrip('/')}/{name}"
        raise SourceError(msg)
    return found


class EventColumns:
    """Events in one HDF5 file, in one dataset for each column or in a table.

    Attributes:
        path: Path of the file.
        length: Number of events.
        span_ns: Times of the first and the last event, in ns.
    """

    def __init__(
        self,
        path: Path,
        columns: tuple[str, str, str, str] | tuple[int, int, int, int],
        unit: str | None,
        *,
        table: str | None = None,
        offset: float = 0,
        faults: Faults | None = None,
    ) -> None:
        """Open the columns, and check that they exist and have the same length.

        Args:
            path: Path of the file.
            columns: Names of the datasets x, y, t and p; or, for a table, names of its fields or
                indices of its columns.
            unit: Unit of t, a key of `TIME_UNITS`; None to guess it.
            table: Path of the table, [N] with fields or [N, columns]; None for separate datasets.
            offset: Offset to add to every time, in the unit of t.
            faults: Counter of faults.

        Raises:
            SourceError: If a column is missing or empty, the unit is unknown, or lengths differ in
                strict reading.
        """
        if unit is not None and unit not in TIME_UNITS:
            msg = f"{path}: unknown unit of time {unit!r}; known: {', '.join(TIME_UNITS)}"
            raise SourceError(msg)
        self.path = path
        self._columns = columns
        self._table = table
        self._faults = faults or Faults()
        with open_hdf5(path) as file:
            names = [str(column) for column in columns] if table is None else [table]
            lengths = {name: len(dataset(file, name)) for name in names}
            self.length = min(lengths.values())
            if not self.length:
                msg = f"{path}: {names[-1]} holds no events"
                raise SourceError(msg)
            if len(set(lengths.values())) > 1:
                msg = f"{path}: columns of events differ in length: {lengths}"
                self._faults.add("columns longer than others", msg)
            ends = self._raw_time(file, 0), self._raw_time(file, self.length - 1)
            self._unit = unit or likely_unit(_shifted(np.concatenate(ends), offset))
            # Rounded and limited like the times.
            offset_ns = min(max(offset * TIME_UNITS[self._unit], -MAX_TIME_NS), MAX_TIME_NS)
            self._offset_ns = round(offset_ns / 1000) * 1000 if offset % 1 else int(offset_ns)
            first, last = (int(self._nanoseconds(end)[0]) for end in ends)
            self.span_ns = first, last

    def _raw_time(self, file: h5py.File, index: int) -> NDArray[Any]:
        return self._raw(file, index, index + 1)[2]

    def _raw(self, file: h5py.File, start: int, stop: int) -> list[NDArray[Any]]:
        if self._table is None:
            return [file[name][start:stop] for name in self._columns]
        rows = file[self._table][start:stop]
        return [rows[name] if rows.dtype.names else rows[:, name] for name in self._columns]

    def _nanoseconds(self, times: NDArray[Any]) -> NDArray[np.int64]:
        return nanoseconds(times, self._unit) + self._offset_ns

    def _read(self, file: h5py.File, start: int, stop: int) -> Columns:
        x, y, t, p = self._raw(file, start, stop)
        return Columns(str(self.path), start, x, y, self._nanoseconds(t), p)

    def _time(self, file: h5py.File, index: int) -> int:
        return int(self._nanoseconds(self._raw_time(file, index))[0])

    def _first_at(self, file: h5py.File, t_start: int) -> int:
        low, high = 0, self.length if t_start > 0 else 0
        while low < high:
            middle = (low + high) // 2
            if self._time(file, middle) < t_start:
                low = middle + 1
            else:
                high = middle
        return low

    def between(
        self,
        width: int,
        height: int,
        t_start: int,
        t_end: int,
        bounds: tuple[int, int] | None = None,
    ) -> EventBatch:
        """Read the events with ``t_start <= t < t_end``; faults among them are not counted.

        Args:
            width: Sensor width in pixels.
            height: Sensor height in pixels.
            t_start: Start in ns.
            t_end: End in ns, excluded.
            bounds: Start and end of the range of indices to read; None to search for it.

        Raises:
            SourceError: See `event_batches`.
        """
        with open_hdf5(self.path) as file:
            if bounds is None:
                bounds = self._first_at(file, t_start), self._first_at(file, t_end)
            columns = self._read(file, *bounds)
        batches = [
            batch.between(t_start, t_end)
            for batch in event_batches([columns], width, height, Faults())
        ]
        return batches[0] if batches else EventBatch.empty(width, height)

    def batches(self, width: int, height: int, t_start: int) -> Iterator[EventBatch]:
        """Stream the events from a time (ns) on.

        Raises:
            SourceError: See `event_batches`.
        """
        with open_hdf5(self.path) as file:
            pieces = self._pieces(file, self._first_at(file, t_start))
            yield from event_batches(pieces, width, height, self._faults, t_start)

    def _pieces(self, file: h5py.File, first: int) -> Iterator[Columns]:
        """Read pieces of events; unreadable parts of a damaged file are skipped and counted."""
        step = CHUNK_EVENTS
        start = first
        while start < self.length:
            stop = min(start + step, self.length)
            try:
                yield self._read(file, start, stop)
            except OSError as error:
                if _lacks_filter(error):
                    raise
                if step > _SMALLEST_PIECE:  # find the damage more closely
                    step //= 8
                    continue
                message = f"{self.path}: events {start:,} to {stop - 1:,} cannot be read: {error}"
                self._faults.add("pieces of events that cannot be read", message)
            else:
                step = min(8 * step, CHUNK_EVENTS)
            start = stop


def dataset_pictures(
    path: Path,
    topic: str,
    name: str,
    times: NDArray[np.int64],
    prepare: Callable[[NDArray[Any]], NDArray[Any]],
    faults: Faults,
) -> PictureStream:
    """Stream the rows of one dataset as pictures.

    Args:
        path: Path of the file.
        topic: Topic of the pictures in a bag.
        name: Name of the dataset [N, …].
        times: Times of its rows in ns, int64 [N].
        prepare: Function that converts a row to the pixels of a `Picture`.
        faults: Counter of faults.

    Raises:
        SourceError: If there are not as many times as rows, or most times do not increase.
    """
    place = f"{path}: {name}"
    with open_hdf5(path) as file:
        rows = len(dataset(file, name))
    if rows != len(times):
        msg = f"{place}: holds {rows} pictures but {len(times)} timestamps"
        raise SourceError(msg)
    return picture_stream(
        path, topic, place, times, lambda file, index: prepare(file[name][index]), faults
    )


def picture_stream(
    path: Path,
    topic: str,
    place: str,
    times: NDArray[np.int64],
    read_pixels: Callable[[h5py.File, int], NDArray[Any]],
    faults: Faults,
) -> PictureStream:
    """Stream pictures of a file; unreadable ones are skipped and counted.

    Args:
        path: Path of the file.
        topic: Topic of the pictures in a bag.
        place: Location of the pictures, for error messages.
        times: Times of the pictures in ns, int64 [N].
        read_pixels: Function that reads the pixels of a `Picture` by its index.
        faults: Counter of faults.

    Raises:
        SourceError: If most times do not increase.
    """
    chosen = rising(times, place, faults)

    def attempt(file: h5py.File, index: int) -> NDArray[Any]:
        try:
            return read_pixels(file, index)
        except OSError as error:
            if _lacks_filter(error):
                raise
            msg = f"{place}: picture {index} cannot be read: {error}"
            raise SourceError(msg) from error

    def read(t_start: int) -> Iterator[Picture]:
        with open_hdf5(path) as file:
            for index in chosen[np.searchsorted(times[chosen], t_start) :].tolist():
                pixels = faults.attempt(UNREADABLE, partial(attempt, file, index), times[[index]])
                if pixels is not None:
                    yield Picture(int(times[index]), pixels)

    span = (int(times[chosen[0]]), int(times[chosen[-1]])) if len(chosen) else None
    return PictureStream(topic, place, read, span)
