"""Validation of event columns read from files, and conversion to batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scaleevent_ros.events import EventBatch
from scaleevent_ros.sources.errors import SourceError
from scaleevent_ros.sources.recording import MAX_TIME_NS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from scaleevent_ros.sources.faults import Faults

SORTING_NS = 40_960_000
"""Maximum time (ns) by which events out of order are sorted, not dropped, as in the decoders."""

_MINUS_ONE_32 = (1 << 32) - 1


class Columns(NamedTuple):
    """Unchecked events of a file.

    Attributes:
        place: Origin of the columns, for error messages.
        first: Index of the first event in the file, for error messages.
        x: Columns [N], any integer or float dtype.
        y: Rows [N], any integer or float dtype.
        t: Times in ns, int64 [N].
        p: Polarities [N]: 1 and 0, 1 and -1 (also as an unsigned integer), or bool.
    """

    place: str
    first: int
    x: NDArray[Any]
    y: NDArray[Any]
    t: NDArray[np.int64]
    p: NDArray[Any]


def event_batches(
    pieces: Iterable[Columns], width: int, height: int, faults: Faults, t_start: int = 0
) -> Iterator[EventBatch]:
    """Check columns of events piece by piece.

    Events outside the sensor, at times that ROS cannot represent, or out of order by more than
    40 ms are dropped. Others that are out of order are sorted within their piece. Both are counted.

    Args:
        pieces: Columns, in order.
        width: Sensor width in pixels.
        height: Sensor height in pixels.
        faults: Counter of faults.
        t_start: Time of the first event to yield, in ns.

    Raises:
        SourceError: If an event has no valid polarity, there is a fault in strict reading, or more
            than 1 % of the events are dropped; the message gives the first such event.
    """
    after = 0
    for piece in pieces:
        if not len(piece.t):
            continue
        chosen = _select(piece, width, height, after, faults)
        x, y, t, p = (column if chosen is None else column[chosen] for column in piece[2:])
        if not len(t):
            continue
        batch = EventBatch(
            np.ascontiguousarray(x, np.uint16),
            np.ascontiguousarray(y, np.uint16),
            np.ascontiguousarray(t if chosen is None else np.maximum(t, after)),
            _polarities(piece, p, chosen),
            width,
            height,
        )
        after = int(batch.t[-1])
        if after >= t_start:
            yield batch.between(t_start, after + 1)


def _select(
    piece: Columns, width: int, height: int, after: int, faults: Faults
) -> NDArray[np.int64] | None:
    """Select the valid events of a piece, in order of time; None for all, unchanged."""
    t = piece.t
    dropped = np.zeros(len(t), np.bool_)
    first_lost = ""

    def drop(bad: NDArray[np.bool_], kind: str, describe: str) -> None:
        nonlocal first_lost
        index = int(bad.argmax())
        message = f"{piece.place}: event {piece.first + index:,}: {describe}"
        first_lost = first_lost or message
        faults.add(kind, message, np.maximum(t[bad], after))
        dropped[bad] = True

    off = _outside(piece.x, width) | _outside(piece.y, height)
    if off.any():
        i = int(off.argmax())
        where = f"x = {piece.x[i]}, y = {piece.y[i]} is outside the sensor's {width}x{height}"
        drop(off, "events outside the sensor", f"{where}; {_likely_cause(piece, off)}")
    wrong = (t < 0) | (t > MAX_TIME_NS)
    if wrong.any():
        said = f"t = {t[int(wrong.argmax())]} ns is not between 1970 and 2038, as ROS time must be"
        drop(wrong, "events at impossible times", f"{said}; give --time-unit")
    order: NDArray[np.int64] | None = None
    kept = np.flatnonzero(~dropped)
    if len(kept) and (t[kept[0]] < after or (np.diff(t[kept]) < 0).any()):
        order, late, strays = (kept[some] for some in sort_times(t[kept], after))
        if len(strays):
            back = "the clock may have been reset, or the file is not in order of time"
            bad = np.zeros(len(t), np.bool_)
            bad[strays] = True
            said = f"t = {t[strays[0]]} ns is out of order; {back}"
            drop(bad, "events far out of order", said)
        if len(late):
            i = int(late[0])
            message = f"{piece.place}: event {piece.first + i:,}: t = {t[i]} ns is out of order"
            faults.add("events out of order, sorted", message, np.maximum(t[late], after))
    faults.count_events(len(t), int(dropped.sum()), first_lost)
    return order if order is not None else kept if dropped.any() else None


def sort_times(
    t: NDArray[np.int64], after: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Sort times that are out of order by at most `SORTING_NS`.

    Args:
        t: Times in ns, int64 [N].
        after: Last time before them in ns.

    Returns:
        Indices in order of time; indices of those among them that were out of order; indices of
        those that are left out, since they are further out of order or ROS cannot represent them.
    """
    stray = (t < 0) | (t > MAX_TIME_NS)
    kept = np.flatnonzero(~stray)
    stray[kept[_strays(t[kept], after)]] = True
    kept = np.flatnonzero(~stray)
    late = kept[t[kept] < np.maximum.accumulate(np.maximum(t[kept], after))]
    return kept[np.argsort(t[kept], kind="stable")], late, np.flatnonzero(stray)


