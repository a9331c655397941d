"""Reading of videos, and of folders of consecutive pictures, as frames with times."""

from __future__ import annotations

import logging
from contextlib import suppress
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple, cast

import cv2
import numpy as np

from scaleevent_ros.sources.errors import SimulationError
from scaleevent_ros.sources.image_folder import listed_pictures
from scaleevent_ros.sources.pictures import pictures_in, read_photograph

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

_PICTURES_RATE = 25.0


class Video(NamedTuple):
    """Consecutive frames.

    Attributes:
        times_us: Time of each frame in µs, increasing, int64 [N].
        frames: Function that reads the frames: uint8 or uint16, red-green-blue [H, W, 3] or grey
            [H, W].
        size: Width and height of the first frame, in pixels.
    """

    times_us: NDArray[np.int64]
    frames: Callable[[], Iterator[NDArray[np.generic]]]
    size: tuple[int, int]


def open_video(source: Path, frame_rate: float | None = None) -> Video:
    """Open a video file, or a folder of pictures.

    Unless a rate is given, times are the presentation stamps of a file, or those of pictures in
    ``timestamps.txt`` or ``images.txt`` beside them; pictures without times are taken at 25 Hz.

    Args:
        source: File that OpenCV or PyAV can decode, or folder of pictures, ordered by name.
        frame_rate: Frame rate in Hz; None for the source's own times.

    Raises:
        SourceError: If it cannot be opened, or its times do not increase. While frames are read: if
            a picture cannot be read.
    """
    video = _open_pictures(source, frame_rate) if source.is_dir() else _open_file(source)
    if frame_rate is not None:
        times_us = np.rint(np.arange(len(video.times_us)) * 1e6 / frame_rate).astype(np.int64)
        video = video._replace(times_us=times_us)
    if (np.diff(video.times_us) <= 0).any():
        msg = f"{source}: its frames' times do not increase; give --frame-rate"
        raise SimulationError(msg)
    return video


def _open_pictures(source: Path, frame_rate: float | None) -> Video:
    folder = source / "images" if (source / "images").is_dir() else source
    listed = None if frame_rate is not None else listed_pictures(folder)
    files, times_ns = listed or (pictures_in(folder), None)
    if times_ns is None:
        times_us = np.rint(np.arange(len(files)) * 1e6 / _PICTURES_RATE).astype(np.int64)
    elif len(times_ns) != len(files):
        msg = f"{folder}: holds {len(files)} pictures but {len(times_ns)} timestamps"
        raise SimulationError(msg)
    else:
        times_us = times_ns // 1000
    height, width = read_photograph(files[0]).shape[:2]
    return Video(times_us, lambda: map(read_photograph, files), (width, height))


def _open_file(source: Path) -> Video:
    """Open a file with OpenCV, or with PyAV if OpenCV decodes fewer frames than are announced."""
    capture = _start(source)
    rate = capture.get(cv2.CAP_PROP_FPS)
    announced = capture.get(cv2.CAP_PROP_FRAME_COUNT)  # an estimate, and not in every file
    size = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    stamps_ms: list[float] = []
    while capture.grab():
        stamps_ms.append(capture.get(cv2.CAP_PROP_POS_MSEC))
    capture.release()
    times_us = np.rint((np.array(stamps_ms) - (stamps_ms or [0])[0]) * 1000).astype(np.int64)
    video = Video(times_us, lambda: _decode(source), size)
    if len(times_us) < max(announced, 1):
        video = _try_pyav(source, video)
    if not len(video.times_us):
        msg = f"{source}: cannot be decoded as a video; it may be missing, cut off or damaged"
        raise SimulationError(msg)
    if (np.diff(video.times_us) <= 0).any() and rate > 0:  # a container without stamps
        times_us = np.rint(np.arange(len(video.times_us)) * 1e6 / rate).astype(np.int64)
        video = video._replace(times_us=times_us)
    return video


def _start(source: Path) -> cv2.VideoCapture:
    """Start to read a file, with pictures as they are shown: OpenCV before 4.12 rotates none."""
    capture = cv2.VideoCapture(str(source))
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    return capture


def _decode(source: Path) -> Iterator[NDArray[np.uint8]]:
    capture = _start(source)
    while True:
        found, frame = capture.read()
        if not found:
            return
        yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)


def _try_pyav(source: Path, video: Video) -> Video:
    """Open a file with PyAV; return OpenCV's result if PyAV is missing or decodes no more frames.

    OpenCV stops if 4,096 packets of other streams, 90 s of sound, lie between two frames, and its
    wheels before 4.12 do not decode AV1.
    """
    try:
        import av
    except ImportError:
        logger.warning(
            "%s: OpenCV decodes %d frames of it; PyAV may decode more: pip install av",
            source,
            len(video.times_us),
        )
        return video

    def frames() -> Iterator[av.VideoFrame]:
        with suppress(av.FFmpegError), av.open(str(source)) as container:
            if not container.streams.video:
                return
            for packet in container.demux(container.streams.video[0]):
                with suppress(av.FFmpegError):  # a damaged packet
                    yield from cast("list[av.VideoFrame]", packet.decode())

    def pixels(frame: av.VideoFrame) -> NDArray[np.uint8]:
        turned = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
        return np.ascontiguousarray(turned)

    stamps: list[Fraction] = []  # in seconds; equal where the container has none
    size = video.size
    for frame in frames():
        size = size if stamps else pixels(frame).shape[1::-1]
        stamps.append(Fraction(frame.pts or 0) * (frame.time_base or 0))
    if len(stamps) <= len(video.times_us):
        return video
    times_us = np.array([round((stamp - stamps[0]) * 10**6) for stamp in stamps])
    return Video(times_us, lambda: map(pixels, frames()), size)
