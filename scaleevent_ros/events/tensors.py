"""Event tensors on the CPU or a device, and the specification of a student's input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast, overload

import numpy as np

from scaleevent_ros.events.batch import EventBatch
from scaleevent_ros.events.leaky import check_decays, leaky_integrals
from scaleevent_ros.events.normalization import (
    LEAKY_FLOOR,
    check_normalization,
    normalize_into,
    normalize_leaky_into,
    percentile_of,
)
from scaleevent_ros.events.representations import (
    channel_count,
    check_window,
    histogram,
    stacked_histogram,
    time_surface,
    unknown_representation,
    voxel_grid,
)

if TYPE_CHECKING:
    from typing import TypeAlias

    import torch
    from numpy.typing import NDArray

    from scaleevent_ros.events.device import DeviceEvents, DeviceState
    from scaleevent_ros.events.leaky import LeakyState

    Floats: TypeAlias = NDArray[np.float32]

Tensor = TypeVar("Tensor", "NDArray[np.float32]", "torch.Tensor")

HISTORY_DECAYS = 3
"""Length of history in decay times; events before it have 5 % of an integral's weight."""


@overload
def represent(
    name: str, batch: EventBatch, t_start: int, t_end: int, bins: int = ...
) -> Floats: ...
@overload
def represent(
    name: str, batch: DeviceEvents, t_start: int, t_end: int, bins: int = ...
) -> torch.Tensor: ...
def represent(
    name: str, batch: EventBatch | DeviceEvents, t_start: int, t_end: int, bins: int = 5
) -> Floats | torch.Tensor:
    """Compute a representation by name.

    Args:
        name: Representation, one of `REPRESENTATIONS`.
        batch: Events, on the CPU or on a device; those outside the window are left out.
        t_start: Start of the window in ns, included.
        t_end: End of the window in ns, excluded.
        bins: Number of time bins, for representations that have them.

    Returns:
        float32 [`channel_count` (name, bins), height, width], on the events' device.

    Raises:
        EventsError: If the name is unknown, or as the representation's own function does.
    """
    bins = 1 if name == "histogram" else bins
    if isinstance(batch, EventBatch):
        if name == "voxel":
            return voxel_grid(batch, t_start, t_end, bins)
        if name == "histogram":
            return histogram(batch, t_start, t_end)
        if name == "stacked_histogram":
            return stacked_histogram(batch, t_start, t_end, bins)
        if name == "time_surface":
            return time_surface(batch, t_start, t_end)
        raise unknown_representation(name)
    from scaleevent_ros.events import device

    check_window(t_start, t_end, bins)
    if name == "voxel":
        return device.voxel_grid(batch, t_start, t_end, bins)
    if name in {"histogram", "stacked_histogram"}:
        return device.stacked_histogram(batch, t_start, t_end, bins)
    if name == "time_surface":
        return device.time_surface(batch, t_start, t_end, t_end - t_start)
    raise unknown_representation(name)


def normalize_tensor(tensor: Tensor, how: str) -> Tensor:
    """Normalize one event tensor (see `scaleevent_ros.events.normalization.normalize_into`).

    Args:
        tensor: float32 [channels, height, width], a numpy array or a torch tensor on any device.
            It is not changed.
        how: Normalization, one of `NORMALIZATIONS`.

    Returns:
        float32 of the same shape, kind and device; the tensor itself for ``none``.

    Raises:
        EventsError: If the normalization is unknown, or ``scaleevent_picture`` gets a tensor
            without exactly 3 bins.
    """
    if how == "none":
        return tensor
    if isinstance(tensor, np.ndarray):
        result = np.empty(tensor.shape, np.float32)
        normalize_into(tensor, how, result)
        return result
    check_normalization(tensor, how)
    from scaleevent_ros.events import device

    return device.normalize(tensor, how)


