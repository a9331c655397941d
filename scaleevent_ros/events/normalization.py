"""Normalization of event tensors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from scaleevent_ros.events.compile import kernel
from scaleevent_ros.events.errors import EventsError
from scaleevent_ros.events.vectors import BLOCK, compare_block, lowest_bit

if TYPE_CHECKING:
    from typing import TypeAlias

    import torch
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float32]

NORMALIZATIONS = ("none", "mean_std", "percentile", "scaleevent_picture")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PERCENT = 99
BELOW = 0.4  # times the root of a sample's size: four standard errors of its 99th percentile
SAMPLE = 4096
LEAKY_FLOOR = np.float32(1 / 256)
LEAKY_LIMIT = np.float32(4)
"""Bounds of leaky integrals: see `normalize_leaky_into`."""


def normalize_into(tensor: Floats, how: str, result: Floats) -> None:
    """Normalize an event tensor into given memory, which callers should reuse.

    New memory for every window costs more than the arithmetic, because its pages are mapped at the
    first access. Active values are those that are not zero; inactive ones stay zero, except in a
    picture.

    - ``none``: unchanged.
    - ``mean_std``: ``(x - mean) / std`` of the active values, over all channels together; where
      they are all equal, only the mean is subtracted (Rebecq et al., E2VID, TPAMI 2019).
    - ``percentile``: divided by the 99th percentile of the active values' magnitudes, the
      smallest that at least 99 % of them do not exceed, so that hot pixels do not set the scale.
    - ``scaleevent_picture``: see `scaleevent_picture`, with ImageNet's mean and standard
      deviation.

    Args:
        tensor: float32 [channels, height, width]. It is not changed.
        how: Normalization, one of `NORMALIZATIONS`.
        result: Contiguous float32 of the same shape, which shares no memory with the tensor.

    Raises:
        EventsError: If the normalization is unknown, or ``scaleevent_picture`` gets a tensor
            without exactly 3 bins.
    """
    check_normalization(tensor, how)
    values, results = np.ascontiguousarray(tensor).reshape(-1), result.reshape(-1)
    if how == "none":
        np.copyto(result, tensor)
    elif how == "scaleevent_picture":
        centre = np.array(IMAGENET_MEAN, np.float32)[:, None, None]
        spread = np.array(IMAGENET_STD, np.float32)[:, None, None]
        np.divide(scaleevent_picture(tensor), np.float32(255), out=result)
        np.subtract(result, centre, out=result)
        np.divide(result, spread, out=result)
    elif how == "percentile":
        _divide_by_percentile(values, results)
    else:
        count = _count(values)
        mean = float(values.sum(dtype=np.float64)) / max(count, 1)
        variance = _squared_deviations(values, mean) / max(count, 1)
        _standardize(values, mean, variance**-0.5 if variance > 0 else 1.0, results)


def normalize_leaky_into(tensor: Floats, result: Floats) -> None:
    """Normalize leaky integrals, each channel separately.

    A channel is divided by the 99th percentile of its magnitudes above `LEAKY_FLOOR`, and cut at
    `LEAKY_LIMIT` either way. The percentile keeps hot pixels from setting the scale. Division
    undoes decay, so a scene stays visible after the camera has stopped, for about five decays:
    then its values fall below the floor. The limit bounds the few pixels that fire meanwhile,
    which would be thousands of times the scale otherwise.

    Args:
        tensor: float32 [decays, height, width]. It is not changed.
        result: Contiguous float32 of the same shape, which shares no memory with the tensor.
    """
    for values, results in zip(tensor, result, strict=True):
        _divide_leaky(np.ascontiguousarray(values).reshape(-1), results.reshape(-1))


def percentile_of(values: Floats, floor: float = 0) -> np.float32:
    """Find the 99th percentile of the magnitudes above a floor, exactly; 1 where there is none.

    Args:
        values: Contiguous float32 of any shape.
        floor: Smaller magnitudes, and equal ones, are ignored.
    """
    flat = values.reshape(-1)
    percentile: np.float32 = _percentile(flat, np.empty_like(flat), np.float32(floor))
    return percentile


def check_normalization(tensor: Floats | torch.Tensor, how: str) -> None:
    """Check that a normalization is known and fits a tensor.

    Raises:
        EventsError: If it is unknown, or ``scaleevent_picture`` gets a tensor without exactly 3
            bins.
    """
    if how not in NORMALIZATIONS:
        msg = f"unknown normalization {how!r}; known: {', '.join(NORMALIZATIONS)}"
        raise EventsError(msg)
    if how == "scaleevent_picture" and (tensor.ndim != 3 or tensor.shape[0] != 3):
        msg = f"a picture needs 3 bins [3, height, width], not {tuple(tensor.shape)}"
        raise EventsError(msg)


def scaleevent_picture(grid: Floats) -> NDArray[np.uint8]:
    """Render a voxel grid of three bins as the 8-bit picture that ScaleEvent's encoders read.

    The grid's smallest value becomes 0 and its largest 255, over all bins together, fractions
    cut off; a grid of one value becomes mid-grey. The bins are the channels red, green, blue.

    Public: the released training code (github.com/zhiwen-xdu/ScaleEvent) reads three-channel
    8-bit JPEGs named ``voxel``, as RGB, resizes them, divides by 255 and applies ImageNet's mean
    and standard deviation; and the same authors' statement on the voxel pictures of EventSAM
    (issue 20 of github.com/zhiwen-xdu/EventSAM), that the voxel grid of Zhu et al. is scaled
    "from smallest to largest to 0-255". Inferred: that ScaleEvent's pictures were made as
    EventSAM's; that bins map to channels in order of time; that the whole grid, not each bin,
    shares one scale. The loss of the JPEG itself is not imitated.

    Args:
        grid: float32 [3, height, width], from `voxel_grid` without normalization.

    Returns:
        uint8 [3, height, width].
    """
    low, high = grid.min(), grid.max()
    if high == low:
        return np.full(grid.shape, 127, np.uint8)
    # Divided first, so that the largest value is exactly 255 and not cut to 254.
    scaled: Floats = (grid - low) / (high - low) * np.float32(255)
    return scaled.astype(np.uint8)


# One kernel: between two runs of a network, when caches are cold, each call is expensive.
@kernel
def _divide_by_percentile(values: Floats, result: Floats) -> None:
    """Divide by the 99th percentile of the active values' magnitudes."""
    scale = _percentile(values, result, np.float32(0))
    for i in range(len(values)):
        result[i] = values[i] / scale


