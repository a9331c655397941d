"""Order of the streams of a recording in time; what is out of order is counted.

Events have their own rules; see `event_columns`.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from scaleevent_ros.events import Triggers
from scaleevent_ros.sources.errors import SourceError
from scaleevent_ros.sources.event_columns import sort_times
from scaleevent_ros.sources.faults import MAX_LOST_SHARE
from scaleevent_ros.sources.recording import MAX_TIME_NS, ImuSample, Picture

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from scaleevent_ros.sources.faults import Faults
    from scaleevent_ros.sources.recording import PictureStream, Recording

T = TypeVar("T", Picture, ImuSample)


def in_order(recording: Recording) -> Recording:
    """Return the recording with pictures, IMU samples and trigger edges in order of time.

    Items at times that ROS cannot represent are left out. So are pictures that are not later, and
    IMU samples that are earlier, than the one before; and one that is later than its successor, if
    the successor fits. Trigger edges are sorted like events. All are counted.

    While pictures are read, a `SourceError` is raised if more than 1 % of a stream is left out.
    """
    place, faults = str(recording.source), recording.faults
    triggers, imu = recording.triggers, recording.imu

    def sorted_triggers(t_start: int) -> Iterator[Triggers]:
        assert triggers is not None
        return _sort_triggers(triggers(t_start), place, faults)

    def ordered_imu(t_start: int) -> Iterator[ImuSample]:
        assert imu is not None
        return _drop(imu(t_start), "IMU sample", place, faults, t_start)

    return replace(
        recording,
        pictures=tuple(_ordered_pictures(stream, faults) for stream in recording.pictures),
        triggers=triggers and sorted_triggers,
        imu=imu and ordered_imu,
    )


def _ordered_pictures(stream: PictureStream, faults: Faults) -> PictureStream:
    def read(t_start: int) -> Iterator[Picture]:
        pictures = stream.read(t_start)
        return _drop(pictures, "picture", stream.place, faults, t_start, MAX_LOST_SHARE)

    return replace(stream, read=read)


def _drop(
    items: Iterable[T],
    name: str,
    place: str,
    faults: Faults,
    t_start: int,
    max_share: float = 1.0,
) -> Iterator[T]:
    """Yield the items whose times increase; IMU samples may have equal times."""
    before = t_start - 1
    held: T | None = None
    lost = 0
    for count, item in enumerate(chain(items, [None])):
        if held is not None:
            t = held.t
            earliest = before + isinstance(held, Picture)
            wrong = ""
            if not 0 <= t <= MAX_TIME_NS:
                wrong = "is not between 1970 and 2038, as ROS time must be"
            elif t < earliest:
                wrong = f"is not later than {before} ns"
            elif item is not None and earliest <= item.t < t:
                wrong = f"is later than the next, at {item.t} ns"
            if wrong:
                message = f"{place}: the {name} at {t} ns {wrong}"
                faults.add(f"{name}s out of order", message, np.array([max(t, before)]))
                lost += 1
                if lost > max(1, max_share * count):
                    raise SourceError(message)
            else:
                yield held
                before = t
        held = item


def _sort_triggers(pieces: Iterable[Triggers], place: str, faults: Faults) -> Iterator[Triggers]:
    after = 0
    for edges in pieces:
        order, moved, lost = sort_times(edges.t, after)
        for kind, indices in (("sorted", moved), ("left out", lost)):
            if len(indices):
                times = edges.t[indices]
                message = f"{place}: the trigger edge at {times[0]} ns is out of order"
                faults.add(f"trigger edges out of order, {kind}", message, np.maximum(times, after))
        if len(order):
            t = np.maximum(edges.t[order], after)
            after = int(t[-1])
            yield Triggers(t, edges.id[order], edges.edge[order])
