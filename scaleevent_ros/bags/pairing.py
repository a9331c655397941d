"""Frames with the events of their windows, on one clock."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from scaleevent_ros.bags.event_stream import EventWindow
from scaleevent_ros.bags.images import image_rgb
from scaleevent_ros.bags.synchronization import synchronize
from scaleevent_ros.bags.timeline import events_from, read_timeline

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from scaleevent_ros.bags.reader import BagReader, RawMessage
    from scaleevent_ros.bags.synchronization import Synchronization
    from scaleevent_ros.bags.timeline import Timeline
    from scaleevent_ros.events import EventBatch

BEFORE_NS = 50_000_000


@dataclass(frozen=True, eq=False)
class FramePair:
    """A frame and the events around it.

    Attributes:
        index: Index of the frame in the bag, from 0.
        frame: uint8 [H, W, 3], red first.
        stamp_ns: Header stamp of the frame, in ns.
        events: Events of its window, on the clock of the frames' stamps, on which the frame was
            taken at `stamp_ns`.
        sensor_ns: Time of the frame on the sensor's clock, in ns.
        mode: Clock mode; see `synchronize`.
        residual_ms: Residual of the clocks in ms.
    """

    index: int
    frame: NDArray[np.uint8]
    stamp_ns: int
    events: EventBatch
    sensor_ns: int
    mode: str
    residual_ms: float


@dataclass(frozen=True, eq=False)
class FrameWindow:
    """A frame that is not decoded yet and the events of its window.

    Attributes:
        index: Index of the frame in the bag, from 0.
        message: Recorded image message.
        sensor_ns: Time of the frame on the sensor's clock, in ns.
        events: Events of its window, on the sensor's clock.
    """

    index: int
    message: RawMessage
    sensor_ns: int
    events: EventBatch


def pairs(
    reader: BagReader,
    *,
    event_topic: str | None = None,
    image_topic: str | None = None,
    mode: str = "auto",
    before_ns: int = BEFORE_NS,
    after_ns: int = 0,
) -> Iterator[FramePair]:
    """Pair each frame of a bag with the events of its window.

    The bag is read twice, first for its times. Frames are left out if their time is unknown (no
    trigger edge) or their window reaches beyond the events.

    Args:
        reader: Open bag.
        event_topic: Event topic; may be omitted if there is only one.
        image_topic: Image topic; may be omitted if there is only one.
        mode: Clock mode; see `synchronize`.
        before_ns: Start of the window before the frame, in ns.
        after_ns: End of the window after the frame, in ns.

    Raises:
        BagError: If a topic is missing or ambiguous, a message or an image is invalid, or the bag
            does not support the mode.
    """
    timeline = read_timeline(reader, event_topic, image_topic)
    synchronization = synchronize(reader, timeline, mode)
    for window in frame_windows(reader, timeline, synchronization, before_ns, after_ns):
        yield make_pair(reader, window, synchronization)


def make_pair(
    reader: BagReader, window: FrameWindow, synchronization: Synchronization
) -> FramePair:
    """Decode the frame of a window, and move its events to the clock of the stamps.

    Raises:
        MessageError: If the message is not an image.
        ImageError: If the image cannot be converted to RGB.
    """
    image = reader.parse_image(window.message)
    stamp_ns = image.stamp_ns
    return FramePair(
        window.index,
        image_rgb(image),
        stamp_ns,
        replace(window.events, t=window.events.t + (stamp_ns - window.sensor_ns)),
        window.sensor_ns,
        synchronization.mode,
        synchronization.residual_ms,
    )


def is_covered(
    timeline: Timeline, synchronization: Synchronization, before_ns: int, after_ns: int
) -> NDArray[np.bool_]:
    """Return for each frame whether its window lies within the events, bool [F]."""
    frame_ns = synchronization.frame_ns
    begins_within = frame_ns - before_ns >= timeline.start_ns
    ends_within = frame_ns + after_ns <= timeline.end_ns
    covered: NDArray[np.bool_] = synchronization.known & begins_within & ends_within
    return covered


def frame_windows(
    reader: BagReader,
    timeline: Timeline,
    synchronization: Synchronization,
    before_ns: int = BEFORE_NS,
    after_ns: int = 0,
    *,
    history_ns: int = 0,
    first: int = 0,
    last: int | None = None,
) -> Iterator[FrameWindow]:
    """Yield frames with the events of their windows, reading frames and events side by side.

    Args:
        reader: Open bag.
        timeline: Timeline of the bag.
        synchronization: Synchronization of the bag.
        before_ns: Start of the window before the frame, in ns.
        after_ns: End of the window after the frame, in ns.
        history_ns: Duration of events to read before the window, in ns, as far as they exist.
        first: Index of the first frame; earlier data are not read.
        last: Index after the last frame; None for all.
    """
    covered = is_covered(timeline, synchronization, before_ns, after_ns)
    frame_ns = synchronization.frame_ns
    chosen = np.flatnonzero(covered[first:last]) + first
    if not len(chosen):
        return
    first = int(chosen[0])
    start_ns = frame_ns[chosen] - before_ns - history_ns
    # The earliest time that this or any later frame needs: stamps need not be in order.
    needed = dict(zip(chosen.tolist(), np.minimum.accumulate(start_ns[::-1])[::-1], strict=True))
    window = EventWindow()
    packets = events_from(reader, timeline, int(start_ns.min()))
    record_ns = timeline.frames.record
    first_alike = int(np.searchsorted(record_ns, record_ns[first]))
    messages = reader.messages(
        [timeline.image_topic],
        start_ns=int(record_ns[first]),
        end_ns=int(record_ns[chosen[-1]]) + 1,
    )
    for index, message in zip(count(first_alike), messages, strict=False):
        if index not in needed:
            continue
        window.drop_before(int(needed[index]))
        moment = int(frame_ns[index])
        while window.end_ns < moment + after_ns:
            packet = next(packets, None)
            if packet is None:
                break
            window.push(packet.events)
        events = window.between(moment - before_ns - history_ns, moment + after_ns)
        if events is not None:
            yield FrameWindow(index, message, moment, events)
