"""Event counts by pixel and patch, and the mask of active patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

import numpy as np

from scaleevent_ros.events.batch import EventBatch
from scaleevent_ros.events.compile import kernel
from scaleevent_ros.events.errors import EventsError
from scaleevent_ros.events.representations import check_values

if TYPE_CHECKING:
    from typing import Any

    import torch
    from numpy.typing import NDArray

PATCH = 16
THRESHOLD = 64


@overload
def activity_mask(
    events: EventBatch | NDArray[Any], patch: int = ..., threshold: int = ...
) -> NDArray[np.bool_]: ...
@overload
def activity_mask(events: torch.Tensor, patch: int = ..., threshold: int = ...) -> torch.Tensor: ...
def activity_mask(
    events: EventBatch | NDArray[Any] | torch.Tensor,
    patch: int = PATCH,
    threshold: int = THRESHOLD,
) -> NDArray[np.bool_] | torch.Tensor:
    """Mark the patches in which at least ``threshold`` events fell, of either polarity.

    The activation mask of ScaleEvent (arXiv 2603.03969): ``M = (D >= tau)`` with ``D`` the number
    of a patch's events in the window, ``tau`` = 64 for 16x16 patches. Events are counted, not read
    from a picture, in which one event and ten look the same.

    Args:
        events: The window's events, or their counts by pixel (see `patch_counts`).
        patch: The side of a patch in pixels; those on the right and lower edge may be cut.
        threshold: The number of events that makes a patch active.

    Returns:
        bool [ceil(height / patch), ceil(width / patch)]; for counts with leading dimensions, and
        for a tensor, the same with those, on its device.

    Raises:
        EventsError: Invalid arguments, as in `patch_counts`.
    """
    if isinstance(events, EventBatch):
        return patch_counts(events, patch) >= threshold
    return patch_counts(events, patch) >= threshold


@overload
def patch_counts(events: EventBatch | NDArray[Any], patch: int = ...) -> NDArray[np.int64]: ...
@overload
def patch_counts(events: torch.Tensor, patch: int = ...) -> torch.Tensor: ...
def patch_counts(
    events: EventBatch | NDArray[Any] | torch.Tensor, patch: int = PATCH
) -> NDArray[np.int64] | torch.Tensor:
    """Count the events in each patch.

    Args:
        events: Events; or counts by pixel, whole numbers [..., height, width] in any dtype, as an
            array or a tensor.
        patch: The side of a patch in pixels; those on the right and lower edge may be cut.

    Returns:
        int64 [..., ceil(height / patch), ceil(width / patch)].

    Raises:
        EventsError: If the patch has no size, counts have no height and width or are negative or
            not whole, or an event lies off the sensor.
    """
    if patch < 1:
        msg = f"a patch has a side of at least 1 pixel, not {patch}"
        raise EventsError(msg)
    if isinstance(events, EventBatch):
        check_values(events)
        columns, rows = patch_index(events.width, patch), patch_index(events.height, patch)
        counts = np.zeros((-(-events.height // patch), -(-events.width // patch)), np.int64)
        count_patches(events.x, events.y, columns, rows, counts.shape[1], counts.reshape(-1))
        return counts
    if events.ndim < 2:
        msg = f"counts by pixel need a height and a width, not the shape {tuple(events.shape)}"
        raise EventsError(msg)
    if not isinstance(events, np.ndarray):
        from scaleevent_ros.events import device

        return device.patch_counts(events, patch)
    if events.dtype == bool and patch <= np.iinfo(np.uint8).max:
        return _count_marked(events, patch)
    whole = events.astype(np.int64)
    if not np.array_equal(whole, events) or whole.min(initial=0) < 0:
        msg = "counts by pixel must be whole numbers of events, not a normalized or signed tensor"
        raise EventsError(msg)
    by_row = np.add.reduceat(whole, np.arange(0, whole.shape[-2], patch), axis=-2)
    return np.add.reduceat(by_row, np.arange(0, whole.shape[-1], patch), axis=-1)


def _count_marked(pixels: NDArray[np.bool_], patch: int) -> NDArray[np.int64]:
    """Count the marked pixels [..., height, width] of each patch, as `patch_counts` but faster."""
    height, width = pixels.shape[-2:]
    missing = ((0, 0),) * (pixels.ndim - 2) + ((0, -height % patch), (0, -width % patch))
    whole = np.pad(pixels, missing) if height % patch or width % patch else pixels
    shape = (*whole.shape[:-2], -1, patch, whole.shape[-1])
    by_row = whole.view(np.uint8).reshape(shape).sum(-2, dtype=np.uint8)
    by_patch = by_row.reshape(*by_row.shape[:-1], whole.shape[-1] // patch, patch)
    counts: NDArray[np.int64] = by_patch.sum(-1, dtype=np.int64)
    return counts


def patch_index(size: int, patch: int) -> NDArray[np.uint16]:
    """Return the index of the patch of each of ``size`` pixels in a row, uint16 [size]."""
    return (np.arange(size) // patch).astype(np.uint16)


@kernel
def count_patches(
    x: NDArray[np.uint16],
    y: NDArray[np.uint16],
    columns: NDArray[np.uint16],
    rows: NDArray[np.uint16],
    width: int,
    counts: NDArray[np.int64],
) -> None:
    """Add each event to its patch, in a grid ``width`` patches wide."""
    stride = np.uint64(width)
    for i in range(np.uint64(x.shape[0])):
        patch = np.uint64(rows[np.uint64(y[i])]) * stride + np.uint64(columns[np.uint64(x[i])])
        counts[patch] += 1
