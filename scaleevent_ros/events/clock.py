"""Mapping from the sensor's clock to ROS time, by the packets' host stamps.

A packet's stamp is later than its events by a delay that varies by milliseconds, but is never less
than the transport needs. So the true line runs along the lower edge of the stamps, not through
their middle, and every fast packet improves it: the error of an edge falls with the number of
packets, that of a mean only with its square root.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, overload

import numpy as np

from scaleevent_ros.events.clock_fit import WARM_UP, ClockFit, edge_line, fit_line
from scaleevent_ros.events.errors import EventsError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeAlias

    from numpy.typing import NDArray

    Times: TypeAlias = NDArray[np.int64]

MEMORY = 16384  # pairs: 65 s at 250 packets a second
RUN = 8  # pairs that disagree alike make a new segment, ...
APART_NS = 30_000_000  # ... as many times that apart on the sensor's clock
EARLY_NS = 5_000_000  # no delay explains stamps earlier than the line by more than this
LATE_NS = 100_000_000  # no busy host explains stamps that stay later than the line by more
MOST_PAIRS = 1 << 17  # of a segment, thinned beyond: more change nothing and take 100 bytes each

_NO_PAIR = "the sensor's clock is unknown: no packet has come yet"


@dataclass(frozen=True, slots=True)
class ClockSegment:
    """A part of a recording in which the sensor's clock ran without a step.

    Attributes:
        start: Index of its first pair.
        end: Index after its last pair.
        sensor_ns: Sensor time of its first pair, in ns.
        host_ns: Stamp of its first pair, in ns.
        fit: Line through its pairs; in a long segment, through evenly spaced ones.
    """

    start: int
    end: int
    sensor_ns: int
    host_ns: int
    fit: ClockFit


class SensorClock:
    """Live estimate of the map from sensor time to ROS time, from the stamps of packets.

    Each pair is the sensor time of a packet's first event and the ROS time of the packet's stamp.
    The last 16384 pairs are kept. The line is fitted again whenever their number has grown by a
    sixteenth, so that a pair costs some microseconds on average.

    Pairs far from the line are outliers, unless no other pairs come for a quarter of a second and
    they agree with each other: then the sensor's or the host's clock was reset, and a new segment
    starts with them.

    Not for use from two threads at once.
    """

    def __init__(self) -> None:
        edge_line(np.arange(9.0), np.arange(9.0), 1.0)  # compiled now, not at a packet
        self._sensor = np.empty(2 * MEMORY, np.int64)
        self._host = np.empty(2 * MEMORY, np.int64)
        self._seen = 0
        self._segment_starts = 0
        self._stamp = -(1 << 63)
        self._start_segment(())

    @property
    def fit(self) -> ClockFit:
        """The current line.

        Raises:
            EventsError: If no pair has been added yet.
        """
        if self._fit is None:
            raise EventsError(_NO_PAIR)
        return self._fit

    @property
    def segments(self) -> int:
        """Number of segments: 1, plus 1 for each time that a clock was set."""
        return self._segment_starts

    @property
    def segment_first(self) -> tuple[int, int, int]:
        """First pair of the current segment: its index among all added, sensor time and stamp.

        Raises:
            EventsError: If no pair has been added yet.
        """
        if self._first is None:
            raise EventsError(_NO_PAIR)
        return self._first

    def add(self, sensor_ns: int, host_ns: int) -> None:
        """Add the next packet's pair: its first event's sensor time and its stamp, ns."""
        index, self._seen = self._seen, self._seen + 1
        if self._count:
            # Either packets overtook each other, or the clock was set back.
            back = sensor_ns < self._sensor[self._count - 1]
            late = host_ns - self.to_ros(sensor_ns)
            if back or (self._count >= WARM_UP and not -EARLY_NS < late < LATE_NS):
                self._set_aside(index, sensor_ns, host_ns)
                return
        self._disagreeing.clear()
        self._append(index, sensor_ns, host_ns)

    @overload
    def to_ros(self, sensor_ns: int) -> int: ...
    @overload
    def to_ros(self, sensor_ns: Times) -> Times: ...
    def to_ros(self, sensor_ns: int | Times) -> int | Times:
        """Map sensor time to ROS time by the current line, ns.

        Raises:
            EventsError: If no pair has been added yet.
        """
        return self.fit.to_ros(sensor_ns)

    def stamp(self, sensor_ns: int) -> int:
        """Map one sensor time like `to_ros`, but never to a time before the previous result.

        For the stamps of a node's messages, which must not step back when the line is fitted
        again or the sensor restarts.

        Raises:
            EventsError: If no pair has been added yet.
        """
        self._stamp = max(self._stamp, self.to_ros(sensor_ns))
        return self._stamp

    def _set_aside(self, index: int, sensor_ns: int, host_ns: int) -> None:
        """Store a pair that disagrees, and start a segment once a run of them agrees."""
        run = self._disagreeing
        if run and 0 <= sensor_ns - run[-1][1] < APART_NS:
            return  # a busy host's stamps come in bunches; they count as one
        run.append((index, sensor_ns, host_ns))
        _, sensor, host = np.array(run, np.int64).T
        late = host - self.to_ros(sensor)
        spread = np.median(np.abs(late - np.median(late)))
        if (
            len(run) == RUN
            and (np.diff(sensor) > 0).all()
            and spread < max(EARLY_NS, 4 * self.fit.jitter_ns)
        ):
            self._start_segment(run)

    def _start_segment(self, run: Iterable[tuple[int, int, int]]) -> None:
        pairs = tuple(run)
        self._first: tuple[int, int, int] | None = None
        self._count = 0
        self._next_fit = 1
        self._fit: ClockFit | None = None
        self._disagreeing: deque[tuple[int, int, int]] = deque(maxlen=RUN)
        for pair in pairs:
            self._append(*pair)

    def _append(self, index: int, sensor_ns: int, host_ns: int) -> None:
        if self._first is None:
            self._first = (index, sensor_ns, host_ns)
            self._segment_starts += 1
        if self._count == len(self._sensor):
            self._sensor[:MEMORY] = self._sensor[MEMORY:]
            self._host[:MEMORY] = self._host[MEMORY:]
            self._next_fit -= self._count - MEMORY
            self._count = MEMORY
        self._sensor[self._count] = sensor_ns
        self._host[self._count] = host_ns
        self._count += 1
        if self._count >= self._next_fit:
            start = max(self._count - MEMORY, 0)
            sensor, host = self._sensor[start : self._count], self._host[start : self._count]
            self._fit = fit_line(sensor, host)
            self._next_fit = self._count + max(len(sensor) // 16, 1)


class RecordingClock:
    """Segments of a recording's clock, each with its fit; at most 3 MB of pairs for each."""

    def __init__(self) -> None:
        self._clock = SensorClock()
        self._segments: list[_SegmentPairs] = []
        self._seen = 0

    def add(self, sensor_ns: int, host_ns: int) -> None:
        """Add the next packet's pair, as to a `SensorClock`."""
        clock = self._clock
        clock.add(sensor_ns, host_ns)
        if clock.segments > len(self._segments):
            start, *first = clock.segment_first
            segment = _SegmentPairs()
            segment.add(start, *first)
            if self._segments:
                for pair in self._segments[-1].cut(start):
                    segment.add(*pair)
            self._segments.append(segment)
        self._segments[-1].add(self._seen, sensor_ns, host_ns)
        self._seen += 1

    def segments(self) -> tuple[ClockSegment, ...]:
        """Return one segment or more, in order; together they cover all pairs.

        Raises:
            EventsError: If no pair has been added.
        """
        if not self._segments:
            raise EventsError(_NO_PAIR)
        ends = [segment.index[0] for segment in self._segments[1:]] + [self._seen]
        return tuple(segment.fit(end) for segment, end in zip(self._segments, ends, strict=True))


