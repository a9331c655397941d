"""A recording's events and triggers as `EventPacket` payloads in EVT3."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scaleevent_ros.events import EventBatch, make_encoder
from scaleevent_ros.events.evt3 import EPOCH

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from scaleevent_ros.events import Triggers
    from scaleevent_ros.events.encoder import Encoder

PACKET_NS = 5_000_000
"""Maximum duration of a packet in ns; no packet crosses a multiple of it."""

PACKET_EVENTS = 1 << 16
"""Maximum number of events in a packet."""


class Packet(NamedTuple):
    """An encoded event packet.

    Attributes:
        stamp_ns: Time of its first event in ns, or of its trigger if it holds none; truncated to
            µs, as in EVT3.
        last_ns: Time of its last event in ns, or of its trigger if it holds none.
        events: Number of events.
        payload: EVT3 payload.
    """

    stamp_ns: int
    last_ns: int
    events: int
    payload: bytes


class Edge(NamedTuple):
    """A trigger edge: time in ns, channel, and 1 for a rising or 0 for a falling edge."""

    t: int
    channel: int
    edge: int


def encode_packets(
    batches: Iterable[EventBatch], triggers: Iterable[Triggers], after_ns: int | None = None
) -> Iterator[Packet]:
    """Encode a stream of events and triggers in order of time.

    Args:
        batches: Batches in order of time.
        triggers: Triggers in order of time.
        after_ns: Time in ns of the last event or trigger of an earlier call that the stream
            continues; None for a new stream.
    """
    origin = None if after_ns is None else after_ns // EPOCH * EPOCH
    edges = _edges(triggers)
    edge = next(edges, None)
    encoder = None
    for piece in _pieces(batches):
        first, last = int(piece.t[0]), int(piece.t[-1])
        if encoder is None:
            start = first if edge is None else min(first, edge.t)
            encoder = make_encoder("evt3", start // EPOCH * EPOCH if origin is None else origin)
        while edge is not None and edge.t // PACKET_NS < first // PACKET_NS:
            yield Packet(_cut(edge.t), edge.t, 0, encoder.encode_trigger(*edge))
            edge = next(edges, None)
        parts = []
        done = 0
        while edge is not None and edge.t <= last:
            upto = int(np.searchsorted(piece.t, edge.t))
            parts += [encoder.encode(piece[done:upto]), encoder.encode_trigger(*edge)]
            done = upto
            edge = next(edges, None)
        parts.append(encoder.encode(piece[done:]))
        yield Packet(_cut(first), last, len(piece), b"".join(parts))
    while edge is not None:
        if encoder is None:
            encoder = make_encoder("evt3", edge.t // EPOCH * EPOCH if origin is None else origin)
        yield Packet(_cut(edge.t), edge.t, 0, encoder.encode_trigger(*edge))
        edge = next(edges, None)


class LivePackets:
    """Encoder of a live stream of batches, without triggers."""

    def __init__(self) -> None:
        self._encoder: Encoder | None = None

    def encode(self, batch: EventBatch) -> Iterator[Packet]:
        """Encode the next batch, in order of time; the first one may begin at any time."""
        for piece in _pieces([batch]):
            first, last = int(piece.t[0]), int(piece.t[-1])
            if self._encoder is None:
                self._encoder = make_encoder("evt3", first // EPOCH * EPOCH)
            yield Packet(_cut(first), last, len(piece), self._encoder.encode(piece))


def _cut(t: int) -> int:
    return t // 1000 * 1000


def _edges(triggers: Iterable[Triggers]) -> Iterator[Edge]:
    for some in triggers:
        yield from map(Edge, some.t.tolist(), some.id.tolist(), some.edge.tolist())


def _pieces(batches: Iterable[EventBatch]) -> Iterator[EventBatch]:
    """Cut batches so that each piece fits one packet."""
    for batch in batches:
        if not len(batch):
            continue
        bounds = np.arange(batch.t[0] // PACKET_NS + 1, batch.t[-1] // PACKET_NS + 1)
        if len(bounds) > len(batch):  # sparse: most slots of PACKET_NS hold no event
            bounds = np.unique(batch.t[1:] // PACKET_NS)
        cuts = [0, *np.searchsorted(batch.t, bounds * PACKET_NS).tolist(), len(batch)]
        for start, end in pairwise(cuts):
            for first in range(start, end, PACKET_EVENTS):
                yield batch[first : min(first + PACKET_EVENTS, end)]