@dataclass(frozen=True)
class InputSpec:
    """Specification of a student's input tensor: a representation of the window, leaky integrals.

    The tensor has the representation's channels first, then one leaky integral for each decay.

    Attributes:
        representation: Name of the representation of the window's events.
        bins: Number of time bins, for representations that have them.
        normalization: Normalization of the representation, see `normalize_tensor`. Leaky integrals
            are normalized separately.
        leaky: Decays of leaky integrals in seconds, see `scaleevent_ros.events.leaky`.
    """

    representation: str = "voxel"
    bins: int = 5
    normalization: str = "percentile"
    leaky: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            EventsError: If the representation is unknown, a decay is out of range, or there are
                too many decays.
        """
        channel_count(self.representation, self.bins)
        check_decays(self.leaky)

    @property
    def represented(self) -> int:
        """Number of channels of the representation alone."""
        return channel_count(self.representation, self.bins)

    @property
    def channels(self) -> int:
        """Number of channels of the tensor."""
        return self.represented + len(self.leaky)

    @property
    def history_ns(self) -> int:
        """Default duration of events to read before a window, in ns; 0 without leaky integrals."""
        return round(HISTORY_DECAYS * max(self.leaky, default=0) * 1e9)

    @overload
    def build(
        self, batch: EventBatch, t_start: int, t_end: int, state: LeakyState | None = ...
    ) -> Floats: ...
    @overload
    def build(
        self, batch: DeviceEvents, t_start: int, t_end: int, state: DeviceState | None = ...
    ) -> torch.Tensor: ...
    def build(
        self,
        batch: EventBatch | DeviceEvents,
        t_start: int,
        t_end: int,
        state: LeakyState | DeviceState | None = None,
    ) -> Floats | torch.Tensor:
        """Build the tensor of a window, not normalized.

        Args:
            batch: Events of the window and, for leaky integrals, known events before it.
            t_start: Start of the window in ns, included.
            t_end: End of the window in ns, excluded.
            state: Leaky integrals of the events before the batch; zero if None.

        Returns:
            float32 [`channels`, height, width], on the events' device.

        Raises:
            EventsError: See `represent` and `leaky_integrals`.
        """
        if isinstance(batch, EventBatch):
            array = represent(self.representation, batch, t_start, t_end, self.bins)
            if not self.leaky:
                return array
            integrals = leaky_integrals(batch, t_end, self.leaky, cast("LeakyState | None", state))
            return np.concatenate([array, integrals])
        import torch

        from scaleevent_ros.events import device

        tensor = represent(self.representation, batch, t_start, t_end, self.bins)
        if not self.leaky:
            return tensor
        on_device = cast("DeviceState | None", state)
        return torch.cat([tensor, device.leaky_integrals(batch, t_end, self.leaky, on_device)])

    def normalize(self, tensor: Tensor) -> Tensor:
        """Normalize the result of `build`, as `normalize_into` does.

        Returns:
            float32 of the same shape, kind and device; the tensor itself where nothing changes.
        """
        if not self.leaky:
            return normalize_tensor(tensor, self.normalization)
        if isinstance(tensor, np.ndarray):
            result = np.empty(tensor.shape, np.float32)
            self.normalize_into(tensor, result)
            return result
        import torch

        from scaleevent_ros.events import device

        first = normalize_tensor(tensor[: self.represented], self.normalization)
        return torch.cat([first, device.normalize_leaky(tensor[self.represented :])])

    def normalize_into(self, tensor: Floats, result: Floats) -> None:
        """Normalize the result of `build` into other memory.

        Args:
            tensor: float32 [`channels`, height, width]. It is not changed.
            result: Contiguous float32 of the same shape.
        """
        count = self.represented
        normalize_into(tensor[:count], self.normalization, result[:count])
        normalize_leaky_into(tensor[count:], result[count:])

    def scales(self, tensor: Tensor) -> Tensor:
        """Compute the divisor of the normalization ``percentile``.

        Args:
            tensor: Tensor of `build`.

        Returns:
            float32 [1 + decays]: the divisor of the representation, and of each leaky integral.
        """
        count: int = self.represented
        floor: float = float(LEAKY_FLOOR)
        if isinstance(tensor, np.ndarray):
            parts = [percentile_of(tensor[:count])]
            parts += [percentile_of(plane, floor) for plane in tensor[count:]]
            return np.array(parts, np.float32)
        import torch

        from scaleevent_ros.events import device

        first = device.percentile_of(tensor[:count])
        return torch.cat([first, *(device.percentile_of(each, floor) for each in tensor[count:])])
