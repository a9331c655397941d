"""Common functions of the data sets: sequences by name, covered times, crops."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scaleevent_ros.data.augmentation import View, move_events
from scaleevent_ros.tasks.errors import TaskError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from scaleevent_ros.events import EventBatch


# Tolerance before the first and after the last event, since still scenes have no events.
_SILENCE_NS = 10_000_000


class Split(NamedTuple):
    """Names of the training and validation sequences."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


def find_sequences(
    root: Path, names: Iterable[str], find: Callable[[Path], bool], pattern: str = "{}"
) -> list[Path]:
    """Find the sequences of a split.

    Args:
        root: Folder of the data set, with sequences at any depth.
        names: Names of the sequences.
        find: Function that returns whether a path is a sequence.
        pattern: Pattern of a sequence's file or folder, with ``{}`` for the name.

    Returns:
        Their paths, in the order of the names.

    Raises:
        TaskError: If there is none of a name, or more than one.
    """
    paths = []
    for name in names:
        found = [path for path in sorted(root.rglob(pattern.format(name))) if find(path)]
        if len(found) != 1:
            what = ", ".join(map(str, found)) or "nothing"
            msg = (
                f"{root}: expected one sequence {name}, found {what}: list the sequences that you "
                "have in data.train and data.validation"
            )
            raise TaskError(msg)
        paths += found
    return paths


def covered(
    starts: NDArray[np.int64], ends: NDArray[np.int64], span: tuple[int, int], place: object
) -> NDArray[np.int64]:
    """List the windows that lie within the recorded events.

    Args:
        starts: Start of each window in ns.
        ends: End of each window in ns, excluded.
        span: Times of the first and the last event in ns.
        place: Place of the times, for error messages.

    Returns:
        Indices of the windows, ascending.

    Raises:
        TaskError: If there is none.
    """
    found = np.flatnonzero((starts >= span[0] - _SILENCE_NS) & (ends <= span[1] + _SILENCE_NS))
    if not len(found):
        msg = f"{place}: none of {len(ends)} times with ground truth has events before it"
        raise TaskError(msg)
    return found


def cut(events: EventBatch, left: int, top: int, width: int, height: int) -> EventBatch:
    """Return the events in a rectangle, with addresses relative to its corner."""
    return move_events(events, View(left, top, width, height, width, height), 0)
