"""Events on a torch device, and their representations there.

Implementations with torch of the functions in `representations`, `normalization`, `activity` and
`leaky`, which define them; callers use `represent` and `normalize_tensor`. Nothing waits for the
device: windows are masked rather than cut. Every sum is one scattered integer addition per event,
which commutes, so that a GPU's results repeat from run to run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from scaleevent_ros.events.errors import EventsError
from scaleevent_ros.events.leaky import check_decays, check_state
from scaleevent_ros.events.normalization import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    LEAKY_FLOOR,
    LEAKY_LIMIT,
    PERCENT,
)
from scaleevent_ros.events.representations import (
    BLOCK,
    COUNT_BITS,
    check_values,
    time_scale,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from scaleevent_ros.events.batch import EventBatch

EVENT_BYTES = 13  # t 8, x 2, y 2, p 1


@dataclass(frozen=True, slots=True, eq=False)
class DeviceEvents:
    """The arrays of an `EventBatch` as tensors on one device.

    Attributes:
        x: Columns, int16 [N].
        y: Rows, int16 [N].
        t: Times, int64 [N], ns on the sensor's clock.
        p: Polarities, uint8 [N]: 1 brighter, 0 darker.
        width: Sensor width in pixels.
        height: Sensor height in pixels.
    """

    x: torch.Tensor
    y: torch.Tensor
    t: torch.Tensor
    p: torch.Tensor
    width: int
    height: int

    def __len__(self) -> int:
        """Count the events."""
        return len(self.t)

    def __getitem__(self, index: slice) -> DeviceEvents:
        """Take a range of events, as views."""
        return DeviceEvents(
            self.x[index], self.y[index], self.t[index], self.p[index], self.width, self.height
        )


@dataclass(frozen=True, slots=True, eq=False)
class DeviceState:
    """A `leaky.LeakyState` on a device.

    Attributes:
        values: float32 [decays, height, width].
        t: Time in ns on the sensor's clock; all events before it are included.
    """

    values: torch.Tensor
    t: int


class EventUploader:
    """Copies batches to a device while the device computes.

    A batch goes through pinned memory and a separate CUDA stream; the stream that is current when
    `upload` is called waits for it, the calling thread does not. Two batches can be in transfer;
    a third waits for the first.

    Args:
        device: Target device; copies to devices other than CUDA are synchronous.
        capacity: Initial capacity of the pinned memory in events per batch; it grows for larger
            batches.
    """

    def __init__(self, device: torch.device | str, capacity: int = 1 << 20) -> None:
        self.device = torch.device(device)
        self._cuda = self.device.type == "cuda"
        if self._cuda:
            self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]  # torch's
            self._staging = [self._pinned(capacity) for _ in range(2)]
            self._copied = [torch.cuda.Event() for _ in range(2)]  # type: ignore[no-untyped-call]
            self._turn = 0

    def upload(self, batch: EventBatch) -> DeviceEvents:
        """Start copying a batch, and return its events for use on the current stream.

        Raises:
            EventsError: If an event lies off the sensor, or a side of the sensor has more than
                32767 pixels.
        """
        check_values(batch)
        if max(batch.width, batch.height) > np.iinfo(np.int16).max:
            msg = f"a sensor of {batch.width}x{batch.height} does not fit 16-bit coordinates"
            raise EventsError(msg)
        arrays = (batch.t, batch.x.view(np.int16), batch.y.view(np.int16), batch.p)
        if not self._cuda:
            t, x, y, p = (torch.tensor(array).to(self.device) for array in arrays)
            return DeviceEvents(x, y, t, p, batch.width, batch.height)
        slot, self._turn = self._turn, 1 - self._turn
        self._copied[slot].synchronize()
        size = len(batch) * EVENT_BYTES
        if len(self._staging[slot]) < size:
            self._staging[slot] = self._pinned(len(batch))
        staging = self._staging[slot][:size]
        for part, array in zip(_parts(staging), arrays, strict=True):
            part.numpy()[:] = array
        current = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._stream):
            target = staging.to(self.device, non_blocking=True)
            self._copied[slot].record(self._stream)
        current.wait_event(self._copied[slot])
        target.record_stream(current)
        t, x, y, p = _parts(target)
        return DeviceEvents(x, y, t, p, batch.width, batch.height)

    @staticmethod
    def _pinned(events: int) -> torch.Tensor:
        return torch.empty(events * EVENT_BYTES, dtype=torch.uint8, pin_memory=True)


def to_device(batch: EventBatch, device: torch.device | str) -> DeviceEvents:
    """Copy one batch to a device; for a stream of them see `EventUploader`.

    Raises:
        EventsError: Invalid arguments, as in `EventUploader.upload`.
    """
    return EventUploader(device, len(batch)).upload(batch)


def voxel_grid(events: DeviceEvents, t_start: int, t_end: int, bins: int) -> torch.Tensor:
    """Compute `representations.voxel_grid`, float32 [bins, height, width]."""
    pixels = events.width * events.height
    intervals = max(bins - 1, 1)
    shift, scale = time_scale(t_end - t_start)
    half, factor = (1 << shift) >> 1, float(np.float32(scale))
    grid = torch.zeros(bins, pixels, device=events.t.device)
    for block in _blocks(events):
        inside, interval, time = _locate(block, t_start, t_end, bins - 1, intervals)
        sign = (block.p.view(torch.int8) * 2 - 1) * inside
        # In place: memory bandwidth limits a GPU here.
        value = time.add_(half).bitwise_right_shift_(shift).bitwise_left_shift_(COUNT_BITS)
        value = value.add_(1).mul_(sign)
        cells = torch.zeros(intervals * pixels, dtype=torch.int64, device=grid.device)
        cells.scatter_add_(0, torch.add(_pixel(block), interval, alpha=pixels), value)
        count = (cells << (64 - COUNT_BITS)) >> (64 - COUNT_BITS)
        late = (((cells - count) >> COUNT_BITS).to(torch.float32) * factor).view(intervals, pixels)
        grid[:intervals] += count.to(torch.float32).view(intervals, pixels) - late
        grid[bins - intervals :] += late
    return grid.view(bins, events.height, events.width)


def stacked_histogram(events: DeviceEvents, t_start: int, t_end: int, bins: int) -> torch.Tensor:
    """Compute `representations.stacked_histogram`, float32 [2 * bins, height, width]."""
    pixels = events.width * events.height
    counts = torch.zeros(2 * bins * pixels, dtype=torch.int32, device=events.t.device)
    for block in _blocks(events):
        inside, interval, _ = _locate(block, t_start, t_end, bins, bins)
        channel = interval.add_(block.p, alpha=bins)
        cell = torch.add(_pixel(block), channel, alpha=pixels)
        counts.scatter_add_(0, cell, inside.to(torch.int32))
    return counts.to(torch.float32).view(2 * bins, events.height, events.width)


def time_surface(events: DeviceEvents, t_start: int, t_end: int, decay: int) -> torch.Tensor:
    """Compute `representations.time_surface`, float32 [2, height, width]."""
    pixels = events.width * events.height
    last = torch.zeros(2 * pixels, dtype=torch.int64, device=events.t.device)
    for block in _blocks(events):
        inside = (block.t >= t_start) & (block.t < t_end)
        cell = torch.add(_pixel(block), block.p, alpha=pixels).to(torch.int64)
        last.scatter_reduce_(0, cell, (block.t - (t_start - 1)) * inside, "amax")
    age = ((t_end - t_start + 1 - last).to(torch.float64) * (1.0 / decay)).to(torch.float32)
    return (torch.exp(-age) * (last > 0)).view(2, events.height, events.width)


def leaky_integrals(
    events: DeviceEvents, t_end: int, decays: Sequence[float], state: DeviceState | None = None
) -> torch.Tensor:
    """Compute `leaky.leaky_integrals`, float32 [decays, height, width].

    Weights are summed in integers of 2 ** -32, so that results repeat from run to run.

    Raises:
        EventsError: If a decay is out of range, or the state has another shape or is later than
            ``t_end``.
    """
    check_decays(decays)
    if state is not None:
        shape = (len(decays), events.height, events.width)
        check_state(state.values.shape, shape, state.t, t_end)
    pixels = events.width * events.height
    sums = torch.zeros(len(decays), pixels, dtype=torch.int64, device=events.t.device)
    for block in _blocks(events):
        sign = (block.p.view(torch.int8) * 2 - 1) * (block.t < t_end)
        age = (t_end - block.t).to(torch.float64)
        pixel = _pixel(block).to(torch.int64)
        for plane, decay in zip(sums, decays, strict=True):
            weight = torch.exp((age * (-1e-9 / decay)).to(torch.float32)).to(torch.float64)
            plane.scatter_add_(0, pixel, (weight * 2.0**32).round_().to(torch.int64).mul_(sign))
    values = (sums.to(torch.float64) * 2.0**-32).to(torch.float32)
    values = values.view(len(decays), events.height, events.width)
    if state is not None:
        for plane, before, decay in zip(values, state.values, decays, strict=True):
            plane.add_(before, alpha=math.exp((state.t - t_end) * 1e-9 / decay))
    return values


def normalize(tensor: torch.Tensor, how: str) -> torch.Tensor:
    """Compute `normalization.normalize_into` for any but ``none``."""
    if how == "scaleevent_picture":
        return _picture(tensor)
    if how == "percentile":
        return tensor / percentile_of(tensor)
    active = tensor != 0
    total = active.sum().clamp(min=1)
    mean = tensor.sum(dtype=torch.float64) / total
    deviation = ((tensor - mean) * active).square().sum(dtype=torch.float64) / total
    scale = torch.where(deviation > 0, deviation.rsqrt(), 1)
    return (tensor - mean.to(torch.float32)) * scale.to(torch.float32) * active


def normalize_leaky(tensor: torch.Tensor) -> torch.Tensor:
    """Compute `normalization.normalize_leaky_into`."""
    floor, limit = float(LEAKY_FLOOR), float(LEAKY_LIMIT)
    scaled = [channel / percentile_of(channel, floor) for channel in tensor]
    return torch.stack(scaled).clamp_(-limit, limit)


def percentile_of(tensor: torch.Tensor, floor: float = 0) -> torch.Tensor:
    """Compute `normalization.percentile_of`, float32 [1]."""
    magnitudes = tensor.abs().flatten()
    count = (magnitudes > floor).sum()
    rank = tensor.numel() - count + (count * PERCENT + 99) // 100 - 1
    scale = magnitudes.sort().values.index_select(0, rank.reshape(1))
    return torch.where(count > 0, scale, 1)


def patch_counts(counts: torch.Tensor, patch: int) -> torch.Tensor:
    """Compute `activity.patch_counts` of counts by pixel, int64 [..., rows, columns].

    The counts are not checked to be whole and not negative, which would wait for the device.
    """
    height, width = counts.shape[-2:]
    rows, columns = -(-height // patch), -(-width // patch)
    padded = functional.pad(
        counts.to(torch.int64), (0, columns * patch - width, 0, rows * patch - height)
    )
    return padded.view(*counts.shape[:-2], rows, patch, columns, patch).sum((-3, -1))


def _picture(grid: torch.Tensor) -> torch.Tensor:
    low, high = grid.min(), grid.max()
    picture = torch.floor((grid - low) / (high - low) * 255)
    picture = torch.where(high > low, picture, 127) / 255
    # Python numbers: tensors of them would be copied from the host, which no CUDA graph can hold.
    channels = zip(picture, IMAGENET_MEAN, IMAGENET_STD, strict=True)
    return torch.stack([(channel - mean) / std for channel, mean, std in channels])


def _blocks(events: DeviceEvents) -> Iterator[DeviceEvents]:
    """Cut events into blocks small enough for cells with two sums (see `COUNT_BITS`)."""
    for start in range(0, len(events), BLOCK):
        yield events[start : start + BLOCK]


def _locate(
    events: DeviceEvents, t_start: int, t_end: int, factor: int, intervals: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Assign events to a window's intervals, with times in units of the span / ``factor``.

    Returns:
        Whether each event is inside the window, bool [N]; the index of its interval, clamped for
        events outside, int64 [N]; its time since the start of the interval, int64 [N].
    """
    span = t_end - t_start
    inside = (events.t >= t_start) & (events.t < t_end)
    time = (events.t - t_start).mul_(factor)
    interval = torch.div(time, span, rounding_mode="floor").clamp_(0, intervals - 1)
    return inside, interval, time.sub_(interval, alpha=span)


def _pixel(events: DeviceEvents) -> torch.Tensor:
    """Return the flat index of each event's pixel, int32 [N]."""
    return torch.add(events.x, events.y.to(torch.int32), alpha=events.width)


def _parts(memory: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """View bytes as times, columns, rows and polarities, the widest first for alignment."""
    events = len(memory) // EVENT_BYTES
    t, x, y, p = (memory[a * events : b * events] for a, b in ((0, 8), (8, 10), (10, 12), (12, 13)))
    return t.view(torch.int64), x.view(torch.int16), y.view(torch.int16), p
