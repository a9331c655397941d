"""Timeline of a bag: stamps of packets and frames, sensor times, triggers."""

from __future__ import annotations

from array import array
from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from scaleevent_ros.bags.errors import BagError, MessageError
from scaleevent_ros.bags.event_stream import Entry, EventStream
from scaleevent_ros.bags.messages import parse_header
from scaleevent_ros.events import RecordingClock, Triggers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from scaleevent_ros.bags.event_stream import DecodedPacket
    from scaleevent_ros.bags.reader import BagReader
    from scaleevent_ros.events import ClockSegment

    Times: TypeAlias = NDArray[np.int64]

# If a clock starts at 0, its second stamp lies before this.
_FIRST_STEP_NS = 10_000_000_000
# Entries lie this far apart in record time, so that an hour of packets takes 40 MB at most.
_ENTRY_NS = 20_000_000

_SEGMENT = np.dtype(
    [
        ("sensor_begins", np.int64),
        ("host_begins", np.int64),
        ("sensor_ns", np.int64),
        ("ros_ns", np.int64),
        ("drift", np.float64),
        ("pairs", np.int64),
        ("jitter_ns", np.float64),
    ]
)


@dataclass(frozen=True)
class PacketTimes:
    """Packets where decoding can start, at least 20 ms apart, in order of record time.

    Attributes:
        record: Record times, int64 [P], ns.
        stamp: Stamps of the headers, int64 [P], ns.
        first: Times of their first events on the sensor's clock, int64 [P], ns.
        before: Number of events before each packet, int64 [P].
        encoding: Encodings of their payloads, bytes [P].
        state: States of the decoder before them, int64 [P, S].
    """

    record: Times
    stamp: Times
    first: Times
    before: Times
    encoding: NDArray[np.bytes_]
    state: Times

    def entry(self, sensor_ns: int) -> Entry:
        """Find the last entry before all events with `t >= sensor_ns`."""
        row = max(int(np.searchsorted(self.first, sensor_ns)) - 1, 0)
        return Entry(int(self.record[row]), self.encoding[row].decode(), self.state[row])


@dataclass(frozen=True)
class FrameTimes:
    """Times of the frames, int64 [F] each, in ns and in order of record time.

    Attributes:
        record: Record times in ns.
        stamp: Header stamps in ns.
    """

    record: Times
    stamp: Times


@dataclass(frozen=True)
class Timeline:
    """All times of a bag.

    Attributes:
        event_topic: Topic of the packets.
        image_topic: Topic of the frames.
        packets: Packets where decoding can start.
        start_ns: Time of the first event on the sensor's clock, in ns.
        end_ns: Time of the last event on the sensor's clock, in ns.
        frames: All frames.
        triggers: All edges on the sensor's trigger inputs.
        clock: Mapping from the sensor's clock to the packets' stamps.
        same_device: Whether events and frames have the same `frame_id`.
    """

    event_topic: str
    image_topic: str
    packets: PacketTimes
    start_ns: int
    end_ns: int
    frames: FrameTimes
    triggers: Triggers
    clock: RecordedClock
    same_device: bool

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Convert to arrays by name, to store in a file."""
        parts = (("packets", self.packets), ("frames", self.frames), ("triggers", self.triggers))
        arrays = {
            f"{name}.{field.name}": getattr(part, field.name)
            for name, part in parts
            for field in fields(part)
        }
        return arrays | {
            "topics": np.array([self.event_topic, self.image_topic]),
            "span": np.array([self.start_ns, self.end_ns]),
            "clock": self.clock.segments,
            "same_device": np.array(self.same_device),
        }

    @staticmethod
    def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> Timeline:
        """Create a timeline from the arrays of `to_arrays`.

        Raises:
            KeyError: If an array is missing.
        """

        def part(name: str, kind: type[Any]) -> Any:
            return kind(*(arrays[f"{name}.{field.name}"] for field in fields(kind)))

        start_ns, end_ns = arrays["span"].tolist()
        event_topic, image_topic = arrays["topics"].tolist()
        return Timeline(
            event_topic,
            image_topic,
            part("packets", PacketTimes),
            start_ns,
            end_ns,
            part("frames", FrameTimes),
            part("triggers", Triggers),
            RecordedClock(arrays["clock"]),
            same_device=bool(arrays["same_device"]),
        )


class RecordedClock:
    """The sensor's clock over a whole recording, in segments between its restarts.

    Attributes:
        segments: The line of each segment, a structured array [S] with the sensor and the host
            time at which it begins (int64, ns) and fields of `events.ClockFit`.
    """

    def __init__(self, segments: NDArray[Any]) -> None:
        self.segments = segments

    @staticmethod
    def from_fits(segments: Iterable[ClockSegment]) -> RecordedClock:
        """Convert the segments that were fitted to packets' first events and stamps."""
        rows = [
            (
                part.sensor_ns,
                part.host_ns,
                part.fit.sensor_ns,
                part.fit.ros_ns,
                part.fit.drift,
                part.fit.pairs,
                part.fit.jitter_ns,
            )
            for part in segments
        ]
        return RecordedClock(np.array(rows, _SEGMENT))

    @property
    def residual_ms(self) -> float:
        """Scatter of the stamps about the clock in ms, in the worst segment."""
        return float(self.segments["jitter_ns"].max()) / 1e6

    @property
    def drift(self) -> float:
        """Rate of the host's clock relative to the sensor's, minus 1, in the longest segment."""
        return float(self.segments["drift"][self.segments["pairs"].argmax()])

    def to_host(self, sensor_ns: Times) -> Times:
        """Map sensor times in ns, int64 [N], to the clock of the stamps."""
        part = self.segments[self._part("sensor_begins", sensor_ns)]
        since = sensor_ns - part["sensor_ns"]
        times: Times = part["ros_ns"] + since + np.rint(since * part["drift"]).astype(np.int64)
        return times

    def to_sensor(self, host_ns: Times) -> Times:
        """Map times on the clock of the stamps in ns, int64 [N], to the sensor's clock."""
        part = self.segments[self._part("host_begins", host_ns)]
        since = host_ns - part["ros_ns"]
        drift = part["drift"] / (1 + part["drift"])
        times: Times = part["sensor_ns"] + since - np.rint(since * drift).astype(np.int64)
        return times

    def _part(self, clock: str, times: Times) -> NDArray[np.int64]:
        return np.searchsorted(self.segments[clock][1:], times, side="right")


