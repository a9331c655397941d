"""Windows of a live stream: running sums in the host's memory, or the latest events on a GPU.

PyTorch is imported by `DeviceWindows` when it is used, since exported students run without it.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

import numpy as np

from scaleevent_ros.events import EventsError, WindowAccumulator, WindowOptions
from scaleevent_ros.events.accumulator import ACCUMULATED
from scaleevent_ros.events.windows import choose_units

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from scaleevent_ros.events import EventBatch, InputSpec
    from scaleevent_ros.events.device import DeviceEvents, DeviceState
    from scaleevent_ros.events.windows import Mode
    from scaleevent_ros.models import Header
    from scaleevent_ros.nodes.parameters import PerceptionParameters
    from scaleevent_ros.runtime.arrays import Array, Device


class BuiltWindow(NamedTuple):
    """A window: numpy arrays on a CPU, PyTorch tensors on a GPU.

    Attributes:
        tensor: Event tensor, float32 [channels, H, W], not normalized.
        patch_counts: Number of events in each patch, int64 [ceil(H / patch), ceil(W / patch)].
        t_end: End on the sensor's clock in ns, excluded.
    """

    tensor: Array
    patch_counts: Array
    t_end: int


class Windows(Protocol):
    """Windows of a stream, to which one thread adds events while another reads.

    Attributes:
        longest_ns: Largest length of a window in ns.
    """

    longest_ns: int

    @property
    def t_end(self) -> int | None:
        """Latest time in ns at which a window can end; None before the first event."""

    @property
    def left_out(self) -> int:
        """Number of events that came too late or lie outside the sensor."""

    def push(self, batch: EventBatch) -> None:
        """Add the stream's next events."""

    def read(self, t_end: int | None = None) -> BuiltWindow:
        """Build the latest window that ends at or before a time in ns; the newest if None."""


class HostWindows:
    """Windows in the host's memory, built by `WindowAccumulator`; see `Windows`.

    The tensor of a window is overwritten when the next one is read.
    """

    def __init__(
        self,
        spec: InputSpec,
        size: tuple[int, int],
        patch: int,
        options: WindowOptions,
        slices_per_bin: int,
    ) -> None:
        self._accumulator = WindowAccumulator(
            *size, spec, options, slices_per_bin=slices_per_bin, patch=patch
        )
        self.longest_ns = options.length_ns
        self._tensor = np.empty((spec.channels, *size), np.float32)

    @property
    def t_end(self) -> int | None:
        """Latest time in ns at which a window can end; None before the first event."""
        return self._accumulator.t_end

    @property
    def left_out(self) -> int:
        """Number of events that came too late or lie outside the sensor."""
        stats = self._accumulator.stats
        return stats.late_events + stats.outside_events

    def push(self, batch: EventBatch) -> None:
        """Add the stream's next events."""
        self._accumulator.push(batch)

    def read(self, t_end: int | None = None) -> BuiltWindow:
        """Build the latest window that ends at or before a time in ns; the newest if None."""
        window = self._accumulator.read(t_end, self._tensor)
        return BuiltWindow(self._tensor, window.patch_counts, window.t_end)


class _Part(NamedTuple):
    """A batch on the device, and the times of its events on the host, int64 [N] in ns."""

    t: NDArray[np.int64]
    events: DeviceEvents


