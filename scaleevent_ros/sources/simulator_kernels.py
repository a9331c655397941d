"""Compiled loops of the event camera's simulator over pixels and events; see `simulator`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from scaleevent_ros.events.compile import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

NO_LAG = np.float32(1e-9)  # smaller lags become 0: subnormal numbers would be slow
SLOTS = 256  # length of the tables of values that depend on intensity


@kernel
def low_pass_step(
    log_new: NDArray[np.float32],
    log_old: NDArray[np.float32],
    lag: NDArray[np.float32],
    lowest: np.float32,
    slots_per_unit: np.float32,
    decay: NDArray[np.float32],
    hold: NDArray[np.float32],
    change: NDArray[np.float32],
) -> None:
    """Low-pass the signal: `change` becomes each pixel's response to the step between two frames.

    Arrays of pixels are flat; see `_slot_brightness` and `_low_pass` for the rest.
    """
    for i in range(len(lag)):
        slot = np.int32((log_new[i] - lowest) * slots_per_unit)
        slot = min(max(slot, 0), SLOTS - 1)
        step = log_new[i] - log_old[i]
        new_lag = decay[slot] * lag[i] + hold[slot] * step
        new_lag = new_lag if abs(new_lag) > NO_LAG else np.float32(0)
        change[i] = step + lag[i] - new_lag
        lag[i] = new_lag


@kernel
def advance_levels(
    change: NDArray[np.float32],
    leak: NDArray[np.float32],
    length: np.float32,
    threshold_on: NDArray[np.float32],
    threshold_off: NDArray[np.float32],
    level: NDArray[np.float32],
    count: NDArray[np.int32],
) -> int:
    """Update every pixel's level, and mark where it may have crossed a threshold.

    Arrays are flat, by pixel. `level` is the signal relative to the memorized one, NaN while the
    pixel is held in reset. It is updated where no threshold is reached, and otherwise left to
    `emit_events`. No branch depends on data, so that the loop compiles to vector instructions.

    Returns:
        The sum of `count`, the maximum number of events of each pixel.
    """
    total = 0
    for i in range(len(level)):
        moved = change[i] + leak[i] * length
        change[i] = moved
        held = level[i] != level[i]  # only NaN differs from itself
        reached = moved if held else level[i] + moved
        most = np.int32(max(reached / threshold_on[i], -reached / threshold_off[i]))
        most = np.int32(most + held)
        count[i] = most
        level[i] = level[i] if most > 0 else reached
        total += most
    return total


@kernel
def emit_events(
    events: NDArray[np.uint64],
    start_us: int,
    length_us: int,
    refractory: float,
    threshold_on: NDArray[np.float32],
    threshold_off: NDArray[np.float32],
    change: NDArray[np.float32],
    count: NDArray[np.int32],
    level: NDArray[np.float32],
    ready: NDArray[np.float64],
) -> int:
    """Create the events of all pixels marked by `advance_levels`, by rows.

    Between two frames the signal is a straight line, so a pixel's events have one sign and equal
    distances: the time to cross a threshold, and the refractory period, at whose end the level is
    memorized again. Times here are fractions of the interval.

    Args:
        events: Output: offset in µs << 32 | y << 17 | x << 1 | polarity.
        start_us: Start of the interval since the first frame, in µs.
        length_us: Length of the interval in µs.
        refractory: Dead time as a fraction of the interval.
        threshold_on: Thresholds of brighter events, [H, W], like all following arrays.
        threshold_off: Thresholds of darker events.
        change: Change of the signal over the interval.
        count: Maximum number of events of each pixel; 0 to skip it.
        level: Signal relative to the memorized level; see `advance_levels`.
        ready: End of each pixel's last reset, in µs since the first frame.

    Returns:
        Number of events.
    """
    number = 0
    height, width = level.shape
    for y in range(height):
        for x in range(width):
            most = count[y, x]
            if most == 0:
                continue
            moved = np.float64(change[y, x])
            before = np.float64(level[y, x])
            if np.isnan(before):
                released = (ready[y, x] - start_us) / length_us
                if released >= 1:
                    continue
                before = -moved * released  # on the line that is 0 at the release
            if moved > 0:
                sign, polarity, threshold = 1.0, 1, np.float64(threshold_on[y, x])
            else:
                sign, polarity, threshold = -1.0, 0, np.float64(threshold_off[y, x])
            speed = abs(moved)
            first = (threshold - sign * before) / speed if speed > 0 else np.inf
            first = max(first, (ready[y, x] - start_us) / length_us)  # after noise
            if first > 1:
                level[y, x] = before + moved
                continue
            period = refractory + threshold / speed
            made = min(int((1 - first) / period) + 1, most)
            for i in range(made):
                offset = int((first + i * period) * length_us)
                offset = min(max(offset, 0), length_us - 1)
                events[number] = np.uint64(offset << 32 | y << 17 | x << 1 | polarity)
                number += 1
            released = first + (made - 1) * period + refractory
            level[y, x] = moved * (1 - released) if released < 1 else np.nan
            ready[y, x] = start_us + released * length_us
    return number


@kernel
def _uniform(key: int, counter: int) -> float:
    """Draw from (0, 1] by hashing a key and a counter.

    The generator is SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number
    generators", OOPSLA 2014.
    """
    z = np.uint64(key) * np.uint64(0xD1342543DE82EF95) + np.uint64(counter) * np.uint64(
        0x9E3779B97F4A7C15
    )
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return float(z >> np.uint64(11)) * 2.0**-53 + 2.0**-53


@kernel
def add_shot_noise(
    events: NDArray[np.uint64],
    number: int,
    key: int,
    mean: float,
    start_us: int,
    length_us: int,
    refractory_us: float,
    log_frame: NDArray[np.float32],
    lowest: float,
    slots_per_unit: float,
    shade: NDArray[np.float64],
    threshold_on: NDArray[np.float32],
    threshold_off: NDArray[np.float32],
    level: NDArray[np.float32],
    ready: NDArray[np.float64],
) -> int:
    """Append noise events: a Poisson process over all pixels.

    Events are drawn at the rate of black pixels, and each is kept with the probability of its
    pixel's rate relative to black: pixels without noise cost nothing. Noise crosses the threshold
    that is nearer to the signal, and the pixel memorizes the signal with the noise. So noise events
    alternate in sign and do not add up, as observed by Graca and Delbruck.

    Args:
        events: Output, packed as in `emit_events`; events that do not fit are dropped.
        number: Number of events in it so far.
        key: Key of this frame's random numbers.
        mean: Mean number of events of a black pixel in the interval.
        start_us: Start of the interval since the first frame, in µs.
        length_us: Length of the interval in µs.
        refractory_us: Dead time in µs.
        log_frame: Log intensity, [H, W].
        lowest: Log intensity of the first slot.
        slots_per_unit: Slots per unit of log intensity.
        shade: Rate relative to black, by slot of log intensity.
        threshold_on: Thresholds of brighter events, [H, W], like all following arrays.
        threshold_off: Thresholds of darker events.
        level: Signal relative to the memorized level; see `advance_levels`.
        ready: End of each pixel's last reset; see `emit_events`.

    Returns:
        New number of events.
    """
    height, width = level.shape
    place = 0.0
    draws = 0
    while number < len(events):
        place -= math.log(_uniform(key, draws)) / mean
        if place >= height * width:
            break
        y, x = divmod(int(place), width)
        offset = min(int(_uniform(key, draws + 1) * length_us), length_us - 1)
        slot = min(max(int((log_frame[y, x] - lowest) * slots_per_unit), 0), SLOTS - 1)
        kept = _uniform(key, draws + 2) <= shade[slot]
        draws += 3
        if kept and ready[y, x] <= start_us + offset:
            polarity = int(level[y, x] >= 0)
            level[y, x] += -threshold_on[y, x] if polarity else threshold_off[y, x]
            ready[y, x] = start_us + offset + refractory_us
            events[number] = np.uint64(offset << 32 | y << 17 | x << 1 | polarity)
            number += 1
    return number


@kernel
def sort_events(events: NDArray[np.uint64], bits: int) -> None:
    """Sort by the lowest `bits` of the upper half, by a stable radix sort."""
    digits = max((bits + 10) // 11, 1)
    width = (bits + digits - 1) // digits
    mask = np.uint64((1 << width) - 1)
    source, target = events, np.empty_like(events)
    for digit in range(digits):
        shift = np.uint64(32 + digit * width)
        starts = np.zeros((1 << width) + 1, np.int64)
        for event in source:
            starts[((event >> shift) & mask) + np.uint64(1)] += 1
        starts = np.cumsum(starts)
        for event in source:
            slot = (event >> shift) & mask
            target[starts[slot]] = event
            starts[slot] += 1
        source, target = target, source
    if digits % 2:
        events[:] = source


@kernel
def unpack_events(
    events: NDArray[np.uint64], start_us: int
) -> tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.int64], NDArray[np.uint8]]:
    """Split events as `emit_events` packs them into x, y, t (ns) and p."""
    number = len(events)
    x = np.empty(number, np.uint16)
    y = np.empty(number, np.uint16)
    t = np.empty(number, np.int64)
    p = np.empty(number, np.uint8)
    for i in range(number):
        event = events[i]
        x[i] = (event >> np.uint64(1)) & np.uint64(0xFFFF)
        y[i] = (event >> np.uint64(17)) & np.uint64(0x7FFF)
        p[i] = event & np.uint64(1)
        t[i] = (start_us + np.int64(event >> np.uint64(32))) * 1000
    return x, y, t, p
