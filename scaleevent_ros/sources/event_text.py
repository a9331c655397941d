"""Events as text, one a line: ``t x y p``, as the IJRR data set and many tools write them.

Source: https://rpg.ifi.uzh.ch/davis_data.html ("timestamp x y polarity", timestamps in seconds).
Times with a decimal point are seconds, whole numbers microseconds, unless the user says otherwise.
Blanks, tabs and commas separate; lines that start with ``#`` or a letter are passed over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray  # noqa: TC002 - numba reads it

from scaleevent_ros.events.compile import kernel
from scaleevent_ros.sources.errors import SourceError
from scaleevent_ros.sources.recording import TIME_UNITS, event_batch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scaleevent_ros.events import EventBatch

_CHUNK_BYTES = 1 << 24
_FRACTION_DIGITS = 9
_NEWLINE, _BLANK, _COMMENT, _COMMA, _MINUS, _POINT, _ZERO, _NINE = b"\n #,-.09"
_MAX_WHOLE = (1 << 63) // 10 - 1


@kernel
def _parse_number(text: NDArray[np.uint8], i: int) -> tuple[int, int, int]:
    """Parse one decimal number that starts at a byte.

    Returns:
        Its whole part; the 9 digits after its point, -1 if there is none; and the byte behind it,
        -1 if it is no number, or a separator does not follow.
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
    separated = text[i] <= _BLANK or text[i] == _COMMA
    return sign * whole, fraction, i if digits and separated else -1


@kernel
def _parse(
    text: NDArray[np.uint8], numbers: NDArray[np.int64], fractions: NDArray[np.int64]
) -> tuple[int, int]:
    """Parse whole lines of four decimal numbers each.

    Args:
        text: The bytes; the last one ends a line.
        numbers: Filled with whole parts, [lines, 4].
        fractions: Filled with the 9 digits after the point of the first number, -1 if there is no
            point, [lines].

    Returns:
        How many events were parsed, and how many lines lie before the one that is wrong; -1 if none
        is.
    """
    events, lines, column = 0, 0, 0
    i = 0
    while i < text.size:
        byte = text[i]
        if byte == _NEWLINE:
            if column not in (0, 4):
                return events, lines
            events += column == 4
            lines += 1
            column = 0
            i += 1
        elif byte <= _BLANK or byte == _COMMA:
            i += 1
        elif column == 0 and (byte == _COMMENT or byte > _NINE):
            while text[i] != _NEWLINE:
                i += 1
        else:
            whole, fraction, i = _parse_number(text, i)
            if i < 0 or column == 4 or (column and fraction > 0):
                return events, lines
            numbers[events, column] = whole
            if column == 0:
                fractions[events] = fraction
            column += 1
    return events, -1


def event_batches(
    path: Path, width: int, height: int, t_start: int, unit: str | None = None
) -> Iterator[EventBatch]:
    """Stream the events of a text file from a time (ns) on.

    Args:
        path: Of the file.
        width: Of the sensor.
        height: Of the sensor.
        t_start: In ns.
        unit: Of the times, a key of `TIME_UNITS`; None for seconds if they have a decimal point,
            else microseconds.

    Raises:
        SourceError: Naming the line that is not an event, or as `event_batch` does.
    """
    if unit is not None and unit not in TIME_UNITS:
        msg = f"{path}: unknown unit of time {unit!r}; known: {', '.join(TIME_UNITS)}"
        raise SourceError(msg)
    first, after, lines = 0, None, 0
    with path.open("rb") as file:
        rest = b""
        while chunk := file.read(_CHUNK_BYTES):
            whole, newline, rest = (rest + chunk).rpartition(b"\n")
            batch_text = whole + newline
            if len(chunk) < _CHUNK_BYTES and rest:
                batch_text, rest = batch_text + rest + b"\n", b""
            t, columns = _columns(path, batch_text, unit, lines)
            lines += batch_text.count(b"\n")
            x, y, p = columns[:, 1], columns[:, 2], columns[:, 3]
            batch = event_batch(
                x, y, t, p, width, height, place=str(path), first=first, after=after
            )
            if not len(batch):
                continue
            first, after = first + len(batch), int(batch.t[-1])
            if after >= t_start:
                yield batch.between(t_start, after + 1)
    if not first:
        msg = f"{path}: holds no events"
        raise SourceError(msg)


def _columns(
    path: Path, text: bytes, unit: str | None, lines_before: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Parse lines into times in ns [N], to the nearest microsecond, and numbers [N, 4]."""
    count = text.count(b"\n")
    numbers = np.empty((count, 4), np.int64)
    fractions = np.empty(count, np.int64)
    events, bad = _parse(np.frombuffer(text, np.uint8), numbers, fractions)
    if bad >= 0:
        line = text.split(b"\n", bad + 1)[bad][:80].decode("utf-8", "replace")
        msg = f"{path}: line {lines_before + bad + 1:,} is {line!r}, not 't x y p'"
        raise SourceError(msg)
    numbers, fractions = numbers[:events], fractions[:events]
    decimal = bool((fractions >= 0).any())
    scale = TIME_UNITS[unit or ("s" if decimal else "us")]
    # The fraction counts 1e-9 of the unit.
    t_ns = numbers[:, 0] * scale + np.maximum(fractions, 0) * scale // 10**_FRACTION_DIGITS
    return (t_ns + 500) // 1000 * 1000, numbers
