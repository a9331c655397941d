"""The newest window of a live stream, built where the network runs."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch

from scaleevent_ros.events import (
    ByCount,
    ByTime,
    EventsError,
    WindowAccumulator,
    represent,
)
from scaleevent_ros.events.accumulator import ACCUMULATED
from scaleevent_ros.events.device import DeviceEvents, EventUploader

if TYPE_CHECKING:
    from scaleevent_ros.events import EventBatch
    from scaleevent_ros.models import Header
    from scaleevent_ros.nodes.perception_parameters import PerceptionParameters

_NS_PER_MS = 1_000_000


class BuiltWindow(NamedTuple):
    """One window.

    Attributes:
        tensor: float32 [bins, H, W], not normalized.
        patch_counts: Events in each patch, int64 [ceil(H / patch), ceil(W / patch)].
        t_end: Its end on the sensor's clock, ns, excluded.
    """

    tensor: torch.Tensor
    patch_counts: torch.Tensor
    t_end: int


class Windows(Protocol):
    """Takes batches on one thread and gives windows on another.

    Attributes:
        longest_ns: The greatest length of a window.
    """

    longest_ns: int

    @property
    def t_end(self) -> int | None:
        """The latest time at which a window can end, ns; None before the first event."""

    @property
    def left_out(self) -> int:
        """Events that came too late or lie off the sensor."""

    def push(self, batch: EventBatch) -> None:
        """Take the stream's next events."""

    def read(self, t_end: int | None = None) -> BuiltWindow:
        """Build the last window that ends at or before a time; the newest if None."""


def window_rule(
    settings: PerceptionParameters, header: Header, size: tuple[int, int]
) -> ByTime | ByCount:
    """Say how long windows are, as training chooses them (`scaleevent_ros.events.windows`)."""
    longest = round(settings.window_ms * _NS_PER_MS) or header.windows.length_ns
    if settings.window == "fixed":
        return ByTime(longest, settings.slices_per_bin)
    events = max(round(settings.events_per_pixel * size[0] * size[1]), 1)
    return ByCount(events, min(round(settings.shortest_ms * _NS_PER_MS), longest), longest)


def make_windows(
    header: Header, size: tuple[int, int], patch: int, rule: ByTime | ByCount, device: torch.device
) -> Windows:
    """Make what keeps the windows: on a CPU running sums, on a GPU the last events themselves.

    Args:
        header: Of the checkpoint: representation and bins.
        size: Height and width of the sensor.
        patch: The side of a patch for `BuiltWindow.patch_counts`.
        rule: How long a window is.
        device: Where the network runs.

    Raises:
        EventsError: If the representation and its number of bins cannot be.
    """
    bins = _bins(header)
    if device.type == "cpu" and header.representation in ACCUMULATED:
        return HostWindows(header.representation, size, bins, patch, rule)
    return DeviceWindows(header.representation, size, bins, patch, rule, device)


def _longest(rule: ByTime | ByCount) -> int:
    return rule.length_ns if isinstance(rule, ByTime) else rule.longest_ns


def _bins(header: Header) -> int:
    """Find the bins of a representation that has the checkpoint's channels."""
    name, channels = header.representation, header.bins
    if header.leaky:
        msg = "the node has no leaky integrals yet: choose a student without them"
        raise EventsError(msg)
    if name == "voxel":
        return channels
    if name == "stacked_histogram" and channels % 2 == 0:
        return channels // 2
    if name in {"histogram", "time_surface"} and channels == 2:
        return 1
    msg = f"the checkpoint's {channels} channels cannot be those of its representation {name!r}"
    raise EventsError(msg)


