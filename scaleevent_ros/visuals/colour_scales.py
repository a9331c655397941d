"""Pictures of values and optical flow as colours, and their legends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Mask = NDArray[np.bool_]
    Picture = NDArray[np.uint8]

LINE = 20
"""Height of a line of text, in pixels."""

UNKNOWN = (150, 150, 150)
"""Colour of pixels without a known value."""

_INK = (30, 30, 30)
_GAP = 8
_FONT = (cv2.FONT_HERSHEY_SIMPLEX, 0.45)
_TICKS = 5


@dataclass(frozen=True)
class ColourScale:
    """Colour scale of values.

    Attributes:
        low: Value of the first colour, also used for smaller values; positive if logarithmic.
        high: Value of the last colour, also used for larger values; above ``low``.
        colours: Colour map of OpenCV, such as ``cv2.COLORMAP_VIRIDIS``.
        logarithmic: Whether the scale is logarithmic.
    """

    low: float
    high: float
    colours: int
    logarithmic: bool = False

    def picture(self, values: Floats, known: Mask) -> Picture:
        """Draw values as colours, grey where they are unknown.

        Args:
            values: float32 [H, W].
            known: Pixels with known values, bool [H, W].

        Returns:
            RGB, uint8 [H, W, 3].
        """
        inside = np.clip(np.where(known, values, self.low), self.low, self.high)
        ends = self._place(np.array([self.low, self.high], np.float32))
        share = (self._place(inside) - ends[0]) / (ends[1] - ends[0])
        coloured = cv2.applyColorMap(np.rint(share * 255).astype(np.uint8), self.colours)
        return _where_known(known, cv2.cvtColor(coloured, cv2.COLOR_BGR2RGB))

    def legend(self, title: str, width: int) -> Picture:
        """Draw the legend of the scale: a title, a bar of its colours, and values below.

        Returns:
            RGB, uint8 [3 * LINE, width, 3].
        """
        columns = width - 2 * _GAP
        values = (np.geomspace if self.logarithmic else np.linspace)(self.low, self.high, columns)
        bar = np.repeat(values[None].astype(np.float32), LINE // 2, axis=0)
        sheet = blank(3 * LINE, width)
        write(sheet, title, _GAP, 0)
        sheet[LINE : LINE + len(bar), _GAP : _GAP + columns] = self.picture(bar, np.isfinite(bar))
        for tick in range(_TICKS):
            share = tick / (_TICKS - 1)
            text = f"{values[round(share * (columns - 1))]:.3g}"
            write(sheet, text, _GAP + round(share * (columns - text_width(text))), 2 * LINE - 6)
        return sheet

    def _place(self, values: Floats) -> Floats:
        return np.asarray(np.log(values), np.float32) if self.logarithmic else values


def flow_picture(flow: Floats, longest: float, known: Mask) -> Picture:
    """Draw flow as colours: hue for the direction, saturation for the length; white for no flow.

    Red is to the right, yellow-green down, cyan to the left and violet up: the order of colours of
    Baker et al., "A Database and Evaluation Methodology for Optical Flow", IJCV 2011, with HSV
    hues.

    Args:
        flow: Flow in pixels to the right and down, float32 [2, H, W].
        longest: Length in pixels from which colours are fully saturated.
        known: Pixels with known flow, bool [H, W]; others are grey.

    Returns:
        RGB, uint8 [H, W, 3].
    """
    right, down = np.where(known, flow, 0)
    hue = np.rint(np.degrees(np.arctan2(down, right)) % 360 / 2) % 180  # OpenCV's, in 2 degrees
    strength = np.minimum(np.hypot(right, down) / longest, 1) * 255
    hsv = np.stack([hue, np.rint(strength), np.full_like(hue, 255)], axis=-1).astype(np.uint8)
    return _where_known(known, np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8))


def flow_legend(longest: float, width: int) -> Picture:
    """Draw the colour wheel of `flow_picture`, with the length of the flow at its rim.

    Returns:
        RGB, uint8 [4 * LINE, width, 3].
    """
    side = 4 * LINE
    down, right = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j].astype(np.float32)
    wheel = flow_picture(np.stack([right, down]), 1.0, np.ones((side, side), np.bool_))
    sheet = blank(side, width)
    sheet[:, _GAP : _GAP + side] = np.where(np.hypot(right, down)[..., None] <= 1, wheel, 255)
    for line, text in enumerate(("direction of flow", f"rim: {longest:.3g} px", "white: no flow")):
        write(sheet, text, 2 * _GAP + side, round((line + 0.5) * LINE))
    return sheet


def colour_legend(names: Sequence[str], colours: Sequence[Sequence[int]], width: int) -> Picture:
    """Draw a legend of colours with their names, in as many lines as needed.

    Returns:
        RGB, uint8 [lines * LINE, width, 3].
    """
    places, left, line = [], _GAP, 0
    for name in names:
        needed = LINE + text_width(name) + 2 * _GAP
        if left + needed > width and left > _GAP:
            left, line = _GAP, line + 1
        places.append((left, line * LINE))
        left += needed
    sheet = blank((line + 1) * LINE, width)
    for (left, top), name, colour in zip(places, names, colours, strict=True):
        sheet[top + 3 : top + LINE - 1, left - 1 : left + LINE - 5] = _INK  # frames white, too
        sheet[top + 4 : top + LINE - 2, left : left + LINE - 6] = colour
        write(sheet, name, left + LINE, top)
    return sheet


def _where_known(known: Mask, picture: Picture) -> Picture:
    return np.asarray(np.where(known[..., None], picture, UNKNOWN), np.uint8)


def blank(height: int, width: int) -> Picture:
    """Return a white picture, uint8 [height, width, 3]."""
    return np.full((height, width, 3), 255, np.uint8)


def write(sheet: Picture, text: str, left: int, top: int) -> None:
    """Write a line of text into a picture, in place."""
    cv2.putText(sheet, text, (left, top + LINE - 6), *_FONT, _INK, 1, cv2.LINE_AA)


def text_width(text: str) -> int:
    """Return the width of a line of text in pixels."""
    return int(cv2.getTextSize(text, *_FONT, 1)[0][0])
