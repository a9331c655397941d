"""Counts over the packets of an event topic."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scaleevent_ros.bags.event_stream import DecodedPacket


class EventTally:
    """Counts what passes.

    Attributes:
        packets: Messages with packets.
        events: Events of both polarities.
        on: Events where it became brighter.
        off: Events where it became darker.
        triggers: Edges by channel.
        payload_bytes: Size of the encoded events.
        lost: Packets that `seq` says are missing.
        restarts: How often `seq` went back or stood still.
        losses: For each gap of `seq`, the sensor times of the events around it, in ns.
        width: Of the sensor, as of the latest packet.
        height: Of the sensor, as of the latest packet.
    """

    def __init__(self) -> None:
        self.packets = 0
        self.on = 0
        self.off = 0
        self.triggers: Counter[int] = Counter()
        self.payload_bytes = 0
        self.lost = 0
        self.restarts = 0
        self.losses: list[tuple[int, int]] = []
        self.width = 0
        self.height = 0
        self._seq: int | None = None
        self._first_ns: int | None = None
        self._last_ns: int | None = None

    @property
    def sensor_duration_ns(self) -> int:
        """Time from the first event to the last, on the sensor's clock."""
        if self._first_ns is None or self._last_ns is None:
            return 0
        return self._last_ns - self._first_ns

    @property
    def events(self) -> int:
        """Count events of both polarities."""
        return self.on + self.off

    def add(self, packet: DecodedPacket) -> None:
        """Count one packet; packets come in the order of recording."""
        events = packet.events
        on = int(np.count_nonzero(events.p))
        self.packets += 1
        self.on += on
        self.off += len(events) - on
        self.payload_bytes += packet.payload_bytes
        self.width, self.height = events.width, events.height
        for channel in packet.triggers.id.tolist():
            self.triggers[channel] += 1
        missing = packet.seq - self._seq - 1 if self._seq is not None else 0
        self._seq = packet.seq
        if missing < 0:
            self.restarts += 1
        elif missing:
            self.lost += missing
            if self._last_ns is not None and len(events):
                self.losses.append((self._last_ns, int(events.t[0])))
        if len(events):
            self._last_ns = int(events.t[-1])
            if self._first_ns is None:
                self._first_ns = int(events.t[0])
