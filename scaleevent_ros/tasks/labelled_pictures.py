"""Labelled pictures as samples of frames, for heads that are trained without events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scaleevent_ros.data.alignment import HomographyAlignment
from scaleevent_ros.data.augmentation import choose_view
from scaleevent_ros.data.sampler import PADDING
from scaleevent_ros.sources.pictures import read_photograph
from scaleevent_ros.tasks.classes import truth_of
from scaleevent_ros.tasks.errors import TaskError
from scaleevent_ros.tasks.labelled import UNKNOWN, LabelledSample, move_truth

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from scaleevent_ros.data.sampler import Draw
    from scaleevent_ros.tasks.classes import ClassList
    from scaleevent_ros.tasks.labelled import LabelledOptions, Task
    from scaleevent_ros.tasks.labelled_stills import LabelledPicture

_NO_DEPTH = 65535


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

    def __getitem__(self, draw: Draw) -> LabelledSample:
        """Build the sample of a draw; padding samples have no ground truth.

        Raises:
            ScaleEventError: If the picture or its ground truth cannot be read, or they differ in
                size.
        """
        options, one = self._options, self._found[draw.pair]
        picture, truth = read_photograph(one.picture), self._read_truth(one.labels)
        if picture.dtype != np.uint8:
            picture = (picture >> 8).astype(np.uint8)
        if truth.shape != picture.shape[:2]:
            msg = f"{one.labels} is {truth.shape}, but its picture is {picture.shape[:2]}"
            raise TaskError(msg)
        if picture.ndim == 2:
            picture = np.repeat(picture[..., None], 3, axis=2)
        rng = np.random.default_rng((options.seed, draw.epoch, draw.position + 1))
        size = (picture.shape[1], picture.shape[0])
        view = choose_view(size, (options.width, options.height), options.augmentation, rng)
        frame = HomographyAlignment(np.eye(3)).warp(picture, view, self._scale)
        moved = torch.from_numpy(move_truth(truth, view))
        moved = moved[None] if self._classes is None else moved.long()
        if draw.position == PADDING:
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
