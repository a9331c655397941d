"""Training pairs of a bag: its times are indexed once, then pairs are read individually."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scaleevent_ros.cache import user_cache, writable
from scaleevent_ros.data.alignment import HomographyAlignment, MapAlignment, filling_homography
from scaleevent_ros.data.dataset import Pair
from scaleevent_ros.data.errors import DataError
from scaleevent_ros.events import LeakyIntegrator, LeakyState

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from scaleevent_ros.bags import BagReader
    from scaleevent_ros.bags.pairing import FrameWindow
    from scaleevent_ros.bags.synchronization import Synchronization
    from scaleevent_ros.bags.timeline import Timeline
    from scaleevent_ros.data.alignment import Alignment
    from scaleevent_ros.events import EventBatch
    from scaleevent_ros.events.windows import WindowOptions

logger = logging.getLogger(__name__)

CALIBRATION_NAME = "calibration.yaml"
WARM_UP_DECAYS = 12
"""Number of decay times after which an event's weight is below 1e-5."""

_INDEX_VERSION = 3


@dataclass(frozen=True)
class BagOptions:
    """Options for reading bags.

    Attributes:
        events_topic: Event topic, for bags that hold several.
        frames_topic: Image topic, for bags that hold several.
        clock: Mode of synchronization of frames and events; ``auto`` selects the most exact one
            that the bag supports.
        calibration: Path of a ``calibration.yaml``, which maps frames into the event image. If
            unset, the bag's is used; without one, frames are assumed to have the sensor's view.
        quality: ``usable`` leaves out pairs that `scaleevent check` rejects: dark, saturated,
            blurred or repeated frames, lost packets, few events. A bag is checked once, and the
            result cached. ``all`` takes every pair.
    """

    events_topic: str | None = None
    frames_topic: str | None = None
    clock: Literal["auto", "hardware_trigger", "sensor_time", "header_stamps", "estimated"] = "auto"
    calibration: str | None = None
    quality: Literal["usable", "all"] = "all"


