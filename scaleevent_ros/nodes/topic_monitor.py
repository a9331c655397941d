"""What passes on one topic: counts, rates, gaps in `seq`, the geometry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from scaleevent_ros.bags.errors import MessageError
from scaleevent_ros.bags.messages import EVENT_PACKET, IMAGE, parse_event_packet, parse_image
from scaleevent_ros.nodes.event_probe import WRAP_NS, ClockResidual, count_events, first_time

if TYPE_CHECKING:
    from scaleevent_ros.bags.messages import EventPacketView


class Rates(NamedTuple):
    """What passed since the report before, per second.

    Attributes:
        messages: Messages.
        size: Bytes, as serialized.
        payload: Bytes of encoded events.
    """

    messages: float
    size: float
    payload: float


@dataclass
class TopicMonitor:
    """Counts the serialized messages of one topic.

    Attributes:
        msgtype: Of the topic.
        messages: How many came.
        size: Their bytes, as serialized.
        payload: Bytes of encoded events in them.
        lost: Event packets that are missing by their `seq`.
        malformed: Messages whose bytes are not what their type says.
        geometry: Width and height of the latest event packet or image.
        packet: The latest event packet, whose payload is a view.
        clock: Of the event packets' sensor, once it is known.
    """

    msgtype: str
    messages: int = 0
    size: int = 0
    payload: int = 0
    lost: int = 0
    malformed: int = 0
    geometry: tuple[int, int] | None = None
    packet: EventPacketView | None = None
    clock: ClockResidual | None = None
    _reported: tuple[float, int, int, int] | None = field(default=None, init=False)

    def count(self, cdr: bytes) -> None:
        """Count a message."""
        self.messages += 1
        self.size += len(cdr)
        try:
            if self.msgtype == EVENT_PACKET:
                self._follow(parse_event_packet(cdr))
            elif self.msgtype == IMAGE:
                image = parse_image(cdr)
                self.geometry = image.width, image.height
        except MessageError:
            self.malformed += 1

    def rates(self, now: float) -> Rates:
        """Take the rates since the last call, at a time in seconds; 0 at the first call."""
        counts = now, self.messages, self.size, self.payload
        before = self._reported or counts
        self._reported = counts
        seconds = now - before[0]
        if seconds <= 0:
            return Rates(0.0, 0.0, 0.0)
        return Rates(
            (self.messages - before[1]) / seconds,
            (self.size - before[2]) / seconds,
            (self.payload - before[3]) / seconds,
        )

    def event_rate(self, rates: Rates) -> float | None:
        """Estimate the events per second: those of the latest packet, scaled up by its bytes."""
        if self.packet is None or (events := count_events(self.packet)) is None:
            return None
        return events * rates.payload / max(1, len(self.packet.payload))

    def _follow(self, packet: EventPacketView) -> None:
        before, self.packet = self.packet, packet
        self.payload += len(packet.payload)
        self.geometry = packet.width, packet.height
        if before and before.encoding != packet.encoding:
            self.clock = None
        # A seq that does not grow is a driver that started again, and nothing was lost.
        if before and packet.seq > before.seq:
            self.lost += packet.seq - before.seq - 1
        sensor_ns = first_time(packet)
        if sensor_ns is not None:
            self.clock = self.clock or ClockResidual(WRAP_NS.get(packet.encoding, 0))
            self.clock.add(sensor_ns, packet.stamp_ns)
