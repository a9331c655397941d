"""The input of the perception node: windows of event packets, and the trigger of results."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from scaleevent_ros.bags.errors import MessageError
from scaleevent_ros.bags.messages import parse_event_packet
from scaleevent_ros.events import EventsError, SensorClock, make_decoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from scaleevent_ros.bags.messages import EventPacketView
    from scaleevent_ros.events import ClockFit, Decoder, EventBatch
    from scaleevent_ros.nodes.parameters import PerceptionParameters
    from scaleevent_ros.nodes.perception_windows import Windows

AGREEING = 3
"""Number of consecutive packets with another geometry after which the camera has changed."""
AGREEING_S = 0.5
"""Time in s without a packet of the old geometry that is also required for a change of geometry,
since two cameras may share a topic."""


CLOCK_STEP_NS = 1_000_000_000
"""Step back of stamps above which the host's clock was set; smaller steps are jitter."""


class Live(NamedTuple):
    """State for the inference thread; the receiving thread replaces it as a whole.

    Attributes:
        epoch: Number of times that the stream or its clock has (re)started.
        windows: Windows of this epoch.
        fit: Current map from sensor time to ROS time.
        frame_id: `frame_id` of the newest packet.
    """

    epoch: int
    windows: Windows
    fit: ClockFit
    frame_id: str

    def sensor_time(self, ros_ns: int) -> int:
        """Map ROS time to the sensor's clock, both in ns."""
        since = ros_ns - self.fit.ros_ns
        return self.fit.sensor_ns + since - round(since * self.fit.drift)


@dataclass
class StreamCounts:
    """Totals since the node was activated.

    Attributes:
        packets: Received messages.
        events: Decoded events.
        lost: Packets missing by their `seq`.
        malformed: Messages that are not event packets, or of another geometry or an unknown
            encoding.
        broken_words: Words that the encoding does not define, events outside the sensor, and bytes
            of truncated words.
        left_out: Events that came too late for their window, or lie outside the sensor.
        epochs: Number of times that the stream or its clock has (re)started.
        clock_steps: Number of times that the sensor's or the host's clock was set.
        windows: Computed windows.
        memory_resets: Number of times that the network's memory was emptied: at a new epoch, with
            another geometry, or after a longer time without windows than in training.
        skipped: Windows that were skipped, since another was requested before they were computed.
        stamp_ns: Stamp of the last window, ROS time.
        stamp_epoch: Epoch of the last window.
        frame_id: `frame_id` of the newest packet.
    """

    packets: int = 0
    events: int = 0
    lost: int = 0
    malformed: int = 0
    broken_words: int = 0
    left_out: int = 0
    epochs: int = 0
    clock_steps: int = 0
    windows: int = 0
    memory_resets: int = 0
    skipped: int = 0
    stamp_ns: int = 0
    stamp_epoch: int = 0
    frame_id: str = ""


