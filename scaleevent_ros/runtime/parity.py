"""Tolerances of a backend's outputs relative to PyTorch in float32."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scaleevent_ros.runtime.arrays import to_host

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scaleevent_ros.runtime.arrays import Array


class Tolerance(NamedTuple):
    """Tolerances.

    Attributes:
        relative: Norm of the difference over the norm of the reference.
        pixels: Share of the pixels with another class.
    """

    relative: float
    pixels: float


# fp32 sums in another order; the others round every activation to 11 and 8 bits.
TOLERANCES = {
    "fp32": Tolerance(1e-4, 1e-3),
    "fp16": Tolerance(2e-2, 2e-2),
    "bf16": Tolerance(1e-1, 1e-1),
    "int8": Tolerance(1e-1, 1e-1),
}


def difference(name: str, found: Array, reference: Array) -> float:
    """Measure how far an output is from its reference, as `Tolerance` says; inf if not finite."""
    one, other = to_host(found), to_host(reference)
    if name == "segmentation":
        return float((one != other).mean())
    exact = other.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.linalg.norm((one.astype(np.float64) - exact).ravel())
        relative = float(distance / max(np.linalg.norm(exact.ravel()), 1e-12))
    return relative if math.isfinite(relative) else math.inf


def largest_differences(
    found: Mapping[str, Array], reference: Mapping[str, Array], worst: dict[str, float]
) -> None:
    """Raise the largest difference seen of each output."""
    for name, expected in reference.items():
        seen = difference(name, found[name], expected)
        worst[name] = max(worst.get(name, 0.0), seen)


def beyond(worst: Mapping[str, float], precision: str) -> list[str]:
    """Return the differences beyond the tolerances."""
    tolerance = TOLERANCES[precision]
    return [
        f"{name} differs by {seen:.2g}, {limit:g} is let pass"
        for name, seen in worst.items()
        if seen > (limit := tolerance.pixels if name == "segmentation" else tolerance.relative)
    ]
