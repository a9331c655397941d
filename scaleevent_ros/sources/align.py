"""Estimation of the mapping of a bag's frames into its event image, for `scaleevent align`."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from scaleevent_ros.bags.images import image_rgb
from scaleevent_ros.bags.pairing import frame_windows
from scaleevent_ros.bags.reader import BagReader
from scaleevent_ros.bags.synchronization import synchronize
from scaleevent_ros.bags.timeline import read_timeline
from scaleevent_ros.sources.calibration import Homography
from scaleevent_ros.sources.errors import AlignmentError
from scaleevent_ros.sources.registration import LEAST_INTERVALS, agreement, register
from scaleevent_ros.sources.similarity_search import Interval
from scaleevent_ros.sources.simulator import log_intensity

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from scaleevent_ros.bags.synchronization import Synchronization
    from scaleevent_ros.bags.timeline import Timeline

logger = logging.getLogger(__name__)

_INTERVALS = 32
_LAG_STEP_NS = 2_000_000
_LAG_STEPS = 10
_LEAST_NS = 40_000_000  # minimum length of an interval: in less, little changes
_LEAST_EVENTS = 0.01  # minimum number of events per pixel in an interval
_LEAST_CHANGE = 0.01  # minimum standard deviation of a frame's change, in natural logarithms
_TOE = 20.0  # of 255: below it, differences are noise


def align_bag(
    path: Path,
    *,
    event_topic: str | None = None,
    image_topic: str | None = None,
    mode: str = "auto",
) -> Homography:
    """Estimate the homography from a bag's frames to its event image.

    The bag is read once for its times; then only some intervals between frames, spread over it, are
    read.

    Args:
        path: Path of the bag.
        event_topic: Event topic; may be omitted if there is only one.
        image_topic: Image topic; may be omitted if there is only one, or one named `.../image_raw`.
        mode: Clock mode; see `bags.synchronization.synchronize`.

    Raises:
        AlignmentError: If it cannot be estimated; the message gives the reason.
        BagError: If the bag cannot be read, or does not support the mode.
    """
    reader = BagReader(path)
    timeline = read_timeline(reader, event_topic, image_topic)
    synchronization = synchronize(reader, timeline, mode)

    def read_intervals(lag_ns: int) -> list[Interval]:
        late = replace(synchronization, frame_ns=synchronization.frame_ns + lag_ns)
        return _intervals(reader, timeline, late)

    intervals = read_intervals(0)
    try:
        found = register(intervals)
        if lag_ns := _estimate_lag(read_intervals, found.matrix):
            intervals = read_intervals(lag_ns)
            found = register(intervals, found.matrix)
    except AlignmentError as error:
        msg = f"{path}: {error}"
        raise AlignmentError(msg) from None
    logger.info(
        "%s: correlation %.2f, residual %.2f px", path, found.correlation, found.residual_px
    )
    frame_height, frame_width = intervals[0].frame.shape
    event_height, event_width = intervals[0].events.shape
    return Homography(
        (frame_width, frame_height),
        (event_width, event_height),
        found.matrix,
        round(found.residual_px, 3),
        f"scaleevent align {path.name}: {len(intervals)} intervals, "
        f"correlation {found.correlation:.2f}, clock by {synchronization.mode}, events "
        f"{lag_ns / 1e6:.1f} ms behind",
    )


def _estimate_lag(
    read_intervals: Callable[[int], list[Interval]], matrix: NDArray[np.float64]
) -> int:
    """Estimate the delay of events after frames: pixels have a latency, most in the dark.

    In front of a driving car everything moves outwards, and a delay of even a millisecond has the
    same effect as a wrong scale.

    Args:
        read_intervals: Function that reads the intervals for a delay of the events in ns.
        matrix: Approximate homography.

    Returns:
        The delay of best agreement in ns, up to about 20 ms either way.
    """
    agreements: dict[int, float] = {}

    def agree(step: int) -> float:
        if step not in agreements:
            intervals = read_intervals(step * _LAG_STEP_NS)
            enough = len(intervals) >= LEAST_INTERVALS
            agreements[step] = agreement(intervals, matrix) if enough else 0.0
        return agreements[step]

    best = 0
    while abs(best) < _LAG_STEPS:
        step = max((best - 1, best, best + 1), key=agree)
        if step == best:
            break
        best = step
    before, here, after = agree(best - 1), agree(best), agree(best + 1)
    bend = before - 2 * here + after
    within = 0.5 * (before - after) / bend if bend < 0 else 0.0
    return round((best + within) * _LAG_STEP_NS)


def _intervals(
    reader: BagReader, timeline: Timeline, synchronization: Synchronization
) -> list[Interval]:
    """Collect brightness changes between frames with enough change, spread evenly over a bag."""
    moments = synchronization.frame_ns[synchronization.known]
    if len(moments) <= LEAST_INTERVALS:
        msg = f"{reader.path}: has {len(moments)} frames with a known time, too few for alignment"
        raise AlignmentError(msg)
    period = max(float(np.median(np.diff(moments))), 1.0)
    skip = math.ceil(_LEAST_NS / period)
    last = len(synchronization.frame_ns) - 1 - skip
    firsts = np.unique(np.linspace(0, max(last, 0), _INTERVALS).astype(int)).tolist()
    # Frames are not compared across gaps, such as those between clips.
    found = [
        _interval(reader, timeline, synchronization, first, skip, int(1.5 * skip * period))
        for first in firsts
    ]
    return [interval for interval in found if interval is not None]


def _interval(
    reader: BagReader,
    timeline: Timeline,
    synchronization: Synchronization,
    first: int,
    skip: int,
    longest_ns: int,
) -> Interval | None:
    """Measure the change between a frame and the one `skip` later; None if it is too small."""
    length = int(synchronization.frame_ns[min(first + skip, len(synchronization.frame_ns) - 1)])
    length -= int(synchronization.frame_ns[first])
    if not 0 < length <= longest_ns:
        return None
    windows = list(
        frame_windows(
            reader, timeline, synchronization, length, 0, first=first + skip, last=first + skip + 1
        )
    )
    befores = list(
        frame_windows(reader, timeline, synchronization, 0, 0, first=first, last=first + 1)
    )
    if not windows or not befores:
        return None
    events = windows[0].events
    if len(events) < _LEAST_EVENTS * events.width * events.height:
        return None
    before, after = (
        log_intensity(_grey(image_rgb(reader.parse_image(window.message))), _TOE)
        for window in (befores[0], windows[0])
    )
    change = after - before
    if change.std() < _LEAST_CHANGE:
        return None
    signs = np.zeros((events.height, events.width), np.float32)
    np.add.at(signs, (events.y, events.x), 2 * events.p.astype(np.float32) - 1)
    return Interval(change, signs)


def _grey(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)
