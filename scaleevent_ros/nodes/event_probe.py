"""Counts and dates the events of a packet without decoding it, with numpy alone.

The decoders need numba and with it LLVM: 125 MB that a recorder on a small robot should not hold,
and seconds of compiling while messages wait. Here, words are counted by their type, and only the
first time in a packet is read. Encodings: see `scaleevent_ros.events.decoder`.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from scaleevent_ros.bags.messages import EventPacketView

_HEAD_BYTES = 8192
"""In which an EVT stream names the time; it does so many times in that many bytes."""
_ONES = (np.arange(4096)[:, None] >> np.arange(12) & 1).sum(axis=1)


class _Words(NamedTuple):
    """Which words of an encoding hold events.

    Attributes:
        dtype: Of a word, whose top four bits are its type.
        singles: Types of words that hold one event.
        vectors: Masks of the bits that hold one event each, by the type of the word.
    """

    dtype: np.dtype[Any]
    singles: tuple[int, ...]
    vectors: Mapping[int, int]


_WORDS = {
    "evt3": _Words(np.dtype("<u2"), (2,), {4: 0xFFF, 5: 0xFF}),
    "evt2": _Words(np.dtype("<u4"), (0, 1), {}),
    "libcaer_cmp": _Words(np.dtype("<u2"), (3,), {5: 0xFF}),
}
_EVENT_BYTES = {"libcaer": 8, "mono": 8}

WRAP_NS = {"evt3": (1 << 24) * 1000, "evt2": (1 << 34) * 1000}
"""When the clock on the wire starts again."""


def count_events(packet: EventPacketView) -> int | None:
    """Count the events of a packet, those outside the sensor included.

    Returns:
        Their number, or None for an encoding that is not known here (`evt21`, whose order of
        words differs between sensors).
    """
    if size := _EVENT_BYTES.get(packet.encoding):
        return len(packet.payload) // size
    encoding = _WORDS.get(packet.encoding)
    if encoding is None:
        return None
    words = _view(packet.payload, encoding.dtype)
    kinds = _kinds(words)
    total = sum(int(np.count_nonzero(kinds == kind)) for kind in encoding.singles)
    for kind, mask in encoding.vectors.items():
        total += int(_ONES[words[kinds == kind] & mask].sum())
    return total


def first_time(packet: EventPacketView) -> int | None:
    """Read the first time in a packet.

    Returns:
        In ns of the sensor's clock, modulo `WRAP_NS` where the encoding is in it; None where the
        packet holds none, or its encoding is not known here.
    """
    if packet.encoding in ("libcaer", "libcaer_cmp", "mono"):
        return packet.time_base or None
    encoding = _WORDS.get(packet.encoding)
    if encoding is None:
        return None
    words = _view(packet.payload[:_HEAD_BYTES], encoding.dtype)
    kinds = _kinds(words)
    (highs,) = np.nonzero(kinds == 8)
    if not len(highs):
        return None
    high = int(words[highs[0]])
    if packet.encoding == "evt2":
        return ((high & 0xFFFFFFF) << 6) * 1000
    (lows,) = np.nonzero(kinds[highs[0] :] == 6)
    if not len(lows):
        return None
    return ((high & 0xFFF) << 12 | int(words[highs[0] + lows[0]]) & 0xFFF) * 1000


class ClockResidual:
    """How far the host's stamps of packets stray from a line over the sensor's clock.

    A figure to watch while recording. `scaleevent_ros.events.SensorClock`, which maps times, finds
    the lower edge of the stamps instead of their middle, and needs numba for it.

    Args:
        wrap_ns: When the sensor's clock starts again; 0 for never.
        length: Packets that are looked at, the latest.
    """

    def __init__(self, wrap_ns: int, length: int = 500) -> None:
        self._wrap_ns = wrap_ns
        self._pairs: deque[tuple[int, int]] = deque(maxlen=length)

    def add(self, sensor_ns: int, host_ns: int) -> None:
        """Add a packet's first sensor time and its stamp."""
        if self._pairs:
            sensor_before, host_before = self._pairs[-1]
            if self._wrap_ns:
                # The host's clock says how often the sensor's started again in between.
                guess = sensor_before + host_ns - host_before
                sensor_ns += round((guess - sensor_ns) / self._wrap_ns) * self._wrap_ns
            if sensor_ns <= sensor_before:
                self._pairs.clear()
        self._pairs.append((sensor_ns, host_ns))

    @property
    def ms(self) -> float | None:
        """Standard deviation of the stamps around the line, or None for too few packets."""
        if len(self._pairs) < 10:
            return None
        pairs = np.array(self._pairs, np.int64)
        sensor, host = (pairs - pairs[0]).T.astype(float) / 1e6
        slope, offset = np.polyfit(sensor, host, 1)
        return float(np.std(host - (slope * sensor + offset)))


def _view(payload: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.frombuffer(payload, dtype, len(payload) // dtype.itemsize)


def _kinds(words: NDArray[Any]) -> NDArray[Any]:
    return words >> (8 * words.itemsize - 4)