def read_timeline(
    reader: BagReader,
    event_topic: str | None = None,
    image_topic: str | None = None,
    *,
    stream: EventStream | None = None,
    watch: Callable[[DecodedPacket], None] | None = None,
    with_frames: bool = True,
) -> Timeline:
    """Read all times of a bag: events and triggers in one pass, frames in another.

    Args:
        reader: Open bag.
        event_topic: Event topic; may be omitted if there is only one.
        image_topic: Image topic; may be omitted if there is only one.
        stream: Stream to read instead of the event topic, for callers that need its counters.
        watch: Callback for each decoded packet.
        with_frames: Read the frames' times; if false, no image topic is needed.

    Raises:
        BagError: If a topic is missing or ambiguous, or no event could be decoded.
    """
    stream = stream or EventStream(reader, event_topic)
    images = reader.image_topic(image_topic) if with_frames else ""
    clock = RecordingClock()
    entries, encodings = array("q"), list[bytes]()
    edges = array("q"), array("B"), array("B")
    frame_ids: set[str] = set()
    end_ns = latest_ns = next_entry_ns = count = 0
    opening: Entry | None = None
    for packet in stream.packets():
        opening = opening or packet.entry
        if watch:
            watch(packet)
        for column, values in zip(edges, astuple(packet.triggers), strict=True):
            column.frombytes(values.tobytes())
        if not len(packet.events):
            latest_ns = max(latest_ns, packet.record_ns)
            continue
        first = int(packet.events.t[0])
        clock.add(first, packet.stamp_ns)
        # Reading starts at a record time: an entry must be the first packet recorded at its time.
        if not entries or (packet.record_ns > latest_ns and packet.record_ns >= next_entry_ns):
            record_ns, encoding, state = packet.entry if entries else opening
            entries.extend((record_ns, packet.stamp_ns, first, count, *state.tolist()))
            encodings.append(encoding.encode())
            next_entry_ns = packet.record_ns + _ENTRY_NS
        count += len(packet.events)
        end_ns = int(packet.events.t[-1])
        latest_ns = max(latest_ns, packet.record_ns)
        frame_ids.add(packet.frame_id)
    if not entries:
        msg = f"no event could be decoded from {stream.topic} of {reader.path}"
        raise BagError(msg)
    frames, image_frame_ids = _read_frame_times(reader, [images] if with_frames else [])
    table = np.frombuffer(entries, np.int64).reshape(len(encodings), -1)
    record, stamp, first_ns, before = table[:, :4].T.copy()
    segments = clock.segments()
    return Timeline(
        stream.topic,
        images,
        PacketTimes(record, stamp, first_ns, before, np.array(encodings), table[:, 4:]),
        segments[0].sensor_ns,
        end_ns,
        frames,
        Triggers(*(np.frombuffer(column, column.typecode) for column in edges)),
        RecordedClock.from_fits(segments),
        same_device=bool(frame_ids & image_frame_ids - {""}),
    )


def events_from(reader: BagReader, timeline: Timeline, sensor_ns: int) -> Iterator[DecodedPacket]:
    """Decode packets from shortly before a sensor time (ns) on.

    The events are the same as in a decoding of the whole bag.
    """
    entry = timeline.packets.entry(sensor_ns)
    return EventStream(reader, timeline.event_topic).packets_from(entry)


def unset_stamps(stamps: Times) -> NDArray[np.bool_]:
    """Find header stamps that were never set.

    A stamp of 0 was not set, unless the topic's clock starts there: only the first stamp is 0, and
    the second is less than 10 s.

    Args:
        stamps: Stamps of one topic in order of record time, int64 [N], in ns.

    Returns:
        bool [N].
    """
    unset: NDArray[np.bool_] = stamps == 0
    if len(stamps) > 1 and 0 < stamps[1] < _FIRST_STEP_NS:
        unset[0] = False
    return unset


def _read_frame_times(reader: BagReader, topics: list[str]) -> tuple[FrameTimes, set[str]]:
    record, stamp = array("q"), array("q")
    frame_ids: set[str] = set()
    for message in reader.messages(topics):
        try:
            stamp_ns, frame_id = parse_header(message.data)
        except MessageError:
            # Decoding reports the error later; the row keeps rows and frames aligned.
            stamp_ns, frame_id = 0, ""
        record.append(message.record_time_ns)
        stamp.append(stamp_ns)
        frame_ids.add(frame_id)
    times = FrameTimes(np.frombuffer(record, np.int64), np.frombuffer(stamp, np.int64))
    return times, frame_ids
