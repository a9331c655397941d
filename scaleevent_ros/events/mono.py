"""The deprecated encoding `mono`: 64 bits an event, times in ns from the packet's ``time_base``.

Source: ros-event-camera/event_camera_msgs, README.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scaleevent_ros.events.compile import kernel
from scaleevent_ros.events.decoder_state import (
    EVENTS,
    HEIGHT,
    LAST,
    OUT_OF_RANGE,
    WIDTH,
    WORDS,
    Arrays,
    make_arrays,
    settle,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


@kernel
def decode_mono(
    halves: NDArray[np.uint32],
    time_base: int,
    state: NDArray[np.int64],
    trigger_t: NDArray[np.int64],  # noqa: ARG001 - one signature for all codecs
    trigger_code: NDArray[np.uint16],  # noqa: ARG001
) -> Arrays:
    """Decode whole events of two halves, time and address (see `decoder_state`)."""
    size = halves.size // 2
    state[WORDS] += size
    x, y, t, p = make_arrays(size, 0)
    last = state[LAST]
    n = 0
    for i in range(size):
        address = np.int64(halves[2 * i + 1])
        column, row = address & 0xFFFF, address >> 16 & 0x7FFF
        if column < state[WIDTH] and row < state[HEIGHT]:
            last = settle(time_base + np.int64(halves[2 * i]), last, state)
            x[n], y[n], t[n], p[n] = column, row, last, address >> 31
            n += 1
        else:
            state[OUT_OF_RANGE] += 1
    state[LAST] = last
    state[EVENTS] += n
    return x[:n], y[:n], t[:n], p[:n]
