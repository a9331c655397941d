"""Streaming decoders of event packets, one for each encoding that cameras' drivers publish."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scaleevent_ros.events import decoder_state as state_of
from scaleevent_ros.events.batch import EventBatch, Triggers
from scaleevent_ros.events.errors import EventsError, UnknownEncodingError
from scaleevent_ros.events.evt2 import decode_evt2, decode_evt21
from scaleevent_ros.events.evt3 import decode_evt3
from scaleevent_ros.events.libcaer import decode_libcaer, decode_libcaer_cmp, decode_mono

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

MAX_SIDE = 1 << 16
"""Maximum width and height of a sensor in pixels: coordinates are uint16."""

TRIGGER_CAPACITY = 1 << 16
"""Maximum number of edges kept until `Decoder.triggers` is called: a minute at 1 kHz."""


@dataclass(frozen=True, slots=True)
class Codec:
    """Word format and decoding kernel of one encoding.

    Attributes:
        decode: The kernel (see `decoder_state`).
        dtype: Data type of the words.
        word_bytes: Bytes of one word.
        in_packets: Whether time restarts with each packet's ``time_base``.
    """

    decode: Callable[..., state_of.Arrays]
    dtype: np.dtype[Any]
    word_bytes: int
    in_packets: bool


CODECS = {
    "evt3": Codec(decode_evt3, np.dtype("<u2"), 2, in_packets=False),
    "evt2": Codec(decode_evt2, np.dtype("<u4"), 4, in_packets=False),
    "evt21": Codec(decode_evt21, np.dtype("<u4"), 8, in_packets=False),
    "libcaer": Codec(decode_libcaer, np.dtype("<u4"), 8, in_packets=True),
    "libcaer_cmp": Codec(decode_libcaer_cmp, np.dtype("<u2"), 2, in_packets=True),
    "mono": Codec(decode_mono, np.dtype("<u4"), 8, in_packets=True),
}


@dataclass(frozen=True, slots=True)
class DecoderStats:
    """Counters of a decoder since its construction or reset.

    Attributes:
        words: Whole words (of 16, 32 or 64 bits, as the encoding has them).
        events: Events returned.
        triggers: Trigger edges seen.
        out_of_range: Events dropped because they lie outside the sensor.
        before_time: Events and edges dropped because no time had been seen yet.
        unknown: Words of types that the encoding does not define.
        padding: Words that fill a transfer (0x99...).
        skipped: Words of the manufacturer's own types (OTHERS, CONTINUED), which hold no event.
        roll_overs: Times that the stream's clock started again from zero.
        backward: Events and edges that kept the time of the one before, because the clock had
            stepped back a little.
        resets: Times that the clock stepped back so far that it must have been reset; decoded
            times continue from the latest one.
        triggers_lost: Edges dropped, oldest first, because they were not drained.
        truncated_bytes: Bytes of words that never became whole.
    """

    words: int
    events: int
    triggers: int
    out_of_range: int
    before_time: int
    unknown: int
    padding: int
    skipped: int
    roll_overs: int
    backward: int
    resets: int
    triggers_lost: int
    truncated_bytes: int


class Decoder:
    """Decodes the packets of one stream, in order; made by `make_decoder`.

    The clock, the addresses and an incomplete last word are kept from packet to packet, so payloads
    may be cut anywhere. Times never decrease, even across packets. Not for use from two threads at
    once; decoding runs without the GIL.
    """

    def __init__(self, codec: Codec, width: int, height: int, word_order: int) -> None:
        self._codec = codec
        self._word_order = word_order
        self._trigger_t = np.empty(TRIGGER_CAPACITY, np.int64)
        self._trigger_code = np.empty(TRIGGER_CAPACITY, np.uint16)
        self._state = state_of.new_state(width, height)
        self.reset()
        self.resize(width, height)

    @property
    def width(self) -> int:
        """Sensor width in pixels."""
        return self._width

    @property
    def height(self) -> int:
        """Sensor height in pixels."""
        return self._height

    def resize(self, width: int, height: int) -> None:
        """Set the sensor size of the following events; clock and counters continue.

        Args:
            width: Sensor width in pixels.
            height: Sensor height in pixels.

        Raises:
            EventsError: If a side is not in 1 to 65,536.
        """
        if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
            msg = f"a sensor of {width}x{height} pixels: sides must be in 1 to {MAX_SIDE}"
            raise EventsError(msg)
        self._width, self._height = width, height
        self._state[state_of.WIDTH], self._state[state_of.HEIGHT] = width, height

    def reset(self) -> None:
        """Reset clock, addresses, waiting triggers and counters."""
        width, height = self._state[state_of.WIDTH], self._state[state_of.HEIGHT]
        self._state[:] = state_of.new_state(width, height)
        self._state[state_of.WORD_ORDER] = self._word_order
        self._partial = b""

    def snapshot(self) -> NDArray[np.int64]:
        """Copy the clock and the addresses, from which `restore` continues the stream, int64 [S].

        Call it between packets, after `flush` and `triggers`.
        """
        state: NDArray[np.int64] = self._state[: state_of.COUNTERS].copy()
        return state

    def restore(self, snapshot: NDArray[np.int64]) -> None:
        """Set the clock, the addresses and the sensor size to a `snapshot`; counters continue."""
        self._state[: state_of.COUNTERS] = snapshot
        self._width = int(snapshot[state_of.WIDTH])
        self._height = int(snapshot[state_of.HEIGHT])
        self._partial = b""

    def flush(self) -> None:
        """Drop an incomplete word (counted in `stats`).

        For streams whose messages hold whole words: called between messages, it keeps a truncated
        one from shifting all that follow.
        """
        self._state[state_of.TRUNCATED_BYTES] += len(self._partial)
        self._partial = b""

    def decode(self, payload: Any, time_base: int = 0) -> EventBatch:
        """Decode the next bytes of the stream.

        Args:
            payload: Contiguous bytes (bytes, memoryview, array, uint8 ndarray ...); not kept.
            time_base: Time base of the packet (ns), for ``libcaer``, ``libcaer_cmp`` and ``mono``,
                whose times are relative to it; a payload with the same one continues the packet.
                Other encodings ignore it.

        Returns:
            The events, in newly allocated arrays; at most 6 for each byte of the payload.
        """
        codec = self._codec
        base = self._start_packet(int(time_base)) if codec.in_packets else 0
        if self._partial or len(payload) % codec.word_bytes:
            payload = self._whole_words(payload)
        words = np.frombuffer(payload, codec.dtype)
        # One type for numba, so that it compiles once: read-only and aligned.
        if not words.flags.aligned:
            words = words.copy()
        words.flags.writeable = False
        x, y, t, p = codec.decode(words, base, self._state, self._trigger_t, self._trigger_code)
        return EventBatch(x, y, t, p, self._width, self._height)

    def triggers(self) -> Triggers:
        """Drain the trigger edges that were decoded since the last call."""
        state = self._state
        start, count = state[state_of.TRIGGER_START], state[state_of.TRIGGER_COUNT]
        slots = (start + np.arange(count)) % TRIGGER_CAPACITY
        state[state_of.TRIGGER_START] = state[state_of.TRIGGER_COUNT] = 0
        code = self._trigger_code[slots]
        return Triggers(
            self._trigger_t[slots], (code >> 1).astype(np.uint8), (code & 1).astype(np.uint8)
        )

    @property
    def stats(self) -> DecoderStats:
        """Counters since the start."""
        return DecoderStats(*self._state[state_of.COUNTERS :].tolist())

    def _start_packet(self, time_base: int) -> int:
        """Restart the packet's clock if its time base is new; return the base as int64."""
        # A base beyond the range of int64 wraps, which then counts as a reset of the clock.
        time_base = (time_base + (1 << 63)) % (1 << 64) - (1 << 63)
        state = self._state
        if time_base != state[state_of.TIME_BASE]:
            self.flush()
            state[state_of.TIME_BASE] = time_base
            state[state_of.HIGH] = state[state_of.LOW] = 0
        return time_base

    def _whole_words(self, payload: Any) -> bytes:
        """Prepend stored bytes, and store bytes that do not fill a word."""
        data = self._partial + bytes(payload)
        whole = len(data) - len(data) % self._codec.word_bytes
        self._partial = data[whole:]
        return data[:whole]