class HostWindows:
    """Windows in the host's memory: those of `WindowAccumulator`.

    A window that was read is overwritten by the next one.
    """

    def __init__(
        self,
        representation: str,
        size: tuple[int, int],
        bins: int,
        patch: int,
        rule: ByTime | ByCount,
    ) -> None:
        self._accumulator = WindowAccumulator(
            *size, bins=bins, rule=rule, representation=representation, patch=patch
        )
        self.longest_ns = _longest(rule)
        channels = bins if representation == "voxel" else 2 * bins
        self._tensor = torch.empty(channels, *size)

    @property
    def t_end(self) -> int | None:
        """The latest time at which a window can end, ns; None before the first event."""
        return self._accumulator.t_end

    @property
    def left_out(self) -> int:
        """Events that came too late or lie off the sensor."""
        stats = self._accumulator.stats
        return stats.late_events + stats.outside_events

    def push(self, batch: EventBatch) -> None:
        """Take the stream's next events."""
        self._accumulator.push(batch)

    def read(self, t_end: int | None = None) -> BuiltWindow:
        """Build the last window that ends at or before a time; the newest if None."""
        window = self._accumulator.read(t_end, self._tensor.numpy())
        return BuiltWindow(self._tensor, torch.from_numpy(window.patch_counts), window.t_end)


class _Part(NamedTuple):
    """A batch on the device, and when its events were."""

    first: int
    last: int
    events: DeviceEvents


class DeviceWindows:
    """Windows on a device: batches are copied as they come, while the last window is computed."""

    def __init__(
        self,
        representation: str,
        size: tuple[int, int],
        bins: int,
        patch: int,
        rule: ByTime | ByCount,
        device: torch.device,
    ) -> None:
        self._representation, self._size, self._bins = representation, size, bins
        self._patch, self._rule = patch, rule
        self.longest_ns = _longest(rule)
        self._uploader = EventUploader(device)
        self._lock = threading.Lock()
        self._parts: deque[_Part] = deque()
        self.left_out = 0

    @property
    def t_end(self) -> int | None:
        """The latest time at which a window can end, ns; None before the first event."""
        with self._lock:
            return self._parts[-1].last + 1 if self._parts else None

    def push(self, batch: EventBatch) -> None:
        """Take the stream's next events."""
        if not len(batch):
            return
        part = _Part(int(batch.t[0]), int(batch.t[-1]), self._uploader.upload(batch))
        with self._lock:
            # Twice the longest window, for one that is asked for at a time gone by.
            while self._parts and self._parts[0].last < part.last - 2 * self.longest_ns:
                self._parts.popleft()
            self._parts.append(part)

    def read(self, t_end: int | None = None) -> BuiltWindow:
        """Build the last window that ends at or before a time; the newest if None.

        Raises:
            EventsError: If nothing was pushed yet.
        """
        with self._lock:
            parts = list(self._parts)
        if not parts:
            msg = "there is no window: no event has been pushed yet"
            raise EventsError(msg)
        newest = parts[-1].last + 1
        end = newest if t_end is None else min(t_end, newest)
        start = self._start(parts, end)
        inside = [part.events for part in parts if part.first < end and part.last >= start]
        events = _joined(inside or [parts[-1].events[:0]])
        tensor = represent(self._representation, events, start, end, self._bins)
        return BuiltWindow(tensor, self._count_patches(events, start, end), end)

    def _start(self, parts: list[_Part], end: int) -> int:
        """Choose the window's start; one that follows motion starts with a batch."""
        rule = self._rule
        if isinstance(rule, ByTime):
            return end - rule.length_ns
        start, held = end - rule.longest_ns, 0
        for part in reversed(parts):
            held += len(part.events) if part.first < end else 0
            if held >= rule.events:
                start = max(part.first, start)
                break
        return min(start, end - rule.shortest_ns)

    def _count_patches(self, events: DeviceEvents, start: int, end: int) -> torch.Tensor:
        rows, columns = (-(-side // self._patch) for side in self._size)
        index = (events.y // self._patch).long() * columns + events.x // self._patch
        inside = ((events.t >= start) & (events.t < end)).long()
        counts = torch.zeros(rows * columns, dtype=torch.int64, device=index.device)
        return counts.scatter_add_(0, index, inside).view(rows, columns)


def _joined(parts: list[DeviceEvents]) -> DeviceEvents:
    """Put batches behind each other."""
    x, y, t, p = (torch.cat([getattr(part, name) for part in parts]) for name in "xytp")
    return DeviceEvents(x, y, t, p, parts[0].width, parts[0].height)
