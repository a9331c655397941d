"""EVT3, Prophesee's 16-bit vectorized format: decoding kernel and encoding kernel.

Words of 16 bits, little-endian, the type in the top 4 bits; an address or a time holds until the
next word that changes it. Source: "EVT 3.0 Format", docs.prophesee.ai, Metavision SDK 5. As in
Prophesee's own decoder, a TIME_HIGH that differs from the one before sets the low part to zero.
As in the ROS drivers' decoder, a roll-over is a TIME_HIGH that drops by more than 10.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scaleevent_ros.events.compile import kernel
from scaleevent_ros.events.decoder_state import (
    BACKWARD,
    BASE,
    BEFORE_TIME,
    EVENTS,
    HAS_HIGH,
    HAS_TIME,
    HEIGHT,
    HIGH,
    LAST,
    LOW,
    OFFSET,
    OUT_OF_RANGE,
    PADDING,
    POLARITY,
    ROLL_OVERS,
    ROW,
    SKIPPED,
    UNKNOWN,
    WIDTH,
    WORDS,
    Arrays,
    push_trigger,
)

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
EPOCH = (1 << 24) * 1000
"""The time (ns) after which the 24 bits on the wire start again."""
LANES = 16
"""Events that one vector word may write, whatever it holds: the slack at the end of arrays."""


def _columns_of_masks() -> NDArray[np.uint16]:
    """List, for each 12-bit mask, the numbers of its set bits: uint16 [4096, LANES]."""
    bits = np.arange(4096)[:, None] >> np.arange(12) & 1
    columns = np.zeros((4096, LANES), np.uint16)
    columns[:, :12] = np.argsort(1 - bits, axis=1, kind="stable")
    return columns


COLUMNS = _columns_of_masks()
SIZES = (np.arange(4096)[:, None] >> np.arange(12) & 1).sum(axis=1).astype(np.uint8)


@kernel
def count_events(words: NDArray[np.uint16]) -> int:
    """Count the events that words hold, inside the sensor or not."""
    total = 0
    for word in words:
        kind = word >> 12
        if kind == ADDR_X:
            total += 1
        elif kind == VECT_12:
            total += SIZES[word & 0xFFF]
        elif kind == VECT_8:
            total += SIZES[word & 0xFF]
    return total


@kernel
def take_time_high(word: int, state: NDArray[np.int64]) -> None:
    """Take the upper half of the clock from a TIME_HIGH word."""
    high = word & 0xFFF
    before = state[HIGH]
    if high == before and state[HAS_HIGH]:
        return
    if before - high > HIGH_NOISE:
        state[OFFSET] += EPOCH
        state[ROLL_OVERS] += 1
    state[HAS_HIGH] = 1
    state[HIGH] = high
    state[LOW] = 0


@kernel
def clock(state: NDArray[np.int64]) -> int:
    """Return the stream's time in ns."""
    return state[OFFSET] + ((state[HIGH] << 12) + state[LOW]) * 1000


@kernel
def take_other(word: int, state: NDArray[np.int64]) -> None:
    """Count a word that carries neither time, address, event nor trigger."""
    kind = word >> 12
    if word == PADDING_WORD:
        state[PADDING] += 1
    elif kind in (OTHERS, CONTINUED_4, CONTINUED_12):
        state[SKIPPED] += 1
    else:
        state[UNKNOWN] += 1


