"""Simulator of an event camera's pixels: frames in, events out.

Each pixel combines published models:

- Log intensity with a linear toe, so that noise in the dark makes no events: Katz, Nikolic and
  Delbruck, "Live demonstration: Behavioural emulation of event-based vision sensors", ISCAS 2012;
  Hu, Liu and Delbruck, "v2e: From Video Frames to Realistic DVS Events", CVPRW 2021, section 4.
  Ours meets the logarithm with equal slope.
- Finite bandwidth, a first-order low pass whose cutoff grows with intensity: v2e, section 4. Solved
  exactly for an input that is linear between frames, hence stable however far apart they are.
- An event whenever the signal has moved by a contrast threshold from the level that the pixel
  memorized, at the time at which the signal, linear between two frames, crosses it: Rebecq, Gehrig
  and Scaramuzza, "ESIM: an Open Event Camera Simulator", CoRL 2018, section 3.
- Thresholds that differ from pixel to pixel, normally distributed: v2e and ESIM, same sections.
- A refractory period, in which the pixel is held in reset, so that it memorizes the level at its
  end: Lichtsteiner, Posch and Delbruck, "A 128x128 120 dB 15 us Latency Asynchronous Temporal
  Contrast Vision Sensor", JSSC 2008.
- Leak events: the memorized level drifts, which makes ON events at a rate that differs from pixel
  to pixel: Nozaki and Delbruck, "Temperature and Parasitic Photocurrent Effects in Dynamic Vision
  Sensors", IEEE TED 2017; v2e, section 4.
- Shot noise: a Poisson process of ON and OFF events, rarer where it is bright: v2e, section 4;
  Graca and Delbruck, "Unraveling the paradox of intensity-dependent DVS pixel noise", IISW 2021.

The same frames, model and seed give the same events.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np

from scaleevent_ros.events.batch import EventBatch
from scaleevent_ros.events.compile import kernel
from scaleevent_ros.sources.errors import SimulationError

if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from numpy.typing import NDArray

    Frame: TypeAlias = "NDArray[np.uint8] | NDArray[np.floating[Any]]"

_WHITE = 255.0
_LEAST_THRESHOLD = 0.01  # as in v2e: a pixel with less would fire without end
_NO_LAG = np.float32(1e-9)  # smaller lags become 0: subnormal numbers would be slow
_SLOTS = 256  # length of the tables of values that depend on intensity


@dataclass(frozen=True, slots=True)
class PixelModel:
    """Parameters of the pixels. The defaults describe a recent sensor in daylight.

    Attributes:
        threshold_on: Rise of log intensity that makes an ON event, in natural logarithms.
        threshold_off: Fall of log intensity that makes an OFF event.
        threshold_sigma: Standard deviation of both thresholds from pixel to pixel.
        refractory: Dead time of a pixel after an event, in s.
        cutoff: 3 dB frequency of a white pixel's low pass, in Hz; infinite switches it off.
        leak_rate: ON events of a pixel that sees no change, in Hz.
        leak_spread: Standard deviation of the decimal logarithm of that rate from pixel to pixel.
        shot_noise_rate: Noise events of a black pixel, ON and OFF together, in Hz.
        toe: Intensity, of 255, below which the response is linear.
    """

    threshold_on: float = 0.15
    threshold_off: float = 0.15
    threshold_sigma: float = 0.02
    refractory: float = 100e-6
    cutoff: float = 1000.0
    leak_rate: float = 0.01
    leak_spread: float = 0.1
    shot_noise_rate: float = 0.1
    toe: float = 20.0

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            SimulationError: If a value is out of range.
        """
        least = {"threshold_on": _LEAST_THRESHOLD, "threshold_off": _LEAST_THRESHOLD}
        for field in fields(self):
            value = getattr(self, field.name)
            if not value >= least.get(field.name, 0):
                msg = f"pixel model: {field.name} is {value}, below {least.get(field.name, 0)}"
                raise SimulationError(msg)
        if not (self.cutoff > 0 and self.toe > 0):
            msg = "pixel model: cutoff and toe must be above 0"
            raise SimulationError(msg)


