"""Picture of a validation sample: input, and features of teacher and student."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from scaleevent_ros.visuals.events import polarity_picture
from scaleevent_ros.visuals.features import (
    choose_anchors,
    enlarge,
    pca_basis,
    pca_picture,
    similarity_map,
    similarity_picture,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scaleevent_ros.distill.distillation import Panel

    Picture = NDArray[np.uint8]

_TILE_WIDTH = 320
_ANCHORS = 3
_MARK = (0, 255, 0)
_GAP = 4  # pixels of white between tiles
_TITLES = ("events", "frame", "teacher", "student")


def draw_panel(panel: Panel) -> Picture:
    """Draw a sample: a row of events, frame, teacher and student, and a row for each of 3 anchors.

    Teacher and student are coloured by the first three principal components of the teacher's
    features. The row of an anchor marks it in events and frame, and has the similarity of each
    position to it, by the teacher's and by the student's features.

    Returns:
        uint8 [H, W, 3].
    """
    height, width = panel.events.shape[-2:]
    size = (_TILE_WIDTH, round(_TILE_WIDTH * height / width))
    teacher, student = panel.teacher.numpy(), panel.student.numpy()
    active = panel.active.numpy()
    picture = panel.frame.permute(1, 2, 0).numpy()
    frame = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    events = enlarge(polarity_picture(panel.events.numpy()), size)
    basis = pca_basis(teacher)
    colours = [enlarge(pca_picture(features, basis), size) for features in (teacher, student)]
    tiles: list[Picture] = [events, frame, *colours]
    rows = [_row([_titled(tile, title) for tile, title in zip(tiles, _TITLES, strict=True)])]
    for anchor in choose_anchors(teacher, active, _ANCHORS):
        place = (
            round((anchor[1] + 0.5) * size[0] / active.shape[1]),
            round((anchor[0] + 0.5) * size[1] / active.shape[0]),
        )
        marked = [
            cv2.drawMarker(picture.copy(), place, _MARK, cv2.MARKER_CROSS, 16, 2)
            for picture in (events, frame)
        ]
        heat = [
            enlarge(similarity_picture(similarity_map(features, anchor)), size)
            for features in (teacher, student)
        ]
        rows.append(_row([*marked, *heat]))
    return np.asarray(np.vstack(rows), np.uint8)


def _row(tiles: list[Picture]) -> Picture:
    """Arrange tiles in a row, with a gap at the right and below each."""
    framed = [
        cv2.copyMakeBorder(tile, 0, _GAP, 0, _GAP, cv2.BORDER_CONSTANT, value=(255, 255, 255))
        for tile in tiles
    ]
    return np.asarray(np.hstack(framed), np.uint8)


def _titled(tile: Picture, title: str) -> Picture:
    """Write a title into the upper left corner, legible on any background."""
    titled = tile.copy()
    for colour, thickness in (((0, 0, 0), 4), ((255, 255, 255), 1)):
        cv2.putText(titled, title, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, thickness)
    return np.asarray(titled)
