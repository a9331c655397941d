"""Pictures of features: principal components as colours, similarity to a point as heat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Picture = NDArray[np.uint8]

# Percentiles of the projections that limit the colours, so that outliers do not set their range.
_PERCENTILES = (2.0, 98.0)


@dataclass(frozen=True, slots=True, eq=False)
class PcaBasis:
    """Three directions in feature space, and the range of projections that is shown as colour.

    Attributes:
        mean: Mean feature, float32 [D].
        directions: Unit vectors, float32 [D, 3], for red, green and blue.
        low: Projections that map to 0, float32 [3].
        high: Projections that map to 255, float32 [3].
    """

    mean: Floats
    directions: Floats
    low: Floats
    high: Floats


def pca_basis(features: Floats) -> PcaBasis:
    """Compute the first three principal components of features.

    Args:
        features: ``[D, h, w]``, D at least 3.

    Returns:
        A basis for `pca_picture`. Pictures in one basis are comparable: similar features have
        similar colours.
    """
    tokens = features.reshape(len(features), -1).T.astype(np.float64)
    mean = tokens.mean(axis=0)
    centred = tokens - mean
    directions = principal_directions(centred)
    low, high = np.percentile(centred @ directions, _PERCENTILES, axis=0)
    return PcaBasis(
        *(np.asarray(each, np.float32) for each in (mean, directions, low, np.maximum(high, low)))
    )


def principal_directions(centred: NDArray[Any]) -> NDArray[Any]:
    """Compute the first three principal components of centred tokens [N, D].

    Returns:
        Unit vectors [D, 3], whose largest component is positive.
    """
    # The smaller of the two Gram matrices has the same leading directions.
    if len(centred) < centred.shape[1]:
        _, vectors = np.linalg.eigh(centred @ centred.T)
        directions = centred.T @ vectors[:, :-4:-1]
    else:
        _, vectors = np.linalg.eigh(centred.T @ centred)
        directions = vectors[:, :-4:-1]
    lengths = np.linalg.norm(directions, axis=0)
    directions = directions / np.where(lengths > 0, lengths, 1)
    strongest = np.abs(directions).argmax(axis=0)
    signs = np.sign(directions[strongest, np.arange(directions.shape[1])])
    return np.asarray(directions * np.where(signs == 0, 1, signs))


def pca_picture(features: Floats, basis: PcaBasis) -> Picture:
    """Draw features ``[D, h, w]`` in a basis as colours, uint8 [h, w, 3]."""
    depth, height, width = features.shape
    projected = (features.reshape(depth, -1).T - basis.mean) @ basis.directions
    span = np.where(basis.high > basis.low, basis.high - basis.low, 1)
    colours = np.clip((projected - basis.low) / span, 0, 1) * 255
    return np.asarray(np.rint(colours).astype(np.uint8).reshape(height, width, 3))


def similarity_map(features: Floats, anchor: tuple[int, int]) -> Floats:
    """Compute the cosine similarity of each position to an anchor.

    Args:
        features: ``[D, h, w]``.
        anchor: Row and column of the anchor.

    Returns:
        float32 [h, w], from -1 to 1; 0 where either feature is zero.
    """
    lengths = np.linalg.norm(features, axis=0)
    unit = features / np.where(lengths > 0, lengths, 1)
    return np.asarray(np.einsum("dhw,d->hw", unit, unit[:, anchor[0], anchor[1]]), np.float32)


def similarity_picture(similarity: Floats) -> Picture:
    """Draw a similarity map, uint8 [h, w, 3]: dark for 0 and below, bright for 1."""
    grey = np.rint(np.clip(similarity, 0, 1) * 255).astype(np.uint8)
    heat = cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO)
    return np.asarray(cv2.cvtColor(heat, cv2.COLOR_BGR2RGB))


def choose_anchors(features: Floats, mask: NDArray[np.bool_], count: int) -> list[tuple[int, int]]:
    """Choose dissimilar positions, by farthest-point sampling with the cosine similarity.

    Args:
        features: ``[D, h, w]``.
        mask: Allowed positions of anchors, bool [h, w]; all if none is set.
        count: Maximum number of anchors.

    Returns:
        Row and column of each anchor.
    """
    allowed = np.argwhere(mask if mask.any() else np.ones_like(mask))
    tokens = features[:, allowed[:, 0], allowed[:, 1]].T
    unit = tokens / np.maximum(np.linalg.norm(tokens, axis=1, keepdims=True), 1e-12)
    chosen = [int((unit @ unit.mean(axis=0)).argmin())]
    nearest = unit @ unit[chosen[0]]
    while len(chosen) < min(count, len(unit)):
        chosen.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, unit @ unit[chosen[-1]])
    return [(int(row), int(column)) for row, column in allowed[chosen]]


def enlarge(picture: Picture, size: tuple[int, int]) -> Picture:
    """Resize a picture to a width and height by nearest neighbours, so that patches are visible."""
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST))


def patches_to_pixels(picture: Picture, stride: int, size: tuple[int, int]) -> Picture:
    """Resize a picture of patches to the sensor's pixels.

    Args:
        picture: Picture with a pixel for each patch, uint8 [h, w, 3].
        stride: Side of a patch in pixels.
        size: Height and width of the sensor.

    Returns:
        uint8 [H, W, 3].
    """
    fine = enlarge(picture, (picture.shape[1] * stride, picture.shape[0] * stride))
    return np.ascontiguousarray(fine[: size[0], : size[1]])


def overlay(
    picture: Picture, colours: Picture, opacity: float | NDArray[np.float32] = 0.5
) -> Picture:
    """Blend a coarse picture over a fine one.

    Args:
        picture: Fine picture, uint8 [H, W, 3].
        colours: Coarse picture, uint8 [h, w, 3].
        opacity: Opacity of the coarse picture, 0 to 1; for each pixel if float32 [H, W].

    Returns:
        uint8 [H, W, 3].
    """
    fine = enlarge(colours, (picture.shape[1], picture.shape[0]))
    if not isinstance(opacity, float):
        return np.asarray(cv2.blendLinear(fine, picture, opacity, 1 - opacity))
    return np.asarray(cv2.addWeighted(fine, opacity, picture, 1 - opacity, 0))
