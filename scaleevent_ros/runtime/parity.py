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
    """Largest accepted differences of an output from its reference.

    Attributes:
        relative: Norm of the difference over the norm of the reference; for all outputs but
            segmentation.
        pixels: Share of the pixels with another class; for segmentation.
    """

    relative: float
    pixels: float


# fp32 differs by the order of sums; fp16 and bf16 round every activation to 11 and 8 bits.
TOLERANCES = {
    "fp32": Tolerance(1e-4, 1e-3),
    "fp16": Tolerance(2e-2, 2e-2),
    "bf16": Tolerance(1e-1, 1e-1),
    "int8": Tolerance(1e-1, 1e-1),
}


def difference(name: str, found: Array, reference: Array) -> float:
    """Compute the difference of an output from its reference, as in `Tolerance`.

    Args:
        name: Name of the output.
        found: The output.
        reference: The reference, of the same shape.

    Returns:
        Relative difference, or share of pixels for ``segmentation``; infinite if not finite.
    """
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
    """Update the largest difference of each output in ``worst`` by those of a window."""
    for name, expected in reference.items():
        seen = difference(name, found[name], expected)
        worst[name] = max(worst.get(name, 0.0), seen)


def beyond(worst: Mapping[str, float], precision: str) -> list[str]:
    """Return a text for each difference beyond the tolerance of a precision."""
    tolerance = TOLERANCES[precision]
    return [
        f"{name} differs by {seen:.2g}, more than {limit:g}"
        for name, seen in worst.items()
        if seen > (limit := tolerance.pixels if name == "segmentation" else tolerance.relative)
    ]
