"""Recordings of a simulated event camera, from videos and still pictures, for conversion to bags.

A video, or a folder of consecutive pictures, is converted by a `VideoSimulator`. Still pictures are
filmed one after another by a moving camera (see `stills`): one recording holds all of them, as
clips with gaps without events between them.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import cv2
import numpy as np
from rich.progress import Progress

from scaleevent_ros.sources.convert import convert_recording
from scaleevent_ros.sources.errors import SimulationError
from scaleevent_ros.sources.faults import UNREADABLE, Faults, faults_text
from scaleevent_ros.sources.moving_objects import read_cutouts
from scaleevent_ros.sources.pictures import (
    PICTURE_SUFFIXES,
    picture_size_of,
    pictures_in,
    read_photograph,
)
from scaleevent_ros.sources.pixel_model import PixelModel
from scaleevent_ros.sources.recording import (
    FLOW_TOPIC,
    FRAMES_TOPIC,
    LABELS_TOPIC,
    Picture,
    Recording,
)
from scaleevent_ros.sources.simulated_recording import Moment, simulated_recording
from scaleevent_ros.sources.stills import StillOptions, cover, simulate_still
from scaleevent_ros.sources.video import open_video
from scaleevent_ros.sources.video_simulator import VideoSimulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from numpy.typing import NDArray

    from scaleevent_ros.sources.convert import ConvertOptions
    from scaleevent_ros.sources.stills import StillSequence

logger = logging.getLogger(__name__)

EPOCH_NS = 1_000_000_000
"""Start of simulated time in ns; not 0, which in a header means that no stamp was set."""


@dataclass(frozen=True, slots=True)
class VideoOptions:
    """Options of the simulation of a video.

    Attributes:
        frame_rate: Frame rate in Hz; None for the times of the video, see `open_video`.
        interpolate: Whether frames are interpolated where they move by more than a pixel.
        size: Width and height of the sensor; frames are scaled and cropped to it. None for the
            frames' own size.
        pixels: Model of the sensor's pixels.
        seed: Seed of the pixels' mismatch and noise.
        frame_scale: Pixels of a frame in the bag for each pixel of the sensor, in each direction.
        keep_every: Write every Nth frame to the bag; all frames make events.
    """

    frame_rate: float | None = None
    interpolate: bool = True
    size: tuple[int, int] | None = None
    pixels: PixelModel = field(default_factory=PixelModel)
    seed: int = 0
    frame_scale: int = 1
    keep_every: int = 1

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            SimulationError: If a value is out of range.
        """
        if self.frame_rate is not None and not 0 < self.frame_rate <= 1e6:
            msg = f"a frame rate of {self.frame_rate} Hz cannot be simulated"
            raise SimulationError(msg)
        if not 1 <= self.frame_scale <= 8 or self.keep_every < 1:
            msg = (
                f"frame_scale {self.frame_scale} is not from 1 to 8, "
                f"or keep_every {self.keep_every} not above 0"
            )
            raise SimulationError(msg)


def size_of(text: str | None) -> tuple[int, int] | None:
    """Parse a size such as ``640x480``; return None for None.

    Raises:
        SimulationError: If the text is not a size.
    """
    if text is None:
        return None
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        msg = f"{text!r} is not a size; write it like 640x480"
        raise SimulationError(msg)
    return int(width), int(height)


def video_recording(source: Path, options: VideoOptions) -> Recording:
    """Open a video, or a folder of consecutive pictures, for simulation.

    Args:
        source: Video file or folder; see `open_video`.
        options: Options of the simulation.

    Raises:
        SourceError: If it cannot be opened, or its frames have no times. While it is read: if a
            picture cannot be read, or has another size than the first.
    """
    video = open_video(source, options.frame_rate)
    # Simulated time starts at the epoch; a source whose clock is beyond it keeps its times.
    late = video.times_us[0] * 1000 >= EPOCH_NS
    times_us = video.times_us if late else video.times_us - video.times_us[0] + EPOCH_NS // 1000
    number = len(times_us)
    if number < 2:
        msg = f"{source}: holds {number} frames; events need two, or --still for a still picture"
        raise SimulationError(msg)
    size = options.size or video.size

    def moments(_: int) -> Iterator[Moment]:
        # Pixels have state, so the simulation always starts at the first frame.
        timed = zip(video.frames(), times_us.tolist(), strict=False)
        return _simulate_video(source, timed, size, options)

    return simulated_recording(
        source,
        _format("video", options),
        size,
        moments,
        [FRAMES_TOPIC],
        (int(times_us[0]) * 1000, int(times_us[-1]) * 1000),
        frame_scale=options.frame_scale,
    )


