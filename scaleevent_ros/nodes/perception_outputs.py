"""Images that the perception node publishes for a window, made only for topics with subscribers."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from scaleevent_ros.runtime.arrays import to_host
from scaleevent_ros.visuals.events import polarity_picture
from scaleevent_ros.visuals.features import (
    overlay,
    patches_to_pixels,
    similarity_map,
    similarity_picture,
)
from scaleevent_ros.visuals.palette import class_colours
from scaleevent_ros.visuals.stable_basis import StableBasis

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from numpy.typing import NDArray

    from scaleevent_ros.nodes.parameters import PerceptionParameters
    from scaleevent_ros.nodes.perception_windows import BuiltWindow
    from scaleevent_ros.runtime import Engine, Outputs
    from scaleevent_ros.runtime.arrays import Array

ALWAYS = ("features", "features_pca", "overlay", "similarity", "activity", "age")
"""Image topics of every checkpoint."""
OF_HEADS = {
    "segmentation": ("segmentation", "segmentation_color"),
    "depth": ("depth",),
    "flow": ("flow",),
}
"""Image topics of each head."""

_SEED = 0  # seed of the fixed projection
_POINT = (0, 255, 0)
_OPACITY = 0.35  # opacity of colours over events
_NEVER = -(1 << 62)  # time in ns before all windows


class Product(NamedTuple):
    """One image to publish.

    Attributes:
        topic: Name of the topic, without `~/`.
        encoding: Encoding of the `sensor_msgs/Image`.
        pixels: Pixels [H, W] or [H, W, C], of the encoding's dtype.
    """

    topic: str
    encoding: str
    pixels: NDArray[Any]


def topics_of(engine: Engine) -> tuple[str, ...]:
    """List the image topics of an engine's checkpoint."""
    chosen = () if engine.header.tokens is None else ("computed",)
    heads = (topic for head in engine.outputs for topic in OF_HEADS.get(head, ()))
    return (*ALWAYS, *chosen, *heads)


class Scene(NamedTuple):
    """A window with its outputs, of which images are made.

    Attributes:
        window: The window.
        outputs: Outputs of the engine.
        settings: Current parameters.
        point: Column and row of the query pixel of `similarity`.
    """

    window: BuiltWindow
    outputs: Outputs
    settings: PerceptionParameters
    point: tuple[int, int]


class PatchAges:
    """Time since each patch was last active, over the windows of one stream."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all windows, when the stream restarts."""
        self._active_ns: Array | None = None  # end of the last window in which each was active

    def add(self, window: BuiltWindow, threshold: int) -> None:
        """Add the stream's next window; on a GPU, nothing is copied to the host.

        Args:
            window: The window.
            threshold: Number of events from which a patch is active.
        """
        active = window.patch_counts >= threshold
        before = _NEVER if self._active_ns is None else self._active_ns
        self._active_ns = active * window.t_end + ~active * before

    def seconds(self, t_end: int) -> NDArray[np.float32]:
        """Compute the ages of patches at the end of the last window.

        Args:
            t_end: End of that window in ns.

        Returns:
            Ages in s, float32 [h, w]; infinite where a patch has not been active yet.
        """
        active_ns = _host(self._active_ns)
        ages = (t_end - active_ns) * 1e-9
        return np.where(active_ns == _NEVER, np.inf, ages.clip(0)).astype(np.float32)


