"""Bag quality check."""

from __future__ import annotations

import math
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from scaleevent_ros.bags.errors import BagError, ImageError, MessageError, SynchronizationError
from scaleevent_ros.bags.event_stream import EventStream
from scaleevent_ros.bags.event_summary import EventSummary
from scaleevent_ros.bags.frame_quality import FrameQuality, blurred, measure_frame
from scaleevent_ros.bags.images import image_grey, image_rgb
from scaleevent_ros.bags.pairing import BEFORE_NS, FrameWindow, frame_windows, is_covered
from scaleevent_ros.bags.quality import (
    BagQuality,
    ClockSummary,
    FrameSummary,
    PairQuality,
    Series,
    Thumbnail,
    count_reasons,
)
from scaleevent_ros.bags.shift import estimate_shift
from scaleevent_ros.bags.synchronization import MIN_SHIFT_MS, SIGMAS, synchronize
from scaleevent_ros.bags.timeline import read_timeline, unset_stamps
from scaleevent_ros.events import activity_mask, histogram

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from scaleevent_ros.bags.event_stream import DecodedPacket
    from scaleevent_ros.bags.reader import BagReader, RawMessage
    from scaleevent_ros.bags.synchronization import Synchronization
    from scaleevent_ros.bags.timeline import Timeline

MIN_ACTIVE_SHARE = 0.05
MIN_USABLE_SHARE = 0.5
MAX_LOST_SHARE = 0.01
GAP_FACTOR = 1.5
THUMBNAILS = 12
THUMBNAIL_WIDTH = 240

_MS = 1_000_000
_MAX_BINS = 600
_IN_FLIGHT = 8


def check_bag(
    reader: BagReader,
    *,
    event_topic: str | None = None,
    image_topic: str | None = None,
    mode: str = "auto",
    before_ns: int = BEFORE_NS,
) -> BagQuality:
    """Check whether a bag can be used for pretraining.

    The bag is read twice; frames are measured in a second thread at half their size.

    Args:
        reader: Open bag.
        event_topic: Event topic; may be omitted if there is only one.
        image_topic: Image topic; may be omitted if there is at most one.
        mode: Clock mode; see `synchronize`.
        before_ns: Length of the window of events that ends with each frame, in ns.

    Raises:
        BagError: If there is no event topic, a topic is ambiguous, or no event can be decoded.
    """
    stream = EventStream(reader, event_topic)
    counter = _PacketCounter(reader, stream.topic)
    has_frames = image_topic is not None or reader.has_images
    timeline = read_timeline(
        reader, image_topic=image_topic, stream=stream, watch=counter.add, with_frames=has_frames
    )
    synchronization = clock = None
    problems = []
    if not has_frames:
        problems.append("there is no image topic, and without frames there are no pairs")
    else:
        try:
            synchronization = synchronize(reader, timeline, mode)
        except SynchronizationError as error:
            problems.append(f"frames and events cannot be put on one clock: {error}")
    pairs: list[PairQuality] = []
    thumbnails: list[Thumbnail] = []
    warnings = [f"{name}: {what}" for name, what in reader.damage.items()]
    if synchronization:
        checker = _PairChecker(reader, timeline, synchronization, counter.summary, before_ns)
        pairs, thumbnails = checker.run(), checker.thumbnails
        warnings += [checker.error] if checker.error else []
        clock = _summarize_clock(reader, timeline, synchronization)
    events = counter.summary
    events.finish(stream)
    frames = _summarize_frames(timeline) if has_frames else None
    return BagQuality(
        bag=str(reader.path),
        duration_s=(reader.end_ns - reader.start_ns) / 1e9,
        damage=reader.damage,
        problems=[*problems, *_find_problems(events, pairs)],
        warnings=[*warnings, *_find_warnings(events, frames, clock)],
        topics={
            name: {"type": info.msgtype, "count": info.count}
            for name, info in reader.topics.items()
        },
        events=events,
        frames=frames,
        clock=clock,
        pairs=pairs,
        series=_series(reader, timeline, counter, pairs),
        thumbnails=thumbnails,
    )