def _format(kind: str, options: VideoOptions | StillsOptions) -> str:
    """Describe how a recording was simulated, to be stored in the bag."""
    return f"simulated from {kind}: {json.dumps(asdict(options), default=str)}"


def _simulate_video(
    source: Path,
    frames: Iterable[tuple[NDArray[np.generic], int]],
    size: tuple[int, int],
    options: VideoOptions,
) -> Iterator[Moment]:
    simulator = VideoSimulator(size, options.pixels, options.seed, interpolate=options.interpolate)
    scale = options.frame_scale
    shape = None
    for index, (given, t_us) in enumerate(frames):
        if given.shape[:2] != (shape := shape or given.shape[:2]):
            msg = (
                f"{source}: frame {index} is {given.shape[1]}x{given.shape[0]}, not like the first"
            )
            raise SimulationError(msg)
        frame = _eight_bits(given)
        events = simulator.push(cover(frame, size, cv2.INTER_AREA), t_us)
        pictures = {}
        if index % options.keep_every == 0:
            fine = cover(frame, (size[0] * scale, size[1] * scale), cv2.INTER_AREA)
            pictures[FRAMES_TOPIC] = Picture(t_us * 1000, fine)
        yield Moment(events, pictures)


def _eight_bits(picture: NDArray[np.generic]) -> NDArray[np.uint8]:
    if picture.dtype == np.uint16:
        return (picture.astype(np.uint16) >> 8).astype(np.uint8)
    return np.asarray(picture, np.uint8)


