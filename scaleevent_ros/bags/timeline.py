"""All that a bag says about time: stamps of packets and frames, sensor times, triggers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from scaleevent_ros.bags.errors import BagError, MessageError
from scaleevent_ros.bags.event_stream import EventStream
from scaleevent_ros.bags.messages import parse_header
from scaleevent_ros.events import Triggers, fit_clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from scaleevent_ros.bags.event_stream import DecodedPacket
    from scaleevent_ros.bags.reader import BagReader
    from scaleevent_ros.events import ClockSegment

    Times: TypeAlias = NDArray[np.int64]

# Decoders that start in mid-stream know the time up to a multiple of this: the period of EVT3's
# clock, of which EVT2's is a multiple (24 and 34 bits of microseconds).
_CLOCK_PERIOD_NS = 2**24 * 1000
_PREROLL_PACKETS = 8
# A clock that starts at 0 has its second stamp within this.
_FIRST_STEP_NS = 10_000_000_000


@dataclass(frozen=True)
class PacketTimes:
    """Times of the packets that held events, int64 [P] each, in ns and in order of record time.

    Attributes:
        record: When they were recorded.
        stamp: In their headers.
        first: Of their first event, on the sensor's clock.
        last: Of their last event, on the sensor's clock.
        events: How many events they held.
    """

    record: Times
    stamp: Times
    first: Times
    last: Times
    events: Times


@dataclass(frozen=True)
class FrameTimes:
    """Times of the frames, int64 [F] each, in ns and in order of record time.

    Attributes:
        record: When they were recorded.
        stamp: In their headers.
    """

    record: Times
    stamp: Times


@dataclass(frozen=True)
class Timeline:
    """What a bag says about time.

    Attributes:
        event_topic: Topic of the packets.
        image_topic: Topic of the frames.
        packets: Those that held events.
        frames: All of them.
        triggers: All edges on the sensor's trigger inputs.
        clock: From the sensor's clock to that of the packets' stamps.
        same_device: Whether events and frames name the same coordinate frame.
    """

    event_topic: str
    image_topic: str
    packets: PacketTimes
    frames: FrameTimes
    triggers: Triggers
    clock: RecordedClock
    same_device: bool


class RecordedClock:
    """The sensor's clock over a whole recording, in segments between its restarts."""

    def __init__(self, sensor_ns: Times, host_ns: Times) -> None:
        self.segments: tuple[ClockSegment, ...] = fit_clock(sensor_ns, host_ns)
        starts = [segment.start for segment in self.segments[1:]]
        self._sensor_starts = sensor_ns[starts]
        self._host_starts = host_ns[starts]

    @property
    def residual_ms(self) -> float:
        """How far stamps scatter about the clock, of the worst segment."""
        return max(segment.fit.jitter_ns for segment in self.segments) / 1e6

    def to_host(self, sensor_ns: Times) -> Times:
        """Map sensor times [N] to the clock of the stamps."""
        result = np.empty_like(sensor_ns)
        which = np.searchsorted(self._sensor_starts, sensor_ns, side="right")
        for index, segment in enumerate(self.segments):
            chosen = which == index
            result[chosen] = segment.fit.to_ros(sensor_ns[chosen])
        return result

    def to_sensor(self, host_ns: Times) -> Times:
        """Map times [N] on the clock of the stamps to the sensor's."""
        result = np.empty_like(host_ns)
        which = np.searchsorted(self._host_starts, host_ns, side="right")
        for index, segment in enumerate(self.segments):
            chosen = which == index
            fit = segment.fit
            since = host_ns[chosen] - fit.ros_ns
            drift = fit.drift / (1 + fit.drift)
            result[chosen] = fit.sensor_ns + since - np.rint(since * drift).astype(np.int64)
        return result


