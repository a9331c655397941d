"""Summary of a bag's content."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from scaleevent_ros.bags.errors import MessageError
from scaleevent_ros.bags.event_stream import EventStream
from scaleevent_ros.bags.event_summary import EventSummary
from scaleevent_ros.bags.messages import EVENT_PACKET, parse_event_packet
from scaleevent_ros.events import UnknownEncodingError
from scaleevent_ros.events.decoder import CODECS

if TYPE_CHECKING:
    from scaleevent_ros.bags.reader import BagReader

_MOST_MALFORMED = 100  # messages that are tried to find the first packet


@dataclass(frozen=True)
class TopicSummary:
    """Messages of one topic.

    Attributes:
        type: Message type.
        count: Number of messages.
        rate: Messages per second over the whole bag.
    """

    type: str
    count: int
    rate: float


@dataclass(frozen=True)
class EventTopic:
    """Encoding, sensor size and counts of an event topic.

    Attributes:
        encoding: Encoding of the payloads.
        width: Sensor width in pixels.
        height: Sensor height in pixels.
        error: Error that prevents decoding; empty if none is known.
        counts: Event counts; None if events were not counted or cannot be decoded.
    """

    encoding: str
    width: int
    height: int
    error: str
    counts: EventSummary | None


@dataclass(frozen=True)
class BagInfo:
    """Summary of a bag's content.

    Attributes:
        bag: Path of the bag.
        start_ns: Record time of the first message in ns.
        duration_s: Time from the first message to the last in s.
        messages: Number of messages of all topics.
        topics: Topics by name.
        event_topics: Topics of events by name.
        damage: Damage by file.
    """

    bag: str
    start_ns: int
    duration_s: float
    messages: int
    topics: dict[str, TopicSummary]
    event_topics: dict[str, EventTopic]
    damage: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain dictionaries for JSON; event counts are merged into their topic's."""
        content = asdict(self)
        for topic in content["event_topics"].values():
            topic.update(topic.pop("counts") or {})
        return content


def summarize(reader: BagReader, *, count: bool = False) -> BagInfo:
    """Summarize the content of a bag.

    Args:
        reader: Open bag, which should skip damaged parts.
        count: Decode all events and count them; else only the bag's index and the first packets
            are read.
    """
    duration_s = (reader.end_ns - reader.start_ns) / 1e9
    event_topics = {
        name: _count_events(reader, name) if count else _read_first_packet(reader, name)
        for name, info in reader.topics.items()
        if info.msgtype == EVENT_PACKET
    }
    return BagInfo(
        bag=str(reader.path),
        start_ns=reader.start_ns,
        duration_s=duration_s,
        messages=sum(info.count for info in reader.topics.values()),
        topics={
            name: TopicSummary(info.msgtype, info.count, info.count / max(duration_s, 1e-9))
            for name, info in reader.topics.items()
        },
        event_topics=event_topics,
        damage=reader.damage,
    )


def _read_first_packet(reader: BagReader, name: str) -> EventTopic:
    for message in islice(reader.messages([name]), _MOST_MALFORMED):
        try:
            packet = parse_event_packet(message.data)
        except MessageError:
            continue
        error = "" if packet.encoding in CODECS else f"unknown encoding {packet.encoding!r}"
        return EventTopic(packet.encoding, packet.width, packet.height, error, None)
    return EventTopic(
        "", 0, 0, "none of its messages is a packet" * (reader.topics[name].count > 0), None
    )


def _count_events(reader: BagReader, name: str) -> EventTopic:
    stream = EventStream(reader, name)
    counts = EventSummary(stream.topic)
    try:
        for packet in stream.packets():
            counts.add(packet)
    except UnknownEncodingError as error:
        return replace(_read_first_packet(reader, name), error=str(error))
    counts.finish(stream)
    return EventTopic(counts.encoding, counts.width, counts.height, "", counts)
