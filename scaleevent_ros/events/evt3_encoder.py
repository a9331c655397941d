"""Encoding kernel of EVT3; see `evt3` for the format."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scaleevent_ros.events.compile import kernel
from scaleevent_ros.events.evt3 import (
    ADDR_X,
    ADDR_Y,
    TIME_HIGH,
    TIME_LOW,
    VECT_8,
    VECT_12,
    VECT_BASE_X,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scaleevent_ros.events.decoder_state import Arrays

MAX_SIDE = 1 << 11
"""Maximum width and height of a sensor whose addresses fit the words, in pixels."""


GROUP = 32
"""Columns that the words VECT_12, VECT_12, VECT_8 cover together.

Sensors always send the three, and Prophesee's decoder reads them as one.
"""


GROUP_WORDS = 3


@kernel
def write_high(high: int, before: int, words: NDArray[np.uint16], n: int) -> int:
    """Write TIME_HIGH words that lead a decoder from one time to a later one.

    Args:
        high: New time in units of 4096 µs, not cut to 12 bits.
        before: Time of the previous words, in the same units.
        words: Output.
        n: Number of words written so far.

    Returns:
        Number of words written now.
    """
    for _ in range((high >> 12) - (before >> 12)):
        # A drop that every decoder takes for a roll-over.
        words[n] = TIME_HIGH << 12 | 0xFFF
        words[n + 1] = TIME_HIGH << 12
        n += 2
    words[n] = TIME_HIGH << 12 | high & 0xFFF
    return n + 1


@kernel
def measure_run(x: NDArray[np.uint16], start: int, end: int) -> tuple[int, int]:
    """Count the groups of vector words, from an event on, that are shorter than single words.

    Args:
        x: Columns of events, of which those in ``start`` to ``end`` are of one row, one time and
            one polarity, and ascend.
        start: Index of the first event.
        end: Index after the last event.

    Returns:
        Number of groups, and the index of the first event after them.
    """
    groups = 0
    i = start
    base = np.int64(x[start])
    while True:
        first = i
        while i < end and x[i] < base + GROUP:
            i += 1
        if i - first <= GROUP_WORDS:
            return groups, first
        groups += 1
        base += GROUP


@kernel
def write_vector(
    x: NDArray[np.uint16], start: int, end: int, words: NDArray[np.uint16], n: int
) -> int:
    """Write the vector words of events ``start`` to ``end``; return the new number of words."""
    base = np.int64(x[start])
    i = start
    while i < end:
        valid = 0
        while i < end and x[i] < base + GROUP:
            valid |= 1 << (x[i] - base)
            i += 1
        words[n] = VECT_12 << 12 | valid & 0xFFF
        words[n + 1] = VECT_12 << 12 | valid >> 12 & 0xFFF
        words[n + 2] = VECT_8 << 12 | valid >> 24
        n += GROUP_WORDS
        base += GROUP
    return n


@kernel
def encode_evt3_words(
    batch: Arrays,
    origin: int,
    high: int,
    words: NDArray[np.uint16],
) -> int:
    """Encode events in their order, starting with time and row.

    Args:
        batch: x and y below 2048, t (ns) non-decreasing, p.
        origin: Time (ns) that is encoded as zero.
        high: Time of the previous words in units of 4096 µs, not cut to 12 bits.
        words: Output, with room for 4 words an event and 2 for each roll-over.

    Returns:
        Number of words written.
    """
    x, y, t, p = batch
    n = 0
    i = 0
    low, row = -1, -1
    while i < x.size:
        now = (t[i] - origin) // 1000
        if i == 0 or now >> 12 != high:
            n = write_high(now >> 12, high, words, n)
            high = now >> 12
            low = -1
        if now & 0xFFF != low:
            low = now & 0xFFF
            words[n] = TIME_LOW << 12 | low
            n += 1
        if y[i] != row:
            row = np.int64(y[i])
            words[n] = ADDR_Y << 12 | row
            n += 1
        end = i + 1
        while end < x.size and (
            (t[end] - origin) // 1000 == now
            and y[end] == row
            and p[end] == p[i]
            and x[end] > x[end - 1]
        ):
            end += 1
        while i < end:
            groups, behind = measure_run(x, i, end)
            kind = ADDR_X
            if behind - i > 1 + GROUP_WORDS * groups:
                kind = VECT_BASE_X
            words[n] = kind << 12 | np.int64(p[i]) << 11 | x[i]
            n += 1
            if kind == VECT_BASE_X:
                n = write_vector(x, i, behind, words, n)
                i = behind
            else:
                i += 1
    return n