def _outside(values: NDArray[Any], side: int) -> NDArray[np.bool_]:
    """Find invalid coordinates: outside, fractional or not a number."""
    inside: NDArray[np.bool_] = (values >= 0) & (values < side)
    if np.issubdtype(values.dtype, np.floating):
        inside &= values == np.floor(values)
    return ~inside


def _likely_cause(piece: Columns, off: NDArray[np.bool_]) -> str:
    x, y = piece.x[off].astype(np.float64), piece.y[off].astype(np.float64)
    both = np.concatenate([x, y])
    fractional = both[both != np.floor(both)]
    if len(fractional):
        if (fractional <= 1).all():
            return "the coordinates may be normalized to 1"
        return "the coordinates may be transformed (undistorted, rectified)"
    if (both < 0).any():
        return "the coordinates may be transformed (undistorted, rectified)"
    return (
        f"addresses reach {int(x.max())}, {int(y.max())}: if the sensor is larger, "
        "give --width and --height"
    )


def _strays(t: NDArray[np.int64], after: int) -> NDArray[np.bool_]:
    """Find events that are too far out of order to be sorted, bool [N]."""
    stray = t < after - SORTING_NS
    while True:
        rest = np.flatnonzero(~stray)
        some = t[rest]
        behind = np.maximum.accumulate(some) - some > SORTING_NS
        ahead = some - np.minimum.accumulate(some[::-1])[::-1] > SORTING_NS
        if not behind.any():
            return stray
        # One wrong time makes either the events after it seem late, or those before it early. The
        # smaller group is taken to be wrong.
        stray[rest[behind if behind.sum() <= ahead.sum() else ahead]] = True


def _polarities(
    piece: Columns, p: NDArray[Any], chosen: NDArray[np.int64] | None
) -> NDArray[np.uint8]:
    """Convert polarities to 0 and 1, from 1 and 0, 1 and -1, bool, or -1 as an unsigned integer."""
    if p.dtype.kind == "b":
        return np.ascontiguousarray(p).view(np.uint8)
    on, zero = p == 1, p == 0
    known = on | zero
    if not known.all():
        unsigned = p == _MINUS_ONE_32
        if p.dtype.kind == "u":
            unsigned |= p == np.iinfo(p.dtype).max
        else:
            known |= p == -1
        if not zero.any():  # 0 and 255 may be a mask's two values
            known |= unsigned
    if not known.all():
        i = int(known.argmin())
        index = piece.first + int(i if chosen is None else chosen[i])
        msg = f"{piece.place}: event {index:,}: p = {p[i]} is not a polarity (1 and 0, or 1 and -1)"
        raise SourceError(msg)
    return np.ascontiguousarray(on).view(np.uint8)