@kernel
def find_time(words: NDArray[np.uint16], state: NDArray[np.int64]) -> int:
    """Skip words up to the first TIME_LOW after a TIME_HIGH, without which no event has a time.

    Returns:
        How many words were skipped; the next one has a time.
    """
    for i in range(words.size):
        kind = words[i] >> 12
        if kind == TIME_HIGH:
            take_time_high(words[i], state)
        elif kind == TIME_LOW and state[HAS_HIGH]:
            state[LOW] = words[i] & 0xFFF
            state[HAS_TIME] = 1
            return i + 1
    return words.size


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
    if not state[HAS_TIME]:
        start = find_time(words, state)
        state[BEFORE_TIME] += count_events(words[:start])
        words = words[start:]
    bound = count_events(words)
    size = bound + LANES
    x = np.empty(size, np.uint16)
    y = np.empty(size, np.uint16)
    t = np.empty(size, np.int64)
    p = np.empty(size, np.uint8)
    width, height = state[WIDTH], state[HEIGHT]
    row, base, polarity = state[ROW], state[BASE], state[POLARITY]
    now = max(clock(state), state[LAST])
    n = 0
    for i in range(words.size):
        word = np.int64(words[i])
        kind = word >> 12
        if kind == ADDR_X:
            column = word & 0x7FF
            if column < width and row < height:
                x[n] = column
                y[n] = row
                t[n] = now
                p[n] = word >> 11 & 1
                n += 1
        elif kind == ADDR_Y:
            row = word & 0x7FF
        elif kind in (TIME_LOW, TIME_HIGH):
            if kind == TIME_LOW:
                state[LOW] = word & 0xFFF
            else:
                take_time_high(word, state)
            now = clock(state)
            last = t[n - 1] if n else state[LAST]
            if now < last:
                state[BACKWARD] += 1
                now = last
        elif kind == VECT_BASE_X:
            base = word & 0x7FF
            polarity = word >> 11 & 1
        elif kind in (VECT_12, VECT_8):
            lanes = 12 if kind == VECT_12 else 8
            mask = word & ((1 << lanes) - 1)
            for bit in range(lanes):
                if mask >> bit & 1 and base + bit < width and row < height:
                    x[n] = base + bit
                    y[n] = row
                    t[n] = now
                    p[n] = polarity
                    n += 1
            base += lanes
        elif kind == EXT_TRIGGER:
            push_trigger(now, (word >> 8 & 0xF) << 1 | word & 1, state, trigger_t, trigger_code)
        else:
            take_other(word, state)
    if n:
        state[LAST] = t[n - 1]
    state[ROW], state[BASE], state[POLARITY] = row, base, polarity
    state[EVENTS] += n
    state[OUT_OF_RANGE] += bound - n
    return x[:n], y[:n], t[:n], p[:n]


MAX_SIDE = 1 << 11
"""Of a sensor whose addresses fit the words, in pixels."""

GROUP = 32
"""Columns that the words VECT_12, VECT_12, VECT_8 cover together.

Sensors always send the three, and Prophesee's decoder reads them as one.
"""

GROUP_WORDS = 3


@kernel
def write_high(high: int, before: int, words: NDArray[np.uint16], n: int) -> int:
    """Write TIME_HIGH words that lead a decoder from one time to a later one.

    Args:
        high: The new time, in units of 4096 µs, all its bits.
        before: The time in the words before, alike.
        words: The words written so far.
        n: How many they are.

    Returns:
        How many words there are now.
    """
    epochs = (high >> 12) - (before >> 12)
    # Any decoder sees a roll-over in a drop by half the range or more.
    if epochs and (before & 0xFFF) - (high & 0xFFF) >= 1 << 11:
        epochs -= 1
    for _ in range(epochs):
        words[n] = TIME_HIGH << 12 | 0xFFF
        words[n + 1] = TIME_HIGH << 12
        n += 2
    words[n] = TIME_HIGH << 12 | high & 0xFFF
    return n + 1


@kernel
def measure_run(x: NDArray[np.uint16], start: int, end: int) -> tuple[int, int]:
    """Measure how far vector words would reach that start at an event.

    They go on as long as each group of words saves some.

    Args:
        x: Columns of events, of which those in ``start`` to ``end`` are of one row, one time and
            one polarity, and ascend.
        start: The first of them.
        end: Behind the last of them.

    Returns:
        How many groups there are, and the number of the first event behind them.
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
    """Write the vector words of events ``start`` to ``end``, and count all words."""
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
    """Encode events, starting with their time and their row, in their order.

    Args:
        batch: x and y below 2048, t (ns) non-decreasing, p.
        origin: The time (ns) that is zero on the wire.
        high: The time of the words before, in units of 4096 µs.
        words: Room for 4 words an event, and 2 for each roll-over.

    Returns:
        How many words were written.
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
