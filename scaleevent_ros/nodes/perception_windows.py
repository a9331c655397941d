"""Windows of a live stream: their interface, and running sums in the host's memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from scaleevent_ros.events import WindowAccumulator

if TYPE_CHECKING:
    from scaleevent_ros.events import EventBatch, InputSpec, WindowOptions
    from scaleevent_ros.runtime.arrays import Array


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