class Products:
    """Makes images of windows and of an engine's outputs.

    Args:
        engine: Engine that computes the outputs.
    """

    def __init__(self, engine: Engine) -> None:
        self._size, self._stride, self._grid = engine.size, engine.stride, engine.grid
        self._classes = max(len(engine.header.classes), 256)
        self._segments = "segmentation" in engine.outputs
        self._basis = StableBasis()
        self._ages = PatchAges()
        self._makers: dict[str, Callable[[Scene], tuple[str, NDArray[Any]]]] = {
            "features": self._features,
            "features_pca": lambda scene: ("rgb8", self._colours(scene)),
            "overlay": self._overlay,
            "similarity": self._similarity,
            "activity": _activity,
            "computed": _computed,
            "age": lambda scene: ("32FC1", self._ages.seconds(scene.window.t_end)),
            "segmentation": _segmentation,
            "segmentation_color": lambda scene: ("rgb8", self._class_colours(scene)),
            "depth": lambda scene: ("32FC1", _host(scene.outputs.depth)),
            "flow": _flow,
        }

    def reset(self) -> None:
        """Forget previous windows, when the stream restarts."""
        self._ages.reset()

    def needed(self, wanted: Collection[str]) -> set[str]:
        """Return the names of the engine's outputs that are needed for topics."""
        names = set()
        for topic in wanted:
            if topic in {"features", "features_pca", "similarity", "computed"}:
                names.add("features")
            elif topic == "overlay":
                names.add("segmentation" if self._segments else "features")
            elif topic not in {"activity", "age"}:
                names.add(topic.removesuffix("_color"))
        return names

    def make(self, wanted: Collection[str], scene: Scene) -> Iterator[Product]:
        """Make the images of topics, one after the other; no flow without a previous window."""
        # Always updated, so that ages are correct as soon as a topic needs them.
        self._ages.add(scene.window, scene.settings.activity_threshold)
        self._pca: NDArray[np.uint8] | None = None  # of this scene
        self._copied: NDArray[np.float32] | None = None  # of this scene
        for topic in wanted:
            if topic != "flow" or scene.outputs.flow is not None:
                yield Product(topic, *self._makers[topic](scene))

    def _features(self, scene: Scene) -> tuple[str, NDArray[Any]]:
        features = self._features_of(scene)
        channels = scene.settings.features_channels
        if 0 < channels < len(features):
            projection = fixed_projection(len(features), channels)
            features = (projection @ features.reshape(len(features), -1)).reshape(
                channels, *self._grid
            )
        pixels = features.transpose(1, 2, 0)
        if scene.settings.features_resolution == "pixel":
            rows, columns = (side * self._stride for side in self._grid)
            pixels = resize_channels(pixels, (columns, rows))[: self._size[0], : self._size[1]]
        return f"32FC{len(features)}", np.ascontiguousarray(pixels)

    def _features_of(self, scene: Scene) -> NDArray[np.float32]:
        """Copy the features to the host, once for a scene."""
        if self._copied is None:
            self._copied = _host(scene.outputs.features)
        return self._copied

    def _colours(self, scene: Scene) -> NDArray[np.uint8]:
        """Colour the features; once for a scene, since each call updates the basis."""
        if self._pca is None:
            active = to_host(scene.window.patch_counts) >= scene.settings.activity_threshold
            self._pca = patches_to_pixels(
                self._basis.picture(self._features_of(scene), active), self._stride, self._size
            )
        return self._pca

    def _class_colours(self, scene: Scene) -> NDArray[np.uint8]:
        ids = _host(scene.outputs.segmentation)
        return np.take(class_colours(self._classes), ids, axis=0)

    def _overlay(self, scene: Scene) -> tuple[str, NDArray[Any]]:
        colours = self._class_colours(scene) if self._segments else self._colours(scene)
        return "rgb8", overlay(
            polarity_picture(to_host(scene.window.tensor)), colours, self._opacity(scene)
        )

    def _opacity(self, scene: Scene) -> NDArray[np.float32] | float:
        """Compute the opacity of the overlay's colours, which fade with the age of their patch."""
        fade_s = scene.settings.overlay_fade
        if fade_s == 0:
            return _OPACITY
        ages = self._ages.seconds(scene.window.t_end)
        by_patch = (_OPACITY * (1 - ages / np.float32(fade_s)).clip(0)).astype(np.float32)
        by_pixel: NDArray[np.float32] = by_patch.repeat(self._stride, 0).repeat(self._stride, 1)
        return by_pixel[: self._size[0], : self._size[1]]

    def _similarity(self, scene: Scene) -> tuple[str, NDArray[Any]]:
        column, row = scene.point
        anchor = row // self._stride, column // self._stride
        similarity = similarity_map(self._features_of(scene), anchor)
        picture = patches_to_pixels(similarity_picture(similarity), self._stride, self._size)
        cv2.drawMarker(picture, (column, row), _POINT, cv2.MARKER_CROSS, 16, 2)
        return "rgb8", picture


def _activity(scene: Scene) -> tuple[str, NDArray[Any]]:
    share = to_host(scene.window.patch_counts) * 255 // scene.settings.activity_threshold
    return "mono8", np.minimum(share, 255).astype(np.uint8)


def _computed(scene: Scene) -> tuple[str, NDArray[Any]]:
    assert scene.outputs.computed is not None, "the topic exists for students of active tokens only"
    return "mono8", scene.outputs.computed.astype(np.uint8) * 255


def _segmentation(scene: Scene) -> tuple[str, NDArray[Any]]:
    ids = _host(scene.outputs.segmentation)
    return ("mono8", ids) if ids.dtype == np.uint8 else ("mono16", ids.astype(np.uint16))


def _flow(scene: Scene) -> tuple[str, NDArray[Any]]:
    return "32FC2", np.ascontiguousarray(_host(scene.outputs.flow).transpose(1, 2, 0))


@lru_cache(maxsize=1)
def fixed_projection(width: int, channels: int) -> NDArray[np.float32]:
    """Return a fixed random projection with orthonormal rows, float32 [channels, width].

    Random projections approximately preserve cosines, and lengths up to a common factor (Johnson
    and Lindenstrauss, 1984).
    """
    # numpy guarantees that the numbers of the legacy generator do not change.
    noise = np.random.RandomState(_SEED).standard_normal((width, channels))
    directions, triangle = np.linalg.qr(noise)
    return np.ascontiguousarray((directions * np.sign(np.diag(triangle))).T, np.float32)


def resize_channels(pixels: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize [H, W, C] bilinearly to a width and height, in parts of OpenCV's 512 channels."""
    parts = [
        cv2.resize(np.ascontiguousarray(pixels[..., first : first + 512]), size)
        for first in range(0, pixels.shape[2], 512)
    ]
    shape = (size[1], size[0], -1)  # OpenCV drops a single channel
    return np.concatenate([part.reshape(shape) for part in parts], axis=2)


def _host(output: Array | None) -> NDArray[Any]:
    assert output is not None, "the output was requested"
    return to_host(output)
