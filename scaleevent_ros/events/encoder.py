"""Streaming encoders of event packets: for simulators, converters and tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scaleevent_ros.events import evt2, evt3, evt3_encoder
from scaleevent_ros.events.errors import EventsError, UnknownEncodingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from scaleevent_ros.events.batch import EventBatch

MAX_GAP = 365 * 24 * 3600 * 10**9
"""Maximum gap between events (ns); it is encoded as roll-overs: 20 kB of EVT3 a day."""


MAX_CHANNEL = 15
"""Maximum channel of a trigger input."""


@dataclass(frozen=True, slots=True)
class Format:
    """Word format of one encoding.

    Attributes:
        encode: Encoding kernel.
        dtype: Data type of the words.
        words_per_event: Maximum number of words per event, without roll-overs.
        max_side: Maximum width and height of the sensor in pixels.
        high_unit: Unit of TIME_HIGH in ns.
        epoch: Period (ns) after which TIME_HIGH starts again from zero.
    """

    encode: Callable[..., int]
    dtype: np.dtype[Any]
    words_per_event: int
    max_side: int
    high_unit: int
    epoch: int


FORMATS = {
    "evt3": Format(
        evt3_encoder.encode_evt3_words,
        np.dtype("<u2"),
        4,
        evt3_encoder.MAX_SIDE,
        1000 << 12,
        evt3.EPOCH,
    ),
    "evt2": Format(
        evt2.encode_evt2_words, np.dtype("<u4"), 2, evt2.MAX_SIDE, 1000 << 6, evt2.EPOCH
    ),
}


class Encoder:
    """Encodes the batches of one stream, in order; made by `make_encoder`.

    Each packet starts with the full time and address, so decoding may start at any packet. A
    decoder that reads all of them follows every roll-over of the clock, even where no events come.
    """

    def __init__(self, form: Format, origin: int) -> None:
        self._format = form
        self._origin = origin
        self._last = origin

    def encode(self, batch: EventBatch) -> bytes:
        """Encode a batch.

        Args:
            batch: Events, not earlier than the previous batch or the origin. Times are truncated to
                µs.

        Returns:
            Whole words; none for no events.

        Raises:
            EventsError: If the batch is invalid (see `EventBatch.validate`), starts before the end
                of the previous one, or exceeds the encoding: a sensor of more than 2048 pixels a
                side, a silence of more than a year.
        """
        form = self._format
        self._check(batch)
        if not len(batch):
            return b""
        roll_overs = (int(batch.t[-1]) - self._last) // form.epoch + 2
        words = np.empty(form.words_per_event * len(batch) + 2 * roll_overs, form.dtype)
        high = (self._last - self._origin) // form.high_unit
        arrays = (batch.x, batch.y, batch.t, batch.p)
        count = form.encode(arrays, self._origin, high, words)
        self._last = int(batch.t[-1])
        return words[:count].tobytes()

    def encode_trigger(self, t: int, channel: int, edge: int) -> bytes:
        """Encode an edge on an external input, between the batches before and after it.

        Args:
            t: Time of the edge (ns), not earlier than the previous batch.
            channel: Channel of the input, 0 to 15.
            edge: 1 rising, 0 falling.

        Returns:
            Whole words.

        Raises:
            EventsError: If the encoding is not EVT3, channel or edge is out of range, or the time
                is out of order or more than a year after the previous one.
        """
        if self._format is not FORMATS["evt3"]:
            msg = "triggers can only be encoded as evt3"
            raise EventsError(msg)
        if not (0 <= channel <= MAX_CHANNEL and edge in (0, 1)):
            msg = f"channel {channel} must be 0 to {MAX_CHANNEL}, and edge {edge} 0 or 1"
            raise EventsError(msg)
        self._check_time(t)
        now = (t - self._origin) // 1000
        before = (self._last - self._origin) // self._format.high_unit
        words = np.empty(2 * ((t - self._last) // evt3.EPOCH + 2) + 2, np.dtype("<u2"))
        n = evt3_encoder.write_high(now >> 12, before, words, 0)
        words[n] = evt3.TIME_LOW << 12 | now & 0xFFF
        words[n + 1] = evt3.EXT_TRIGGER << 12 | channel << 8 | edge
        self._last = t
        return words[: n + 2].tobytes()

    def _check(self, batch: EventBatch) -> None:
        side = self._format.max_side
        if max(batch.width, batch.height) > side:
            size = f"{batch.width}x{batch.height}"
            msg = f"a sensor of {size} pixels is too large: a side has at most {side}"
            raise EventsError(msg)
        batch.validate()
        if len(batch):
            self._check_time(int(batch.t[0]), int(np.diff(batch.t).max(initial=0)))

    def _check_time(self, t: int, gap: int = 0) -> None:
        """Check that a time is in order, and that neither its gap nor ``gap`` (ns) is too long."""
        if t < self._last:
            msg = f"{t} ns follows {self._last} ns: encode in order of time"
            raise EventsError(msg)
        gap = max(gap, t - self._last)
        if gap > MAX_GAP:
            msg = (
                f"{gap / 1e9:.0f} s without events cannot be encoded: give an origin near the "
                "first event"
            )
            raise EventsError(msg)


def make_encoder(encoding: str, origin: int = 0) -> Encoder:
    """Create an encoder for a stream of event packets.

    Args:
        encoding: ``evt3`` (with vector words where they are shorter) or ``evt2``.
        origin: Time (ns) that is encoded as zero. EVT3 needs 20 kB for each day from there to the
            first event.

    Raises:
        UnknownEncodingError: If the encoding is neither.
    """
    if encoding not in FORMATS:
        msg = f"cannot encode {encoding!r}: known are {', '.join(FORMATS)}"
        raise UnknownEncodingError(msg)
    return Encoder(FORMATS[encoding], origin)


def encode_evt3(batch: EventBatch) -> bytes:
    """Encode one batch on its own (see `Encoder.encode`), its times counted from 0."""
    return make_encoder("evt3").encode(batch)


def encode_evt2(batch: EventBatch) -> bytes:
    """Encode one batch on its own (see `Encoder.encode`), its times counted from 0."""
    return make_encoder("evt2").encode(batch)