class DeviceWindows:
    """Windows built by PyTorch: on a GPU, or of time surfaces on a CPU; see `Windows`.

    Batches are copied to the device as they arrive, while the last window is being computed.
    Batches that are too old for any window are added to the leaky integrals.

    Args:
        spec: Specification of the event tensor.
        size: Height and width of the sensor.
        patch: Side of a patch in pixels, for `BuiltWindow.patch_counts`.
        options: Length of the windows.
        device: Device to build on.
    """

    def __init__(
        self,
        spec: InputSpec,
        size: tuple[int, int],
        patch: int,
        options: WindowOptions,
        device: torch.device,
    ) -> None:
        from scaleevent_ros.events.device import EventUploader

        self._spec, self._size, self._patch, self._options = spec, size, patch, options
        self.longest_ns = options.length_ns
        self._wanted = options.wanted_events(size[1], size[0])
        self._uploader = EventUploader(device)
        self._lock = threading.Lock()
        self._parts: deque[_Part] = deque()
        self._state: DeviceState | None = None
        self.left_out = 0

    @property
    def t_end(self) -> int | None:
        """Latest time in ns at which a window can end; None before the first event."""
        with self._lock:
            return int(self._parts[-1].t[-1]) + 1 if self._parts else None

    def push(self, batch: EventBatch) -> None:
        """Add the stream's next events."""
        if not len(batch):
            return
        part = _Part(batch.t, self._uploader.upload(batch))
        with self._lock:
            if self._parts and part.t[0] < self._parts[-1].t[-1]:  # the clock was set back
                self._parts.clear()
                self._state = None
            self._drop_before(int(part.t[-1]) - 2 * self.longest_ns)
            self._parts.append(part)

    def _drop_before(self, reach: int) -> None:
        """Drop batches before a time, many at once, since each call costs the device a pass.

        Events of twice the longest window are kept, for windows that end before the newest event.
        """
        if not self._parts or self._parts[0].t[-1] >= reach - self.longest_ns:
            return
        dropped = []
        while self._parts and self._parts[0].t[-1] < reach:
            dropped.append(self._parts.popleft())
        if self._spec.leaky:
            from scaleevent_ros.events.device import DeviceState, leaky_integrals

            events, t = _joined([part.events for part in dropped]), int(dropped[-1].t[-1]) + 1
            values = leaky_integrals(events, t, self._spec.leaky, self._state)
            self._state = DeviceState(values, t)

    def read(self, t_end: int | None = None) -> BuiltWindow:
        """Build the window that ends at a time, or at the newest event if that is earlier or None.

        Raises:
            EventsError: If no event was pushed yet.
        """
        with self._lock:
            parts, state = list(self._parts), self._state
        if not parts:
            msg = "there is no window: no event has been pushed yet"
            raise EventsError(msg)
        newest = int(parts[-1].t[-1]) + 1
        end = newest if t_end is None else min(t_end, newest)
        start = self._start(parts, end)
        first = start if not self._spec.leaky else int(parts[0].t[0])
        inside = [part.events for part in parts if part.t[0] < end and part.t[-1] >= first]
        events = _joined(inside or [parts[-1].events[:0]])
        tensor = self._spec.build(events, start, end, state)
        return BuiltWindow(tensor, self._count_patches(events, start, end), end)

    def _start(self, parts: list[_Part], end: int) -> int:
        """Choose the start of the window that ends at a time, as `window_start` does."""
        options = self._options
        if options.mode == "fixed":
            return end - options.length_ns
        starts = end - options.unit_ns * np.arange(1, options.units + 1)
        counts = np.zeros(len(starts), np.int64)
        for part in parts:
            if part.t[-1] >= starts[-1] and part.t[0] < end:
                counts += np.searchsorted(part.t, end) - np.searchsorted(part.t, starts)
        return int(starts[choose_units(counts, self._wanted) - 1])

    def _count_patches(self, events: DeviceEvents, start: int, end: int) -> torch.Tensor:
        rows, columns = (-(-side // self._patch) for side in self._size)
        index = (events.y // self._patch).long() * columns + events.x // self._patch
        inside = ((events.t >= start) & (events.t < end)).long()
        counts = inside.new_zeros(rows * columns)
        return counts.scatter_add_(0, index, inside).view(rows, columns)


def _joined(parts: list[DeviceEvents]) -> DeviceEvents:
    """Concatenate batches."""
    import torch

    from scaleevent_ros.events.device import DeviceEvents

    x, y, t, p = (torch.cat([getattr(part, name) for part in parts]) for name in "xytp")
    return DeviceEvents(x, y, t, p, parts[0].width, parts[0].height)


def window_options(settings: PerceptionParameters, header: Header) -> WindowOptions:
    """Window to run on: that of training, but for what the parameters set otherwise."""
    trained = header.windows
    length_ms = settings.window_ms or trained.length_ms
    return WindowOptions(
        trained.mode if settings.window == "trained" else cast("Mode", settings.window),
        length_ms,
        min(settings.shortest_ms or trained.shortest_ms, length_ms),
        settings.events_per_pixel or trained.events_per_pixel,
    )


def make_windows(
    spec: InputSpec,
    size: tuple[int, int],
    patch: int,
    options: WindowOptions,
    device: Device,
    slices_per_bin: int = 2,
) -> Windows:
    """Create the accumulator of windows: running sums on a CPU, the latest events on a GPU.

    Args:
        spec: Specification of the tensor.
        size: Height and width of the sensor.
        patch: Side of a patch for `BuiltWindow.patch_counts`.
        options: Length of the windows.
        device: Device of the network.
        slices_per_bin: Number of slices; see `WindowAccumulator`.
    """
    if device.type == "cpu" and spec.representation in ACCUMULATED:
        return HostWindows(spec, size, patch, options, slices_per_bin)
    # A time surface has no running sums: PyTorch builds it, on the CPU too.
    return DeviceWindows(spec, size, patch, options, device.to_torch())