def read_timeline(
    reader: BagReader,
    event_topic: str | None = None,
    image_topic: str | None = None,
    *,
    stream: EventStream | None = None,
    watch: Callable[[DecodedPacket], None] | None = None,
    with_frames: bool = True,
) -> Timeline:
    """Read a bag once and note its times.

    Args:
        reader: Of the bag.
        event_topic: May be left out where there is one.
        image_topic: May be left out where there is one.
        stream: To read instead of the event topic, for whoever wants to see its counters.
        watch: Is shown each decoded packet, for whoever wants more of it than its times.
        with_frames: Whether frames are wanted; without, there need be no image topic.

    Raises:
        BagError: If a topic is missing or not clear, or no event could be decoded.
    """
    stream = stream or EventStream(reader, event_topic)
    images = reader.image_topic(image_topic) if with_frames else ""
    rows: list[tuple[int, int, int, int, int]] = []
    triggers: list[Triggers] = []
    frame_ids: set[str] = set()
    for packet in stream.packets():
        if watch:
            watch(packet)
        if len(packet.triggers):
            triggers.append(packet.triggers)
        if count := len(packet.events):
            first, last = int(packet.events.t[0]), int(packet.events.t[-1])
            rows.append((packet.record_ns, packet.stamp_ns, first, last, count))
            frame_ids.add(packet.frame_id)
    if not rows:
        msg = f"no event could be decoded from {stream.topic} of {reader.path}"
        raise BagError(msg)
    packets = PacketTimes(*np.array(rows, np.int64).T.copy())
    frames, image_frame_ids = _read_frame_times(reader, [images] if with_frames else [])
    return Timeline(
        stream.topic,
        images,
        packets,
        frames,
        join_triggers(triggers),
        RecordedClock(packets.first, packets.stamp),
        same_device=bool(frame_ids & image_frame_ids - {""}),
    )


def events_from(reader: BagReader, timeline: Timeline, sensor_ns: int) -> Iterator[DecodedPacket]:
    """Decode packets from a sensor time on, without those before it.

    Their times are those that a decoder which has seen the whole bag gives.
    """
    packets = timeline.packets
    first = int(np.searchsorted(packets.last, sensor_ns))
    first = max(min(first, len(packets.record) - 1) - _PREROLL_PACKETS, 0)
    offset = None
    for packet in EventStream(reader, timeline.event_topic).packets(
        start_ns=int(packets.record[first])
    ):
        events, edges = packet.events, packet.triggers
        if offset is None:
            if not len(events):
                continue
            index = int(np.searchsorted(packets.record, packet.record_ns))
            periods = round(int(packets.last[index] - events.t[-1]) / _CLOCK_PERIOD_NS)
            offset = periods * _CLOCK_PERIOD_NS
        if offset:
            events = replace(events, t=events.t + offset)
            edges = replace(edges, t=edges.t + offset)
        yield packet._replace(events=events, triggers=edges)


def unset_stamps(stamps: Times) -> NDArray[np.bool_]:
    """Find header stamps that were never set.

    A stamp of 0 was not set, unless the topic's clock starts there: its first stamp is 0 and the
    second less than 10 s.

    Args:
        stamps: Stamps of one topic in order of record time, int64 [N], in ns.

    Returns:
        bool [N].
    """
    unset: NDArray[np.bool_] = stamps == 0
    if len(stamps) > 1 and 0 < stamps[1] < _FIRST_STEP_NS:
        unset[0] = False
    return unset


def join_triggers(parts: list[Triggers]) -> Triggers:
    """Join edges that were drained one after the other."""
    if not parts:
        return Triggers(np.empty(0, np.int64), np.empty(0, np.uint8), np.empty(0, np.uint8))
    return Triggers(
        np.concatenate([part.t for part in parts]),
        np.concatenate([part.id for part in parts]),
        np.concatenate([part.edge for part in parts]),
    )


def _read_frame_times(reader: BagReader, topics: list[str]) -> tuple[FrameTimes, set[str]]:
    rows: list[tuple[int, int]] = []
    frame_ids: set[str] = set()
    for message in reader.messages(topics):
        try:
            stamp_ns, frame_id = parse_header(message.data)
        except MessageError:
            # Whoever decodes the frames says so; the row keeps rows and frames in step.
            stamp_ns, frame_id = 0, ""
        rows.append((message.record_time_ns, stamp_ns))
        frame_ids.add(frame_id)
    return FrameTimes(*np.array(rows, np.int64).reshape(-1, 2).T.copy()), frame_ids
