"""Training pairs of a bag, a recording of a `PairDataset`."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scaleevent_ros.data.alignment import HomographyAlignment, MapAlignment, filling_homography
from scaleevent_ros.data.dataset import Pair
from scaleevent_ros.data.errors import DataError
from scaleevent_ros.data.indexed_bag import (
    CALIBRATION_NAME,
    BagOptions,
    IndexedBag,
    read_rejections,
)
from scaleevent_ros.events import LeakyIntegrator, LeakyState

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from scaleevent_ros.data.alignment import Alignment
    from scaleevent_ros.events import EventBatch
    from scaleevent_ros.events.windows import WindowOptions

logger = logging.getLogger(__name__)

WARM_UP_DECAYS = 12
"""Number of decay times after which an event's weight is below 1e-5."""


class BagPairs:
    """The pairs of a bag, a `PairSource`; see `IndexedBag`.

    Attributes:
        name: The bag's path.
    """

    def __init__(
        self, path: Path, options: BagOptions, window: WindowOptions, history_ns: int = 0
    ) -> None:
        """Open a bag.

        Args:
            path: Path of the bag.
            options: Options for reading the bag.
            window: Window of events before a frame; its maximum length is read.
            history_ns: Duration of events before the window to read too, in ns, as far as they
                exist.

        Raises:
            ScaleEventError: If it is not a bag, lacks events or frames, cannot be synchronized, or
                has no usable pair.
        """
        self.name = str(path)
        self._length_ns, self._history_ns = window.length_ns, history_ns
        self._calibration = _read_alignment(path, options.calibration)
        self._bag = IndexedBag(path, options)
        self._frames = self._bag.covered(self._length_ns, 0)
        if not len(self._frames):
            msg = (
                f"{path}: none of its {len(self._bag.timeline.frames.stamp)} frames has "
                f"{window.length_ms:g} ms of events before it"
            )
            raise DataError(msg)
        if options.quality == "usable":
            self._frames = self._usable(path, options)
        synchronization = self._bag.synchronization
        logger.info(
            "%s: %d pairs, clock %s (%s), residual %.2f ms",
            path,
            len(self._frames),
            synchronization.mode,
            synchronization.reason,
            synchronization.residual_ms,
        )

    def _usable(self, path: Path, options: BagOptions) -> NDArray[np.int64]:
        """Drop frames that a check of the bag rejects, and log their number and the reasons."""
        rejected = read_rejections(path, options, self._length_ns)
        usable = [frame for frame in self._frames.tolist() if not rejected[frame]]
        reasons = Counter(reason for frame in self._frames.tolist() for reason in rejected[frame])
        listed = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        total = len(self._frames)
        if not usable:
            msg = f"{path}: none of its {total} pairs is usable ({listed}): see `scaleevent check`"
            raise DataError(msg)
        if reasons:
            left_out = total - len(usable)
            logger.info("%s: %d of %d pairs left out: %s", path, left_out, total, listed)
        return np.array(usable, np.int64)

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self._frames)

    def read(self, index: int) -> Pair:
        """Read and decode a pair.

        Raises:
            ScaleEventError: If the bag has changed, or the frame or the events cannot be read.
        """
        from scaleevent_ros.bags.errors import ImageError
        from scaleevent_ros.bags.images import picture_file
        from scaleevent_ros.bags.messages import CompressedImageView
        from scaleevent_ros.bags.pairing import make_pair

        frame, reader = int(self._frames[index]), self._bag.reader()
        window = self._bag.window(frame, self._length_ns, 0, self._history_ns)
        try:
            pair = make_pair(reader, window, self._bag.synchronization)
        except ImageError as error:  # whose message does not give the file
            msg = f"{self.name}: {window.message.topic}: {error}"
            raise ImageError(msg) from error
        alignment = self._alignment(pair.frame, (pair.events.width, pair.events.height))
        image = reader.parse_image(window.message)
        stored = picture_file(image) if isinstance(image, CompressedImageView) else None
        return Pair(pair.frame, pair.events, pair.stamp_ns, alignment, stored=stored)

    def states(self, indices: range, decays: Sequence[float]) -> Iterator[LeakyState]:
        """Compute the leaky integrals before the windows of successive pairs.

        The bag is read once, starting `WARM_UP_DECAYS` times the longest decay before the first
        pair.

        Args:
            indices: Indices of the pairs.
            decays: Time constants in seconds.

        Yields:
            The integrals at the start of each pair's window, on the clock of its events.
        """
        from scaleevent_ros.bags.timeline import events_from

        timeline = self._bag.timeline
        reader: _LeakyReader | None = None
        frames = self._frames[indices.start : indices.stop]
        moments = self._bag.synchronization.frame_ns[frames]
        warm_up = round(WARM_UP_DECAYS * max(decays) * 1e9)
        for frame, moment in zip(frames, moments, strict=True):
            start = int(moment) - self._length_ns
            if reader is None or start < reader.t:
                packets = events_from(self._bag.reader(), timeline, start - warm_up)
                reader = _LeakyReader((packet.events for packet in packets), decays)
            offset = int(timeline.frames.stamp[frame]) - int(moment)
            yield LeakyState(reader.integrals(start), start + offset)

    def _alignment(self, picture: NDArray[np.uint8], sensor: tuple[int, int]) -> Alignment:
        """Build the alignment of a bag's frames with its event image.

        Without a calibration, frames are assumed to have the sensor's view.
        """
        size = (picture.shape[1], picture.shape[0])
        if self._calibration is None:
            return HomographyAlignment(filling_homography(size, sensor))
        calibrated, alignment = self._calibration
        if calibrated != (size, sensor):
            msg = (
                f"{self.name}: its frames are {size[0]}x{size[1]} and its events "
                f"{sensor[0]}x{sensor[1]}, its calibration is for {calibrated}"
            )
            raise DataError(msg)
        return alignment


class _LeakyReader:
    """Leaky integrals of a stream at successive times.

    Attributes:
        t: Time of the last integrals, in ns.

    Args:
        batches: The stream, with at least one event.
        decays: Time constants in seconds.
    """

    def __init__(self, batches: Iterator[EventBatch], decays: Sequence[float]) -> None:
        self.t = -(2**63)
        self._batches = batches
        self._next = next(batches)
        self._integrator = LeakyIntegrator(self._next.height, self._next.width, decays)
        self._last = self.t

    def integrals(self, t: int) -> NDArray[np.float32]:
        """Read on to a time in ns, and compute the integrals of all events before it."""
        while True:
            count = int(np.searchsorted(self._next.t, t))
            self._integrator.add(self._next[:count])
            self._next = self._next[count:]
            following = None if len(self._next) else next(self._batches, None)
            if following is None:
                break
            if len(following):
                if following.t[0] < self._last:  # the sensor's clock was reset
                    self._integrator.reset()
                self._last = int(following.t[-1])
            self._next = following
        self.t = t
        return self._integrator.values(t)


def _read_alignment(
    bag: Path, named: str | None
) -> tuple[tuple[tuple[int, int], tuple[int, int]], Alignment] | None:
    """Read the named calibration, or that in the bag; None if there is none.

    Returns:
        Width and height of the frame and of the sensor, and the alignment.
    """
    from scaleevent_ros.sources.calibration import Homography, read_calibration

    path = bag / CALIBRATION_NAME if named is None else Path(named)
    if named is None and not path.is_file():
        return None
    calibration = read_calibration(path)
    alignment: Alignment = (
        HomographyAlignment(calibration.matrix)
        if isinstance(calibration, Homography)
        else MapAlignment(calibration.sample_map())
    )
    return (calibration.frame_size, calibration.event_size), alignment
