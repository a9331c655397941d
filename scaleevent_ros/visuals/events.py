"""Pictures of events and event tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from scaleevent_ros.events import (
    REPRESENTATIONS,
    EventBatch,
    EventsError,
    activity_mask,
    histogram,
    represent,
    voxel_grid,
)
from scaleevent_ros.events.normalization import scaleevent_picture

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float32]
    Picture: TypeAlias = NDArray[np.uint8]

GAP = 4
"""Pixels between the tiles of a picture."""


def representation_pictures(
    batch: EventBatch, t_start: int | None = None, t_end: int | None = None, bins: int = 3
) -> dict[str, Picture]:
    """Draw a window of events in all representations.

    - ``events``: see `event_picture`.
    - each representation by its name: a tile for each channel, see `tensor_picture`.
    - ``scaleevent_picture``: three bins as red, green and blue (see `scaleevent_picture` in
      `scaleevent_ros.events.normalization`).
    - ``activity``: the events in active patches, with other patches greyed out.

    Args:
        batch: The events.
        t_start: Start of the window in ns; that of the batch if None.
        t_end: End of the window in ns, excluded; that of the batch if None.
        bins: Number of time bins, for representations with bins.

    Returns:
        RGB, uint8 [rows, columns, 3], by name; representations of several channels are larger
        than the sensor.

    Raises:
        EventsError: If there are no events and no window is given, or the window is invalid.
    """
    if not len(batch) and (t_start is None or t_end is None):
        msg = "there are no events to draw a picture of"
        raise EventsError(msg)
    t_start = int(batch.t[0]) if t_start is None else t_start
    t_end = int(batch.t[-1]) + 1 if t_end is None else t_end
    events = event_picture(histogram(batch, t_start, t_end))
    three = scaleevent_picture(voxel_grid(batch, t_start, t_end, 3))
    return {
        "events": events,
        **{
            name: tensor_picture(name, represent(name, batch, t_start, t_end, bins))
            for name in REPRESENTATIONS
        },
        "scaleevent_picture": np.ascontiguousarray(three.transpose(1, 2, 0)),
        "activity": activity_picture(events, activity_mask(batch.between(t_start, t_end))),
    }


def event_picture(counts: Floats) -> Picture:
    """Draw event counts on white: red where it became brighter, blue where it became darker.

    Args:
        counts: Counts of `histogram`, float32 [2, height, width].

    Returns:
        RGB, uint8 [height, width, 3].
    """
    off, on = np.minimum(counts / _limit(counts), 1)
    return _rgb(1 - off, 1 - np.maximum(off, on), 1 - on)


def polarity_picture(tensor: Floats) -> Picture:
    """Draw the sum over an event tensor's channels: red above zero, white at zero, blue below.

    Args:
        tensor: float32 [channels, height, width].

    Returns:
        RGB, uint8 [height, width, 3].
    """
    total = tensor.sum(0)
    active = np.abs(total)
    # Values of three times the mean of active pixels saturate; a percentile would need a sort.
    scale = active.sum() / max(np.count_nonzero(active), 1) * 3
    share = (total * np.float32(255 / max(scale, 1e-6))).clip(-255, 255)
    picture = np.full((*share.shape, 3), 255, np.float32)
    picture[..., 1] -= np.abs(share)
    picture[..., 0] += np.minimum(share, 0)
    picture[..., 2] -= np.maximum(share, 0)
    return picture.astype(np.uint8)


def tensor_picture(name: str, tensor: Floats) -> Picture:
    """Draw each channel of a representation as a tile, all on one scale.

    The values of a voxel grid are red above zero, white at zero and blue below; those of other
    representations are from black to yellow. The scale ends at the 99th percentile of the active
    values' magnitudes. A stacked histogram has OFF events in the upper row of tiles and ON events
    in the lower one.

    Args:
        name: Name of the representation.
        tensor: float32 [channels, height, width].

    Returns:
        RGB, uint8 [rows, columns, 3].
    """
    limit = _limit(tensor)
    if name == "voxel":
        tiles = [_signed(channel / limit) for channel in tensor]
    else:
        tiles = [_strength(channel / limit) for channel in tensor]
    columns = len(tiles) // 2 if name == "stacked_histogram" else len(tiles)
    return tile_pictures(tiles, columns)


def activity_picture(events: Picture, mask: NDArray[np.bool_], patch: int = 16) -> Picture:
    """Grey out the patches of a picture that are not active.

    Args:
        events: RGB, uint8 [height, width, 3].
        mask: Mask of active patches from `activity_mask`.
        patch: Side of a patch in pixels.

    Returns:
        RGB, uint8 [height, width, 3].
    """
    height, width = events.shape[:2]
    active = mask.repeat(patch, axis=0).repeat(patch, axis=1)[:height, :width, None]
    return np.where(active, events, events // 2 + np.uint8(64)).astype(np.uint8)


def tile_pictures(pictures: list[Picture], columns: int) -> Picture:
    """Arrange pictures of one size in rows, with grey gaps between them.

    Args:
        pictures: Pictures of one size, RGB, uint8 [height, width, 3]; at least one.
        columns: Number of columns.

    Returns:
        RGB, uint8 [rows, columns, 3].
    """
    height, width = pictures[0].shape[:2]
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 128, np.uint8)
    for index, picture in enumerate(pictures):
        top, left = index // columns * (height + GAP), index % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def _limit(tensor: Floats) -> float:
    """Return the 99th percentile of the active values' magnitudes; 1 if none is active."""
    active = np.abs(tensor[tensor != 0])
    return float(np.percentile(active, 99)) if len(active) else 1.0


def _signed(share: Floats) -> Picture:
    """Draw values from -1 to 1: blue, white, red."""
    above, below = np.clip(share, 0, 1), np.clip(-share, 0, 1)
    return _rgb(1 - below, 1 - above - below, 1 - above)


def _strength(share: Floats) -> Picture:
    """Draw values from 0 to 1: black to yellow."""
    grey = (np.clip(share, 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO)[..., ::-1])


def _rgb(red: Floats, green: Floats, blue: Floats) -> Picture:
    return (np.stack([red, green, blue], axis=-1) * 255).astype(np.uint8)