def make_decoder(
    encoding: str, width: int, height: int, *, word_order: str | None = None
) -> Decoder:
    """Create a decoder for a stream of event packets.

    Args:
        encoding: Encoding in ``event_camera_msgs/msg/EventPacket``: ``evt3``, ``evt2``, ``evt21``,
            ``libcaer``, ``libcaer_cmp`` or ``mono``.
        width: Sensor width in pixels.
        height: Sensor height in pixels.
        word_order: Word order of ``evt21``: ``little`` (GenX320) or ``legacy`` (IMX636, upper half
            first), the values of ``endianness`` in a RAW file's header; by default detected by the
            first TIME_HIGH.

    Raises:
        UnknownEncodingError: If the encoding or the word order is none of these.
        EventsError: If a side is not in 1 to 65,536.
    """
    if encoding not in CODECS:
        msg = f"unknown encoding {encoding!r} of event packets: known are {', '.join(CODECS)}"
        raise UnknownEncodingError(msg)
    orders = {None: 0, "little": state_of.LITTLE, "legacy": state_of.LEGACY}
    if word_order not in orders or (word_order and encoding != "evt21"):
        msg = f"unknown word order {word_order!r} of {encoding}: evt21 has 'little' and 'legacy'"
        raise UnknownEncodingError(msg)
    return Decoder(CODECS[encoding], width, height, orders[word_order])


def warm_up(encodings: Iterable[str] = tuple(CODECS)) -> None:
    """Compile the decoders, or load them compiled from disk, before the first packet comes.

    Raises:
        UnknownEncodingError: If an encoding is unknown.
    """
    for encoding in encodings:
        make_decoder(encoding, 1, 1).decode(b"")
