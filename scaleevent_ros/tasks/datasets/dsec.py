"""DSEC with its ground truth: classes, depth from disparity, and optical flow.

Layout: https://dsec.ifi.uzh.ch/data-format/, read by `scaleevent_ros.sources.dsec`. These parts of
a sequence are used, besides ``events/left``:

- classes: ``semantic/left/11classes/data/*.png`` or ``19classes``, with or without the ``left``
  (README.md and DSEC/dataset/sequence.py of https://github.com/uzh-rpg/ess differ in that), with
  440 rows, since those of the car's hood are left out; and ``semantic/timestamps.txt``;
- depth: ``disparity/event/*.png`` and ``disparity/timestamps.txt``; Q of ``disparity_to_depth`` in
  ``calibration/cam_to_cam.yaml`` converts disparities to metres;
- flow: ``flow/forward/*.png`` and ``flow/forward_timestamps.txt``, with start and end of each map,
  about 100 ms apart.

Everything is in the rectified view of the left event camera.

Splits. Classes: those of ESS (Sun et al., ECCV 2022; DSEC/dataset/provider.py of its code), whose
code uses every other label of a sequence, from the seventh on. Disparity and flow of DSEC's test
sequences are not published, so its training sequences are split: disparity as in Nam et al., CVPR
2022 (src/components/datasets/dsec/constant.py of https://github.com/yonseivnl/se-cff), flow as in
Li et al., ICME 2024 (datasets.py of
https://github.com/ustc-hlli/event_point_cloud_flow_estimation). As in scripts/dataset/sequence.py
of https://github.com/uzh-rpg/DSEC, ground truth without events before it is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import yaml

from scaleevent_ros.sources.dsec import (
    WIDTH,
    open_events,
    read_disparity,
    read_events,
    read_flow,
    rectified_addresses,
)
from scaleevent_ros.sources.pictures import pictures_in, read_integers, read_raster
from scaleevent_ros.tasks.classes import truth_of
from scaleevent_ros.tasks.datasets.sequences import Split, covered, cut, find_sequences
from scaleevent_ros.tasks.errors import TaskError
from scaleevent_ros.tasks.labelled import LabelledWindow

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from scaleevent_ros.tasks.classes import ClassList
    from scaleevent_ros.tasks.labelled import Task

LABELLED_ROWS = 440
"""Number of the sensor's 480 rows that are used, from the top; the others show the car's hood."""

_FIRST_LABEL, _LABEL_STEP = 6, 2


def _named(place: str, names: str) -> tuple[str, ...]:
    return tuple(f"{place}_{name}" for name in names.split())


SPLITS: dict[Task, Split] = {
    "segmentation": Split(
        _named("zurich_city", "00_a 01_a 02_a 04_a 05_a 06_a 07_a 08_a"),
        _named("zurich_city", "13_a 14_c 15_a"),
    ),
    "depth": Split(
        _named("interlaken", "00_c 00_d 00_e")
        + _named(
            "zurich_city",
            "00_a 00_b 01_a 01_b 01_c 01_d 01_e 01_f 02_a 02_b 02_c 02_d 02_e 03_a 04_a 04_b 04_c "
            "04_d 04_e 04_f 09_a 09_b 09_c 09_e 10_a 11_a 11_b 11_c",
        ),
        _named("interlaken", "00_f 00_g")
        + _named("thun", "00_a")
        + _named("zurich_city", "05_a 05_b 06_a 07_a 08_a 09_d 10_b"),
    ),
    "flow": Split(
        _named(
            "zurich_city", "02_c 02_d 02_e 03_a 05_a 05_b 06_a 08_a 09_a 10_a 10_b 11_a 11_b 11_c"
        ),
        _named("thun", "00_a") + _named("zurich_city", "01_a 02_a 07_a"),
    ),
}
"""Training and validation sequences; see above."""


def find(root: Path, names: tuple[str, ...]) -> list[Path]:
    """Find sequences by name under the data set's folder; see `find_sequences`."""
    return find_sequences(root, names, lambda path: (path / "events/left").is_dir())


