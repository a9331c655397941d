"""Encodings of libcaer cameras (DAVIS, DVXplorer), `libcaer` and `libcaer_cmp`, and `mono`.

Packets carry a ``time_base`` (ns), to which the times inside (µs; ns in `mono`) are added.
Source: ros-event-camera/event_camera_msgs, README, and its codecs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scaleevent_ros.events.compile import kernel
from scaleevent_ros.events.decoder_state import (
    BASE,
    COLUMN,
    EVENTS,
    HEIGHT,
    HIGH,
    LAST,
    LOW,
    OUT_OF_RANGE,
    POLARITY,
    ROLL_OVERS,
    UNKNOWN,
    WIDTH,
    WORDS,
    Arrays,
    count_bits,
    make_arrays,
    unwrap_time,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

TIME_HIGH = 0
TIME_LOW = 1
ADDR_X = 2
ADDR_Y = 3
VECT_BASE_Y = 4
VECT_8 = 5

EPOCH = (1 << 31) * 1000
"""Period (ns) after which the 31-bit time of an uncompressed event starts again from zero."""


@kernel
def decode_libcaer_cmp(
    words: NDArray[np.uint16],
    time_base: int,
    state: NDArray[np.int64],
    trigger_t: NDArray[np.int64],  # noqa: ARG001 - one signature for all codecs
    trigger_code: NDArray[np.uint16],  # noqa: ARG001
) -> Arrays:
    """Decode whole words (see `decoder_state` for the arguments)."""
    state[WORDS] += words.size
    size = 0
    for word in words:
        kind = word >> 12
        if kind == ADDR_Y:
            size += 1
        elif kind == VECT_8:
            size += count_bits(np.int64(word & 0xFF))
    x, y, t, p = make_arrays(size, 0)
    width, height = state[WIDTH], state[HEIGHT]
    column, base, polarity = state[COLUMN], state[BASE], state[POLARITY]
    last = state[LAST]
    n = 0
    for i in range(words.size):
        word = np.int64(words[i])
        kind = word >> 12
        if kind == TIME_HIGH:
            state[HIGH] = word & 0xFFF
        elif kind == TIME_LOW:
            state[LOW] = word & 0xFFF
        elif kind == ADDR_X:
            column = word & 0x7FF
        elif kind == VECT_BASE_Y:
            base = word & 0x7FF
            polarity = word >> 11 & 1
        elif kind in (ADDR_Y, VECT_8):
            if kind == ADDR_Y:
                start, valid, brighter = word & 0x7FF, 1, word >> 11 & 1
            else:
                start, valid, brighter = base, word & 0xFF, polarity
                base += 8
            while valid:
                lowest = valid & -valid
                row = start + count_bits(lowest - 1)
                valid ^= lowest
                if column < width and row < height:
                    now = time_base + (state[HIGH] << 12 | state[LOW]) * 1000
                    last = unwrap_time(now, last, state)
                    x[n], y[n], t[n], p[n] = column, row, last, brighter
                    n += 1
                else:
                    state[OUT_OF_RANGE] += 1
        else:
            state[UNKNOWN] += 1
    state[COLUMN], state[BASE], state[POLARITY] = column, base, polarity
    state[LAST] = last
    state[EVENTS] += n
    return x[:n], y[:n], t[:n], p[:n]


@kernel
def decode_libcaer(
    halves: NDArray[np.uint32],
    time_base: int,
    state: NDArray[np.int64],
    trigger_t: NDArray[np.int64],  # noqa: ARG001 - one signature for all codecs
    trigger_code: NDArray[np.uint16],  # noqa: ARG001
) -> Arrays:
    """Decode whole events of two halves, address and time (see `decoder_state`)."""
    size = halves.size // 2
    state[WORDS] += size
    x, y, t, p = make_arrays(size, 0)
    last = state[LAST]
    n = 0
    for i in range(size):
        address = np.int64(halves[2 * i])
        # A signed number of µs, never negative in libcaer, which uses its 31 bits.
        low = np.int64(halves[2 * i + 1]) & 0x7FFFFFFF
        if state[LOW] - low > 1 << 30:
            state[HIGH] += 1
            state[ROLL_OVERS] += 1
        state[LOW] = low
        column, row = address >> 17 & 0x7FFF, address >> 2 & 0x7FFF
        if column < state[WIDTH] and row < state[HEIGHT]:
            last = unwrap_time(time_base + state[HIGH] * EPOCH + low * 1000, last, state)
            x[n], y[n], t[n], p[n] = column, row, last, address >> 1 & 1
            n += 1
        else:
            state[OUT_OF_RANGE] += 1
    state[LAST] = last
    state[EVENTS] += n
    return x[:n], y[:n], t[:n], p[:n]


@kernel
def decode_mono(
    halves: NDArray[np.uint32],
    time_base: int,
    state: NDArray[np.int64],
    trigger_t: NDArray[np.int64],  # noqa: ARG001 - one signature for all codecs
    trigger_code: NDArray[np.uint16],  # noqa: ARG001
) -> Arrays:
    """Decode whole events of the deprecated encoding `mono`: halves of time (ns) and address."""
    size = halves.size // 2
    state[WORDS] += size
    x, y, t, p = make_arrays(size, 0)
    last = state[LAST]
    n = 0
    for i in range(size):
        address = np.int64(halves[2 * i + 1])
        column, row = address & 0xFFFF, address >> 16 & 0x7FFF
        if column < state[WIDTH] and row < state[HEIGHT]:
            last = unwrap_time(time_base + np.int64(halves[2 * i]), last, state)
            x[n], y[n], t[n], p[n] = column, row, last, address >> 31
            n += 1
        else:
            state[OUT_OF_RANGE] += 1
    state[LAST] = last
    state[EVENTS] += n
    return x[:n], y[:n], t[:n], p[:n]
