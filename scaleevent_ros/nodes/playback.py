"""Recordings to replay (bags, and the formats of `scaleevent convert`), and their pace."""

from __future__ import annotations

import math
import threading
import time
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scaleevent_ros.bags.errors import MessageError
from scaleevent_ros.bags.messages import COMPRESSED_IMAGE, EVENT_PACKET, IMAGE, parse_header_stamp
from scaleevent_ros.bags.metadata import METADATA_NAME, Qos
from scaleevent_ros.bags.reader import BagReader
from scaleevent_ros.bags.timeline import unset_stamps
from scaleevent_ros.nodes.parameters import NodeError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from scaleevent_ros.bags.messages import BytesLike
    from scaleevent_ros.bags.reader import RawMessage

_BAG_SUFFIXES = {".mcap", ".db3", ".zstd"}


class TimedMessage(NamedTuple):
    """A serialized message, and the time at which it is due, in ns of the recording."""

    due_ns: int
    topic: str
    cdr: BytesLike


class PlayedTopic(NamedTuple):
    """A topic of a recording.

    Attributes:
        msgtype: Message type.
        qos: QoS to publish it with.
        zero_is_time: Whether a header stamp of 0 is a valid time, as in recordings whose clock
            starts at 0; otherwise it means that the publisher set no stamp.
    """

    msgtype: str
    qos: Qos
    zero_is_time: bool = False


class Playback(NamedTuple):
    """A recording that can be played from any time, any number of times.

    Attributes:
        topics: Topics by name.
        start_ns: Time of the first message in ns.
        stamp_offset_ns: Offset of header stamps from the times at which messages are due, in ns.
        messages: Function that iterates over the messages from a time (ns) on, in order.
    """

    topics: dict[str, PlayedTopic]
    start_ns: int
    stamp_offset_ns: int
    messages: Callable[[int], Iterator[TimedMessage]]


def open_playback(path: Path, wanted: Collection[str] = ()) -> Playback:
    """Open a bag, or a recording of another format.

    Args:
        path: Bag or recording.
        wanted: Topics to play; all if empty.

    Raises:
        NodeError: If it lacks a wanted topic, has several recordings, or is empty.
        BagError: If it is a bag that cannot be read.
        SourceError: If it is neither a bag nor a recording of a known format.
    """
    return _open_bag(path, wanted) if _is_bag(path) else _open_recording(path, wanted)


def _is_bag(path: Path) -> bool:
    files = path.iterdir() if path.is_dir() else [path]
    return any(file.suffix in _BAG_SUFFIXES or file.name == METADATA_NAME for file in files)


def _chosen(
    path: Path, topics: dict[str, PlayedTopic], wanted: Collection[str]
) -> dict[str, PlayedTopic]:
    for name in wanted:
        if name not in topics:
            msg = f"{path} has no topic {name}; it has {', '.join(topics) or 'none'}"
            raise NodeError(msg)
    return {name: topic for name, topic in topics.items() if not wanted or name in wanted}


def _open_bag(path: Path, wanted: Collection[str]) -> Playback:
    reader = BagReader(path)
    topics = {
        name: PlayedTopic(info.msgtype, info.qos or Qos()) for name, info in reader.topics.items()
    }
    topics = _chosen(path, topics, wanted)

    def messages(start_ns: int) -> Iterator[TimedMessage]:
        for message in reader.messages(list(topics), start_ns=start_ns):
            yield TimedMessage(message.record_time_ns, message.topic, message.data)

    topics = {
        name: topic._replace(zero_is_time=_zero_is_time(reader, name))
        for name, topic in topics.items()
    }
    return Playback(topics, reader.start_ns, _stamp_offset(reader, topics), messages)


def _stamp_offset(reader: BagReader, topics: dict[str, PlayedTopic]) -> int:
    """Return the offset of stamps from record times in ns, which may be months.

    It is that of the first stamped message of an event or image topic.
    """
    sensors = [
        name
        for name, topic in topics.items()
        if topic.msgtype in (EVENT_PACKET, IMAGE, COMPRESSED_IMAGE)
    ]
    for message in reader.messages(sensors):
        stamp_ns = _header_stamp(message)
        if stamp_ns or topics[message.topic].zero_is_time:
            return stamp_ns - message.record_time_ns
    return 0


def _zero_is_time(reader: BagReader, topic: str) -> bool:
    stamps = [_header_stamp(message) for message in islice(reader.messages([topic]), 2)]
    return stamps[:1] == [0] and not unset_stamps(np.array(stamps, np.int64))[0]


