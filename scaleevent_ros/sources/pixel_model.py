"""Parameters of the pixels of a simulated event camera; see `simulator` for the models."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import numpy as np

from scaleevent_ros.sources.errors import SimulationError

LEAST_THRESHOLD = 0.01  # as in v2e: a pixel with less would fire without end


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
        least = {"threshold_on": LEAST_THRESHOLD, "threshold_off": LEAST_THRESHOLD}
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