@kernel
def _divide_leaky(values: Floats, result: Floats) -> None:
    """Divide by the 99th percentile of the magnitudes above the floor, and cut at the limit."""
    scale = _percentile(values, result, LEAKY_FLOOR)
    for i in range(len(values)):
        result[i] = min(max(values[i] / scale, -LEAKY_LIMIT), LEAKY_LIMIT)


@kernel
def _take_above(
    values: Floats, bar: np.float32, floor: np.float32, magnitudes: Floats
) -> tuple[int, int]:
    """Gather the magnitudes above a bar; count active values, and those that were gathered."""
    active = above = np.uint64(0)
    whole = len(values) // BLOCK * BLOCK
    for start in range(0, np.uint64(whole), BLOCK):
        found = compare_block(values, np.uint64(start), floor, bar)
        active += found >> np.uint64(32)
        hits = found & np.uint64(0xFFFFFFFF)
        while hits:
            magnitudes[above] = abs(values[np.uint64(start) + lowest_bit(hits)])
            above += np.uint64(1)
            hits &= hits - np.uint64(1)
    for value in values[whole:]:
        magnitude = abs(value)
        active += np.uint64(magnitude > floor)
        if magnitude > bar:
            magnitudes[above] = magnitude
            above += np.uint64(1)
    return np.int64(active), np.int64(above)


@kernel
def _percentile(values: Floats, scratch: Floats, floor: np.float32) -> np.float32:
    """Select the 99th percentile of the active values' magnitudes, exactly; 1 without any.

    A sample gives a bar that nearly always lies below the percentile, so that only the few
    magnitudes above the bar need to be ordered. If the bar is too high, all are.

    Args:
        values: Values to select from.
        scratch: Buffer of the same length; it is overwritten.
        floor: Magnitudes above it are active.
    """
    bar = _bar(values, scratch, floor)
    active, above = _take_above(values, bar, floor, scratch)
    if active == 0:
        one: np.float32 = np.float32(1)
        return one
    rank = (active * PERCENT + 99) // 100 - 1
    wanted = active - rank  # number of magnitudes at or above the percentile
    if above < wanted:
        _, not_below = _take_above(values, np.nextafter(bar, np.float32(0)), floor, scratch)
        if wanted <= not_below:
            return bar
        _, above = _take_above(values, floor, floor, scratch)
    return _select(scratch[:above], above - wanted)


@kernel
def _bar(values: Floats, scratch: Floats, floor: np.float32) -> np.float32:
    """Estimate a magnitude slightly below the percentile; the floor without active values."""
    step = max(len(values) // SAMPLE, 1) | 1
    count = 0
    for i in range(0, len(values), step):
        magnitude = abs(values[i])
        if magnitude > floor:
            scratch[count] = magnitude
            count += 1
    if count == 0:
        scratch[0], count = floor, 1
    at = max(int(count * (PERCENT / 100) - BELOW * math.sqrt(count)), 0)
    return _select(scratch[:count], at)


@kernel
def _select(values: Floats, at: int) -> np.float32:
    """Return the value at an index of the sorted values."""
    selected: np.float32 = np.partition(values, at)[at]
    return selected


@kernel
def _count(values: Floats) -> int:
    """Count active values."""
    active = 0
    for i in range(len(values)):
        active += values[i] != 0
    return active


@kernel
def _squared_deviations(values: Floats, mean: float) -> float:
    """Sum the squares of the active values' deviations."""
    total = 0.0
    for i in range(len(values)):
        deviation = np.float64(values[i]) - mean if values[i] != 0 else 0.0
        total += deviation * deviation
    return total


@kernel
def _standardize(values: Floats, mean: float, scale: float, result: Floats) -> None:
    offset, factor = np.float32(mean), np.float32(scale)
    for i in range(len(values)):
        value = values[i]
        result[i] = (value - offset) * factor if value != 0 else np.float32(0)