class PacketStream:
    """Decodes the packets of one topic into windows; another thread may call `rebuild`.

    The stream restarts, in a new epoch, after silence, if `seq` or stamps step back (the driver
    restarted, a bag is played in a loop, the host's clock was set), and if the encoding changes:
    roll-overs of the sensor's clock may have been missed, and the decoder's state would be wrong.
    If `SensorClock` or the decoder finds a step of the clock, an epoch begins in which decoder and
    windows continue.

    Attributes:
        counts: Totals since the node was activated.
        live: State for the inference thread; None until events of a whole window have arrived.
        size: Height and width of the sensor.
        silence_s: Time in s without a packet after which the stream restarts.

    Args:
        size: Height and width of the sensor.
        make: Function that creates empty windows.
        silence_s: Time in s without a packet after which the stream restarts.
        remark: Function that is called with a text about each unusual event.
        counts: Totals, which this stream updates.
    """

    def __init__(
        self,
        size: tuple[int, int],
        make: Callable[[], Windows],
        silence_s: float,
        remark: Callable[[str], None],
        counts: StreamCounts,
    ) -> None:
        self.size, self.silence_s = size, silence_s
        self.counts = counts
        self.live: Live | None = None
        self._kept_since: int | None = None
        self._make, self._remark = make, remark
        self._arrived = time.monotonic()
        self._before: EventPacketView | None = None
        self._other: tuple[int, int] | None = None
        self._others = 0
        self._fitted = -math.inf
        self._lock = threading.Lock()
        self._begin(None)

    @property
    def silent_for(self) -> float:
        """Seconds since the last packet, or since the stream was created."""
        return time.monotonic() - self._arrived

    @property
    def new_size(self) -> tuple[int, int] | None:
        """New height and width of the camera if they have changed, else None."""
        changed = self._others >= AGREEING and time.monotonic() - self._fitted > AGREEING_S
        return self._other if changed else None

    def rebuild(self) -> None:
        """Continue with new windows, after a change of their settings."""
        windows = self._make()
        with self._lock:
            self._keep_in(windows)

    def push(self, cdr: bytes, now_ns: int, *, keep: bool) -> int:
        """Process one message.

        Args:
            cdr: Serialized event packet.
            now_ns: Current ROS time in ns, for packets without a stamp.
            keep: Add the events to windows. Otherwise they are only decoded and counted, and the
                clock is updated.

        Returns:
            The number of its events.
        """
        with self._lock:
            if not keep:
                self.live = self._kept_since = None
            return self._push(cdr, now_ns, keep=keep)

    def _push(self, cdr: bytes, now_ns: int, *, keep: bool) -> int:
        counts = self.counts
        counts.packets += 1
        silent_s, self._arrived = self.silent_for, time.monotonic()
        try:
            packet = parse_event_packet(cdr)
            before, self._before = self._before, packet._replace(payload=b"")
            if before is None or self._interrupted(before, packet, silent_s):
                self._begin(packet)
        except (MessageError, EventsError) as error:
            if not counts.malformed:
                self._remark(f"a packet is ignored: {error}")
            counts.malformed += 1
            return 0
        if before and packet.seq > before.seq:
            counts.lost += packet.seq - before.seq - 1
        if not self._fits(packet):
            return 0
        counts.frame_id = packet.frame_id
        return self._decode(packet, now_ns, keep=keep)

    def _interrupted(
        self, before: EventPacketView, packet: EventPacketView, silent_s: float
    ) -> bool:
        """Return whether decoder, windows and clock must restart, and report why."""
        if self._decoder is None:
            return True
        if packet.encoding != before.encoding:
            self._remark(f"the encoding changes from {before.encoding} to {packet.encoding}")
        elif packet.seq < before.seq:
            self._remark(f"seq steps back from {before.seq} to {packet.seq}: a new epoch begins")
        elif 0 < packet.stamp_ns < before.stamp_ns - CLOCK_STEP_NS:
            step_s = (before.stamp_ns - packet.stamp_ns) / 1e9
            self._remark(f"stamps step back by {step_s:.1f} s: a new epoch begins")
            self.counts.clock_steps += 1
        elif silent_s > self.silence_s:
            self._remark(f"the camera is back after {silent_s:.1f} s of silence")
        else:
            return False
        return True

    def _begin(self, packet: EventPacketView | None) -> None:
        """Restart decoder, windows and clock; there is no decoder before the first packet."""
        self._decoder: Decoder | None = None
        self._keep_in(self._make())
        self._clock = SensorClock()
        self._seen_broken, self._seen_steps = 0, 1  # the clock's first segment is no step
        if packet:
            self._decoder = make_decoder(packet.encoding, self.size[1], self.size[0])
            self.counts.epochs += 1

    def _keep_in(self, windows: Windows) -> None:
        """Restart with empty windows."""
        self._windows = windows
        self._seen_left_out = 0
        self.live = self._kept_since = None

    def _fits(self, packet: EventPacketView) -> bool:
        """Return whether a packet has this sensor's size; count it if not."""
        size = packet.height, packet.width
        if size == self.size:
            self._others, self._fitted = 0, time.monotonic()
            return True
        self._others = self._others + 1 if size == self._other else 1
        self._other = size
        self.counts.malformed += 1
        if time.monotonic() - self._fitted <= AGREEING_S:
            self._remark(
                f"a packet of {size[1]}x{size[0]} pixels is ignored among those of "
                f"{self.size[1]}x{self.size[0]}: is there a second camera on the topic?"
            )
        return False

    def _decode(self, packet: EventPacketView, now_ns: int, *, keep: bool) -> int:
        assert self._decoder
        events = self._decoder.decode(packet.payload, packet.time_base)
        # A message has whole words: a truncated one must not shift those of the next message.
        self._decoder.flush()
        stats, counts = self._decoder.stats, self.counts
        if len(events):
            self._clock.add(int(events.t[0]), packet.stamp_ns or now_ns)
            # The decoder continues if the sensor's clock steps back.
            steps = self._clock.segments + stats.resets
            if steps > self._seen_steps:
                counts.clock_steps += steps - self._seen_steps
                counts.epochs += 1
                self._seen_steps = steps
                self._remark("the sensor's clock, or this host's, was set: a new epoch begins")
            if keep:
                self._keep(events, packet.frame_id)
        broken = stats.unknown + stats.out_of_range + stats.truncated_bytes
        counts.broken_words += broken - self._seen_broken
        counts.left_out += self._windows.left_out - self._seen_left_out
        self._seen_broken, self._seen_left_out = broken, self._windows.left_out
        counts.events += len(events)
        return len(events)

    def _keep(self, events: EventBatch, frame_id: str) -> None:
        """Add events to the windows, and publish them in `live` once a whole window is there."""
        self._windows.push(events)
        first = int(events.t[0])
        self._kept_since = first if self._kept_since is None else min(self._kept_since, first)
        end = self._windows.t_end
        if end is not None and end - self._kept_since >= self._windows.longest_ns:
            self.live = Live(self.counts.epochs, self._windows, self._clock.fit, frame_id)


