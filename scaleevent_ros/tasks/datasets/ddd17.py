"""DDD17 with the six classes of Alonso and Murillo, "EV-SegNet", CVPR Workshops 2019.

Layout: the archive of Sun et al., "ESS", ECCV 2022, https://github.com/uzh-rpg/ess
(datasets/ddd17_events_loader.py, datasets/extract_data_tools/example_loader_ddd17.py). Each folder
``dir*`` has ``events.dat.t``, int64 ns; ``events.dat.xyp``, int16 [N, 3], polarity 0 or 1;
``index/index_50ms.npy`` [M, 3], for each frame its time in ns and the numbers of the last event
before it and of the last event 50 ms before that; and ``segmentation_masks/*_NUMBER.png``, class
ids of the frame of that number, counted from 1, 346x200: the lowest 60 of the sensor's 260 rows,
which show the car's hood, are left out.

Split: that of the code of ESS, with which the published figures were measured. In order of name,
the second folder is for validation and the others are for training; if there are seven folders, the
fifth is the test set, and not used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from scaleevent_ros.events import EventBatch
from scaleevent_ros.sources.ddd17 import HEIGHT, WIDTH
from scaleevent_ros.sources.event_columns import Columns, event_batches
from scaleevent_ros.sources.faults import Faults
from scaleevent_ros.sources.pictures import pictures_in, read_raster
from scaleevent_ros.tasks.classes import truth_of
from scaleevent_ros.tasks.datasets.sequences import Split, covered, cut, find_sequences
from scaleevent_ros.tasks.errors import TaskError
from scaleevent_ros.tasks.labelled import LabelledWindow

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from scaleevent_ros.tasks.classes import ClassList
    from scaleevent_ros.tasks.labelled import Task

LABELLED_ROWS = 200
"""Number of the sensor's 260 rows that are used, from the top."""

_VALIDATION, _TEST, _FOLDERS_WITH_TEST = 1, 4, 7


def split(root: Path) -> Split:
    """Return the names of the training and validation folders.

    Raises:
        TaskError: If there are fewer than two.
    """
    names = sorted(path.name for path in root.glob("dir*") if path.is_dir())
    if len(names) < 2:
        msg = f"{root} has {len(names)} folders dir*, but ESS's archive has six or seven"
        raise TaskError(msg)
    left_out = {_VALIDATION, _TEST} if len(names) == _FOLDERS_WITH_TEST else {_VALIDATION}
    train = tuple(name for index, name in enumerate(names) if index not in left_out)
    return Split(train, (names[_VALIDATION],))


def find(root: Path, names: tuple[str, ...]) -> list[Path]:
    """Find folders by name under the data set's folder; see `find_sequences`."""
    return find_sequences(root, names, lambda path: path.is_dir())


class Ddd17Sequence:
    """A folder of the data set, with its labels, as a `LabelledSource`.

    Attributes:
        name: Path of the folder.
        task: ``segmentation``.
    """

    task: Task = "segmentation"

    def __init__(
        self, folder: Path, window_ns: int, classes: ClassList, history_ns: int = 0
    ) -> None:
        """Open a folder.

        Args:
            folder: A folder ``dir*``.
            window_ns: Longest window of events before a label, in ns.
            classes: Class list.
            history_ns: Duration of events to read before the window, in ns, as far as they exist.

        Raises:
            ScaleEventError: If a file is missing, or not of the expected layout.
        """
        self.name = str(folder)
        self._folder = folder
        self._reach_ns = window_ns + history_ns
        self._classes = classes
        t, xyp = self._open()
        if not len(t) or len(xyp) != len(t):
            msg = f"{folder}: events.dat.t has {len(t)} events, events.dat.xyp has {len(xyp)}"
            raise TaskError(msg)
        files = pictures_in(folder / "segmentation_masks")
        numbers = np.array([_number(path) for path in files])
        times = self._frame_times()
        if numbers.min() < 1 or numbers.max() > len(times):
            msg = (
                f"{folder}: labels are of frames {numbers.min()} to {numbers.max()}, but the index "
                f"has frames 1 to {len(times)}"
            )
            raise TaskError(msg)
        ends = times[numbers - 1]
        chosen = covered(ends - window_ns, ends, (int(t[0]), int(t[-1])), folder)
        self._files, self._ends = [files[index] for index in chosen], ends[chosen]

    def _open(self) -> tuple[NDArray[np.int64], NDArray[np.int16]]:
        """Map the files of events into memory; only accessed parts are read."""
        try:
            t = np.memmap(self._folder / "events.dat.t", "<i8", "r")
            xyp = np.memmap(self._folder / "events.dat.xyp", "<i2", "r").reshape(-1, 3)
        except (OSError, ValueError) as error:
            msg = f"{self._folder}: events.dat.t and events.dat.xyp cannot be read: {error}"
            raise TaskError(msg) from error
        return t, xyp

    def _frame_times(self) -> NDArray[np.int64]:
        path = self._folder / "index/index_50ms.npy"
        try:
            index: NDArray[Any] = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            msg = f"{path}: cannot be read: {error}"
            raise TaskError(msg) from error
        if index.ndim != 2 or index.shape[1] != 3:
            msg = f"{path}: is {index.shape}, not [frames, 3]"
            raise TaskError(msg)
        return index[:, 0].astype(np.int64)

    def __len__(self) -> int:
        """Count the labels."""
        return len(self._files)

    def key(self, index: int) -> str:
        """Name of a window: ``dir0/segmentation_00000042``, the folder and the label's file."""
        return f"{self._folder.name}/{self._files[index].stem}"

    def read(self, index: int, take: int) -> LabelledWindow:
        """Read a window.

        Raises:
            ScaleEventError: If a file is damaged.
        """
        del take
        path, t_end = self._files[index], int(self._ends[index])
        t, xyp = self._open()
        first, last = np.searchsorted(t, (t_end - self._reach_ns, t_end))
        x, y, p = np.array(xyp[first:last]).T
        columns = Columns(self.name, int(first), x, y, np.array(t[first:last]), p)
        batches = list(event_batches([columns], WIDTH, HEIGHT, Faults()))
        events = batches[0] if batches else EventBatch.empty(WIDTH, HEIGHT)
        labels = read_raster(path)
        if labels.ndim == 3:  # ESS's code converts labels with colours to grey
            labels = np.asarray(cv2.cvtColor(labels, cv2.COLOR_BGR2GRAY))
        truth = truth_of(labels, self._classes, path)
        return LabelledWindow(cut(events, 0, 0, WIDTH, LABELLED_ROWS), t_end, truth)


def _number(path: Path) -> int:
    number = path.stem.rpartition("_")[2]
    if not number.isdigit():
        msg = f"{path}: its name does not end with the number of its frame"
        raise TaskError(msg)
    return int(number)
