"""EVT3, Prophesee's 16-bit vectorized format: decoding kernel.

Words of 16 bits, little-endian, the type in the top 4 bits; an address or a time holds until the
next word that changes it. Source: "EVT 3.0 Format", docs.prophesee.ai, Metavision SDK 5. As in
Prophesee's own decoder, a TIME_HIGH that differs from the one before sets the low part to zero.
A roll-over is a TIME_HIGH that drops by more than 10, like in the ROS drivers' decoder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scaleevent_ros.events.compile import kernel
from scaleevent_ros.events.decoder_state import (
    BEFORE_TIME,
    CONTEXT,
    EVENTS,
    HAS_HIGH,
    HAS_TIME,
    HEIGHT,
    OFFSET,
    OUT_OF_RANGE,
    PADDING,
    ROLL_OVERS,
    SKIPPED,
    UNKNOWN,
    WIDTH,
    WORDS,
    Arrays,
    clamp_monotonic,
    count_bits,
    make_arrays,
    push_trigger,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

ADDR_Y = 0
ADDR_X = 2
VECT_BASE_X = 3
VECT_12 = 4
VECT_8 = 5
TIME_LOW = 6
CONTINUED_4 = 7
TIME_HIGH = 8
EXT_TRIGGER = 10
OTHERS = 14
CONTINUED_12 = 15

PADDING_WORD = 0x9999
HIGH_NOISE = 10
"""Maximum drop of TIME_HIGH that is noise; a larger one is a roll-over."""

EPOCH = (1 << 24) * 1000
"""Period (ns) after which the 24-bit time starts again from zero."""

# While words are read, an event is one number: column and polarity in bits 0 to 11, row in 16 to
# 27, time (µs) in 28 to 51. The context is the event that the next vector word starts from: the
# previous one with later changes, bit 12 set once vector words have left the widest sensor.
ROW_SHIFT = 16
TIME_SHIFT = 28
HIGH_SHIFT = 40
BEYOND = 1 << 12
LAST_COLUMN = 0x7FF
LANES = 12

SIMPLE = 1 << ADDR_Y | 1 << ADDR_X | 1 << VECT_BASE_X | 1 << TIME_LOW
"""Bit mask of the word types whose 12 bits replace a field of the context."""


def _fields() -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Tabulate, by word type, the context bits to keep and the shift of its 12 bits: [16] each."""
    keep = np.full(16, (1 << 64) - 1, np.uint64)
    shift = np.zeros(16, np.uint64)
    for kind, start, end in (
        (ADDR_X, 0, ROW_SHIFT),
        (VECT_BASE_X, 0, ROW_SHIFT),
        (ADDR_Y, ROW_SHIFT, TIME_SHIFT),
        (TIME_LOW, TIME_SHIFT, HIGH_SHIFT),
    ):
        keep[kind] ^= np.uint64((1 << end) - (1 << start))
        shift[kind] = start
    return keep, shift


def _columns() -> NDArray[np.uint8]:
    """List, for each mask of a vector word, its bits with the set ones first, [4096, LANES]."""
    ones = np.arange(1 << LANES)[:, None] >> np.arange(LANES) & 1
    return np.argsort(1 - ones, axis=1, kind="stable").astype(np.uint8)


KEEP, SHIFT = _fields()
COLUMNS = _columns()
SIZES = np.array([bin(mask).count("1") for mask in range(1 << LANES)], np.uint8)