PIXEL_MODELS = {
    "standard": PixelModel(),
    "ideal": PixelModel(
        threshold_sigma=0,
        refractory=0,
        cutoff=math.inf,
        leak_rate=0,
        leak_spread=0,
        shot_noise_rate=0,
    ),
    # As v2e's model of this name: a sensor in the dark.
    "noisy": PixelModel(
        threshold_on=0.2,
        threshold_off=0.2,
        threshold_sigma=0.05,
        refractory=0.01,
        cutoff=30,
        leak_rate=0.1,
        shot_noise_rate=5,
    ),
}
"""Models by name: `standard`, `ideal` (thresholds alone) and `noisy`."""


def pixel_model(name: str, threshold: float | None = None) -> PixelModel:
    """Return one of `PIXEL_MODELS`.

    Args:
        name: Name of the model.
        threshold: Value of both thresholds; None for those of the model.

    Raises:
        SimulationError: If there is no such model.
    """
    if name not in PIXEL_MODELS:
        msg = f"pixel model {name!r} is unknown; known are {', '.join(PIXEL_MODELS)}"
        raise SimulationError(msg)
    model = PIXEL_MODELS[name]
    if threshold is None:
        return model
    return replace(model, threshold_on=threshold, threshold_off=threshold)


def vary_pixels(model: PixelModel, rng: np.random.Generator) -> PixelModel:
    """Draw the parameters of a sensor around a model, over the range of real sensors and light.

    Both thresholds are multiplied by a common factor of 0.7 to 2.5 and a separate one of 0.85 to
    1.18, their standard deviation by 0.5 to 3, the cutoff by 0.03 to 1, and leak, shot noise and
    dead time by 0.3 to 30, all uniform in the logarithm.
    """

    def factor(low: float, high: float) -> float:
        return float(np.exp(rng.uniform(math.log(low), math.log(high))))

    contrast = factor(0.7, 2.5)
    return replace(
        model,
        threshold_on=model.threshold_on * contrast * factor(0.85, 1.18),
        threshold_off=model.threshold_off * contrast * factor(0.85, 1.18),
        threshold_sigma=model.threshold_sigma * factor(0.5, 3),
        cutoff=model.cutoff * factor(0.03, 1),
        leak_rate=model.leak_rate * factor(0.3, 30),
        shot_noise_rate=model.shot_noise_rate * factor(0.3, 30),
        refractory=model.refractory * factor(0.3, 30),
    )


def log_intensity(frame: Frame, toe: float) -> NDArray[np.float32]:
    """Map intensities to the output of a pixel's photoreceptor: a logarithm with a linear toe.

    Args:
        frame: Intensities from 0 to 255, of any shape: uint8, or floating point.
        toe: Intensity below which the response is linear, with the logarithm's slope there.

    Returns:
        float32, of the frame's shape.
    """
    if frame.dtype == np.uint8:
        table = log_intensity(np.arange(256, dtype=np.float32), toe)
        return cast("NDArray[np.float32]", cv2.LUT(frame, table))
    intensity = np.asarray(frame, dtype=np.float32)
    bright: NDArray[np.float32] = np.log(np.maximum(intensity, np.float32(toe)))
    bright += np.minimum(intensity * np.float32(1 / toe) - np.float32(1), np.float32(0))
    return bright


