"""Pictures with ground truth: as frames, or filmed by a simulated event camera."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from scaleevent_ros.data.alignment import HomographyAlignment
from scaleevent_ros.data.augmentation import choose_view
from scaleevent_ros.data.sampler import PADDING
from scaleevent_ros.events.windows import WindowOptions
from scaleevent_ros.sources.pictures import PICTURE_SUFFIXES, pictures_in, read_photograph
from scaleevent_ros.sources.stills import StillOptions, simulate_still
from scaleevent_ros.tasks.classes import truth_of
from scaleevent_ros.tasks.errors import TaskError
from scaleevent_ros.tasks.labelled import UNKNOWN, LabelledSample, LabelledWindow, move_truth

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from scaleevent_ros.data.sampler import SampleSpec
    from scaleevent_ros.sources.stills import StillSequence
    from scaleevent_ros.tasks.classes import ClassList
    from scaleevent_ros.tasks.labelled import LabelledOptions, Task

_NO_DEPTH = 65535


class LabelledPicture(NamedTuple):
    """Files of a picture and its labels."""

    picture: Path
    labels: Path


@dataclass(frozen=True)
class FilmOptions:
    """Options of simulated pictures.

    Attributes:
        width: Width of the event sensor in pixels.
        height: Height of the event sensor in pixels.
        window: Duration of events before the time of the ground truth.
        history_ns: Additional duration before that in ns, for leaky integrals.
        strength: Strength of the camera's motion; see
            `scaleevent_ros.sources.camera_motion.random_motion`.
        seed: Seed of the motion and of the events' noise.
        fixed_motion: Film a picture the same way in all epochs, not differently in each.
    """

    width: int = 480
    height: int = 360
    window: WindowOptions = field(default_factory=WindowOptions)
    strength: float = 1.0
    seed: int = 0
    fixed_motion: bool = False
    history_ns: int = 0


def find_labelled(pictures: Path, labels: Path) -> list[LabelledPicture]:
    """Find the pictures in a folder that have labels of the same name, in order of name.

    Raises:
        TaskError: If a picture has no labels.
        SourceError: If there is no folder of pictures, or no picture in it.
    """
    found = []
    for picture in pictures_in(pictures):
        named = (labels / f"{picture.stem}{suffix}" for suffix in sorted(PICTURE_SUFFIXES))
        label = next((path for path in named if path.is_file()), None)
        if label is None:
            msg = f"{picture} has no labels of its name in {labels}"
            raise TaskError(msg)
        found.append(LabelledPicture(picture, label))
    return found


class LabelledStills:
    """Labelled pictures, each filmed for one window, as a `LabelledSource`.

    Attributes:
        name: Folder of the pictures.
        task: ``segmentation``.
    """

    task: Task = "segmentation"

    def __init__(
        self, pictures: Path, labels: Path, classes: ClassList, options: FilmOptions
    ) -> None:
        """Find the pictures.

        Raises:
            ScaleEventError: See `find_labelled`.
        """
        self.name = str(pictures)
        self._found = find_labelled(pictures, labels)
        self._classes = classes
        self._options = options

    def __len__(self) -> int:
        """Count the pictures."""
        return len(self._found)

    def key(self, index: int) -> str:
        """Name of a picture: its file's name without suffix."""
        return self._found[index].picture.stem

    def read(self, index: int, take: int) -> LabelledWindow:
        """Simulate a picture, with new motion in each take unless it is fixed.

        Raises:
            ScaleEventError: If the picture or its labels cannot be read or do not fit.
        """
        one = self._found[index]
        labels = truth_of(read_photograph(one.labels), self._classes, one.labels)
        clip = _film(one.picture, index, take, self._options, frames=1, labels=labels)
        assert clip.labels is not None
        return LabelledWindow(clip.events, int(clip.stamps[0]), clip.labels[0])