class _SegmentPairs:
    """Pairs of one segment: all of them, or evenly spaced ones where there are many."""

    def __init__(self) -> None:
        self.index, self._sensor, self._host = array("q"), array("q"), array("q")
        self._apart = 1

    def add(self, index: int, sensor_ns: int, host_ns: int) -> None:
        """Add a pair, unless it is too close to the last one, or the same."""
        if self.index and index < self.index[-1] + self._apart:
            return
        self.index.append(index)
        self._sensor.append(sensor_ns)
        self._host.append(host_ns)
        if len(self.index) == MOST_PAIRS:
            self._apart *= 2
            for column in (self.index, self._sensor, self._host):
                del column[1::2]

    def cut(self, start: int) -> list[tuple[int, int, int]]:
        """Remove and return the pairs from an index on."""
        row = bisect_left(self.index, start)
        tail = list(zip(self.index[row:], self._sensor[row:], self._host[row:], strict=True))
        for column in (self.index, self._sensor, self._host):
            del column[row:]
        return tail

    def fit(self, end: int) -> ClockSegment:
        """Fit the segment, whose pairs have indices below ``end``."""
        sensor, host = np.array(self._sensor, np.int64), np.array(self._host, np.int64)
        fit = replace(fit_line(sensor, host), pairs=end - self.index[0])
        return ClockSegment(self.index[0], end, int(sensor[0]), int(host[0]), fit)


def fit_clock(sensor_ns: Times, host_ns: Times) -> tuple[ClockSegment, ...]:
    """Find the segments of a whole recording, and fit each one (see `RecordingClock`).

    Args:
        sensor_ns: Sensor time of each packet's first event in ns, int64 [N], in order of arrival.
        host_ns: Stamps of the packets in ns, int64 [N].

    Raises:
        EventsError: If there is no pair, or the lengths differ.
    """
    if len(sensor_ns) != len(host_ns):
        msg = f"a clock needs pairs: {len(sensor_ns)} sensor times, {len(host_ns)} stamps"
        raise EventsError(msg)
    clock = RecordingClock()
    for pair in zip(sensor_ns.tolist(), host_ns.tolist(), strict=True):
        clock.add(*pair)
    return clock.segments()