class EventSimulator:
    """Simulated event sensor: converts successive frames to events.

    Attributes:
        width: Sensor width in pixels.
        height: Sensor height in pixels.
        model: Pixel model.
        threshold_on: Threshold of each pixel for brighter events, float32 [H, W].
        threshold_off: Threshold of each pixel for darker events, float32 [H, W].

    Args:
        width: Sensor width in pixels, at most 65,535.
        height: Sensor height in pixels, at most 32,767.
        model: Pixel model; the default `PixelModel` if None.
        seed: Seed of the pixels' mismatch and noise.

    Raises:
        SimulationError: If the sensor's size is out of range.
    """

    def __init__(
        self, width: int, height: int, model: PixelModel | None = None, seed: int = 0
    ) -> None:
        if not (0 < width <= 0xFFFF and 0 < height <= 0x7FFF):
            msg = f"a sensor of {width}x{height} pixels cannot be simulated"
            raise SimulationError(msg)
        self.width = width
        self.height = height
        self.model = model = PixelModel() if model is None else model
        rng = np.random.default_rng(seed)
        shape = (height, width)
        self.threshold_on = _draw_thresholds(rng, model.threshold_on, model.threshold_sigma, shape)
        self.threshold_off = _draw_thresholds(
            rng, model.threshold_off, model.threshold_sigma, shape
        )
        spread = np.exp(math.log(10) * model.leak_spread * rng.standard_normal(shape))
        self._leak = (model.leak_rate * spread * self.threshold_on).astype(np.float32)
        self._level = np.zeros(shape, np.float32)
        self._lag = np.zeros(shape, np.float32)
        self._ready = np.full(shape, -np.inf)
        self._noise_key = rng.integers(1 << 62)
        self._brightness, self._lowest, self._slots_per_unit = _slot_brightness(model.toe)
        self._change = np.empty(shape, np.float32)
        self._count = np.empty(shape, np.int32)
        self._frames = 0
        self._log: NDArray[np.float32] | None = None
        self._origin_us = self._time_us = 0

    def push(self, frame: Frame, t: int) -> EventBatch:
        """Simulate the events up to the next frame.

        Args:
            frame: Intensities [H, W], from 0 to 255: uint8, or floating point.
            t: Time in ns, at least a µs after the previous frame.

        Returns:
            The events from the previous frame, inclusive, to this one, exclusive, sorted by time;
            times are whole µs, as in real sensors. The first frame gives none.

        Raises:
            SimulationError: If the frame's shape or type is wrong, or its time not later.
        """
        if frame.dtype != np.uint8 and not np.issubdtype(frame.dtype, np.floating):
            msg = f"frame {self._frames} is {frame.dtype}; give 0 to 255 as uint8 or floating point"
            raise SimulationError(msg)
        if not np.isfinite(frame).all():
            msg = f"frame {self._frames} holds values that are not finite"
            raise SimulationError(msg)
        return self.push_log(log_intensity(frame, self.model.toe), t)

    def push_log(self, log_frame: NDArray[np.float32], t: int) -> EventBatch:
        """Simulate up to the next frame, given as the model's `log_intensity`: float32 [H, W].

        The array is kept until the next call. See `push` for the rest.
        """
        if log_frame.shape != (self.height, self.width) or log_frame.dtype != np.float32:
            msg = (
                f"frame {self._frames} is {log_frame.dtype} {log_frame.shape}, "
                f"not ({self.height}, {self.width})"
            )
            raise SimulationError(msg)
        before, log_frame = self._log, np.ascontiguousarray(log_frame)
        start_us, end_us = self._time_us, int(t) // 1000
        length_us = end_us - start_us
        if before is not None and not 0 < length_us < 1 << 31:
            msg = (
                f"frame {self._frames} comes {length_us} µs after the frame before it; "
                "times must increase, by 35 minutes at most"
            )
            raise SimulationError(msg)
        self._log, self._time_us = log_frame, end_us
        self._frames += 1
        if before is None:
            self._origin_us = end_us
            return EventBatch.empty(self.width, self.height)
        decay, hold = _low_pass(self._brightness, length_us * 1e-6, self.model.cutoff)
        _filter(
            log_frame.ravel(),
            before.ravel(),
            self._lag.ravel(),
            np.float32(self._lowest),
            np.float32(self._slots_per_unit),
            decay,
            hold,
            self._change.ravel(),
        )
        bound = _advance(
            self._change.ravel(),
            self._leak.ravel(),
            np.float32(length_us * 1e-6),
            self.threshold_on.ravel(),
            self.threshold_off.ravel(),
            self._level.ravel(),
            self._count.ravel(),
        )
        noise = self.model.shot_noise_rate * length_us * 1e-6
        noise_mean = noise * log_frame.size
        # Ten standard deviations above the mean: more never happen.
        events = np.empty(bound + int(noise_mean + 10 * math.sqrt(noise_mean)) + 20, np.uint64)
        count = _emit(
            events,
            start_us - self._origin_us,
            length_us,
            self.model.refractory * 1e6 / length_us,
            self.threshold_on,
            self.threshold_off,
            self._change,
            self._count,
            self._level,
            self._ready,
        )
        if noise:
            count = _add_shot_noise(
                events,
                count,
                self._noise_key + self._frames,
                noise,
                start_us - self._origin_us,
                length_us,
                self.model.refractory * 1e6,
                log_frame,
                self._lowest,
                self._slots_per_unit,
                _shot_noise_shade(self._brightness),
                self.threshold_on,
                self.threshold_off,
                self._level,
                self._ready,
            )
        _sort(events[:count], (length_us - 1).bit_length())
        return EventBatch(*_unpack(events[:count], start_us), self.width, self.height)


