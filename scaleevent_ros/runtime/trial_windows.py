"""Windows of events to test a network on, from a bag or from a synthetic scene."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from scaleevent_ros.events import EventBatch
from scaleevent_ros.events.windows import window_start
from scaleevent_ros.models.active_tokens import spread_tokens, token_counts
from scaleevent_ros.runtime.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from scaleevent_ros.models import Header
    from scaleevent_ros.runtime.exported_file import NetworkInfo

DENSITY = 0.4  # events per pixel of a synthetic window
EDGES = 8
TRIAL_SHARES = (1, 1 / 2, 1 / 4, 1 / 8, 1 / 16)
"""Shares of the tokens in trials of students of active tokens."""


def window_tensor(header: Header, batch: EventBatch, t_end: int) -> NDArray[np.float32]:
    """Build the event tensor of a window as an engine takes it, not normalized.

    Args:
        header: Header of the checkpoint.
        batch: Events of at least the longest window, and of the history for leaky integrals.
        t_end: End of the window in ns, excluded.

    Returns:
        float32 [channels, height, width].
    """
    t_start = window_start(batch, t_end, header.windows)
    return header.input.build(batch, t_start, t_end)


def synthetic_windows(
    header: Header, size: tuple[int, int], count: int
) -> list[NDArray[np.float32]]:
    """Create consecutive windows of edges that move to the right, with noise; deterministic.

    Args:
        header: Header of the checkpoint.
        size: Height and width of the sensor.
        count: Number of windows.

    Returns:
        Event tensors, float32 [channels, height, width], not normalized.
    """
    height, width = size
    random = np.random.default_rng(0)
    length = header.windows.length_ns
    events = int(DENSITY * height * width) * count
    t = np.sort(random.integers(0, count * length, events))
    edge = random.integers(0, EDGES, events)
    x = edge * width / EDGES + 0.1 * width * t / length + random.normal(0, 2, events)
    batch = EventBatch(
        (x % width).astype(np.uint16),
        random.integers(0, height, events).astype(np.uint16),
        t.astype(np.int64),
        (edge % 2).astype(np.uint8),
        width,
        height,
    )
    return [window_tensor(header, batch, (index + 1) * length) for index in range(count)]


def trial_tokens(info: NetworkInfo, index: int) -> NDArray[np.int64] | None:
    """Choose the tokens of a trial, spread evenly over the grid.

    Args:
        info: Inputs and outputs of the network.
        index: Number of the trial, whose share of the tokens is from `TRIAL_SHARES`, repeatedly.

    Returns:
        Indices of tokens, int64 [K]; None for a student of all tokens.
    """
    if info.header.tokens is None:
        return None
    total = math.prod(info.grid)
    least = TRIAL_SHARES[index % len(TRIAL_SHARES)] * total
    count = next(each for each in token_counts(total) if each >= least)
    return spread_tokens(*info.grid, count)


def sensor_size(bag: Path, topic: str | None = None) -> tuple[int, int]:
    """Find the height and width of a bag's event sensor.

    Raises:
        EngineError: If the bag has no events.
    """
    for batch in _batches(bag, topic):
        return batch.height, batch.width
    msg = f"{bag} holds no events"
    raise EngineError(msg)


def recorded_windows(
    header: Header, bag: Path, size: tuple[int, int], count: int, topic: str | None = None
) -> list[NDArray[np.float32]]:
    """Build the tensors of consecutive windows from the start of a bag, at most ``count``.

    Returns:
        Event tensors, float32 [channels, height, width], not normalized; at least one.

    Raises:
        EngineError: If the sensor's size is another, or the bag is too short for one window.
        BagError: If it cannot be read.
    """
    from scaleevent_ros.bags.event_stream import EventWindow

    length = header.windows.length_ns
    kept = EventWindow()
    first: int | None = None
    windows: list[NDArray[np.float32]] = []
    for batch in _batches(bag, topic):
        if (batch.height, batch.width) != size:
            msg = f"{bag} is of {batch.width}x{batch.height}, not {size[1]}x{size[0]}"
            raise EngineError(msg)
        first = int(batch.t[0]) if first is None else first
        kept.push(batch)
        while len(windows) < count and kept.end_ns >= first + (len(windows) + 1) * length:
            t_end = first + (len(windows) + 1) * length
            events = kept.between(first, t_end)
            assert events is not None
            windows.append(window_tensor(header, events, t_end))
        if len(windows) == count:
            return windows
    if not windows:
        msg = f"{bag} holds less than one window of {length / 1e6:g} ms"
        raise EngineError(msg)
    return windows


def _batches(bag: Path, topic: str | None) -> Iterator[EventBatch]:
    from scaleevent_ros.bags import BagReader
    from scaleevent_ros.bags.event_stream import EventStream

    for packet in EventStream(BagReader(bag), topic).packets():
        if len(packet.events):
            yield packet.events
