"""EVT2 and EVT2.1, Prophesee's 32-bit and 64-bit formats: decoding and encoding kernels.

Every event carries its address and the low 6 bits of its time; TIME_HIGH words carry the upper 28.
An EVT2.1 word holds up to 32 events of one row; its two halves travel in either order. Sources:
"EVT 2.0 Format" and "EVT 2.1 Format", docs.prophesee.ai, Metavision SDK 5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scaleevent_ros.events.compile import kernel
from scaleevent_ros.events.decoder_state import (
    BEFORE_TIME,
    EVENTS,
    HAS_TIME,
    HEIGHT,
    HIGH,
    LAST,
    LAST_TRIGGER,
    LEGACY,
    LITTLE,
    OFFSET,
    OUT_OF_RANGE,
    PADDING,
    ROLL_OVERS,
    SKIPPED,
    UNKNOWN,
    WIDTH,
    WORD_ORDER,
    WORDS,
    Arrays,
    count_bits,
    make_arrays,
    push_trigger,
    unwrap_time,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

CD_ON = 1
TIME_HIGH = 8
EXT_TRIGGER = 10
OTHERS = 14
CONTINUED = 15

PADDING_WORD = 0x99999999
EPOCH = (1 << 34) * 1000
"""Period (ns) after which the 34-bit time starts again from zero."""


@kernel
def take_time_high(word: int, state: NDArray[np.int64]) -> None:
    """Read the upper 28 bits of the clock from a TIME_HIGH word."""
    high = word & 0xFFFFFFF
    if state[HIGH] - high >= 1 << 27:
        state[OFFSET] += EPOCH
        state[ROLL_OVERS] += 1
    state[HIGH] = high
    state[HAS_TIME] = 1


@kernel
def take_trigger(
    word: int,
    state: NDArray[np.int64],
    trigger_t: NDArray[np.int64],
    trigger_code: NDArray[np.uint16],
) -> None:
    """Queue the edge in an EXT_TRIGGER word, if its time is known."""
    if not state[HAS_TIME]:
        state[BEFORE_TIME] += 1
        return
    now = (state[HIGH] << 6 | (word >> 22 & 0x3F)) * 1000
    t = unwrap_time(now, max(state[LAST], state[LAST_TRIGGER]), state)
    push_trigger(t, (word >> 8 & 0x1F) << 1 | word & 1, state, trigger_t, trigger_code)


@kernel
def take_other(word: int, state: NDArray[np.int64]) -> None:
    """Count a word that carries neither time, event nor trigger."""
    kind = word >> 28
    if word == PADDING_WORD:
        state[PADDING] += 1
    elif kind in (OTHERS, CONTINUED):
        state[SKIPPED] += 1
    else:
        state[UNKNOWN] += 1


@kernel
def decode_evt2(
    words: NDArray[np.uint32],
    time_base: int,  # noqa: ARG001 - one signature for all codecs
    state: NDArray[np.int64],
    trigger_t: NDArray[np.int64],
    trigger_code: NDArray[np.uint16],
) -> Arrays:
    """Decode whole words (see `decoder_state` for the arguments)."""
    state[WORDS] += words.size
    x, y, t, p = make_arrays(words.size, 0)
    n = 0
    last = state[LAST]
    for i in range(words.size):
        word = np.int64(words[i])
        kind = word >> 28
        if kind <= CD_ON:
            column, row = word >> 11 & 0x7FF, word & 0x7FF
            if not state[HAS_TIME]:
                state[BEFORE_TIME] += 1
            elif column < state[WIDTH] and row < state[HEIGHT]:
                last = unwrap_time((state[HIGH] << 6 | (word >> 22 & 0x3F)) * 1000, last, state)
                x[n], y[n], t[n], p[n] = column, row, last, kind
                n += 1
            else:
                state[OUT_OF_RANGE] += 1
        elif kind == TIME_HIGH:
            take_time_high(word, state)
        elif kind == EXT_TRIGGER:
            state[LAST] = last
            take_trigger(word, state, trigger_t, trigger_code)
        else:
            take_other(word, state)
    state[LAST] = last
    state[EVENTS] += n
    return x[:n], y[:n], t[:n], p[:n]


@kernel
def find_word_order(halves: NDArray[np.uint32], state: NDArray[np.int64]) -> int:
    """Skip 64-bit words up to the first TIME_HIGH, which determines the order of the halves.

    One of its halves is all zeros, the other starts with the type.

    Returns:
        Number of words skipped.
    """
    count = halves.size // 2
    for i in range(count):
        first, second = halves[2 * i], halves[2 * i + 1]
        if first == 0 and second >> 28 == TIME_HIGH:
            state[WORD_ORDER] = LITTLE
            return i
        if second == 0 and first >> 28 == TIME_HIGH:
            state[WORD_ORDER] = LEGACY
            return i
    return count


@kernel
def decode_evt21(
    halves: NDArray[np.uint32],
    time_base: int,  # noqa: ARG001 - one signature for all codecs
    state: NDArray[np.int64],
    trigger_t: NDArray[np.int64],
    trigger_code: NDArray[np.uint16],
) -> Arrays:
    """Decode whole words, given as pairs of halves (see `decoder_state` for the arguments).

    Words before the first TIME_HIGH are counted in ``BEFORE_TIME``.
    """
    state[WORDS] += halves.size // 2
    if not state[WORD_ORDER]:
        start = find_word_order(halves, state)
        state[BEFORE_TIME] += start
        halves = halves[2 * start :]
    head = np.uintp(1 if state[WORD_ORDER] == LITTLE else 0)
    size = 0
    for i in range(0, halves.size, 2):
        if halves[np.uintp(i) + head] >> 28 <= CD_ON:
            size += count_bits(np.int64(halves[np.uintp(i) + (np.uintp(1) - head)]))
    x, y, t, p = make_arrays(size, 0)
    n = 0
    last = state[LAST]
    for i in range(0, halves.size, 2):
        word = np.int64(halves[np.uintp(i) + head])
        valid = np.int64(halves[np.uintp(i) + (np.uintp(1) - head)])
        kind = word >> 28
        if kind <= CD_ON:
            column, row = word >> 11 & 0x7FF, word & 0x7FF
            count = count_bits(valid)
            if not state[HAS_TIME]:
                state[BEFORE_TIME] += count
                continue
            if row < state[HEIGHT] and column < state[WIDTH]:
                inside = valid & ((1 << min(32, state[WIDTH] - column)) - 1)
            else:
                inside = 0
            state[OUT_OF_RANGE] += count - count_bits(inside)
            now = (state[HIGH] << 6 | (word >> 22 & 0x3F)) * 1000
            while inside:
                last = unwrap_time(now, last, state)
                lowest = inside & -inside
                x[n], y[n], t[n], p[n] = column + count_bits(lowest - 1), row, last, kind
                n += 1
                inside ^= lowest
        elif kind == TIME_HIGH:
            take_time_high(word, state)
        elif kind == EXT_TRIGGER:
            state[LAST] = last
            take_trigger(word, state, trigger_t, trigger_code)
        else:
            take_other(word, state)
    state[LAST] = last
    state[EVENTS] += n
    return x[:n], y[:n], t[:n], p[:n]


MAX_SIDE = 1 << 11
"""Maximum width and height of a sensor whose addresses fit the words, in pixels."""


@kernel
def encode_evt2_words(
    batch: Arrays,
    origin: int,
    high: int,
    words: NDArray[np.uint32],
) -> int:
    """Encode events in their order, starting with a TIME_HIGH word.

    Args:
        batch: x and y below 2048, t (ns) non-decreasing, p.
        origin: Time (ns) that is encoded as zero.
        high: Time of the previous words in units of 64 µs, not cut to 28 bits.
        words: Output, with room for 2 words an event and 2 for each roll-over.

    Returns:
        Number of words written.
    """
    x, y, t, p = batch
    n = 0
    for i in range(x.size):
        now = (t[i] - origin) // 1000
        if i == 0 or now >> 6 != high:
            for _ in range((now >> 34) - (high >> 28)):
                # A drop that every decoder takes for a roll-over.
                words[n] = TIME_HIGH << 28 | 0xFFFFFFF
                words[n + 1] = TIME_HIGH << 28
                n += 2
            high = now >> 6
            words[n] = TIME_HIGH << 28 | high & 0xFFFFFFF
            n += 1
        words[n] = np.int64(p[i]) << 28 | (now & 0x3F) << 22 | np.int64(x[i]) << 11 | y[i]
        n += 1
    return n
