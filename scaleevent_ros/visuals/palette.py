"""Colours of classes."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@cache
def class_colours(count: int) -> NDArray[np.uint8]:
    """Return a distinct colour for each class id, uint8 [count, 3].

    The colours are those of the PASCAL VOC development kit: groups of three bits of the id give the
    bits of red, green and blue, from the highest down. Class 0 is black.
    """
    ids = np.arange(count)
    colours = np.zeros((count, 3), np.int64)
    for level in range(8):
        for channel in range(3):
            colours[:, channel] |= (ids >> (3 * level + channel) & 1) << (7 - level)
    return colours.astype(np.uint8)