def _draw_thresholds(
    rng: np.random.Generator, mean: float, sigma: float, shape: tuple[int, int]
) -> NDArray[np.float32]:
    drawn = mean + sigma * rng.standard_normal(shape)
    return np.maximum(drawn, _LEAST_THRESHOLD).astype(np.float32)


def _slot_brightness(toe: float) -> tuple[NDArray[np.float64], float, float]:
    """Tabulate brightness in equal steps of log intensity.

    Returns:
        Brightness of each slot, from 20/275 for black to 1 for white (the offset is that of v2e and
        gives a black pixel some bandwidth); log intensity of the first slot; slots per unit of log
        intensity.
    """
    lowest, highest = (float(v) for v in log_intensity(np.array([0, _WHITE], np.float32), toe))
    slots = np.linspace(lowest, highest, _SLOTS)
    intensity = np.where(slots > math.log(toe), np.exp(slots), toe * (slots - math.log(toe) + 1))
    return (intensity + 20) / (_WHITE + 20), lowest, (_SLOTS - 1) / (highest - lowest)


def _low_pass(
    brightness: NDArray[np.float64], length: float, cutoff: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Solve a first-order low pass over one interval in which its input is linear.

    With time constant tau and input x, the output lags by e: e' = x' - e / tau. So after an
    interval of a given length in which x moves by dx, e becomes decay * e + hold * dx.

    Args:
        brightness: Brightness by slot, 1 for white.
        length: Length of the interval in s.
        cutoff: 3 dB frequency at brightness 1, in Hz.

    Returns:
        decay and hold, by slot.
    """
    spans = 2 * math.pi * cutoff * brightness * length  # the interval in time constants
    decay = np.exp(-spans)
    decay[decay < _NO_LAG] = 0
    return decay.astype(np.float32), (-np.expm1(-spans) / spans).astype(np.float32)


@kernel
def _filter(
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
        slot = min(max(slot, 0), _SLOTS - 1)
        step = log_new[i] - log_old[i]
        new_lag = decay[slot] * lag[i] + hold[slot] * step
        new_lag = new_lag if abs(new_lag) > _NO_LAG else np.float32(0)
        change[i] = step + lag[i] - new_lag
        lag[i] = new_lag


@kernel
def _advance(
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
    `_emit`. No branch depends on data, so that the loop compiles to vector instructions.

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
def _emit(
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
    """Create the events of all pixels marked by `_advance`, by rows.

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
        level: Signal relative to the memorized level; see `_advance`.
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


def _shot_noise_shade(brightness: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rate of shot noise relative to the dark: v2e's line from 1 to a quarter."""
    return 1 - 0.75 * brightness


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
def _add_shot_noise(
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
        events: Output, packed as in `_emit`; events that do not fit are dropped.
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
        level: Signal relative to the memorized level; see `_advance`.
        ready: End of each pixel's last reset; see `_emit`.

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
        slot = min(max(int((log_frame[y, x] - lowest) * slots_per_unit), 0), _SLOTS - 1)
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
def _sort(events: NDArray[np.uint64], bits: int) -> None:
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
def _unpack(
    events: NDArray[np.uint64], start_us: int
) -> tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.int64], NDArray[np.uint8]]:
    """Split events as `_emit` packs them into x, y, t (ns) and p."""
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
