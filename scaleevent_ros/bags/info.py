"""What is in a bag."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from scaleevent_ros.bags.event_stream import EventStream
from scaleevent_ros.bags.event_tally import EventTally
from scaleevent_ros.bags.messages import EVENT_PACKET

if TYPE_CHECKING:
    from scaleevent_ros.bags.reader import BagReader


@dataclass(frozen=True)
class TopicSummary:
    """A topic.

    Attributes:
        type: Of its messages.
        count: Of its messages.
        rate: Messages per second over the whole bag.
    """

    type: str
    count: int
    rate: float


@dataclass(frozen=True)
class EventTopicSummary:
    """What the packets of an event topic hold.

    Attributes:
        encoding: Of their payloads.
        width: Of the sensor, in pixels.
        height: Of the sensor, in pixels.
        events: Of both polarities.
        on: Where it became brighter.
        off: Where it became darker.
        triggers: Edges by channel.
        lost_packets: That `seq` says are missing.
        malformed: Messages that are no event packets.
        sensor_duration_s: From the first event to the last, on the sensor's clock.
    """

    encoding: str
    width: int
    height: int
    events: int
    on: int
    off: int
    triggers: dict[int, int]
    lost_packets: int
    malformed: int
    sensor_duration_s: float


@dataclass(frozen=True)
class BagInfo:
    """What is in a bag.

    Attributes:
        bag: Its path.
        start_ns: Record time of the first message.
        duration_s: From the first message to the last.
        messages: Of all topics.
        topics: By name.
        event_topics: Of those with events, what they hold.
        damage: By file, what is missing or wrong.
    """

    bag: str
    start_ns: int
    duration_s: float
    messages: int
    topics: dict[str, TopicSummary]
    event_topics: dict[str, EventTopicSummary]
    damage: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Put it into plain dictionaries, as JSON wants."""
        return asdict(self)


def summarize(reader: BagReader) -> BagInfo:
    """Count what is in a bag; all event topics are decoded.

    Raises:
        UnknownEncodingError: If no decoder knows an event topic's encoding.
    """
    duration_s = (reader.end_ns - reader.start_ns) / 1e9
    return BagInfo(
        bag=str(reader.path),
        start_ns=reader.start_ns,
        duration_s=duration_s,
        messages=sum(info.count for info in reader.topics.values()),
        topics={
            name: TopicSummary(info.msgtype, info.count, info.count / max(duration_s, 1e-9))
            for name, info in reader.topics.items()
        },
        event_topics={
            name: _summarize_events(reader, name)
            for name, info in reader.topics.items()
            if info.msgtype == EVENT_PACKET
        },
        damage=reader.damage,
    )


def _summarize_events(reader: BagReader, topic: str) -> EventTopicSummary:
    stream = EventStream(reader, topic)
    tally = EventTally()
    for packet in stream.packets():
        tally.add(packet)
    return EventTopicSummary(
        encoding=stream.encoding,
        width=tally.width,
        height=tally.height,
        events=tally.events,
        on=tally.on,
        off=tally.off,
        triggers=dict(tally.triggers),
        lost_packets=tally.lost,
        malformed=stream.malformed,
        sensor_duration_s=tally.sensor_duration_ns / 1e9,
    )