class FlowStills:
    """Pictures, each filmed for one window with its exact optical flow, as a `LabelledSource`.

    Attributes:
        name: Folder of the pictures.
        task: ``flow``.
    """

    task: Task = "flow"

    def __init__(self, pictures: Path, options: FilmOptions) -> None:
        """Find the pictures.

        Raises:
            SourceError: If there are none.
        """
        self.name = str(pictures)
        self._found = pictures_in(pictures)
        self._options = options

    def __len__(self) -> int:
        """Count the pictures."""
        return len(self._found)

    def key(self, index: int) -> str:
        """Name of a picture: its file's name without suffix."""
        return self._found[index].stem

    def read(self, index: int, take: int) -> LabelledWindow:
        """Simulate a picture, with new motion in each take unless it is fixed.

        Raises:
            ScaleEventError: If the picture cannot be read.
        """
        clip = _film(self._found[index], index, take, self._options, frames=2)
        start, end = (int(stamp) for stamp in clip.stamps)
        return LabelledWindow(clip.events, end, clip.flow(0), start)


def _film(
    picture: Path,
    index: int,
    take: int,
    options: FilmOptions,
    *,
    frames: int,
    labels: NDArray[np.uint8] | None = None,
) -> StillSequence:
    """Film a picture: a window of events before the first frame, and one between frames."""
    seconds = options.window.length_ms / 1000
    film = StillOptions(
        frames=frames,
        frame_rate=1 / seconds,
        margin=seconds,
        lead=options.history_ns / 1e9,
        strength=options.strength,
        size=(options.width, options.height),
    )
    key = (options.seed, index, 0 if options.fixed_motion else take + 1)
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    return simulate_still(read_photograph(picture), labels, options=film, seed=seed)


class LabelledPictures:
    """Labelled pictures as samples whose ``events`` are the frame, uint8 [3, scale H, scale W].

    A picture is cropped and resized as for the simulated event camera.
    """

    def __init__(
        self,
        pictures: Sequence[LabelledPicture],
        classes: ClassList | None,
        options: LabelledOptions,
        scale: int,
    ) -> None:
        """Create a data set of labelled pictures.

        Args:
            pictures: Files of pictures and their ground truth: class ids (uint8), or depth in mm
                (uint16; 0 and 65535 where unknown).
            classes: Class list; None for depth.
            options: Size, augmentation and seed; the options of events are not used.
            scale: Resolution of frames relative to the ground truth.
        """
        self._found = list(pictures)
        self._classes = classes
        self._options = options
        self._scale = scale

    def __len__(self) -> int:
        """Count the pictures."""
        return len(self._found)

    def __getitem__(self, spec: SampleSpec) -> LabelledSample:
        """Build the sample of a specification; padding samples have no ground truth.

        Raises:
            ScaleEventError: If the picture or its ground truth cannot be read, or they differ in
                size.
        """
        options, one = self._options, self._found[spec.pair]
        picture, truth = read_photograph(one.picture), self._read_truth(one.labels)
        if picture.dtype != np.uint8:
            picture = (picture >> 8).astype(np.uint8)
        if truth.shape != picture.shape[:2]:
            msg = f"{one.labels} is {truth.shape}, but its picture is {picture.shape[:2]}"
            raise TaskError(msg)
        if picture.ndim == 2:
            picture = np.repeat(picture[..., None], 3, axis=2)
        rng = np.random.default_rng((options.seed, spec.epoch, spec.position + 1))
        size = (picture.shape[1], picture.shape[0])
        view = choose_view(size, (options.width, options.height), options.augmentation, rng)
        frame = HomographyAlignment(np.eye(3)).warp(picture, view, self._scale)
        moved = torch.from_numpy(move_truth(truth, view))
        moved = moved[None] if self._classes is None else moved.long()
        if spec.position == PADDING:
            moved = torch.full_like(moved, UNKNOWN[self._task])
        pixels = torch.from_numpy(np.ascontiguousarray(frame.transpose(2, 0, 1)))
        everywhere = torch.ones(options.height, options.width, dtype=torch.bool)
        return LabelledSample(pixels, moved, everywhere)

    @property
    def _task(self) -> Task:
        return "depth" if self._classes is None else "segmentation"

    def _read_truth(self, path: Path) -> NDArray[Any]:
        """Read class ids, uint8 [H, W], or depth in m, float32 [H, W], 0 where unknown."""
        stored = read_photograph(path)
        if self._classes is not None:
            return truth_of(stored, self._classes, path)
        if stored.ndim != 2 or stored.dtype != np.uint16:
            msg = f"{path}: depth is {stored.dtype} {stored.shape}, not uint16 [H, W] in mm"
            raise TaskError(msg)
        depth = np.where(stored == _NO_DEPTH, 0, stored)
        return np.asarray(depth / np.float32(1000), np.float32)
