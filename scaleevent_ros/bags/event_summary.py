"""Counts of the packets, events and triggers of an event topic."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scaleevent_ros.bags.event_stream import DecodedPacket, EventStream


@dataclass
class EventSummary:
    """Contents of an event topic: `add` its packets, then `finish`.

    Attributes:
        topic: Name of the topic.
        encoding: Encoding of the payloads.
        width: Sensor width in pixels, by the latest packet.
        height: Sensor height in pixels, by the latest packet.
        packets: Messages that are valid event packets.
        malformed: Messages that are not valid event packets.
        lost_packets: Packets that are missing by `seq`.
        restarts: Number of times that `seq` did not increase.
        events: Events of both polarities.
        on: Events where it became brighter.
        off: Events where it became darker.
        off_sensor: Events dropped because their pixels lie off the sensor.
        triggers: Edges by channel.
        sensor_duration_s: Time from the first event to the last on the sensor's clock, in s.
        mean_rate: Events per second of `sensor_duration_s`.
        decoder: Counters of the decoder; see `DecoderStats`.
        losses: For each gap of `seq`, the sensor times of the events around it, in ns.
    """

    topic: str
    encoding: str = ""
    width: int = 0
    height: int = 0
    packets: int = 0
    malformed: int = 0
    lost_packets: int = 0
    restarts: int = 0
    events: int = 0
    on: int = 0
    off: int = 0
    off_sensor: int = 0
    triggers: dict[int, int] = field(default_factory=dict)
    sensor_duration_s: float = 0.0
    mean_rate: float = 0.0
    decoder: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Set the attributes that are not fields, which `asdict` omits."""
        self.losses: list[tuple[int, int]] = []
        self._seq: int | None = None
        self._first_ns: int | None = None
        self._last_ns: int | None = None

    def add(self, packet: DecodedPacket) -> None:
        """Count the next packet in the order of recording."""
        events = packet.events
        on = int(np.count_nonzero(events.p))
        self.packets += 1
        self.events += len(events)
        self.on += on
        self.off += len(events) - on
        self.width, self.height = events.width, events.height
        for channel in packet.triggers.id.tolist():
            self.triggers[channel] = self.triggers.get(channel, 0) + 1
        missing = packet.seq - self._seq - 1 if self._seq is not None else 0
        self._seq = packet.seq
        if missing < 0:
            self.restarts += 1
        elif missing:
            self.lost_packets += missing
            if self._last_ns is not None and len(events):
                self.losses.append((self._last_ns, int(events.t[0])))
        if len(events):
            self._last_ns = int(events.t[-1])
            if self._first_ns is None:
                self._first_ns = int(events.t[0])

    def finish(self, stream: EventStream) -> None:
        """Copy the counters of the stream of the packets, and compute duration and rate."""
        self.encoding = stream.encoding
        self.malformed = stream.malformed
        self.sensor_duration_s = ((self._last_ns or 0) - (self._first_ns or 0)) / 1e9
        self.mean_rate = self.events / max(self.sensor_duration_s, 1e-9)
        if stream.stats:
            self.off_sensor = stream.stats.out_of_range
            self.decoder = asdict(stream.stats)
