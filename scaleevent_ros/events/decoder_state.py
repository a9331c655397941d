"""What a decoder remembers between packets: one int64 array that every codec's kernel works on.

A kernel has the signature ``(words, time_base, state, trigger_t, trigger_code) -> (x, y, t, p)``:
it reads whole words, continues from ``state``, and leaves there where it stopped and what it
counted. Indices below are plain integers because kernels compile them in.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scaleevent_ros.events.compile import kernel

Arrays = tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.int64], NDArray[np.uint8]]

# Geometry.
WIDTH = 0
HEIGHT = 1
# The clock: the time of the latest event (ns), what is added to the stream's own time (ns), the
# high and the low part of that time as the encoding counts them.
LAST = 2
OFFSET = 3
HIGH = 4
LOW = 5
HAS_HIGH = 6
HAS_TIME = 7
TIME_BASE = 8
# The address that a codec keeps from word to word.
ROW = 9
COLUMN = 10
BASE = 11
POLARITY = 12
WORD_ORDER = 13
# Triggers that wait to be drained: a ring, its oldest entry and how many it holds.
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
STATE_SIZE = 29

LITTLE = 1
LEGACY = 2

NEVER = np.iinfo(np.int64).min
"""Before any time: where the clock starts."""

BACKWARD_TOLERANCE = 40_960_000
"""A clock that steps back by no more (ns) is noise; by more, it was set anew.

Ten units of EVT3's TIME_HIGH, as in the ROS drivers' codecs.
"""


def new_state(width: int, height: int) -> NDArray[np.int64]:
    """Make the state of a decoder that has seen nothing."""
    state = np.zeros(STATE_SIZE, np.int64)
    state[WIDTH], state[HEIGHT] = width, height
    state[LAST] = state[LAST_TRIGGER] = NEVER
    return state


@kernel
def settle(clock: int, last: int, state: NDArray[np.int64]) -> int:
    """Turn the stream's own time (ns) into one that never runs backwards.

    A small step back holds the time at `last` (counted in ``BACKWARD``); a large one is a clock
    that was set anew, which goes on from `last` (counted in ``RESETS``).
    """
    t = clock + state[OFFSET]
    if t >= last:
        return t
    if np.uint64(last) - np.uint64(t) > np.uint64(BACKWARD_TOLERANCE):
        state[OFFSET] += last - t
        state[RESETS] += 1
    else:
        state[BACKWARD] += 1
    return last


@kernel
def push_trigger(
    t: int,
    code: int,
    state: NDArray[np.int64],
    trigger_t: NDArray[np.int64],
    trigger_code: NDArray[np.uint16],
) -> None:
    """Append a trigger (``code`` is id << 1 | edge) to the ring; a full one loses its oldest."""
    capacity = trigger_t.size
    start, count = state[TRIGGER_START], state[TRIGGER_COUNT]
    slot = np.uintp((start + count) % capacity)
    state[LAST_TRIGGER] = max(t, state[LAST_TRIGGER])
    trigger_t[slot] = state[LAST_TRIGGER]
    trigger_code[slot] = code
    state[TRIGGERS] += 1
    if count < capacity:
        state[TRIGGER_COUNT] = count + 1
    else:
        state[TRIGGER_START] = (start + 1) % capacity
        state[TRIGGERS_LOST] += 1