def _header_stamp(message: RawMessage) -> int:
    """Read a message's header stamp in ns; 0 if the message is too short for one."""
    try:
        return parse_header_stamp(message.data)
    except MessageError:
        return 0


def _open_recording(path: Path, wanted: Collection[str]) -> Playback:
    # Imported here: the libraries of these formats are not needed to replay bags.
    from scaleevent_ros.sources import streams
    from scaleevent_ros.sources.formats import find_recordings
    from scaleevent_ros.sources.recording import ReadOptions

    found = find_recordings(path)
    if len(found) > 1:
        msg = (
            f"{path} has {len(found)} recordings, give one: {', '.join(one.name for one in found)}"
        )
        raise NodeError(msg)
    recording = found[0].open(ReadOptions())
    topics = {
        name: PlayedTopic(msgtype, qos, zero_is_time=True)
        for name, (msgtype, qos) in streams.topics(recording, None).items()
    }
    topics = _chosen(path, topics, wanted)

    def messages(start_ns: int) -> Iterator[TimedMessage]:
        for message in streams.messages(recording, None, streams.Position(start_ns)):
            if message.topic in topics:
                yield TimedMessage(message.stamp_ns, message.topic, message.cdr)

    first = next(messages(0), None)
    if first is None:
        msg = f"{path} has no messages"
        raise NodeError(msg)
    return Playback(topics, first.due_ns, 0, messages)


class Pace:
    """Maps the time of a recording to a clock, and waits until times of the recording are due.

    Args:
        rate: Speed relative to real time; 0 for no waiting at all.
        clock: Function that returns the current time, in ns, of the clock that `to_clock` maps to.
    """

    def __init__(self, rate: float, clock: Callable[[], int] = time.time_ns) -> None:
        self._rate = rate
        self._clock = clock
        self._changed = threading.Condition()
        self._start_ns = 0
        self._begun_at = time.monotonic()
        self._begun_ns = clock()
        self._held_at: float | None = None
        self._stopped = False

    def begin(self, start_ns: int, delay_s: float = 0.0) -> None:
        """Set the time of the recording, in ns, that is due now, or after a delay."""
        with self._changed:
            now = time.monotonic()
            self._start_ns = start_ns
            self._begun_at = now + delay_s
            self._begun_ns = self._clock() + round(delay_s * 1e9)
            if self._held_at is not None:
                self._held_at = now

    def wait(self, due_ns: int) -> bool:
        """Wait until a time of the recording is due.

        Returns:
            True when the time is due; False if `stop` was called before.
        """
        with self._changed:
            while not self._stopped:
                if self._held_at is not None:
                    self._changed.wait()
                elif (left := self._seconds_until(due_ns)) > 0:
                    self._changed.wait(left)
                else:
                    return True
            return False

    def position(self) -> int:
        """Return the time of the recording that is due now, in ns."""
        with self._changed:
            now = time.monotonic() if self._held_at is None else self._held_at
            elapsed = max(0.0, now - self._begun_at)
            return self._start_ns + round(elapsed * self._rate * 1e9)

    def to_clock(self, time_ns: int) -> int:
        """Map a time of the recording to the clock, both in ns.

        The mapping changes only in `begin` and `release`. In between, equal times have equal
        results, and intervals are the recording's divided by the rate.
        """
        with self._changed:
            since_ns = time_ns - self._start_ns
            # Integers at rate 1: float64 is exact to a nanosecond for 104 days only.
            scaled_ns = since_ns if self._rate == 1 else round(since_ns / (self._rate or math.inf))
            return self._begun_ns + scaled_ns

    def hold(self) -> None:
        """Pause until `release` is called."""
        with self._changed:
            if self._held_at is None:
                self._held_at = time.monotonic()

    def release(self) -> None:
        """Continue after `hold`."""
        with self._changed:
            if self._held_at is not None:
                elapsed = self._held_at - self._begun_at
                self._begun_at = time.monotonic() - elapsed
                self._begun_ns = self._clock() - round(elapsed * 1e9)
                self._held_at = None
                self._changed.notify_all()

    def stop(self) -> None:
        """Make `wait` return False, now and from then on."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _seconds_until(self, due_ns: int) -> float:
        elapsed = (due_ns - self._start_ns) / 1e9 / self._rate if self._rate else 0.0
        return self._begun_at + elapsed - time.monotonic()
