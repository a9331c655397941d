"""Picture of an evaluated window: events, prediction, ground truth and error, with a legend."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from scaleevent_ros.events.normalization import IMAGENET_MEAN, IMAGENET_STD
from scaleevent_ros.visuals.colour_scales import (
    LINE,
    ColourScale,
    blank,
    colour_legend,
    flow_legend,
    flow_picture,
    write,
)
from scaleevent_ros.visuals.events import polarity_picture

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scaleevent_ros.tasks.evaluation_measure import Example

    Floats = NDArray[np.float32]
    Picture = NDArray[np.uint8]

_TILE = 320  # pixels, the width of a tile
_GAP = 6
_RIGHT = (165, 210, 165)
_WRONG = (200, 30, 30)
_NO_CLASS = (255, 255, 255)  # not grey, which is the colour of a class in many lists
_PERCENT = 99  # percentile of the values at which a colour scale ends


class _Drawn(NamedTuple):
    """Task-specific part: tiles at the size of the events, and a legend."""

    prediction: Picture
    truth: Picture
    error: Picture
    legend: Picture


def draw_example(example: Example) -> Picture:
    """Draw the input, the prediction, the ground truth and the error of a window, with a legend.

    - Segmentation has the colours of the classes; the error shows correct and wrong pixels. Pixels
      without a class are white.
    - Depth is from near (dark) to far (bright), logarithmically over the range of the ground truth;
      the error is absolute, in m. Unknown depth is grey.
    - Flow has the colours of `flow_picture`, up to the 99th percentile of the true lengths; the
      error is the length of the difference in px. Unknown flow is grey.

    Returns:
        RGB, uint8 [H, W, 3].
    """
    width = 4 * _TILE + 3 * _GAP
    draw = _flow if len(example.prediction) == 2 else _depth
    drawn = (draw if example.classes is None else _segmentation)(example, width)
    tiles = [
        _titled(*_input_picture(example), cv2.INTER_AREA),
        # Colours that represent values must not be mixed.
        _titled("prediction", drawn.prediction, cv2.INTER_NEAREST),
        _titled("truth", drawn.truth, cv2.INTER_NEAREST),
        _titled("error", drawn.error, cv2.INTER_NEAREST),
    ]
    gap = blank(len(tiles[0]), _GAP)
    row = np.hstack([tiles[0], *(part for tile in tiles[1:] for part in (gap, tile))])
    return np.asarray(np.vstack([row, blank(_GAP, width), drawn.legend]), np.uint8)


def _segmentation(example: Example, width: int) -> _Drawn:
    classes = example.classes
    assert classes is not None
    colours = np.full((256, 3), _NO_CLASS, np.uint8)
    colours[: len(classes.colors)] = classes.colors
    right = np.where((example.prediction == example.truth)[..., None], _RIGHT, _WRONG)
    error = np.where(example.known[..., None], right, _NO_CLASS).astype(np.uint8)
    legend = colour_legend(
        [*classes.names, "no class", "right", "wrong"],
        [*classes.colors, _NO_CLASS, _RIGHT, _WRONG],
        width,
    )
    return _Drawn(colours[example.prediction], colours[example.truth], error, legend)


def _depth(example: Example, width: int) -> _Drawn:
    predicted, true, known = example.prediction[0], example.truth[0], example.known
    of_range = true[known] if known.any() else np.maximum(predicted, 1e-3)
    low, high = np.percentile(of_range, [100 - _PERCENT, _PERCENT])
    scale = ColourScale(low, max(high, 1.01 * low), cv2.COLORMAP_VIRIDIS, logarithmic=True)
    error = np.where(known, np.abs(predicted - true), 0)
    errors = _error_scale(error, known)
    half = width // 2
    legends = [scale.legend("depth [m]", half), errors.legend("error [m]", width - half)]
    return _Drawn(
        scale.picture(predicted, np.ones_like(known)),
        scale.picture(true, known),
        errors.picture(error, known),
        np.hstack(legends),
    )


def _flow(example: Example, width: int) -> _Drawn:
    predicted, true, known = example.prediction, example.truth, example.known
    lengths = np.hypot(*(true[:, known] if known.any() else predicted.reshape(2, -1)))
    longest = max(float(np.percentile(lengths, _PERCENT)), 1e-3)
    error = np.where(known, np.hypot(*np.where(known, predicted - true, 0)), 0)
    errors = _error_scale(error, known)
    wheel = flow_legend(longest, width // 2)
    bar = errors.legend("error [px]", width - width // 2)
    below = blank(len(wheel) - len(bar), bar.shape[1])
    return _Drawn(
        flow_picture(predicted, longest, np.ones_like(known)),
        flow_picture(true, longest, known),
        errors.picture(error, known),
        np.hstack([wheel, np.vstack([bar, below])]),
    )


def _error_scale(error: Floats, known: NDArray[np.bool_]) -> ColourScale:
    highest = float(np.percentile(error[known], _PERCENT)) if known.any() else 0.0
    return ColourScale(0.0, max(highest, 1e-3), cv2.COLORMAP_INFERNO)


def _input_picture(example: Example) -> tuple[str, Picture]:
    """Draw the input: the frame, or the event tensor."""
    if example.tensor.dtype == np.uint8:
        return "frame", np.ascontiguousarray(example.tensor.transpose(1, 2, 0))
    return "events", _event_picture(example)


def _event_picture(example: Example) -> Picture:
    """Draw the event tensor: ON red and OFF blue, or as it is for `scaleevent_picture`."""
    events = example.events
    tensor = example.tensor[: events.input.represented]
    if events.normalization == "scaleevent_picture":
        picture = tensor.transpose(1, 2, 0) * IMAGENET_STD + IMAGENET_MEAN
        return np.asarray(np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8))
    if events.representation != "voxel":  # the first half of the channels has the OFF events
        off, on = np.split(tensor, 2)
        tensor = on - off
    return polarity_picture(tensor)


def _titled(title: str, tile: Picture, interpolation: int) -> Picture:
    """Resize a tile to the common width, and write its title above."""
    height, width = tile.shape[:2]
    size = (_TILE, max(round(_TILE * height / width), 1))
    heading = blank(LINE, _TILE)
    write(heading, title, 2, 0)
    resized = cv2.resize(tile, size, interpolation=interpolation)
    return np.asarray(np.vstack([heading, resized]), np.uint8)