class IndexedBag:
    """A bag with an index of its times, so that any frame and its window can be read on its own.

    The first time a bag is opened, all of it is read for its times, which are then cached under
    ``$XDG_CACHE_HOME/scaleevent`` (``~/.cache/scaleevent``), or in the temporary folder if that
    cannot be written, until the bag changes. Each worker opens the files itself.

    Attributes:
        path: Path of the bag.
        timeline: Times of the bag.
        synchronization: Common clock of its frames and events.
    """

    def __init__(self, path: Path, options: BagOptions) -> None:
        """Open a bag.

        Raises:
            ScaleEventError: If it is not a bag, lacks events or frames, or cannot be synchronized.
        """
        self.path = path
        self.timeline, self.synchronization = _index(path, options)
        self._reader: BagReader | None = None
        self._process = -1

    def covered(self, before_ns: int, after_ns: int) -> NDArray[np.int64]:
        """List the indices of frames whose windows lie within the events, int64 [N]."""
        from scaleevent_ros.bags.pairing import is_covered

        covered = is_covered(self.timeline, self.synchronization, before_ns, after_ns)
        return np.flatnonzero(covered)

    def window(self, frame: int, before_ns: int, after_ns: int, history_ns: int = 0) -> FrameWindow:
        """Read a frame, undecoded, and the events around it.

        Args:
            frame: Index of the frame.
            before_ns: Start of the window before the frame, in ns.
            after_ns: End of the window after the frame, in ns.
            history_ns: Duration of events before the window to read too, in ns, as far as they
                exist.

        Raises:
            ScaleEventError: If the bag has changed or cannot be read.
        """
        from scaleevent_ros.bags.pairing import frame_windows

        windows = frame_windows(
            self.reader(),
            self.timeline,
            self.synchronization,
            before_ns,
            after_ns,
            history_ns=history_ns,
            first=frame,
            last=frame + 1,
        )
        window = next(windows, None)
        if window is None:
            msg = f"{self.path}: frame {frame} has no events any more; has the bag changed?"
            raise DataError(msg)
        return window

    def reader(self) -> BagReader:
        """Open the bag in this process: a forked worker must not share file positions."""
        from scaleevent_ros.bags import BagReader

        if self._reader is None or self._process != os.getpid():
            self._reader = BagReader(self.path, skip_damaged=True)
            self._process = os.getpid()
        return self._reader

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without open files."""
        return {**self.__dict__, "_reader": None}


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
        rejected = _rejections(path, options, self._length_ns)
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
        from scaleevent_ros.bags.images import picture_file
        from scaleevent_ros.bags.messages import CompressedImageView
        from scaleevent_ros.bags.pairing import make_pair

        frame, reader = int(self._frames[index]), self._bag.reader()
        window = self._bag.window(frame, self._length_ns, 0, self._history_ns)
        pair = make_pair(reader, window, self._bag.synchronization)
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


def _index(path: Path, options: BagOptions) -> tuple[Timeline, Synchronization]:
    """Read the times of a bag and synchronize it, or load the cached result for the same bag."""
    from scaleevent_ros.bags import BagReader
    from scaleevent_ros.bags.synchronization import synchronize
    from scaleevent_ros.bags.timeline import read_timeline

    kept = _index_path(path, options)
    try:
        return _load_index(kept)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        logger.warning("%s is damaged and is rebuilt: %s", kept, error)
    logger.info("%s: reading its times", path)
    reader = BagReader(path, skip_damaged=True)
    timeline = read_timeline(reader, options.events_topic, options.frames_topic)
    for name, what in reader.damage.items():
        logger.warning("%s, %s: %s", path, name, what)
    synchronization = synchronize(reader, timeline, options.clock)
    try:
        _save_index(kept, timeline, synchronization)
    except OSError as error:
        logger.warning("the times of %s cannot be cached: %s", path, error)
    return timeline, synchronization


def _rejections(path: Path, options: BagOptions, before_ns: int) -> list[list[str]]:
    """Check a bag, or load the cached result; return the reasons against using each frame."""
    from scaleevent_ros.bags import BagReader
    from scaleevent_ros.bags.check import check_bag

    index = _index_path(path, options)
    kept = index.with_name(f"{index.stem}-quality-{before_ns}.json")
    try:
        return [list(reasons) for reasons in json.loads(kept.read_text())]
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError) as error:
        logger.warning("%s is damaged and is rebuilt: %s", kept, error)
    logger.info("%s: checking its pairs", path)
    quality = check_bag(
        BagReader(path, skip_damaged=True),
        event_topic=options.events_topic,
        image_topic=options.frames_topic,
        mode=options.clock,
        before_ns=before_ns,
    )
    rejections = [list(pair.reasons) for pair in quality.pairs]
    try:
        temporary = kept.with_name(f".{os.getpid()}.{kept.name}")
        temporary.write_text(json.dumps(rejections))
        temporary.replace(kept)
    except OSError as error:
        logger.warning("the check of %s cannot be cached: %s", path, error)
    return rejections


def _index_path(path: Path, options: BagOptions) -> Path:
    """Return the path of a bag's cached index, a digest of the files and options it depends on."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    content = [
        (str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns)
        for file in files
        if file.is_file() and file.name != CALIBRATION_NAME
    ]
    key = (_INDEX_VERSION, content, options.events_topic, options.frames_topic, options.clock)
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).hexdigest()
    wanted = user_cache() / "scaleevent" / "bags"
    return (writable(wanted) or wanted) / f"{digest}.npz"


def _save_index(path: Path, timeline: Timeline, synchronization: Synchronization) -> None:
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    arrays: dict[str, Any] = timeline.to_arrays()
    np.savez(
        temporary,
        **arrays,
        frame_ns=synchronization.frame_ns,
        known=synchronization.known,
        words=np.array([synchronization.mode, synchronization.reason]),
        figures=np.array([synchronization.shift_ms, synchronization.residual_ms]),
    )
    temporary.replace(path)


def _load_index(path: Path) -> tuple[Timeline, Synchronization]:
    from scaleevent_ros.bags.synchronization import Synchronization
    from scaleevent_ros.bags.timeline import Timeline

    with np.load(path, allow_pickle=False) as index:
        timeline = Timeline.from_arrays(index)
        synchronization = Synchronization(
            str(index["words"][0]),
            index["frame_ns"],
            index["known"],
            float(index["figures"][0]),
            float(index["figures"][1]),
            str(index["words"][1]),
        )
    return timeline, synchronization
