"""Windows of events to try a network on: of a bag, or of a made-up scene."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from scaleevent_ros.events import EventBatch, represent
from scaleevent_ros.runtime.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from scaleevent_ros.models import Header

WINDOW_NS = 50_000_000  # where the header leaves the length open
DENSITY = 0.4  # events per pixel of a made-up window
EDGES = 8


def window_tensor(header: Header, batch: EventBatch, t_start: int, t_end: int) -> Tensor:
    """Make what an engine takes of a window's events: float32 [bins, H, W], not normalized."""
    polarities = 2 if header.representation == "stacked_histogram" else 1
    array = represent(header.representation, batch, t_start, t_end, header.bins // polarities)
    return torch.from_numpy(array)


def made_up_windows(header: Header, size: tuple[int, int], count: int) -> list[Tensor]:
    """Make windows of edges that move to the right, with noise; the same ones every time."""
    height, width = size
    random = np.random.default_rng(0)
    length = header.window_ns or WINDOW_NS
    windows = []
    for index in range(count):
        events = int(DENSITY * height * width)
        t = np.sort(random.integers(0, length, events)) + index * length
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
        windows.append(window_tensor(header, batch, index * length, (index + 1) * length))
    return windows


def sensor_size(bag: Path, topic: str | None = None) -> tuple[int, int]:
    """Find the height and width of a bag's event sensor.

    Raises:
        EngineError: If the bag holds no events.
    """
    for batch in _batches(bag, topic):
        return batch.height, batch.width
    msg = f"{bag} holds no events"
    raise EngineError(msg)


def recorded_windows(
    header: Header, bag: Path, size: tuple[int, int], count: int, topic: str | None = None
) -> list[Tensor]:
    """Cut windows, one after the other, from the start of a bag.

    Raises:
        EngineError: If the bag is of another sensor, or too short for one window.
        BagError: If it cannot be read.
    """
    from scaleevent_ros.bags.event_stream import EventWindow

    length = header.window_ns or WINDOW_NS
    kept = EventWindow()
    first: int | None = None
    windows: list[Tensor] = []
    for batch in _batches(bag, topic):
        if (batch.height, batch.width) != size:
            msg = f"{bag} is of {batch.width}x{batch.height}, not {size[1]}x{size[0]}"
            raise EngineError(msg)
        first = int(batch.t[0]) if first is None else first
        kept.push(batch)
        while len(windows) < count and kept.end_ns >= first + (len(windows) + 1) * length:
            start = first + len(windows) * length
            events = kept.between(start, start + length)
            assert events is not None
            windows.append(window_tensor(header, events, start, start + length))
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
