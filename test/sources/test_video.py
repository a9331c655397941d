"""Videos keep their frames and their presentation stamps."""

from __future__ import annotations

import re
import subprocess
import sys
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING

import av
import cv2
import numpy as np
import pytest

from scaleevent_ros.sources.errors import SimulationError
from scaleevent_ros.sources.video import Video, _try_pyav, open_video

if TYPE_CHECKING:
    from pathlib import Path

TICK = Fraction(1, 1000)
STAMPS = [700, 733, 741, 5900, 5903, 6000]  # ms, with a still of five seconds


def write_talk(path: Path) -> None:
    """Write frames of a variable rate, and sound in packets of one ms between them."""
    with av.open(path, "w") as container:
        video = container.add_stream("ffv1", rate=30, width=64, height=48, pix_fmt="yuv420p")
        video.time_base = video.codec_context.time_base = TICK
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        for index, (before, stamp) in enumerate(pairwise([0, *STAMPS])):
            for now in range(before, stamp):
                piece = av.AudioFrame.from_ndarray(np.zeros((1, 8), np.int16), "s16", "mono")
                piece.sample_rate, piece.pts, piece.time_base = 8000, 8 * now, Fraction(1, 8000)
                container.mux(sound.encode(piece))
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 * index, np.uint8), "rgb24")
            frame.pts, frame.time_base = stamp, TICK
            container.mux(video.encode(frame.reformat(format="yuv420p")))
        container.mux(video.encode(None))


def opencv_frames(path: Path) -> int:
    capture, count = cv2.VideoCapture(str(path)), 0
    while capture.read()[0]:
        count += 1
    return count


def test_frames_that_opencv_does_not_reach_keep_their_stamps(tmp_path: Path) -> None:
    path = tmp_path / "talk.mkv"
    write_talk(path)
    assert opencv_frames(path) < len(STAMPS)  # or this is no test of PyAV
    video = open_video(path)
    assert video.size == (64, 48)
    assert (video.times_us + 700_000).tolist() == [1000 * stamp for stamp in STAMPS]
    for _ in range(2):  # frames can be read again
        frames = list(video.frames())
        assert [frame.shape for frame in frames] == [(48, 64, 3)] * 6
        assert [round(frame.mean() / 40) for frame in frames] == list(range(6))


def test_pyav_and_opencv_read_the_same(tmp_path: Path) -> None:
    path = tmp_path / "turned.mov"
    wanted = np.zeros((3, 64, 48, 3), np.uint8)  # as it is shown: upright
    wanted[0, :32] = 200
    wanted[1, :, :24] = 150
    ticks = [0, 1, 3002]  # of 1/90,000 s: 0, 11.1 and 33,355.6 us
    with av.open(path, "w") as container:
        stream = container.add_stream("mjpeg", rate=30, width=64, height=48, pix_fmt="yuvj420p")
        stream.time_base = stream.codec_context.time_base = Fraction(1, 90_000)
        for tick, picture in zip(ticks, wanted, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.rot90(picture)), "rgb24")
            frame.pts, frame.time_base = tick, stream.time_base
            container.mux(stream.encode(frame.reformat(format="yuvj420p")))
        container.mux(stream.encode(None))
    stored = path.read_bytes()
    one, two = ((1 << 16).to_bytes(4, "big"), (-1 << 16).to_bytes(4, "big", signed=True))
    none, last = bytes(4), (1 << 30).to_bytes(4, "big")
    level = one + none * 3 + one + none * 3 + last
    turned = none + one + none + two + none * 4 + last  # a quarter, clockwise
    at = stored.index(level, stored.index(b"tkhd"))  # the track's matrix, not the movie's
    path.write_bytes(stored[:at] + turned + stored[at + len(level) :])
    by_opencv = open_video(path)
    by_pyav = _try_pyav(path, Video(np.empty(0, np.int64), lambda: iter(()), (0, 0)))
    for video in (by_opencv, by_pyav):
        assert video.times_us.tolist() == [0, 11, 33_356]
        assert video.size == (48, 64)
        assert np.abs(np.stack(list(video.frames())) - wanted.astype(float)).mean() < 8


def test_without_pyav_one_line_names_it(tmp_path: Path) -> None:
    write_talk(tmp_path / "talk.mkv")
    code = """
import sys
sys.modules["av"] = None
from scaleevent_ros.cli import main
main()
"""
    command = [sys.executable, "-c", code, "simulate", "talk.mkv", "bag"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    lines = [line for line in done.stderr.splitlines() if "PyAV" in line]
    (line,) = lines  # 2 or 3 frames, as OpenCV's release decodes
    told = r"talk\.mkv: OpenCV decodes [23] frames of it; PyAV may decode more: pip install av"
    assert re.fullmatch(told, line)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["sound.wav", "text.mp4", "missing.mp4"])
def test_what_is_no_video_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "sound.wav":
        with av.open(path, "w") as container:
            sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
            piece = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
            piece.sample_rate = 8000
            container.mux(sound.encode(piece))
    elif name == "text.mp4":
        path.write_text("no video")
    with pytest.raises(SimulationError, match="cannot be decoded as a video"):
        open_video(path)
