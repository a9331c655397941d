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
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np

from scaleevent_ros.events.batch import EventBatch
from scaleevent_ros.sources.errors import SimulationError
from scaleevent_ros.sources.pixel_model import LEAST_THRESHOLD, PixelModel
from scaleevent_ros.sources.simulator_kernels import (
    NO_LAG,
    SLOTS,
    add_shot_noise,
    advance_levels,
    emit_events,
    low_pass_step,
    sort_events,
    unpack_events,
)

if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from numpy.typing import NDArray

    Frame: TypeAlias = "NDArray[np.uint8] | NDArray[np.floating[Any]]"

_WHITE = 255.0


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
        low_pass_step(
            log_frame.ravel(),
            before.ravel(),
            self._lag.ravel(),
            np.float32(self._lowest),
            np.float32(self._slots_per_unit),
            decay,
            hold,
            self._change.ravel(),
        )
        bound = advance_levels(
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
        count = emit_events(
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
            count = add_shot_noise(
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
        sort_events(events[:count], (length_us - 1).bit_length())
        return EventBatch(*unpack_events(events[:count], start_us), self.width, self.height)


def _draw_thresholds(
    rng: np.random.Generator, mean: float, sigma: float, shape: tuple[int, int]
) -> NDArray[np.float32]:
    drawn = mean + sigma * rng.standard_normal(shape)
    return np.maximum(drawn, LEAST_THRESHOLD).astype(np.float32)


def _slot_brightness(toe: float) -> tuple[NDArray[np.float64], float, float]:
    """Tabulate brightness in equal steps of log intensity.

    Returns:
        Brightness of each slot, from 20/275 for black to 1 for white (the offset is that of v2e and
        gives a black pixel some bandwidth); log intensity of the first slot; slots per unit of log
        intensity.
    """
    lowest, highest = (float(v) for v in log_intensity(np.array([0, _WHITE], np.float32), toe))
    slots = np.linspace(lowest, highest, SLOTS)
    intensity = np.where(slots > math.log(toe), np.exp(slots), toe * (slots - math.log(toe) + 1))
    return (intensity + 20) / (_WHITE + 20), lowest, (SLOTS - 1) / (highest - lowest)


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
    decay[decay < NO_LAG] = 0
    return decay.astype(np.float32), (-np.expm1(-spans) / spans).astype(np.float32)


def _shot_noise_shade(brightness: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rate of shot noise relative to the dark: v2e's line from 1 to a quarter."""
    return 1 - 0.75 * brightness
