"""Bags whose times are read once, so that any frame and its window can be read on its own."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scaleevent_ros.cache import user_cache, writable
from scaleevent_ros.data.errors import DataError
from scaleevent_ros.files import atomic_write

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from scaleevent_ros.bags import BagReader
    from scaleevent_ros.bags.pairing import FrameWindow
    from scaleevent_ros.bags.synchronization import Synchronization
    from scaleevent_ros.bags.timeline import Timeline

logger = logging.getLogger(__name__)

CALIBRATION_NAME = "calibration.yaml"
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


def read_rejections(path: Path, options: BagOptions, before_ns: int) -> list[list[str]]:
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
        with atomic_write(kept) as temporary:
            temporary.write_text(json.dumps(rejections))
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
    arrays: dict[str, Any] = timeline.to_arrays()
    with atomic_write(path) as temporary:
        np.savez(
            temporary,
            **arrays,
            frame_ns=synchronization.frame_ns,
            known=synchronization.known,
            words=np.array([synchronization.mode, synchronization.reason]),
            figures=np.array([synchronization.shift_ms, synchronization.residual_ms]),
        )


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
