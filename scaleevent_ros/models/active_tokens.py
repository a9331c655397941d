"""Choice of the patch tokens that a student of active tokens computes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from scaleevent_ros.events import activity_mask

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class ActiveTokens:
    """Rule for the tokens to compute: active ones, those around them, and inactive anchors.

    Anchors are spread evenly over the grid. They give the active tokens context, and fill up to a
    number of tokens from `token_counts`, so that no padding is needed.

    Attributes:
        anchors: Minimum number of anchors, relative to all tokens.
        dilation: Distance in tokens to an active one, in rows and in columns, up to which tokens
            are computed like active ones.
        pixels: Number of pixels with events from which a token is active.
    """

    anchors: float
    dilation: int
    pixels: int

    def count(self, active: int, total: int) -> int:
        """Return the number of tokens to compute, given the number of active ones and of all."""
        return min(total, active + math.ceil(self.anchors * total))

    def choose(self, events: Any, stride: int) -> NDArray[np.int64]:
        """Choose the tokens of windows.

        Args:
            events: Channels that represent the windows, without leaky integrals, [B, C, H, W],
                normalized or not: an array, or a tensor on any device.
            stride: Pixels per token.

        Returns:
            Indices of tokens, numbered row by row, ascending, int64 [B, K] with K from
            `token_counts`.
        """
        mask: Any = activity_mask((events != 0).any(1), stride, self.pixels)
        active: NDArray[np.bool_] = mask if isinstance(mask, np.ndarray) else mask.cpu().numpy()
        rows, columns = active.shape[1:]
        total = rows * columns
        reach = np.ones((2 * self.dilation + 1,) * 2, np.uint8)
        dilated = np.stack([cv2.dilate(each, reach) for each in active.astype(np.uint8)])
        dilated = dilated.reshape(len(active), total)
        needed = self.count(int(dilated.sum(1).max()), total)
        count = next(each for each in token_counts(total) if each >= needed)
        rank = np.where(dilated, -1, spread_rank(rows, columns))
        return np.sort(np.argpartition(rank, count - 1, axis=1)[:, :count], axis=1)


def token_counts(total: int) -> list[int]:
    """List the numbers of tokens at which a network runs, ascending; the last is all of them.

    They are few, as CUDA graphs are captured, kernels tuned and memory planned for each: multiples
    of 1/64 of all tokens from 1/16 up to a quarter, of 1/32 up to half, and of 1/16.
    """
    shares = {part / parts for parts in (64, 32, 16) for part in range(4, 17)}
    return sorted({math.ceil(share * total) for share in shares})


def spread_tokens(rows: int, columns: int, count: int) -> NDArray[np.int64]:
    """Choose tokens that are spread evenly over a grid; ascending indices, int64 [count]."""
    return np.sort(np.argsort(spread_rank(rows, columns))[:count])


@lru_cache(maxsize=8)
def spread_rank(rows: int, columns: int) -> NDArray[np.int64]:
    """Order the cells of a grid so that the first ones, however many, are spread evenly.

    The order is that of thresholds in ordered dithering (Bayer, 1973).

    Returns:
        Rank of each cell, row by row, int64 [rows * columns]; ranks are unique, with gaps.
    """
    y, x = np.indices((rows, columns))
    rank = np.zeros((rows, columns), np.int64)
    for bit in range(max(rows, columns).bit_length()):
        rank = rank << 2 | ((x ^ y) >> bit & 1) << 1 | y >> bit & 1
    return rank.reshape(-1)
