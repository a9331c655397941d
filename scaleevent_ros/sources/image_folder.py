"""Folders of pictures and a file of events, in the layout of the IJRR data set and similar ones.

Layout: https://rpg.ifi.uzh.ch/davis_data.html; Mueggler et al., "The Event-Camera Dataset and
Simulator", IJRR 2017 (DAVIS240C). ``events.txt`` (t x y p), ``images.txt`` (t and the name of a
picture), ``images/``, ``calib.txt`` (fx fy cx cy k1 k2 p1 p2 k3), ``imu.txt`` (t, acceleration in
m/s², turning rate in rad/s); all times in seconds of one clock.

If those are missing, ``events.csv``, ``events.h5`` or ``events.hdf5`` (see `event_hdf5`) is read,
and ``timestamps.txt`` or ``images/timestamps.txt``, one time for each picture in order of name.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from scaleevent_ros.sources.errors import SourceError
from scaleevent_ros.sources.event_hdf5 import event_source
from scaleevent_ros.sources.event_text import read_text
from scaleevent_ros.sources.faults import Faults
from scaleevent_ros.sources.pictures import file_stream, picture_size_of, pictures_in
from scaleevent_ros.sources.recording import (
    EVENTS_INFO_TOPIC,
    FRAMES_TOPIC,
    CameraCalibration,
    ClockStatement,
    ImuSample,
    ReadOptions,
    Recording,
    likely_unit,
    nanoseconds,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from scaleevent_ros.events import EventBatch
    from scaleevent_ros.sources.recording import PictureStream

TEXT_NAMES = ("events.txt", "events.csv")
HDF5_NAMES = ("events.h5", "events.hdf5")


def open_recording(folder: Path, options: ReadOptions) -> Recording:
    """Open a folder: events, and the available pictures, calibration and IMU data.

    The sensor has the size of the pictures, unless the options or the file of events give another.

    Raises:
        SourceError: If a file has another layout, or pictures have no times.
    """
    images = folder / "images"
    faults = options.faults()
    pictures: tuple[PictureStream, ...] = ()
    picture_size = None
    if images.is_dir():
        pictures = (_pictures(images, options, faults),)
        picture_size = picture_size_of(pictures_in(images))
    path = next(folder / name for name in (*TEXT_NAMES, *HDF5_NAMES) if (folder / name).is_file())
    events: Callable[[int], Iterator[EventBatch]]
    span = None
    if path.name in HDF5_NAMES:
        columns, (width, height) = event_source(path, options, faults, picture_size)
        span = columns.span_ns

        def events(t_start: int) -> Iterator[EventBatch]:
            return columns.batches(width, height, t_start)
    else:
        given = picture_size if options.width is None else None
        width, height = given or options.geometry(path)

        def events(t_start: int) -> Iterator[EventBatch]:
            return read_text(path, width, height, t_start, faults, options.time_unit)

    imu = folder / "imu.txt"
    return Recording(
        folder,
        "image_folder",
        width,
        height,
        events,
        ClockStatement("sensor_time", "Stamps of the files; one sensor if a DAVIS was used."),
        pictures,
        _cameras(folder / "calib.txt", width, height),
        imu=partial(_imu, imu, options.time_unit, faults) if imu.is_file() else None,
        span_ns=span,
        one_sensor=picture_size in {None, (width, height)},
        faults=faults,
    )


def _pictures(images: Path, options: ReadOptions, faults: Faults) -> PictureStream:
    listed = listed_pictures(images, options.time_unit, faults)
    if listed is None:
        msg = f"{images}: its pictures have no times: neither images.txt nor timestamps.txt"
        raise SourceError(msg)
    return file_stream(images, FRAMES_TOPIC, *listed, faults)


def listed_pictures(
    images: Path, unit: str | None = None, faults: Faults | None = None
) -> tuple[list[Path], NDArray[np.int64]] | None:
    """Read the times of pictures from a file in their folder or beside it.

    ``images.txt`` holds lines of a time and a name, ``timestamps.txt`` one time for each picture in
    order of name.

    Args:
        images: Folder of the pictures.
        unit: Unit of the times; None to guess it, see `likely_unit`.
        faults: Counter of invalid lines of ``images.txt``; None to raise an error for the first.

    Returns:
        The pictures, and their times in ns; None if there is no such file.

    Raises:
        SourceError: If a line is invalid; the message gives it.
    """
    listing = images.parent / "images.txt"
    if listing.is_file():
        entries = [line.split() for line in _lines(listing)]
        rows = [entry for entry in entries if len(entry) == 2]
        for number, entry in enumerate(entries, 1):
            if len(entry) != 2:
                message = f"{listing}: entry {number} is {' '.join(entry)!r}, not 'time name'"
                (faults or Faults(strict=True)).add("lines that are not pictures", message)
        files = [images.parent / row[1] for row in rows]
        return files, _times(listing, [row[0] for row in rows], unit)
    for path in (images.parent / "timestamps.txt", images / "timestamps.txt"):
        if path.is_file():
            return pictures_in(images), _times(path, " ".join(_lines(path)).split(), unit)
    return None


def _lines(path: Path) -> list[str]:
    """Read the lines of a text file, without blank ones and comments."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _times(path: Path, texts: list[str], unit: str | None) -> NDArray[np.int64]:
    """Convert times to ns."""
    decimal = any("." in text for text in texts)
    try:
        times = np.array([float(t) if decimal else int(t) for t in texts])
    except ValueError as error:
        msg = f"{path}: {error}"
        raise SourceError(msg) from None
    return nanoseconds(times, unit or likely_unit(times))


def _numbers(text: str) -> list[float] | None:
    """Parse numbers that blanks separate; None if one of them is not a number."""
    try:
        return [float(part) for part in text.split()]
    except ValueError:
        return None


def _cameras(path: Path, width: int, height: int) -> tuple[CameraCalibration, ...]:
    if not path.is_file():
        return ()
    numbers = _numbers(" ".join(_lines(path))) or []
    if len(numbers) < 9:
        msg = f"{path}: does not hold fx fy cx cy k1 k2 p1 p2 k3"
        raise SourceError(msg)
    fx, fy, cx, cy, *distortion = numbers[:9]
    return (
        CameraCalibration(
            EVENTS_INFO_TOPIC, width, height, "plumb_bob", (fx, fy, cx, cy), tuple(distortion)
        ),
    )


def _imu(path: Path, unit: str | None, faults: Faults, t_start: int) -> Iterator[ImuSample]:
    rows = []
    for line in _lines(path):
        numbers = _numbers(line)
        if numbers is not None and len(numbers) == 7:
            rows.append(numbers)
        else:
            message = f"{path}: a line is {line[:80]!r}, not a time and six numbers"
            faults.add("lines that are not IMU samples", message)
    stamps = np.array([row[0] for row in rows])
    times = nanoseconds(stamps, unit or likely_unit(stamps)).tolist()
    for t_ns, (_, ax, ay, az, gx, gy, gz) in zip(times, rows, strict=True):
        if t_ns >= t_start:
            yield ImuSample(t_ns, (ax, ay, az), (gx, gy, gz))
