"""State of a decoder between packets: one int64 array that every codec's kernel works on.

A kernel has the signature ``(words, time_base, state, trigger_t, trigger_code) -> (x, y, t, p)``:
it decodes whole words, starting from ``state``, and updates the position and the counters in it.
Indices below are plain integers because kernels compile them in.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scaleevent_ros.events.compile import kernel

Arrays = tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.int64], NDArray[np.uint8]]

# Geometry.
WIDTH = 0
HEIGHT = 1
# The clock: the time of the latest event (ns), the offset of decoded times from the stream's own
# (ns), and the high and low parts of the stream's own time, in the encoding's units.
LAST = 2
OFFSET = 3
HIGH = 4
LOW = 5
HAS_HIGH = 6
HAS_TIME = 7
TIME_BASE = 8
# State that a codec keeps between words: parts of an address, or (evt3) of a whole event.
CONTEXT = 9
COLUMN = 10
BASE = 11
POLARITY = 12
WORD_ORDER = 13
# Ring buffer of triggers that wait to be drained: index of the oldest entry, number of entries.
TRIGGER_START = 14
TRIGGER_COUNT = 15
LAST_TRIGGER = 16
# Counters, in the order of DecoderStats.
COUNTERS = 17
WORDS = 17
EVENTS = 18
TRIGGERS = 19
OUT_OF_RANGE = 20
BEFORE_TIME = 21
UNKNOWN = 22
PADDING = 23
SKIPPED = 24
ROLL_OVERS = 25
BACKWARD = 26
RESETS = 27
TRIGGERS_LOST = 28
TRUNCATED_BYTES = 29
STATE_SIZE = 30

LITTLE = 1
LEGACY = 2

NEVER = np.iinfo(np.int64).min
"""Initial value of the clock, before any time."""

BACKWARD_TOLERANCE = 40_960_000
"""Maximum step back of a clock (ns) that is noise; a larger one is a reset.

Ten units of EVT3's TIME_HIGH, as in the ROS drivers' codecs.
"""


def new_state(width: int, height: int) -> NDArray[np.int64]:
    """Return the initial state of a decoder."""
    state = np.zeros(STATE_SIZE, np.int64)
    state[WIDTH], state[HEIGHT] = width, height
    state[LAST] = state[LAST_TRIGGER] = NEVER
    return state


@kernel
def make_arrays(size: int, slack: int) -> Arrays:
    """Allocate arrays for ``size`` events, with ``slack`` more elements in ``t``."""
    return (
        np.empty(size, np.uint16),
        np.empty(size, np.uint16),
        np.empty(size + slack, np.int64),
        np.empty(size, np.uint8),
    )


@kernel
def unwrap_time(clock: int, last: int, state: NDArray[np.int64]) -> int:
    """Unwrap the stream's own time (ns) to one that never runs backwards.

    While the clock is a little behind, time stands at `last` (counted in ``BACKWARD``). A clock
    that is far behind was reset, and continues from `last` (counted in ``RESETS``).
    """
    t = clock + state[OFFSET]
    if t >= last:
        return int(t)
    if np.uint64(last) - np.uint64(t) > np.uint64(BACKWARD_TOLERANCE):
        state[OFFSET] += last - t
        state[RESETS] += 1
    else:
        state[BACKWARD] += 1
    return last


@kernel
def clamp_monotonic(t: NDArray[np.int64], state: NDArray[np.int64]) -> None:
    """Clamp times to their running maximum, in place (counted in ``BACKWARD``)."""
    if not t.size:
        return
    last = state[LAST]
    before, after = t[:-1], t[1:]
    steps_back = int(t[0] < last)
    for i in range(after.size):
        steps_back += after[i] < before[i]
    if steps_back:
        for i in range(t.size):
            state[BACKWARD] += t[i] < last
            last = max(last, t[i])
            t[i] = last
    state[LAST] = t[t.size - 1]


@kernel
def count_bits(bits: int) -> int:
    """Count the ones in 64 bits, in a way that compilers turn into one instruction."""
    bits = np.uint64(bits)
    bits -= bits >> np.uint64(1) & np.uint64(0x5555555555555555)
    twos = np.uint64(0x3333333333333333)
    bits = (bits & twos) + (bits >> np.uint64(2) & twos)
    bits = bits + (bits >> np.uint64(4)) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return int(np.int64(bits * np.uint64(0x0101010101010101) >> np.uint64(56)))


@kernel
def push_trigger(
    t: int,
    code: int,
    state: NDArray[np.int64],
    trigger_t: NDArray[np.int64],
    trigger_code: NDArray[np.uint16],
) -> None:
    """Append a trigger (``code`` is id << 1 | edge) to the ring; a full ring drops its oldest."""
    capacity = trigger_t.size
    start, count = state[TRIGGER_START], state[TRIGGER_COUNT]
    slot = np.uintp((start + count) % capacity)
    if t < state[LAST_TRIGGER]:
        t = state[LAST_TRIGGER]
        state[BACKWARD] += 1
    state[LAST_TRIGGER] = t
    trigger_t[slot] = t
    trigger_code[slot] = code
    state[TRIGGERS] += 1
    if count < capacity:
        state[TRIGGER_COUNT] = count + 1
    else:
        state[TRIGGER_START] = (start + 1) % capacity
        state[TRIGGERS_LOST] += 1