@kernel
def count_events(words: NDArray[np.uint16]) -> int:
    """Count the events that words hold, inside the sensor or not.

    Four words at a time, in the lanes of one number, without a branch. (Numbers of 64 bits need
    not be aligned to be read, on the processors that numba compiles for.)
    """
    lane = np.uint64(0x0001000100010001)
    fours = words[: words.size // 4 * 4].view(np.uint64)
    total = 0
    for i in range(fours.size):
        four = fours[i]
        # The bits of the four types, at the bottom of each lane.
        b12, b13 = four >> np.uint64(12), four >> np.uint64(13)
        b14, b15 = four >> np.uint64(14), four >> np.uint64(15)
        single = ~b15 & ~b14 & b13 & ~b12 & lane
        vector = ~b15 & b14 & ~b13 & lane
        short = vector & b12
        # In each lane, ones where a vector word holds its mask: 12 of them, or 8.
        mask = (vector << np.uint64(12)) - vector - (short << np.uint64(12))
        mask += short << np.uint64(8)
        total += count_bits(four & mask | single)
    for word in words[fours.size * 4 :]:
        kind = word >> 12
        if kind == ADDR_X:
            total += 1
        elif kind in (VECT_12, VECT_8):
            total += SIZES[word & (0xFFF if kind == VECT_12 else 0xFF)]
    return total


@kernel
def find_time(words: NDArray[np.uint16], state: NDArray[np.int64]) -> tuple[int, int]:
    """Find the first TIME_LOW after a TIME_HIGH, without which no event has a time.

    Returns:
        Number of words up to and including it, and 1; or the number of all words, and 0.
    """
    for i in range(words.size):
        kind = words[i] >> 12
        if kind == TIME_HIGH:
            state[HAS_HIGH] = 1
        elif kind == TIME_LOW and state[HAS_HIGH]:
            return i + 1, 1
    return int(words.size), 0


@kernel
def unpack(arrays: Arrays, start: int, end: int, state: NDArray[np.int64]) -> None:
    """Split events, packed in ``t``, into columns, rows, polarities and times."""
    x, y, t, p = arrays
    offset = state[OFFSET]
    for i in range(start, end):
        event = t[i]
        x[i] = event & 0x7FF
        y[i] = event >> ROW_SHIFT & 0x7FF
        p[i] = event >> 11 & 1
        t[i] = offset + (event >> TIME_SHIFT) * 1000


@kernel
def take_other(
    word: int,
    now: int,
    state: NDArray[np.int64],
    trigger_t: NDArray[np.int64],
    trigger_code: NDArray[np.uint16],
) -> None:
    """Handle a word that carries neither time, address nor event."""
    kind = word >> 12
    if word == PADDING_WORD:
        state[PADDING] += 1
    elif kind in (OTHERS, CONTINUED_4, CONTINUED_12):
        state[SKIPPED] += 1
    elif kind != EXT_TRIGGER:
        state[UNKNOWN] += 1
    elif not state[HAS_TIME]:
        state[BEFORE_TIME] += 1
    else:
        push_trigger(now, (word >> 8 & 0xF) << 1 | word & 1, state, trigger_t, trigger_code)


@kernel
def read_words(
    words: NDArray[np.uint16],
    arrays: Arrays,
    state: NDArray[np.int64],
    trigger_t: NDArray[np.int64],
    trigger_code: NDArray[np.uint16],
) -> int:
    """Decode words into arrays that have room for their events and LANES more in ``t``.

    Returns:
        Number of events, including those outside the sensor.
    """
    packed = arrays[2]
    context = np.uint64(state[CONTEXT])
    n = np.uintp(0)
    start = 0
    for i in range(np.uintp(words.size)):
        word = np.uint64(words[i])
        kind = word >> np.uint64(12)
        value = word & np.uint64(0xFFF)
        if np.uint64(SIMPLE) >> kind & np.uint64(1):
            # Without a branch: every such word writes an event, only ADDR_X counts it.
            event = context & KEEP[kind] | value << SHIFT[kind]
            packed[n] = np.int64(event)
            is_event = kind == np.uint64(ADDR_X)
            n += np.uintp(is_event)
            context = context if is_event else event
        elif kind == np.uint64(VECT_12) or kind == np.uint64(VECT_8):
            lanes = np.uint64(LANES)
            if kind == np.uint64(VECT_8):
                lanes = np.uint64(8)
                value &= np.uint64(0xFF)
            column = context & np.uint64(BEYOND | LAST_COLUMN)
            step = lanes
            if column + lanes > np.uint64(LAST_COLUMN):
                room = max(np.int64(LAST_COLUMN + 1) - np.int64(column), 0)
                value &= (np.uint64(1) << np.uint64(min(room, LANES))) - np.uint64(1)
                context |= np.uint64(BEYOND)
                step = np.uint64(0)
            # All lanes are written, those that hold events first.
            for lane in range(LANES):
                packed[n + np.uintp(lane)] = np.int64(context + np.uint64(COLUMNS[value, lane]))
            n += np.uintp(SIZES[value])
            context += step
        elif kind == np.uint64(TIME_HIGH):
            before = context >> np.uint64(HIGH_SHIFT)
            if value != before:
                if before > value + np.uint64(HIGH_NOISE):
                    unpack(arrays, start, n, state)
                    start = n
                    state[OFFSET] += EPOCH
                    state[ROLL_OVERS] += 1
                context &= np.uint64((1 << TIME_SHIFT) - 1)
                context |= value << np.uint64(HIGH_SHIFT)
        else:
            now = state[OFFSET] + np.int64(context >> np.uint64(TIME_SHIFT)) * 1000
            take_other(np.int64(word), now, state, trigger_t, trigger_code)
    unpack(arrays, start, n, state)
    state[CONTEXT] = np.int64(context)
    return int(n)


@kernel
def drop_outside(arrays: Arrays, n: int, width: int, height: int) -> int:
    """Drop the events outside the sensor from the first `n`; return how many are left."""
    x, y, t, p = arrays
    last_column, last_row = np.uint16(width - 1), np.uint16(height - 1)
    outside = 0
    for i in range(n):
        outside += (x[i] > last_column) | (y[i] > last_row)
    if not outside:
        return n
    kept = 0
    for i in range(n):
        x[kept], y[kept], t[kept], p[kept] = x[i], y[i], t[i], p[i]
        kept += (x[kept] <= last_column) & (y[kept] <= last_row)
    return kept


@kernel
def decode_evt3(
    words: NDArray[np.uint16],
    time_base: int,  # noqa: ARG001 - one signature for all codecs
    state: NDArray[np.int64],
    trigger_t: NDArray[np.int64],
    trigger_code: NDArray[np.uint16],
) -> Arrays:
    """Decode whole words (see `decoder_state` for the arguments)."""
    state[WORDS] += words.size
    bound = count_events(words)
    arrays = make_arrays(bound, LANES)
    if not state[HAS_TIME]:
        start, found = find_time(words, state)
        timeless = count_events(words[:start])
        read_words(words[:start], arrays, state, trigger_t, trigger_code)
        state[BEFORE_TIME] += timeless
        state[HAS_TIME] = found
        bound -= timeless
        words = words[start:]
    n = read_words(words, arrays, state, trigger_t, trigger_code)
    n = drop_outside(arrays, n, state[WIDTH], state[HEIGHT])
    x, y, t, p = arrays
    clamp_monotonic(t[:n], state)
    state[EVENTS] += n
    state[OUT_OF_RANGE] += bound - n
    return x[:n], y[:n], t[:n], p[:n]
