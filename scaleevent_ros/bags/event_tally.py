"""Counts over the packets of an event topic."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scaleevent_ros.bags.event_stream import DecodedPacket, EventStream


@dataclass(frozen=True)
class EventSummary:
    """Contents of an event topic.

    Attributes:
        topic: Name of the topic.
        encoding: Encoding of the payloads.
        width: Sensor width in pixels, of the latest packet.
        height: Sensor height in pixels, of the latest packet.
        packets: Messages with packets.
        malformed: Messages that are not valid event packets.
        lost_packets: Packets that are missing by `seq`.
        restarts: Number of times that `seq` did not increase.
        events: Events of both polarities.
        on: Events where it became brighter.
        off: Events where it became darker.
        off_sensor: Events dropped because their pixels lie off the sensor.
        triggers: Edges by channel.
        sensor_duration_s: Time from the first event to the last on the sensor's clock.
        mean_rate: Events per second of it.
        decoder: Counters of the decoder; see `DecoderStats`.
    """

    topic: str
    encoding: str
    width: int
    height: int
    packets: int
    malformed: int
    lost_packets: int
    restarts: int
    events: int
    on: int
    off: int
    off_sensor: int
    triggers: dict[int, int]
    sensor_duration_s: float
    mean_rate: float
    decoder: dict[str, int]


class EventTally:
    """Counts the packets of a stream.

    Attributes:
        losses: For each gap of `seq`, the sensor times of the events around it, in ns.

    Args:
        stream: Stream of the packets, with its counters.
    """

    def __init__(self, stream: EventStream) -> None:
        self.losses: list[tuple[int, int]] = []
        self._stream = stream
        self._packets = 0
        self._on = 0
        self._off = 0
        self._triggers: Counter[int] = Counter()
        self._lost = 0
        self._restarts = 0
        self._width = 0
        self._height = 0
        self._seq: int | None = None
        self._first_ns: int | None = None
        self._last_ns: int | None = None

    def add(self, packet: DecodedPacket) -> None:
        """Count one packet; packets come in the order of recording."""
        events = packet.events
        on = int(np.count_nonzero(events.p))
        self._packets += 1
        self._on += on
        self._off += len(events) - on
        self._width, self._height = events.width, events.height
        for channel in packet.triggers.id.tolist():
            self._triggers[channel] += 1
        missing = packet.seq - self._seq - 1 if self._seq is not None else 0
        self._seq = packet.seq
        if missing < 0:
            self._restarts += 1
        elif missing:
            self._lost += missing
            if self._last_ns is not None and len(events):
                self.losses.append((self._last_ns, int(events.t[0])))
        if len(events):
            self._last_ns = int(events.t[-1])
            if self._first_ns is None:
                self._first_ns = int(events.t[0])

    def summary(self) -> EventSummary:
        """Return a summary of the counts so far."""
        span_s = ((self._last_ns or 0) - (self._first_ns or 0)) / 1e9
        stats = self._stream.stats
        return EventSummary(
            topic=self._stream.topic,
            encoding=self._stream.encoding,
            width=self._width,
            height=self._height,
            packets=self._packets,
            malformed=self._stream.malformed,
            lost_packets=self._lost,
            restarts=self._restarts,
            events=self._on + self._off,
            on=self._on,
            off=self._off,
            off_sensor=stats.out_of_range if stats else 0,
            triggers=dict(self._triggers),
            sensor_duration_s=span_s,
            mean_rate=(self._on + self._off) / max(span_s, 1e-9),
            decoder=asdict(stats) if stats else {},
        )
