"""Labelled pictures under the simulator's moving camera: events with a class for each pixel."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from scaleevent_ros.data.sampler import PADDING
from scaleevent_ros.data.windows import WindowOptions, window_start
from scaleevent_ros.events import represent
from scaleevent_ros.sources.pictures import PICTURE_SUFFIXES, pictures_in, read_photograph
from scaleevent_ros.sources.stills import StillOptions, simulate_still
from scaleevent_ros.tasks.errors import TaskError
from scaleevent_ros.tasks.losses import IGNORED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from scaleevent_ros.data.sampler import Draw
    from scaleevent_ros.tasks.classes import ClassList


class LabelledPicture(NamedTuple):
    """Where a picture and its labels are."""

    picture: Path
    labels: Path


class LabelledSample(NamedTuple):
    """What a worker makes of a picture; `LabelledBatch` is many, with a first dimension B.

    Attributes:
        events: The event tensor, float32 [channels, H, W].
        truth: Class ids, int64 [H, W]; `IGNORED` where there is none.
        at_events: Pixels with an event in the window, bool [H, W].
    """

    events: Tensor
    truth: Tensor
    at_events: Tensor


class LabelledBatch(NamedTuple):
    """Samples together; see `LabelledSample`."""

    events: Tensor
    truth: Tensor
    at_events: Tensor


@dataclass(frozen=True)
class LabelledOptions:
    """How samples are made.

    Attributes:
        width: Of the event tensor.
        height: Of the event tensor.
        representation: Name of the event tensor.
        bins: Of it.
        normalization: Of it.
        window: How long it is.
        strength: Of the camera's motion; see `scaleevent_ros.sources.camera_motion.random_motion`.
        seed: Of the motion and of the events' noise.
        fixed_motion: Film a picture the same way each time it comes, not another in each epoch.
    """

    width: int = 480
    height: int = 360
    representation: str = "voxel"
    bins: int = 5
    normalization: str = "percentile"
    window: WindowOptions = field(default_factory=WindowOptions)
    strength: float = 1.0
    seed: int = 0
    fixed_motion: bool = False


def find_labelled(pictures: Path, labels: Path) -> list[LabelledPicture]:
    """Find the pictures in a folder that have labels of the same name, in order of name.

    Raises:
        TaskError: If a picture has none, or there is no picture.
        SourceError: If there is no folder of pictures.
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


def take_fraction(found: Sequence[LabelledPicture], fraction: float) -> list[LabelledPicture]:
    """Take a share of the pictures: the same one everywhere, and part of every larger share.

    Pictures are ordered by the BLAKE2b digest of their names without suffix, and the first are
    taken. So a fraction is a fixed split that anyone can make again from the names alone.

    Args:
        found: The pictures.
        fraction: Above 0, at most 1; at least one picture is taken.

    Returns:
        In the order of ``found``.
    """
    by_digest = sorted(found, key=lambda one: hashlib.blake2b(one.picture.stem.encode()).digest())
    taken = set(by_digest[: max(1, round(fraction * len(found)))])
    return [one for one in found if one in taken]


class LabelledStills:
    """Samples of labelled pictures, each a function of its draw and the options alone."""

    def __init__(
        self, found: Sequence[LabelledPicture], classes: ClassList, options: LabelledOptions
    ) -> None:
        self._found = list(found)
        self._classes = classes
        self._options = options

    def __len__(self) -> int:
        """Count the pictures."""
        return len(self._found)

    def __getitem__(self, draw: Draw) -> LabelledSample:
        """Film a picture and make its sample; a draw that pads has no truth.

        Raises:
            ScaleEventError: If the picture or its labels cannot be read or do not fit.
        """
        options, one = self._options, self._found[draw.pair]
        key = (options.seed, draw.pair, 0 if options.fixed_motion else draw.epoch + 1)
        labels = read_photograph(one.labels)
        if labels.ndim != 2 or labels.dtype != np.uint8:
            msg = f"{one.labels}: labels are {labels.dtype} {labels.shape}, not uint8 [H, W]"
            raise TaskError(msg)
        try:
            labels = self._classes.to_truth(labels)
        except TaskError as error:
            msg = f"{one.labels}: {error}"
            raise TaskError(msg) from error
        film = StillOptions(
            frames=1,
            margin=options.window.length_ms / 1000,
            strength=options.strength,
            size=(options.width, options.height),
        )
        seed = int(np.random.SeedSequence(key).generate_state(1)[0])
        clip = simulate_still(read_photograph(one.picture), labels, options=film, seed=seed)
        assert clip.labels is not None
        t_end = int(clip.stamps[0])
        t_start = window_start(clip.events, t_end, options.window)
        events = clip.events.between(t_start, t_end)
        tensor = represent(
            options.representation, events, t_start, t_end, options.bins, options.normalization
        )
        at_events = np.zeros((options.height, options.width), np.bool_)
        at_events[events.y, events.x] = True
        truth = torch.from_numpy(clip.labels[0].astype(np.int64))
        if draw.position == PADDING:
            truth = torch.full_like(truth, IGNORED)
        return LabelledSample(torch.from_numpy(tensor), truth, torch.from_numpy(at_events))


def stack(samples: Sequence[LabelledSample]) -> LabelledBatch:
    """Stack samples."""
    events, truth, at_events = zip(*samples, strict=True)
    return LabelledBatch(torch.stack(events), torch.stack(truth), torch.stack(at_events))
