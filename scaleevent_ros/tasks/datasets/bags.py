"""Labelled bags, with class ids, depth or optical flow as images.

The images have the view and size of the event sensor. Class ids: ``mono8``, ``mono16`` or the like.
Depth: ``32FC1`` in m, or ``16UC1`` in mm (REP 118, https://ros.org/reps/rep-0118.html); 0 and
values that are not finite mark unknown depth. Flow: ``32FC2``, px to the right and down, over the
configured interval after the stamp; NaN marks unknown flow. `scaleevent convert` writes such
topics. Stamps are put on the sensor's clock like those of frames in pretraining.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scaleevent_ros.data.indexed_bag import IndexedBag
from scaleevent_ros.sources.recording import DEPTH_TOPIC, FLOW_TOPIC, LABELS_TOPIC
from scaleevent_ros.tasks.classes import truth_of
from scaleevent_ros.tasks.errors import TaskError
from scaleevent_ros.tasks.labelled import LabelledWindow

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from scaleevent_ros.bags.messages import CompressedImageView, ImageView
    from scaleevent_ros.data.indexed_bag import BagOptions
    from scaleevent_ros.tasks.classes import ClassList
    from scaleevent_ros.tasks.labelled import Task

logger = logging.getLogger(__name__)

TOPICS: dict[Task, str] = {"segmentation": LABELS_TOPIC, "depth": DEPTH_TOPIC, "flow": FLOW_TOPIC}
"""Default topics of ground truth, as written by `scaleevent convert`."""


class LabelledBag:
    """A bag with ground truth, a `LabelledSource`.

    Attributes:
        name: The bag's path.
        task: Task of the ground truth.
    """

    def __init__(
        self,
        path: Path,
        task: Task,
        options: BagOptions,
        length_ns: int,
        classes: ClassList | None = None,
        history_ns: int = 0,
    ) -> None:
        """Open a bag; the first time, the whole bag is read to index its times.

        Args:
            path: Path of the bag.
            task: Task whose ground truth is read.
            options: Options for reading the bag; ``frames_topic`` is the topic of the ground truth.
            length_ns: Longest window of events before an image, in ns; for flow, its interval.
            classes: Class list for segmentation.
            history_ns: Duration of events to read before the window, in ns, as far as they exist.

        Raises:
            ScaleEventError: If it is no bag, lacks events or ground truth, or these cannot be put
                on one clock.
        """
        self.name = str(path)
        self.task: Task = task
        self._bag_name = path.name
        self._classes = classes
        self._length_ns, self._history_ns = length_ns, history_ns
        self._after_ns = length_ns if task == "flow" else 0
        topic = options.frames_topic or TOPICS[task]
        self._bag = IndexedBag(path, replace(options, frames_topic=topic))
        self._frames = self._bag.covered(length_ns, self._after_ns)
        if not len(self._frames):
            msg = f"{path}: no image on {topic} has {length_ns / 1e6:g} ms of events around it"
            raise TaskError(msg)
        synchronization = self._bag.synchronization
        logger.info(
            "%s: %d windows, clock %s (%s), residual %.2f ms",
            path,
            len(self._frames),
            synchronization.mode,
            synchronization.reason,
            synchronization.residual_ms,
        )

    def __len__(self) -> int:
        """Count the windows."""
        return len(self._frames)

    def key(self, index: int) -> str:
        """Name of a window: ``BAG/1504645177350000000``, the bag and the image's stamp in ns."""
        stamp = self._bag.timeline.frames.stamp[self._frames[index]]
        return f"{self._bag_name}/{stamp}"

    def read(self, index: int, take: int) -> LabelledWindow:
        """Read a window.

        Raises:
            ScaleEventError: If ground truth or events cannot be read, or an image is not of the
                task's encoding.
        """
        del take
        frame = int(self._frames[index])
        window = self._bag.window(frame, self._length_ns, self._after_ns, self._history_ns)
        image = self._bag.reader().parse_image(window.message)
        stamp = image.stamp_ns
        # Put on the clock of the stamps, like events in pretraining.
        events = replace(window.events, t=window.events.t + (stamp - window.sensor_ns))
        if self.task == "flow":
            return LabelledWindow(events, stamp + self._after_ns, self._decode(image), stamp)
        return LabelledWindow(events, stamp, self._decode(image))

    def _decode(self, image: ImageView | CompressedImageView) -> NDArray[Any]:
        from scaleevent_ros.bags.images import image_array
        from scaleevent_ros.bags.messages import ImageView

        if not isinstance(image, ImageView):
            msg = f"{self.name}: ground truth is compressed ({image.format}); record it raw"
            raise TaskError(msg)
        pixels = image_array(image)
        if self.task == "segmentation":
            assert self._classes is not None
            if pixels.dtype == np.uint16:
                if pixels.max() > 255:
                    msg = f"{self.name}: labels have the id {pixels.max()}; ids are at most 255"
                    raise TaskError(msg)
                pixels = pixels.astype(np.uint8)
            return truth_of(pixels, self._classes, self.name)
        if self.task == "depth" and pixels.ndim == 2 and pixels.dtype == np.uint16:
            return np.asarray(pixels / 1000, np.float32)
        if pixels.dtype != np.float32 or pixels.shape[2:] != ((2,) if self.task == "flow" else ()):
            msg = f"{self.name}: images of encoding {image.encoding} do not hold {self.task}"
            raise TaskError(msg)
        return np.array(pixels)  # a copy, since the pixels may be a view of the message
