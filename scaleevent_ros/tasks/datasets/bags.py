"""Labelled bags, with class ids, depth or optical flow as images.

Truth is in the view of the event sensor and of its size. Class ids: ``mono8``, ``mono16`` or the
like. Depth: ``32FC1`` in m, or ``16UC1`` in mm (REP 118, https://ros.org/reps/rep-0118.html); 0 and
what is not finite are not known. Flow: ``32FC2``, px to the right and down, from the stamp on over
the interval of the configuration; NaN is unknown. `scaleevent convert` writes such topics.
Stamps meet the sensor's clock as frames of pretraining do.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scaleevent_ros.data.bag_pairs import IndexedBag
from scaleevent_ros.sources.recording import DEPTH_TOPIC, FLOW_TOPIC, LABELS_TOPIC
from scaleevent_ros.tasks.classes import truth_of
from scaleevent_ros.tasks.errors import TaskError
from scaleevent_ros.tasks.labelled import LabelledWindow

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from scaleevent_ros.bags.messages import CompressedImageView, ImageView
    from scaleevent_ros.data.bag_pairs import BagOptions
    from scaleevent_ros.tasks.classes import ClassList
    from scaleevent_ros.tasks.labelled import Task

logger = logging.getLogger(__name__)

TOPICS: dict[Task, str] = {"segmentation": LABELS_TOPIC, "depth": DEPTH_TOPIC, "flow": FLOW_TOPIC}
"""Default topics of ground truth, as written by `scaleevent convert`."""


class LabelledBag:
    """A bag with truth, a `LabelledSource`.

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
        """Open a bag; the first time, all of it is read for its times.

        Args:
            path: Path of the bag.
            task: Task whose ground truth is read.
            options: Options for reading the bag; ``frames_topic`` is the topic of the ground truth.
            length_ns: The longest window of events before a moment; for flow, the interval over
                which it goes.
            classes: Class list for segmentation.
            history_ns: Duration of events before the window to read too, in ns, as far as they
                exist.

        Raises:
            ScaleEventError: If it is no bag, lacks events or truth, or their clocks do not meet.
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
        """Count the moments."""
        return len(self._frames)

    def key(self, index: int) -> str:
        """Name of a moment: ``BAG/1504645177350000000``, the bag and the stamp in ns."""
        stamp = self._bag.timeline.frames.stamp[self._frames[index]]
        return f"{self._bag_name}/{stamp}"

    def read(self, index: int, take: int) -> LabelledWindow:
        """Read a window.

        Raises:
            ScaleEventError: If truth or events cannot be read any more.
        """
        del take
        frame = int(self._frames[index])
        window = self._bag.window(frame, self._length_ns, self._after_ns, self._history_ns)
        image = self._bag.reader().parse_image(window.message)
        stamp = image.stamp_ns
        # On the clock of the stamps, as frames of pretraining are.
        events = replace(window.events, t=window.events.t + (stamp - window.sensor_ns))
        if self.task == "flow":
            return LabelledWindow(events, stamp + self._after_ns, self._decode(image), stamp)
        return LabelledWindow(events, stamp, self._decode(image))

    def _decode(self, image: ImageView | CompressedImageView) -> NDArray[Any]:
        from scaleevent_ros.bags.images import image_array
        from scaleevent_ros.bags.messages import ImageView

        if not isinstance(image, ImageView):
            msg = f"{self.name}: truth is compressed ({image.format}); record it as it is"
            raise TaskError(msg)
        pixels = image_array(image)
        if self.task == "segmentation":
            assert self._classes is not None
            if pixels.dtype == np.uint16:
                if pixels.max() > 255:
                    msg = f"{self.name}: labels hold the id {pixels.max()}; at most 255 are known"
                    raise TaskError(msg)
                pixels = pixels.astype(np.uint8)
            return truth_of(pixels, self._classes, self.name)
        if self.task == "depth" and pixels.ndim == 2 and pixels.dtype == np.uint16:
            return np.asarray(pixels / 1000, np.float32)
        if pixels.dtype != np.float32 or pixels.shape[2:] != ((2,) if self.task == "flow" else ()):
            msg = f"{self.name}: images of encoding {image.encoding} do not hold {self.task}"
            raise TaskError(msg)
        return np.array(pixels)  # the message's bytes are not ours
