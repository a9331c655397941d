"""Principal components of a stream of features, with colours that are stable over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scaleevent_ros.visuals.features import principal_directions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

_SPEED = 0.02  # weight of a new window in running averages, from window 1 / _SPEED on
_PERCENTILES = (0.02, 0.98)  # quantiles of the projections that map to 0 and 255
_LEAST = 4  # smallest number of tokens from which directions are computed


class StableBasis:
    """First three principal components of features, tracked from window to window.

    The directions are initialized with the principal components of the first window. Each later
    window updates them by a step of power iteration on the running covariance, from the previous
    directions (Oja, "A simplified neuron model as a principal component analyzer", 1982, in
    blocks). So they follow the scene over some fifty windows, without changing order or sign.
    """

    def __init__(self) -> None:
        self._seen = 0
        self._mean = self._directions = self._spread = self._low = self._high = np.empty(
            0, np.float32
        )

    def picture(self, features: Floats, mask: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
        """Update the basis with a window's features, and draw them as colours.

        Args:
            features: float32 [D, h, w], D at least 3.
            mask: Active positions, bool [h, w], with which the basis is updated; all positions if
                None, or if it has fewer than four.

        Returns:
            RGB, uint8 [h, w, 3].
        """
        depth, height, width = features.shape
        tokens = features.reshape(depth, -1).T
        chosen = tokens[mask.reshape(-1)] if mask is not None else tokens
        self._follow(chosen if len(chosen) >= _LEAST else tokens)
        share = ((tokens - self._mean) @ self._directions - self._low) / (self._high - self._low)
        colours = np.rint(share.clip(0, 1) * 255).astype(np.uint8)
        return np.asarray(colours.reshape(height, width, 3))

    def _follow(self, tokens: Floats) -> None:
        first = self._seen == 0
        self._seen += 1
        speed = max(1 / self._seen, _SPEED)
        self._mean = _blend(self._mean, tokens.mean(0), speed)
        centred = tokens - self._mean
        if first:
            self._directions = principal_directions(centred)
        image = centred.T @ (centred @ self._directions) / len(centred)
        self._spread = _blend(self._spread, image, speed)
        turned, triangle = np.linalg.qr(self._spread)
        # The decomposition may flip a direction, which the sign of the diagonal reverts.
        self._directions = turned * np.where(np.diag(triangle) < 0, -1, 1).astype(np.float32)
        shown = centred @ self._directions
        low, high = np.quantile(shown, _PERCENTILES, axis=0).astype(np.float32)
        self._low = _blend(self._low, low, speed)
        self._high = _blend(self._high, np.maximum(high, low + np.float32(1e-6)), speed)


def _blend(old: Floats, new: Floats, weight: float) -> Floats:
    return new if weight == 1 else old + np.float32(weight) * (new - old)