@dataclass(frozen=True, slots=True)
class StillsOptions:
    """Options of the simulation of still pictures.

    Attributes:
        film: Options of each picture.
        labels: Folder of class ids, uint8 pictures with the names of the pictures apart from the
            suffix; None for no labels.
        class_names: Class names by id.
        flow: Whether the exact flow from frame to frame is written: 8 bytes per pixel. It must be
            off with moving objects, whose flow is not that of the camera.
        cutouts: Folder of pictures with an alpha channel: the objects that move through the scenes
            if ``film.objects`` is above 0.
        gap: Time without events between the clips of two pictures, in s. It should exceed the
            duration of a student's memory, so that clips do not mix.
        jobs: Number of pictures simulated in parallel; the result does not depend on it.
        seed: Seed of all random numbers.
    """

    film: StillOptions = field(default_factory=StillOptions)
    labels: Path | None = None
    class_names: tuple[str, ...] = ()
    flow: bool = True
    cutouts: Path | None = None
    gap: float = 0.5
    jobs: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the gap, and that no flow is requested with moving objects.

        Raises:
            SimulationError: If one of them is not so.
        """
        if not 0.001 <= self.gap <= 3600:
            msg = f"a gap of {self.gap} s between clips is not between 0.001 and 3600 s"
            raise SimulationError(msg)
        if self.film.objects and self.flow:
            msg = "the flow of moving objects is not simulated: leave the flow out (--no-flow)"
            raise SimulationError(msg)


def write_bag(
    recording: Recording, out: Path, options: ConvertOptions, *, show_progress: bool = False
) -> None:
    """Simulate a recording and write it to a bag, or continue an interrupted earlier call.

    Args:
        recording: Recording of `video_recording` or `stills_recording`.
        out: Path of the bag.
        options: Options of the written bag.
        show_progress: Show a progress bar.

    Raises:
        SourceError: See those functions, and `convert_recording`.
        BagError: If the bag cannot be written.
    """
    assert recording.span_ns is not None
    with Progress(*Progress.get_default_columns(), disable=not show_progress) as bars:
        first, last = recording.span_ns
        bar = bars.add_task(out.name, total=last - first)
        faults = convert_recording(
            recording, out, options, lambda t: bars.update(bar, completed=t - first)
        )
    if faults:
        logger.warning("%s: %s", out, faults_text(faults))


def stills_recording(source: Path, options: StillsOptions) -> Recording:
    """Open a picture, or a folder of pictures, for simulation under a moving camera.

    Each picture, in order of name, is a clip with new camera motion and new pixels.

    Args:
        source: A picture or a folder of pictures.
        options: Options of the simulation.

    A picture that cannot be read is left out, with a gap in its place, and counted.

    Raises:
        SourceError: If no picture can be read, or labels are missing. While it is read: if a
            picture has another size than the first and no size is given, or does not fit its
            labels.
    """
    files = pictures_in(source) if source.is_dir() else [source]
    labels = [_labels_of(file, options.labels) for file in files]
    width, height = picture_size_of(files)
    size = options.film.size or (width, height)
    faults = Faults()
    gap_us = round(options.gap * 1e6)
    period_us = options.film.length_us + gap_us
    cutouts = [] if options.cutouts is None else read_cutouts(options.cutouts)

    def film(index: int) -> StillSequence | None:
        found = faults.attempt(UNREADABLE, partial(read_photograph, files[index]))
        if found is None:
            return None
        picture = _eight_bits(found)
        if options.film.size is None and picture.shape[:2] != (height, width):
            msg = (
                f"{files[index]}: is {picture.shape[1]}x{picture.shape[0]}, unlike the first "
                "picture; give --size"
            )
            raise SimulationError(msg)
        label = labels[index]
        try:
            return simulate_still(
                picture,
                None if label is None else _eight_bits(read_photograph(label)),
                options=options.film,
                seed=int(np.random.SeedSequence((options.seed, index)).generate_state(1)[0]),
                start_ns=EPOCH_NS + index * period_us * 1000,
                cutouts=cutouts,
            )
        except SimulationError as error:
            msg = f"{files[index]}: {error}"
            raise SimulationError(msg) from None

    def moments(t_start: int) -> Iterator[Moment]:
        clips = range(max(t_start - EPOCH_NS, 0) // (period_us * 1000), len(files))
        for sequence in _ahead(film, clips, options.jobs):
            if sequence is not None:
                yield from _moments(sequence, with_flow=options.flow)

    topics = [FRAMES_TOPIC]
    topics += [LABELS_TOPIC] if options.labels is not None else []
    topics += [FLOW_TOPIC] if options.flow and options.film.frames > 1 else []
    recording = simulated_recording(
        source,
        _format("still pictures", replace(options, jobs=1)),
        size,
        moments,
        topics,
        (EPOCH_NS, EPOCH_NS + (len(files) * period_us - gap_us) * 1000),
        options.class_names,
        options.film.frame_scale,
    )
    return replace(recording, faults=faults)


def _labels_of(picture: Path, folder: Path | None) -> Path | None:
    if folder is None:
        return None
    for suffix in sorted(PICTURE_SUFFIXES):
        path = folder / f"{picture.stem}{suffix}"
        if path.is_file():
            return path
    msg = f"{picture}: has no labels in {folder}"
    raise SimulationError(msg)


def _ahead(
    film: Callable[[int], StillSequence | None], indices: Iterable[int], jobs: int
) -> Iterator[StillSequence | None]:
    """Simulate pictures in threads, and yield the results in order; kernels release the GIL."""
    with ThreadPoolExecutor(max(jobs, 1)) as pool:
        waiting: deque[Future[StillSequence | None]] = deque()
        for index in indices:
            waiting.append(pool.submit(film, index))
            if len(waiting) > jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _moments(sequence: StillSequence, *, with_flow: bool) -> Iterator[Moment]:
    """Cut a clip at its frames; the part after the last is a moment without pictures."""
    done = 0
    for index, t in enumerate(sequence.stamps.tolist()):
        pictures = {FRAMES_TOPIC: Picture(t, sequence.frames[index])}
        if sequence.labels is not None:
            pictures[LABELS_TOPIC] = Picture(t, sequence.labels[index])
        if with_flow and index + 1 < len(sequence.stamps):
            pictures[FLOW_TOPIC] = Picture(t, sequence.flow(index))
        end = int(np.searchsorted(sequence.events.t, t))
        yield Moment(sequence.events[done:end], pictures)
        done = end
    yield Moment(sequence.events[done:], {})
