"""Events as text, one per line: ``t x y p``, as written by many tools and in the IJRR data set.

Source: https://rpg.ifi.uzh.ch/davis_data.html ("timestamp x y polarity", timestamps in seconds).
Times with a decimal point are seconds, whole numbers microseconds (nanoseconds, if they would be
later than the year 5000), unless the options differ. Blanks, tabs and commas are separators. Lines
that start with ``#`` are comments, and before the first event also lines that start with a letter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray  # noqa: TC002 - numba reads it

from scaleevent_ros.events.compile import kernel
from scaleevent_ros.sources.errors import SourceError
from scaleevent_ros.sources.event_columns import Columns, event_batches
from scaleevent_ros.sources.recording import (
    MAX_TIME_NS,
    TIME_UNITS,
    ClockStatement,
    Recording,
    likely_unit,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scaleevent_ros.events import EventBatch
    from scaleevent_ros.sources.faults import Faults
    from scaleevent_ros.sources.recording import ReadOptions

_CHUNK_BYTES = 1 << 24
_FRACTION_DIGITS = 9
_NEWLINE, _BLANK, _COMMENT, _COMMA, _MINUS, _POINT, _ZERO, _NINE = b"\n #,-.09"
_MAX_WHOLE = (1 << 63) // 10 - 1


@kernel
def _parse_number(text: NDArray[np.uint8], i: int) -> tuple[int, int, int]:
    """Parse one decimal number that starts at a byte.

    Returns:
        The integer part, rounded down; the rest in units of 1e-9, -1 without a decimal point; the
        index of the byte after the number, -1 if it is not a number or no separator follows.
    """
    sign = -1 if text[i] == _MINUS else 1
    start = i + (text[i] == _MINUS)
    i = start
    whole = 0
    while _ZERO <= text[i] <= _NINE and whole < _MAX_WHOLE:
        whole = whole * 10 + (text[i] - _ZERO)
        i += 1
    digits = i - start
    fraction = -1
    if text[i] == _POINT:
        fraction = 0
        scale = 10**_FRACTION_DIGITS
        i += 1
        while _ZERO <= text[i] <= _NINE:
            scale //= 10
            fraction += scale * (text[i] - _ZERO)
            digits += 1
            i += 1
    if sign < 0 and fraction > 0:  # the fraction is added, so that the integer part is rounded down
        whole, fraction = whole + 1, 10**_FRACTION_DIGITS - fraction
    separated = text[i] <= _BLANK or text[i] == _COMMA
    return sign * whole, fraction, i if digits and separated else -1


@kernel
def _parse(
    text: NDArray[np.uint8],
    numbers: NDArray[np.int64],
    fractions: NDArray[np.int64],
    header_ends: bool,
) -> tuple[int, int, int]:
    """Parse whole lines of four decimal numbers each; skip other lines.

    Args:
        text: Bytes of the lines; the last one is a newline.
        numbers: Output: integer parts, int64 [lines, 4].
        fractions: Output: first 9 digits after the point of the first number, -1 without a point,
            int64 [lines].
        header_ends: Treat lines that start with a letter as faults, not as a header.

    Returns:
        Number of events, number of invalid lines, and number of lines before the first of these.
    """
    events, lines, column = 0, 0, 0
    wrong, first_wrong = 0, 0
    i = 0
    while i < text.size:
        byte = text[i]
        good = True
        if byte == _NEWLINE:
            good = column in (0, 4)
            if good:
                events += column == 4
                lines += 1
                column = 0
                i += 1
        elif byte <= _BLANK or byte == _COMMA:
            i += 1
        elif column == 0 and (byte == _COMMENT or (byte > _NINE and not (header_ends or events))):
            while text[i] != _NEWLINE:
                i += 1
        else:
            whole, fraction, end = _parse_number(text, i)
            good = end >= 0 and column < 4 and not (column and fraction > 0)
            if good:
                i = end
                numbers[events, column] = whole
                if column == 0:
                    fractions[events] = fraction
                column += 1
        if not good:
            if not wrong:
                first_wrong = lines
            wrong += 1
            while text[i] != _NEWLINE:
                i += 1
            i += 1
            lines += 1
            column = 0
    return events, wrong, first_wrong


def open_recording(path: Path, options: ReadOptions) -> Recording:
    """Open a text file of events on its own.

    Raises:
        SourceError: If the options lack the sensor's size.
    """
    width, height = options.geometry(path)
    faults = options.faults()
    return Recording(
        path,
        "event_text",
        width,
        height,
        lambda t_start: read_text(path, width, height, t_start, faults, options.time_unit),
        ClockStatement("sensor_time", "Events with the file's stamps."),
        faults=faults,
    )


def read_text(
    path: Path,
    width: int,
    height: int,
    t_start: int,
    faults: Faults,
    unit: str | None = None,
) -> Iterator[EventBatch]:
    """Stream the events of a text file from a time (ns) on.

    Args:
        path: Path of the file.
        width: Sensor width in pixels.
        height: Sensor height in pixels.
        t_start: Start in ns.
        faults: Counter of invalid lines, and of the faults of `event_batches`.
        unit: Unit of the times, a key of `TIME_UNITS`; None for seconds if they have a decimal
            point, else as `likely_unit` finds.

    Raises:
        SourceError: If it holds no events, more than 1 % of the lines are invalid, or the unit is
            unknown; see also `event_batches`.
    """
    if unit is not None and unit not in TIME_UNITS:
        msg = f"{path}: unknown unit of time {unit!r}; known: {', '.join(TIME_UNITS)}"
        raise SourceError(msg)
    found = False
    for batch in event_batches(_pieces(path, unit, faults), width, height, faults, t_start):
        found = True
        yield batch
    if not found and not t_start:
        msg = f"{path}: holds no events"
        raise SourceError(msg)


def _pieces(path: Path, unit: str | None, faults: Faults) -> Iterator[Columns]:
    first, lines, last_ns = 0, 0, 0
    with path.open("rb") as file:
        rest = b""
        while chunk := file.read(_CHUNK_BYTES):
            whole, newline, rest = (rest + chunk).rpartition(b"\n")
            text = whole + newline
            if len(chunk) < _CHUNK_BYTES and rest:
                text, rest = text + rest + b"\n", b""
            count = text.count(b"\n")
            numbers = np.empty((count, 4), np.int64)
            fractions = np.empty(count, np.int64)
            events, wrong, before = _parse(
                np.frombuffer(text, np.uint8), numbers, fractions, first > 0
            )
            numbers, fractions = numbers[:events], np.maximum(fractions[:events], -1)
            if unit is None and events:
                decimal = bool((fractions >= 0).any())
                unit = likely_unit(numbers[:, 0].astype(np.float64) if decimal else numbers[:, 0])
            t = _nanoseconds(numbers[:, 0], fractions, TIME_UNITS[unit or "us"])
            last_ns = int(t[-1]) if events else last_ns
            if wrong:
                line = text.split(b"\n", before + 1)[before][:80].decode("utf-8", "replace")
                message = f"{path}: line {lines + before + 1:,} is {line!r}, not 't x y p'"
                faults.add("lines that are not events", message, np.full(wrong, max(last_ns, 0)))
                faults.count_events(wrong, wrong, message)
            yield Columns(str(path), first, numbers[:, 1], numbers[:, 2], t, numbers[:, 3])
            first += events
            lines += count


def _nanoseconds(
    whole: NDArray[np.int64], fractions: NDArray[np.int64], scale: int
) -> NDArray[np.int64]:
    """Convert integer parts and 1e-9 fractions of a unit to ns, rounded to µs."""
    t_ns = np.minimum(whole, MAX_TIME_NS // scale + 1) * scale
    t_ns += np.maximum(fractions, 0) * scale // 10**_FRACTION_DIGITS
    return (t_ns + 500) // 1000 * 1000
