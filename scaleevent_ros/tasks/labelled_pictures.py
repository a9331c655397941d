"""Labelled pictures as samples of frames: what a head learns from without any events."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from scaleevent_ros.data.alignment import HomographyAlignment
from scaleevent_ros.data.augmentation import choose_view
from scaleevent_ros.data.sampler import PADDING
from scaleevent_ros.sources.pictures import read_photograph
from scaleevent_ros.tasks.classes import truth_of
from scaleevent_ros.tasks.errors import TaskError
from scaleevent_ros.tasks.labelled import LabelledSample, move_truth
from scaleevent_ros.tasks.losses import IGNORED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scaleevent_ros.data.sampler import Draw
    from scaleevent_ros.tasks.classes import ClassList
    from scaleevent_ros.tasks.labelled import LabelledOptions
    from scaleevent_ros.tasks.labelled_stills import LabelledPicture


class LabelledPictures:
    """Labelled pictures as samples whose ``events`` are the frame, uint8 [3, scale H, scale W].

    A picture fills the view as it fills the sensor of the simulator's camera.
    """

    def __init__(
        self,
        pictures: Sequence[LabelledPicture],
        classes: ClassList,
        options: LabelledOptions,
        scale: int,
    ) -> None:
        """Take pictures.

        Args:
            pictures: Files of pictures and labels.
            classes: What the labels mean.
            options: Size and augmentation; nothing of events is used.
            scale: How much finer frames are than the truth.
        """
        self._found = list(pictures)
        self._classes = classes
        self._options = options
        self._scale = scale

    def __len__(self) -> int:
        """Count the pictures."""
        return len(self._found)

    def __getitem__(self, draw: Draw) -> LabelledSample:
        """Make the sample of a draw; one that pads has no truth.

        Raises:
            ScaleEventError: If the picture or its labels cannot be read or do not fit.
        """
        options, one = self._options, self._found[draw.pair]
        picture = read_photograph(one.picture)
        truth = truth_of(read_photograph(one.labels), self._classes, one.labels)
        if truth.shape != picture.shape[:2]:
            msg = f"{one.labels} is {truth.shape}, its picture {picture.shape[:2]}"
            raise TaskError(msg)
        if picture.ndim == 2:
            picture = np.repeat(picture[..., None], 3, axis=2)
        rng = np.random.default_rng((options.seed, draw.epoch, draw.position + 1))
        size = (picture.shape[1], picture.shape[0])
        view = choose_view(size, (options.width, options.height), options.augmentation, rng)
        frame = HomographyAlignment(np.eye(3)).warp(picture, view, self._scale)
        moved = torch.from_numpy(move_truth(truth, view)).long()
        if draw.position == PADDING:
            moved = torch.full_like(moved, IGNORED)
        pixels = torch.from_numpy(np.ascontiguousarray(frame.transpose(2, 0, 1)))
        return LabelledSample(pixels, moved, torch.ones_like(moved, dtype=torch.bool))
