"""Photographs that need no download: scikit-image carries them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from skimage import data

if TYPE_CHECKING:
    from numpy.typing import NDArray


def photograph(name: str = "astronaut") -> NDArray[np.uint8]:
    """Load one of `skimage.data` by name: uint8 [H, W, 3] red-green-blue."""
    return np.asarray(getattr(data, name)(), np.uint8)
