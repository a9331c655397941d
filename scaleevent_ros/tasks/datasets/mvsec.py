"""MVSEC with its ground truth: depth and optical flow.

Layout: https://daniilidis-group.github.io/mvsec/download/, as in `scaleevent_ros.sources.mvsec`:
``NAME_data.hdf5`` with ``davis/left/events``, and ``NAME_gt.hdf5`` beside it with
``depth_image_raw`` and ``flow_dist``, each with its ``_ts``, in the raw view of the left DAVIS346.

Depth, as in Hidalgo-Carrió et al., "Learning Monocular Dense Depth from Events", 3DV 2020,
https://github.com/uzh-rpg/rpg_e2depth (evaluation.py): the whole picture, up to 80 m. Training is
on outdoor_day2; outdoor_day1 and the three nights are for validation, one by one.

Flow, as in Zhu et al., "EV-FlowNet", RSS 2018, https://github.com/daniilidis-group/EV-FlowNet
(src/eval_utils.py, data/extract_all_bags.sh), and Gehrig et al., "E-RAFT", 3DV 2021,
https://github.com/uzh-rpg/E-RAFT (loader/loader_mvsec_flow.py, config/mvsec_20.json and
mvsec_45.json): the central 256x256 pixels, in outdoor sequences only the rows above the car's hood
(193), without flow of exactly 0. Training is on outdoor_day2; validation is on 18 s of
outdoor_day1, and on indoor_flying 1 to 3, one by one, from the start of the flight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scaleevent_ros.sources.hdf5 import EventColumns, dataset, open_hdf5
from scaleevent_ros.sources.mvsec import HEIGHT, WIDTH
from scaleevent_ros.sources.recording import nanoseconds, ordered_times
from scaleevent_ros.tasks.datasets.sequences import Split, covered, cut, find_sequences
from scaleevent_ros.tasks.errors import TaskError
from scaleevent_ros.tasks.labelled import LabelledWindow

if TYPE_CHECKING:
    from pathlib import Path

    import h5py
    from numpy.typing import NDArray

    from scaleevent_ros.tasks.labelled import Task

SPLIT = Split(("outdoor_day2",), ("outdoor_day1",))
"""Training and validation sequences of both tasks; see above."""

MAXIMUM_DEPTH = 80.0
FLOW_SIZE = 256
HOOD_ROW = 193

_GROUP = "davis/left"
_LEFT, _TOP = (WIDTH - FLOW_SIZE) // 2, (HEIGHT - FLOW_SIZE) // 2
# Seconds after the first event from which EV-FlowNet uses frames: before, nothing moves.
_STARTS = {
    "indoor_flying1": 4.0, "indoor_flying2": 9.0, "indoor_flying3": 7.0, "indoor_flying4": 6.0,
    "outdoor_day1": 3.0, "outdoor_day2": 45.0,
}  # fmt: skip
# Numbers of the flow maps and frames of outdoor_day1 on which E-RAFT is evaluated.
_EVALUATED_MAPS, _EVALUATED_FRAMES = range(4356, 4706), range(10167, 10954)


def find(root: Path, names: tuple[str, ...]) -> list[Path]:
    """Find the files ``NAME_data.hdf5`` of sequences by name; see `find_sequences`."""
    return find_sequences(root, names, lambda path: path.is_file(), "{}_data.hdf5")


class MvsecSequence:
    """A sequence with its ground truth, as a `LabelledSource`.

    Attributes:
        name: Path of ``NAME_data.hdf5``.
        task: ``depth`` or ``flow``.
    """

    def __init__(
        self, path: Path, task: Task, window_ns: int, frames: int = 0, history_ns: int = 0
    ) -> None:
        """Open a sequence.

        Args:
            path: File ``NAME_data.hdf5``, with ``NAME_gt.hdf5`` beside it.
            task: Task whose ground truth is read.
            window_ns: Longest window of events before a depth map, in ns.
            frames: Interval of flow in frames (the usual dt = 1 and dt = 4); 0: between flow maps,
                which have 20 Hz.
            history_ns: Duration of events to read before the window, in ns, as far as they exist.

        Raises:
            ScaleEventError: If a file is missing, or not of the expected layout.
        """
        self.name = str(path)
        self.task: Task = task
        self._sequence = path.name.removesuffix("_data.hdf5")
        self._truth = path.with_name(f"{self._sequence}_gt.hdf5")
        self._topic = f"{_GROUP}/{'depth_image_raw' if task == 'depth' else 'flow_dist'}"
        self._events = EventColumns(path, (0, 1, 2, 3), "s", table=f"{_GROUP}/events")
        with open_hdf5(self._truth) as file:
            self._truth_times = _times(file, self._topic)
        if task == "depth":
            ends, numbers = self._truth_times, np.arange(len(self._truth_times))
            starts = needed = ends - window_ns
        else:
            starts, ends, numbers = self._intervals(path, frames)
            needed = 2 * starts - ends
        chosen = covered(needed, ends, self._events.span_ns, self._truth)
        self._numbers = numbers[chosen]
        self._starts, self._ends = starts[chosen], ends[chosen]
        self._needed = np.maximum(needed[chosen] - history_ns, self._events.span_ns[0])

    def _intervals(
        self, path: Path, frames: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """List starts and ends of the flow intervals, and numbers of their first maps or frames."""
        times = self._truth_times
        if frames:
            with open_hdf5(path) as file:
                times = _times(file, f"{_GROUP}/image_raw")
        step = frames or 1
        numbers = np.arange(max(len(times) - step, 0))
        starts, ends = times[numbers], times[numbers + step]
        first = self._events.span_ns[0] + round(_STARTS.get(self._sequence, 0.0) * 1e9)
        kept = (starts >= max(first, self._truth_times[0])) & (ends <= self._truth_times[-1])
        if self._sequence == "outdoor_day1":
            kept &= np.isin(numbers, _EVALUATED_FRAMES if frames else _EVALUATED_MAPS)
        if not kept.any():
            msg = f"{self._truth}: no flow is in the part of {self._sequence} that is used"
            raise TaskError(msg)
        return starts[kept], ends[kept], numbers[kept]

    def __len__(self) -> int:
        """Count the windows."""
        return len(self._numbers)

    def key(self, index: int) -> str:
        """Name of a window: ``outdoor_day1/4356``, the sequence and the number of map or frame."""
        return f"{self._sequence}/{self._numbers[index]}"

    def read(self, index: int, take: int) -> LabelledWindow:
        """Read a window.

        Raises:
            ScaleEventError: If a file is damaged.
        """
        del take
        t_start, t_end = int(self._starts[index]), int(self._ends[index])
        events = self._events.between(WIDTH, HEIGHT, int(self._needed[index]), t_end)
        with open_hdf5(self._truth) as file:
            maps = dataset(file, self._topic)
            if self.task == "depth":
                depth = np.asarray(maps[int(self._numbers[index])], np.float32)
                known = depth < MAXIMUM_DEPTH
                return LabelledWindow(events, t_end, np.where(known, depth, np.float32(np.nan)))
            flow = follow(maps, self._truth_times, t_start, t_end)
        if self._sequence.startswith("outdoor"):
            flow[HOOD_ROW:] = np.nan
        truth = flow[_TOP : _TOP + FLOW_SIZE, _LEFT : _LEFT + FLOW_SIZE]
        return LabelledWindow(cut(events, _LEFT, _TOP, FLOW_SIZE, FLOW_SIZE), t_end, truth, t_start)


def follow(
    maps: h5py.Dataset | NDArray[Any], times: NDArray[np.int64], t_start: int, t_end: int
) -> NDArray[np.float32]:
    """Compute the flow between any two times from flow maps between consecutive times.

    The algorithm is `estimate_corresponding_gt_flow` of EV-FlowNet's src/eval_utils.py: the flow of
    an interval no longer than that of the map at its start is a share of that map. In a longer
    interval each pixel is followed from map to map, each read at the nearest pixel.

    Args:
        maps: Flow [K, 2, H, W], px to the right and down, from the time of each map to that of the
            next; exactly 0 in both where unknown.
        times: Times of the maps, int64 [K], ns, ascending.
        t_start: Start in ns; not before the first time.
        t_end: End in ns; not after the last time.

    Returns:
        float32 [H, W, 2] in px; NaN where the flow is unknown on the way, or where a pixel leaves
        the picture before the end.
    """
    number = int(np.searchsorted(times, t_start, side="right")) - 1
    gap = int(times[number + 1] - times[number])
    if t_end - t_start <= gap:
        flow = _known(maps[number])
        flow *= (t_end - t_start) / gap
        return flow
    height, width = maps.shape[2:]
    grid = np.meshgrid(np.arange(width), np.arange(height))
    start: NDArray[np.float32] = np.stack(grid, axis=-1).astype(np.float32)
    place: NDArray[np.float32] = start.copy()
    moment = t_start
    while moment < t_end:
        gap = int(times[number + 1] - times[number])
        until = min(int(times[number + 1]), t_end)
        x, y = place[..., 0], place[..., 1]
        inside = (x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5)
        column, row = (np.rint(np.where(inside, at, 0)).astype(np.intp) for at in (x, y))
        step = _known(maps[number])[row, column]
        step[~inside] = np.nan
        place += step * ((until - moment) / gap)
        number, moment = number + 1, until
    place -= start
    return place


def _known(stored: NDArray[Any]) -> NDArray[np.float32]:
    """Convert a stored map, [2, H, W], to float32 [H, W, 2] with NaN where it is unknown."""
    flow: NDArray[np.float32] = np.moveaxis(stored, 0, -1).astype(np.float32)
    known = np.isfinite(flow).all(axis=-1) & (flow != 0).any(axis=-1)
    flow[~known] = np.nan
    return flow


def _times(file: h5py.File, name: str) -> NDArray[np.int64]:
    place = f"{file.filename}: {name}"
    times = ordered_times(nanoseconds(dataset(file, f"{name}_ts")[:], "s"), place)
    if len(dataset(file, name)) != len(times):
        msg = f"{place}: has {len(dataset(file, name))} maps but {len(times)} times"
        raise TaskError(msg)
    return times