class _PacketCounter:
    """Counters of packets and events, in total and in bins of time."""

    def __init__(self, reader: BagReader, topic: str) -> None:
        duration_ns = max(reader.end_ns - reader.start_ns, 1)
        self.summary = EventSummary(topic)
        self.bin_ns = max(1_000_000_000, -(-duration_ns // _MAX_BINS))
        self.events = np.zeros(duration_ns // self.bin_ns + 1, np.int64)
        self._start_ns = reader.start_ns

    def add(self, packet: DecodedPacket) -> None:
        """Count a packet."""
        self.summary.add(packet)
        self.events[(packet.record_ns - self._start_ns) // self.bin_ns] += len(packet.events)


class _FrameAnalysis(NamedTuple):
    """Measures and grey values of one frame; None if it is unreadable."""

    quality: FrameQuality | None
    grey: NDArray[np.uint8] | None


class _PairChecker:
    """Check of all frames and the events of their windows.

    Attributes:
        thumbnails: Pictures of the selected pairs.
        error: Error of the first unreadable frame, or "".
    """

    def __init__(
        self,
        reader: BagReader,
        timeline: Timeline,
        synchronization: Synchronization,
        summary: EventSummary,
        before_ns: int,
    ) -> None:
        self.thumbnails: list[Thumbnail] = []
        self.error = ""
        self._reader = reader
        self._timeline = timeline
        self._synchronization = synchronization
        self._before_ns = before_ns
        self._losses = np.array(summary.losses, np.int64).reshape(-1, 2)
        self._previous: NDArray[np.uint8] | None = None

    def run(self) -> list[PairQuality]:
        """Measure each frame with its window; frames without a window have only reasons."""
        timeline, synchronization = self._timeline, self._synchronization
        pairs: dict[int, PairQuality] = {}
        with ThreadPoolExecutor(1) as pool:
            waiting: deque[tuple[FrameWindow, Future[_FrameAnalysis]]] = deque()
            picked = self._pick_thumbnails()
            for window in frame_windows(self._reader, timeline, synchronization, self._before_ns):
                waiting.append((window, pool.submit(self._analyze_frame, window.message)))
                if window.index in picked:
                    self._add_thumbnail(window)
                if len(waiting) >= _IN_FLIGHT:
                    self._check(pairs, *waiting.popleft())
            while waiting:
                self._check(pairs, *waiting.popleft())
        seen = [pair for pair in pairs.values() if pair.frame]
        for pair, is_blurred in zip(seen, blurred([p.frame for p in seen if p.frame]), strict=True):
            if is_blurred:
                pairs[pair.index] = replace(pair, reasons=(*pair.reasons, "blurred"))
        stamps = timeline.frames.stamp
        missing = np.where(synchronization.known, "not covered", "no trigger")
        missing[unset_stamps(stamps)] = "no stamp"
        return [
            pairs.get(index) or PairQuality(index, stamp, (str(missing[index]),), 0, 0.0, None)
            for index, stamp in enumerate(stamps.tolist())
        ]

    def _pick_thumbnails(self) -> set[int]:
        covered = np.flatnonzero(
            is_covered(self._timeline, self._synchronization, self._before_ns, 0)
        )
        if not len(covered):
            return set()
        chosen = np.linspace(0, len(covered) - 1, THUMBNAILS + 2)[1:-1].round().astype(int)
        return set(covered[chosen].tolist())

    def _analyze_frame(self, message: RawMessage) -> _FrameAnalysis:
        try:
            grey = image_grey(self._reader.parse_image(message))
        except (MessageError, ImageError) as error:
            self.error = self.error or str(error)
            return _FrameAnalysis(None, None)
        return _FrameAnalysis(measure_frame(grey), grey)

    def _check(
        self, pairs: dict[int, PairQuality], window: FrameWindow, future: Future[_FrameAnalysis]
    ) -> None:
        analysis = future.result()
        events = window.events
        active = float(activity_mask(events).mean())
        start_ns = window.sensor_ns - self._before_ns
        lost = (self._losses[:, 0] < window.sensor_ns) & (self._losses[:, 1] > start_ns)
        checks = {
            "events lost": bool(lost.any()),
            "few events": active < MIN_ACTIVE_SHARE,
            "unreadable": analysis.quality is None,
            "dark": analysis.quality is not None and analysis.quality.is_dark,
            "saturated": analysis.quality is not None and analysis.quality.is_saturated,
            "duplicate": (
                analysis.grey is not None
                and self._previous is not None
                and np.array_equal(analysis.grey, self._previous)
            ),
        }
        self._previous = analysis.grey
        pairs[window.index] = PairQuality(
            window.index,
            int(self._timeline.frames.stamp[window.index]),
            tuple(reason for reason, applies in checks.items() if applies),
            len(events),
            active,
            analysis.quality,
        )

    def _add_thumbnail(self, window: FrameWindow) -> None:
        try:
            frame = image_rgb(self._reader.parse_image(window.message))
        except (MessageError, ImageError):
            return
        size = (THUMBNAIL_WIDTH, max(THUMBNAIL_WIDTH * frame.shape[0] // frame.shape[1], 1))
        end_ns = window.sensor_ns
        self.thumbnails.append(
            Thumbnail(
                window.index,
                cv2.resize(frame, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False),
                histogram(window.events, end_ns - self._before_ns, end_ns),
            )
        )


def _summarize_frames(timeline: Timeline) -> FrameSummary:
    stamps = timeline.frames.stamp
    unset = unset_stamps(stamps)
    steps = np.diff(stamps[~unset])
    forward = steps[steps > 0]
    usual = float(np.median(forward)) if len(forward) else 0.0
    gaps = forward[forward > GAP_FACTOR * usual]
    return FrameSummary(
        topic=timeline.image_topic,
        count=len(stamps),
        rate=1e9 / usual if usual else 0.0,
        missing=int(np.rint(gaps / usual - 1).sum()) if usual else 0,
        unordered=int((steps <= 0).sum()),
        unstamped=int(unset.sum()),
    )


def _summarize_clock(
    reader: BagReader, timeline: Timeline, synchronization: Synchronization
) -> ClockSummary:
    estimate = synchronization.estimate
    if synchronization.mode == "estimated":
        estimate = None
    elif estimate is None:
        with suppress(BagError):  # too little motion, or a frame that cannot be read
            estimate = estimate_shift(reader, timeline, synchronization.frame_ns)
    return ClockSummary(
        synchronization.mode,
        synchronization.shift_ms,
        synchronization.residual_ms,
        synchronization.reason,
        reader.custom_data.get("clock_method", ""),
        estimate.shift_ms if estimate else None,
        estimate.residual_ms if estimate else None,
        timeline.clock.residual_ms,
        timeline.clock.drift * 1e6,
        len(timeline.clock.segments),
    )


def _series(
    reader: BagReader, timeline: Timeline, counter: _PacketCounter, pairs: list[PairQuality]
) -> dict[str, Series]:
    """Build the report's curves, with no more points than are visible."""
    seconds = counter.bin_ns / 1e9
    bins = len(counter.events)
    middles = ((np.arange(bins) + 0.5) * seconds).tolist()
    lengths = np.full(bins, seconds)
    lengths[-1] = (reader.end_ns - reader.start_ns) / 1e9 - (bins - 1) * seconds or seconds
    frame_bins = (timeline.frames.record - reader.start_ns) // counter.bin_ns
    frames = np.bincount(frame_bins, minlength=bins)
    packets = timeline.packets
    every = max(len(packets.record) // 2000, 1)
    jitter = packets.stamp - timeline.clock.to_host(packets.first)
    since = (packets.record - reader.start_ns) / 1e9
    times = (timeline.frames.record - reader.start_ns) / 1e9
    return {
        "events": Series(middles, (counter.events / lengths).tolist()),
        "frames": Series(middles, (frames / lengths).tolist()),
        "stamp_jitter_ms": Series(since[::every].tolist(), (jitter[::every] / _MS).tolist()),
        "active": Series(
            [float(times[pair.index]) for pair in pairs], [pair.active for pair in pairs]
        ),
    }


def _find_problems(events: EventSummary, pairs: list[PairQuality]) -> Iterator[str]:
    """List the problems that prevent pretraining."""
    if events.malformed > MAX_LOST_SHARE * events.packets:
        yield f"{events.malformed} messages of {events.topic} are not valid event packets"
    if events.lost_packets > MAX_LOST_SHARE * events.packets:
        yield _lost_packets(events)
    if events.off_sensor > MAX_LOST_SHARE * events.events:
        yield _off_sensor(events)
    usable = sum(not pair.reasons for pair in pairs)
    if pairs and usable < MIN_USABLE_SHARE * len(pairs):
        counts = count_reasons(pairs).most_common(3)
        common = ", ".join(f"{name}: {count}" for name, count in counts)
        yield f"only {usable} of {len(pairs)} pairs can be used ({common})"


def _find_warnings(
    events: EventSummary, frames: FrameSummary | None, clock: ClockSummary | None
) -> Iterator[str]:
    """List the warnings."""
    if clock and clock.estimated_shift_ms is not None and clock.estimated_residual_ms is not None:
        # Times from a trigger or the sensor are exact, independent of the stamps' scatter.
        stamps_ms = clock.residual_ms if clock.mode == "header_stamps" else 0.0
        explained_ms = SIGMAS * math.hypot(clock.estimated_residual_ms, stamps_ms)
        if abs(clock.estimated_shift_ms) > max(explained_ms, MIN_SHIFT_MS):
            yield (
                f"motion places the frames {clock.estimated_shift_ms:+.1f} ms from their times by "
                f"{clock.mode}, more than the residuals explain ({explained_ms:.1f} ms)"
            )
    if 0 < events.malformed <= MAX_LOST_SHARE * events.packets:
        yield f"{events.malformed} messages of {events.topic} are not valid event packets"
    if 0 < events.lost_packets <= MAX_LOST_SHARE * events.packets:
        yield _lost_packets(events)
    if 0 < events.off_sensor <= MAX_LOST_SHARE * events.events:
        yield _off_sensor(events)
    if events.restarts:
        yield f"the sequence numbers of {events.topic} restarted {events.restarts} times"
    if frames and frames.missing:
        yield f"{frames.missing} frames of {frames.topic} are missing; it holds {frames.count}"
    if frames and frames.unstamped:
        yield f"{frames.unstamped} of {frames.count} frames of {frames.topic} have no stamp"
    if frames and frames.unordered:
        yield f"{frames.unordered} frames of {frames.topic} are stamped out of order"


def _lost_packets(events: EventSummary) -> str:
    return f"{events.lost_packets} packets of {events.topic} were lost; it holds {events.packets}"


def _off_sensor(events: EventSummary) -> str:
    return (
        f"{events.off_sensor} events of {events.topic} lie off its {events.width}x{events.height} "
        f"pixels, beside {events.events} on them; are width and height of its packets right?"
    )
