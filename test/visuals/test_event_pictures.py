"""Pictures of events: where they are, in which colour, and how tiles are laid out."""

from __future__ import annotations

import numpy as np
import pytest

from scaleevent_ros.events import EventBatch, EventsError, histogram
from scaleevent_ros.visuals.events import (
    GAP,
    event_picture,
    representation_pictures,
    tensor_picture,
    tile_pictures,
)

WIDTH, HEIGHT = 40, 30


def one_of_each() -> EventBatch:
    """A brighter event at column 3, a darker one at column 20, both at column 30."""
    return EventBatch(
        np.array([3, 20, 30, 30], np.uint16),
        np.array([5, 6, 7, 7], np.uint16),
        np.array([0, 10, 20, 29]),
        np.array([1, 0, 1, 0], np.uint8),
        WIDTH,
        HEIGHT,
    )


def test_brighter_is_red_and_darker_blue_on_white() -> None:
    picture = event_picture(histogram(one_of_each(), 0, 30))
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert picture[5, 3].tolist() == [255, 0, 0]
    assert picture[6, 20].tolist() == [0, 0, 255]
    assert picture[7, 30].tolist() == [0, 0, 0]
    assert picture[0, 0].tolist() == [255, 255, 255]


def test_every_representation_is_drawn() -> None:
    pictures = representation_pictures(one_of_each(), bins=3)
    two, three = ((HEIGHT, n * WIDTH + (n - 1) * GAP, 3) for n in (2, 3))
    assert {name: picture.shape for name, picture in pictures.items()} == {
        "events": (HEIGHT, WIDTH, 3),
        "voxel": three,
        "histogram": two,
        "stacked_histogram": (2 * HEIGHT + GAP, three[1], 3),
        "time_surface": two,
        "scaleevent_picture": (HEIGHT, WIDTH, 3),
        "activity": (HEIGHT, WIDTH, 3),
    }
    assert all(picture.dtype == np.uint8 for picture in pictures.values())
    assert pictures["voxel"][5, 3].tolist() == [255, 0, 0]
    # The stacked histogram's darker events are above: that of column 20 falls into the second bin.
    stacked = pictures["stacked_histogram"]
    assert stacked[6, WIDTH + GAP + 20].sum() > stacked[0, 0].sum()
    assert (stacked[HEIGHT + GAP + 6, : WIDTH - 1] == stacked[0, 0]).all()


def test_inactive_patches_are_greyed_out() -> None:
    count = 64
    batch = EventBatch(
        np.full(count, 20, np.uint16), np.full(count, 3, np.uint16), np.arange(count),
        np.ones(count, np.uint8), WIDTH, HEIGHT,
    )  # fmt: skip
    active = representation_pictures(batch)["activity"]
    assert (active[:16, 16:32] != 191).any(axis=-1).all()
    assert (active[16:] == 191).all()
    assert (active[:, :16] == 191).all()
    assert (representation_pictures(batch[1:])["activity"] != 255).all(axis=-1).any()


def test_silence_is_white_and_needs_a_window() -> None:
    empty = EventBatch.empty(WIDTH, HEIGHT)
    with pytest.raises(EventsError, match="no events to draw"):
        representation_pictures(empty)
    assert (representation_pictures(empty, 0, 10)["events"] == 255).all()
    assert (tensor_picture("voxel", np.zeros((1, 2, 2), np.float32)) == 255).all()


def test_tiles_fill_rows() -> None:
    tiles = [np.full((2, 3, 3), shade, np.uint8) for shade in (1, 2, 3)]
    sheet = tile_pictures(tiles, 2)
    assert sheet.shape == (4 + GAP, 6 + GAP, 3)
    assert (sheet[:2, 3 + GAP :] == 2).all()
    assert (sheet[2 + GAP :, :3] == 3).all()
    assert (sheet[2 + GAP :, 3:] == 128).all()