class Requests:
    """Counter of requests between threads; requests that come while one is served are merged."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._requests = 0
        self._stopped = False

    def add(self) -> None:
        """Add a request."""
        with self._changed:
            self._requests += 1
            self._changed.notify()

    def wait(self) -> int:
        """Wait for requests, reset them, and return their number; 0 once stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._requests or self._stopped)
            taken, self._requests = self._requests, 0
            return 0 if self._stopped else taken

    def stop(self) -> None:
        """Make `wait` return 0, now and from then on."""
        with self._changed:
            self._stopped = True
            self._changed.notify()


class Trigger:
    """Requests results: at a rate, for each packet, for a number of events, or for each image.

    Attributes:
        settings: Current parameters.
        due_ns: Stamp in ROS time of the last image whose events have arrived, in ns; None without
            one.

    Args:
        settings: Parameters of the node.
        request: Function that requests a result.
        counts: Totals; an image that is replaced before its events arrive is counted as skipped.
    """

    def __init__(
        self, settings: PerceptionParameters, request: Callable[[], None], counts: StreamCounts
    ) -> None:
        self.settings = settings
        self.due_ns: int | None = None
        self._waiting_ns: int | None = None
        self._request, self._counts = request, counts
        self._events = 0
        self._next = 0.0

    def packet(self, events: int, live: Live | None) -> None:
        """Update for a packet with a number of events, and request a result if one is due."""
        self._events += events
        if self._waiting_ns is not None:
            self._request_if_here(self._waiting_ns, live)
        elif self._events and self._is_due():
            self._events = 0
            self._request()

    def _is_due(self) -> bool:
        settings = self.settings
        if settings.trigger == "rate":
            now, period = time.monotonic(), 1 / settings.rate
            if now < self._next:
                return False
            # In fixed steps, so that the average rate is met; results are not caught up on later.
            self._next = (self._next if now < self._next + period else now) + period
            return True
        return self._events >= {"packet": 1, "count": settings.count}.get(
            settings.trigger, math.inf
        )

    def image(self, stamp_ns: int, live: Live | None) -> None:
        """Request the window that ends at an image's stamp (ns), once its events have arrived."""
        if self._waiting_ns is not None:
            self._counts.skipped += 1
        self._waiting_ns = stamp_ns
        self._request_if_here(stamp_ns, live)

    def _request_if_here(self, stamp_ns: int, live: Live | None) -> None:
        end = live.windows.t_end if live else None
        if live is None or end is None or end < live.sensor_time(stamp_ns):
            return
        self.due_ns, self._waiting_ns = stamp_ns, None
        self._request()
