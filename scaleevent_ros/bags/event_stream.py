"""The packets of a bag's event topic, decoded."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import astuple
from typing import TYPE_CHECKING, NamedTuple

from scaleevent_ros.bags.errors import MessageError
from scaleevent_ros.bags.messages import parse_event_packet
from scaleevent_ros.events import (
    DecoderStats,
    EventBatch,
    Triggers,
    UnknownEncodingError,
    make_decoder,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from scaleevent_ros.bags.reader import BagReader
    from scaleevent_ros.events import Decoder

logger = logging.getLogger(__name__)


class Entry(NamedTuple):
    """A point in an event topic where decoding can start.

    Attributes:
        record_ns: Record time in ns from which messages are read.
        encoding: Encoding of the payloads.
        state: The decoder's state before these messages, int64 [S]; see `Decoder.snapshot`.
    """

    record_ns: int
    encoding: str
    state: NDArray[np.int64]


class DecodedPacket(NamedTuple):
    """A decoded event packet.

    Attributes:
        record_ns: Record time in ns.
        stamp_ns: Header stamp in ns.
        seq: Sequence number that the driver gave.
        frame_id: Coordinate frame of the sensor.
        events: Decoded events, on the sensor's clock.
        triggers: Edges on the sensor's trigger inputs, on its clock.
        entry: Point from which decoding yields this packet and all later ones.
    """

    record_ns: int
    stamp_ns: int
    seq: int
    frame_id: str
    events: EventBatch
    triggers: Triggers
    entry: Entry


class EventStream:
    """Decodes an event topic packet by packet, in order of record time.

    Messages that are not valid event packets are skipped and counted; the first one is logged.

    Attributes:
        topic: Name of the topic.
        malformed: Number of malformed messages skipped so far.
        encoding: Encoding of the latest packet.

    Args:
        reader: Open bag.
        topic: Event topic; may be omitted if there is only one.

    Raises:
        BagError: If the topic is not in the bag or ambiguous.
    """

    def __init__(self, reader: BagReader, topic: str | None = None) -> None:
        self.topic = reader.event_topic(topic)
        self.malformed = 0
        self._reader = reader
        self._decoder: Decoder | None = None
        self._earlier: list[DecoderStats] = []
        self.encoding = ""

    @property
    def stats(self) -> DecoderStats | None:
        """Counters of all packets, whatever their encodings; None before the first."""
        if self._decoder is None:
            return None
        counted = [*self._earlier, self._decoder.stats]
        return DecoderStats(*(sum(column) for column in zip(*map(astuple, counted), strict=True)))

    def packets_from(self, entry: Entry) -> Iterator[DecodedPacket]:
        """Decode the packets from an entry on, with the same result as decoding from the start.

        Raises:
            UnknownEncodingError: If no decoder knows the encoding.
        """
        self._decoder_for(entry.encoding, 1, 1).restore(entry.state)
        return self.packets(start_ns=entry.record_ns)

    def packets(self, *, start_ns: int = 0) -> Iterator[DecodedPacket]:
        """Decode the packets from a record time on.

        Raises:
            UnknownEncodingError: If no decoder knows the encoding.
        """
        for message in self._reader.messages([self.topic], start_ns=start_ns):
            try:
                packet = parse_event_packet(message.data)
            except MessageError as error:
                if not self.malformed:
                    logger.warning("%s: a message is skipped: %s", self.topic, error)
                self.malformed += 1
                continue
            decoder = self._decoder_for(packet.encoding, packet.width, packet.height)
            state = decoder.snapshot()
            events = decoder.decode(packet.payload, packet.time_base)
            # A message holds whole words: the rest of a truncated one must not shift the next.
            decoder.flush()
            yield DecodedPacket(
                message.record_time_ns,
                packet.stamp_ns,
                packet.seq,
                packet.frame_id,
                events,
                decoder.triggers(),
                Entry(message.record_time_ns, self.encoding, state),
            )

    def _decoder_for(self, encoding: str, width: int, height: int) -> Decoder:
        decoder = self._decoder
        if decoder is None or encoding != self.encoding:
            try:
                self._decoder = make_decoder(encoding, width, height)
            except UnknownEncodingError as error:
                msg = f"{self._reader.path}, {self.topic}: {error}"
                raise UnknownEncodingError(msg) from None
            if decoder is not None:
                self._earlier.append(decoder.stats)
            self.encoding = encoding
            return self._decoder
        if (decoder.width, decoder.height) != (width, height):
            decoder.resize(width, height)
        return decoder


class EventWindow:
    """Buffer of the latest events of a stream, read by ranges of time."""

    def __init__(self) -> None:
        self._batches: deque[EventBatch] = deque()
        self.end_ns = -(2**63)

    def push(self, batch: EventBatch) -> None:
        """Add the next batch; drop earlier ones if the size changes or the clock jumps back."""
        if not len(batch):
            return
        last = self._batches[-1] if self._batches else None
        if last and (
            (last.width, last.height) != (batch.width, batch.height) or batch.t[0] < last.t[-1]
        ):
            self._batches.clear()
        self._batches.append(batch)
        self.end_ns = int(batch.t[-1])

    def drop_before(self, time_ns: int) -> None:
        """Drop batches that end before a time."""
        while self._batches and self._batches[0].t[-1] < time_ns:
            self._batches.popleft()

    def between(self, start_ns: int, end_ns: int) -> EventBatch | None:
        """Join the events with `start_ns <= t < end_ns`; None if no batch was pushed yet."""
        if not self._batches:
            return None
        parts = [
            batch.between(start_ns, end_ns)
            for batch in self._batches
            if batch.t[0] < end_ns and batch.t[-1] >= start_ns
        ]
        last = self._batches[-1]
        return EventBatch.concatenate(parts) if parts else EventBatch.empty(last.width, last.height)