class DsecSequence:
    """A sequence with its ground truth, as a `LabelledSource`.

    Attributes:
        name: Path of the sequence's folder.
        task: Task of the ground truth.
    """

    def __init__(
        self,
        folder: Path,
        task: Task,
        window_ns: int,
        classes: ClassList | None = None,
        history_ns: int = 0,
    ) -> None:
        """Open a sequence.

        Args:
            folder: Folder of the sequence.
            task: Task whose ground truth is read.
            window_ns: Longest window of events before a label or depth map, in ns; flow has its own
                interval.
            classes: Class list for segmentation, of 11 or 19 classes.
            history_ns: Duration of events to read before the window, in ns, as far as they exist.

        Raises:
            ScaleEventError: If a file is missing, or not of the expected layout.
        """
        self.name = str(folder)
        self.task: Task = task
        self._sequence = folder.name
        self._classes = classes
        self._events = open_events(folder / "events/left/events.h5")
        self._rectified = rectified_addresses(folder / "events/left/rectify_map.h5")
        self._disparity_to_depth = _read_q(folder) if task == "depth" else None
        pictures, timestamps, columns = self._layout(folder)
        files = pictures_in(pictures)
        times = read_integers(timestamps, columns) * 1000
        if len(files) != len(times):
            msg = f"{pictures} has {len(files)} pictures, but {timestamps} has {len(times)} times"
            raise TaskError(msg)
        ends = times[:, -1]
        starts = ends - window_ns if columns == 1 else 2 * times[:, 0] - ends
        chosen = covered(starts, ends, self._events.span_ns, pictures)
        if task == "segmentation":
            published = np.arange(_FIRST_LABEL, len(files), _LABEL_STEP)
            chosen = chosen[np.isin(chosen, published)]
        self._files = [files[index] for index in chosen]
        self._times = times[chosen]
        self._starts = np.maximum(starts[chosen] - history_ns, self._events.span_ns[0])

    def _layout(self, folder: Path) -> tuple[Path, Path, Literal[1, 2]]:
        """Return the folder of pictures, their file of times, and the number of times of each."""
        if self.task == "depth":
            return folder / "disparity/event", folder / "disparity/timestamps.txt", 1
        if self.task == "flow":
            return folder / "flow/forward", folder / "flow/forward_timestamps.txt", 2
        assert self._classes is not None
        kind = f"{len(self._classes.names)}classes/data"
        pictures = folder / "semantic/left" / kind
        if not pictures.is_dir():
            pictures = folder / "semantic" / kind
        return pictures, folder / "semantic/timestamps.txt", 1

    def __len__(self) -> int:
        """Count the windows."""
        return len(self._files)

    def key(self, index: int) -> str:
        """Name of a window: ``zurich_city_00_a/000006``, the sequence and the picture's number."""
        return f"{self._sequence}/{self._files[index].stem}"

    def read(self, index: int, take: int) -> LabelledWindow:
        """Read a window.

        Raises:
            ScaleEventError: If a file is missing or damaged.
        """
        del take
        path, t_end = self._files[index], int(self._times[index, -1])
        events = read_events(self._events, self._rectified, int(self._starts[index]), t_end)
        if self.task == "segmentation":
            assert self._classes is not None
            truth = truth_of(read_raster(path), self._classes, path)
            return LabelledWindow(cut(events, 0, 0, WIDTH, LABELLED_ROWS), t_end, truth)
        if self.task == "flow":
            return LabelledWindow(events, t_end, read_flow(path), int(self._times[index, 0]))
        assert self._disparity_to_depth is not None
        return LabelledWindow(
            events, t_end, depth_from_disparity(read_disparity(path), self._disparity_to_depth)
        )


def depth_from_disparity(
    disparity: NDArray[np.float32], q: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Convert disparities of the left event camera to depth.

    Args:
        disparity: float32 [H, W] in px; NaN where unknown.
        q: Matrix [4, 4] from homogeneous (x, y, disparity, 1) to (X, Y, Z, W): Q of OpenCV's
            stereoRectify.

    Returns:
        Z / W, float32 [H, W] in m; NaN where unknown or not in front of the camera.
    """
    with np.errstate(divide="ignore"):
        depth: NDArray[np.float32] = (q[2, 3] / (q[3, 2] * disparity + q[3, 3])).astype(np.float32)
    depth[~((depth > 0) & np.isfinite(depth))] = np.nan
    return depth


def _read_q(folder: Path) -> NDArray[np.float64]:
    path = folder / "calibration/cam_to_cam.yaml"
    try:
        content = yaml.safe_load(path.read_text())
        q = np.array(content["disparity_to_depth"]["cams_03"], np.float64).reshape(4, 4)
    except OSError as error:
        msg = f"{path}, needed to convert disparities to depth, cannot be read: {error}"
        raise TaskError(msg) from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        msg = f"{path}: has no disparity_to_depth/cams_03 of 4x4 numbers: {error!r}"
        raise TaskError(msg) from error
    return q
