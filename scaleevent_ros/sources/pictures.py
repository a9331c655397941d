"""Folders of numbered or timestamped pictures, and files of timestamps beside them."""

from __future__ import annotations

import re
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from scaleevent_ros.bags.images import picture_codec
from scaleevent_ros.sources.errors import SourceError
from scaleevent_ros.sources.faults import UNREADABLE, Faults
from scaleevent_ros.sources.recording import Picture, PictureStream, rising

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_EXIF = re.compile(rb"Exif\0\0|eXIf")
PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}


def pictures_in(folder: Path) -> list[Path]:
    """List the pictures in a folder, sorted by name.

    Raises:
        SourceError: If there are none.
    """
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in PICTURE_SUFFIXES)
    if not files:
        msg = f"{folder}: holds no pictures ({', '.join(sorted(PICTURE_SUFFIXES))})"
        raise SourceError(msg)
    return files


def read_photograph(path: Path) -> NDArray[Any]:
    """Read a picture as uint8 grey [H, W], uint8 red-green-blue [H, W, 3], or uint16 grey [H, W].

    Raises:
        SourceError: If it cannot be decoded.
    """
    return _photograph(read_raster(path))


def _stored_photograph(path: Path, t: int) -> Picture:
    """Read a photograph, and keep its file if all decoders give the same pixels.

    Decoders differ in whether they apply the EXIF orientation, and in how they convert transparency
    and 16-bit colour.
    """
    raster = read_raster(path)
    stored = path.read_bytes()
    grey = raster.ndim == 2
    colour = raster.dtype == np.uint8 and raster.shape[2:] == (3,)
    if picture_codec(stored) is None or _EXIF.search(stored) or not (grey or colour):
        return Picture(t, _photograph(raster))
    return Picture(t, _photograph(raster), stored)


def _photograph(pixels: NDArray[Any]) -> NDArray[Any]:
    if pixels.ndim == 2:
        return pixels
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    code = cv2.COLOR_BGRA2RGB if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(pixels, code))


def read_raster(path: Path) -> NDArray[Any]:
    """Read a picture as stored: any depth, channels in OpenCV's order.

    Raises:
        SourceError: If it cannot be decoded, or is a JPEG file that is cut off.
    """
    pixels = None
    with suppress(OSError):
        data = path.read_bytes()
        if data and not _is_cut_jpeg(data):
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        msg = f"{path}: cannot be read as a picture; it may be missing, cut off or damaged"
        raise SourceError(msg)
    return np.asarray(pixels)


def _is_cut_jpeg(data: bytes) -> bool:
    """Return whether a JPEG file lacks its end, which OpenCV would fill with grey.

    The last scan starts with FF DA and ends before FF D9; neither occurs inside a scan.
    """
    return picture_codec(data) == "jpeg" and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")


def picture_size_of(files: Sequence[Path]) -> tuple[int, int]:
    """Read width and height of the first picture that can be decoded.

    Raises:
        SourceError: If none can be decoded.
    """
    for path in files:
        pixels = Faults().attempt(UNREADABLE, partial(read_raster, path))
        if pixels is not None:
            return pixels.shape[1], pixels.shape[0]
    msg = f"{files[0].parent}: none of its {len(files)} pictures can be read"
    raise SourceError(msg)


def read_integers(path: Path, columns: int) -> NDArray[np.int64]:
    """Read a text file of integers, `columns` in each line; commas and ``#`` comments may occur.

    Raises:
        SourceError: If it cannot be read, or a line is invalid; the message gives it.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path}: cannot be read: {error}"
        raise SourceError(msg) from error
    rows = []
    for number, line in enumerate(lines, 1):
        fields = line.partition("#")[0].replace(",", " ").split()
        if not fields:
            continue
        if len(fields) != columns or not all(field.lstrip("-").isdigit() for field in fields):
            msg = f"{path}: line {number} is {line.strip()!r}, not {columns} integers"
            raise SourceError(msg)
        rows.append([int(field) for field in fields])
    return np.array(rows, np.int64).reshape(-1, columns)


def file_stream(
    folder: Path,
    topic: str,
    files: Sequence[Path],
    times: NDArray[np.int64],
    faults: Faults,
    load: Callable[[Path], NDArray[Any]] | None = None,
) -> PictureStream:
    """Stream files as pictures.

    Args:
        folder: Folder of the files, for error messages.
        topic: Topic of the pictures in a bag.
        files: Files in order.
        times: Time of each file in ns, int64 [N].
        faults: Counter of faults: unreadable pictures, and times that do not increase.
        load: Function that reads the pixels of a `Picture` from a file; None for photographs.

    Raises:
        SourceError: If there are not as many times as files, or most times do not increase.
    """
    if len(files) != len(times):
        msg = f"{folder}: holds {len(files)} pictures but {len(times)} timestamps"
        raise SourceError(msg)
    chosen = rising(times, str(folder), faults)

    def make(index: int) -> Picture:
        path, t = files[index], int(times[index])
        return _stored_photograph(path, t) if load is None else Picture(t, load(path))

    def read(t_start: int) -> Iterator[Picture]:
        for index in chosen[np.searchsorted(times[chosen], t_start) :].tolist():
            picture = faults.attempt(UNREADABLE, partial(make, index), times[[index]])
            if picture is not None:
                yield picture

    span = (int(times[chosen[0]]), int(times[chosen[-1]])) if len(chosen) else None
    return PictureStream(topic, str(folder), read, span)
