"""Configuration and loaders of labelled data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from scaleevent_ros.data.augmentation import AugmentationOptions
from scaleevent_ros.data.indexed_bag import BagOptions
from scaleevent_ros.data.loading import PairLoaders
from scaleevent_ros.data.recordings import find_recordings
from scaleevent_ros.data.sampler import Schedule
from scaleevent_ros.distill.errors import ConfigurationError
from scaleevent_ros.errors import check_ranges
from scaleevent_ros.events.windows import NS_PER_MS
from scaleevent_ros.tasks.errors import TaskError
from scaleevent_ros.tasks.labelled import (
    LabelledDataset,
    LabelledOptions,
    choose_fraction,
    stack,
    take_fraction,
)
from scaleevent_ros.tasks.labelled_pictures import (
    FilmOptions,
    FlowStills,
    LabelledPictures,
    LabelledStills,
    find_labelled,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scaleevent_ros.distill.configuration import EventOptions, TrainerOptions
    from scaleevent_ros.tasks.classes import ClassList
    from scaleevent_ros.tasks.datasets.sequences import Split
    from scaleevent_ros.tasks.labelled import LabelledSource, Task

FILM_HISTORY_NS = 500_000_000
"""Default ``events.history_s`` of simulated pictures, in ns."""

Kind = Literal[
    "stills",
    "stills_flow",
    "stills_depth",
    "dsec_semantic",
    "dsec_depth",
    "dsec_flow",
    "ddd17",
    "mvsec_depth",
    "mvsec_flow",
    "bag_segmentation",
    "bag_depth",
    "bag_flow",
]

TASKS: dict[Kind, Task] = {
    "stills": "segmentation",
    "stills_flow": "flow",
    "stills_depth": "depth",
    "dsec_semantic": "segmentation",
    "dsec_depth": "depth",
    "dsec_flow": "flow",
    "ddd17": "segmentation",
    "mvsec_depth": "depth",
    "mvsec_flow": "flow",
    "bag_segmentation": "segmentation",
    "bag_depth": "depth",
    "bag_flow": "flow",
}
"""Task of each kind of data set."""


@dataclass(frozen=True)
class LabelledData:
    """Labelled data for training and validation.

    Attributes:
        kind: Kind of data set. ``stills``: labelled pictures, filmed by a simulated event camera.
            ``stills_flow``: any pictures, filmed likewise, with exact optical flow.
            ``stills_depth``: pictures with depth, for ``source`` frames. ``bag_…``: bags with
            ground truth. The others are in `scaleevent_ros.tasks.datasets`.
        root: Folder of the data set.
        train: Sequences to train on; the published split if empty. For bags: bags, folders of
            them or glob patterns.
        validation: Sequences or bags to validate on, as in ``train``.
        pictures: Folder of the training pictures.
        labels: Folder of their labels, with the same file names: class ids (uint8), or depth in mm
            (uint16; 0 and 65535 mark unknown depth).
        validation_pictures: Folder of the validation pictures.
        validation_labels: Folder of their labels.
        classes: Class list for segmentation: a name in ``config/labels``, such as ``camvid11``, or
            a YAML file of the same form.
        fraction: Fraction of the training windows to use; see `take_fraction`.
        validation_fraction: Fraction of the validation windows to use.
        strength: Strength of the simulated camera's motion over pictures.
        frames: Interval of ``mvsec_flow`` in frames (dt = 1, dt = 4); 0: between ground-truth maps.
        flow_ms: Interval of ``bag_flow`` in ms, from the stamp of a flow map on.
        bags: How bags are read; ``frames_topic`` is the topic of the ground truth.
        windows: Number of consecutive windows for a student with memory; the last is labelled.
        width: Width of the event tensor in pixels.
        height: Height of the event tensor in pixels.
        augmentation: Random augmentation of training samples.
        workers: Data loading processes for each training process.
        prefetch: Batches that each worker prepares ahead.
        source: Input of the head: ``events``, or ``frames`` with ``stills`` and ``stills_depth``,
            which trains it on the teacher's features of the pictures; it then runs on students of
            that teacher.
    """

    kind: Kind = "stills"
    root: str = ""
    train: list[str] = field(default_factory=list)
    validation: list[str] = field(default_factory=list)
    pictures: str = ""
    labels: str = ""
    validation_pictures: str = ""
    validation_labels: str = ""
    classes: str = ""
    fraction: float = 1.0
    validation_fraction: float = 1.0
    strength: float = 1.0
    frames: int = 0
    flow_ms: float = 100.0
    bags: BagOptions = field(default_factory=BagOptions)
    windows: int = 6
    width: int = 480
    height: int = 360
    augmentation: AugmentationOptions = field(default_factory=AugmentationOptions)
    workers: int = 4
    prefetch: int = 4
    source: Literal["events", "frames"] = "events"

    def __post_init__(self) -> None:
        """Check ranges, and that required paths are given."""
        for name in self._needed():
            if not getattr(self, name):
                msg = f"data.{name} is not given, but data.kind {self.kind} needs it"
                raise ConfigurationError(msg)
        if self.source == "frames" and self.kind not in {"stills", "stills_depth"}:
            msg = f"data.source frames needs data.kind stills or stills_depth, not {self.kind}"
            raise ConfigurationError(msg)
        if self.source == "events" and self.kind == "stills_depth":
            msg = "data.kind stills_depth has no events: it needs data.source frames"
            raise ConfigurationError(msg)
        if self.augmentation.shift:
            msg = "data.augmentation.shift is for pretraining; use data.augmentation.crop"
            raise ConfigurationError(msg)
        limits = {
            "fraction": (1e-6, 1), "validation_fraction": (1e-6, 1), "strength": (0, 100),
            "frames": (0, 100), "flow_ms": (1, 10_000), "windows": (2, 100), "width": (16, 8192),
            "height": (16, 8192), "workers": (0, 256), "prefetch": (1, 64),
        }  # fmt: skip
        check_ranges(vars(self), limits, ConfigurationError, "data.")

    def _needed(self) -> tuple[str, ...]:
        """Names of the fields that this kind of data requires."""
        classes = ("classes",) if self.task == "segmentation" else ()
        if self.kind.startswith("stills"):
            pictures: tuple[str, ...] = ("pictures", "validation_pictures")
            if self.kind != "stills_flow":
                pictures += ("labels", "validation_labels")
            return pictures + classes
        if self.kind.startswith("bag_"):
            return ("train", "validation", *classes)
        return ("root", *classes)

    @property
    def task(self) -> Task:
        """Task of the ground truth."""
        return TASKS[self.kind]


def build_loaders(
    data: LabelledData,
    events: EventOptions,
    trainer: TrainerOptions,
    classes: ClassList | None,
    frame_scale: int = 1,
    *,
    memory: bool = False,
) -> PairLoaders:
    """Build the data loaders of training and validation samples.

    Args:
        data: Labelled data to load.
        events: The student's event tensor.
        trainer: Batches, epochs and the seed.
        classes: Class list for segmentation.
        frame_scale: Resolution of ``data.source`` frames relative to the ground truth.
        memory: Whether the student has a memory, and takes ``data.windows`` windows.

    Raises:
        ScaleEventError: If data are missing or invalid.
    """
    windows = data.windows if memory else 1
    options = _options(data, events, data.augmentation, trainer.seed, windows)
    learned: LabelledDataset | LabelledPictures
    if data.source == "frames":
        learned = _open_pictures(data, options, classes, frame_scale, learning=True)
    else:
        film = _film(data, events, trainer.seed, windows)
        sources = _open(data, events, film, classes, windows, learning=True)
        learned = LabelledDataset(take_fraction(sources, data.fraction), options)
    schedule = Schedule(
        (len(learned),), (1.0,), trainer.batch_size, trainer.seed, trainer.pairs_per_epoch
    )
    held_out = build_held_out(data, events, classes, frame_scale, memory=memory)
    return PairLoaders(learned, held_out, schedule, data.workers, data.prefetch, stack)


def build_held_out(
    data: LabelledData,
    events: EventOptions,
    classes: ClassList | None,
    frame_scale: int = 1,
    *,
    memory: bool = False,
) -> LabelledDataset | LabelledPictures:
    """Build the validation samples, independent of the seed of a run.

    Args:
        data: Labelled data to load.
        events: The student's event tensor.
        classes: Class list for segmentation.
        frame_scale: Resolution of ``data.source`` frames relative to the ground truth.
        memory: The student has a memory, and sees ``data.windows`` windows.

    Raises:
        ScaleEventError: If data are missing or invalid.
    """
    windows = data.windows if memory else 1
    options = _options(data, events, AugmentationOptions(), 0, windows)
    if data.source == "frames":
        return _open_pictures(data, options, classes, frame_scale, learning=False)
    film = replace(_film(data, events, 0, windows), fixed_motion=True)
    sources = _open(data, events, film, classes, windows, learning=False)
    return LabelledDataset(take_fraction(sources, data.validation_fraction), options)


def _open_pictures(
    data: LabelledData,
    options: LabelledOptions,
    classes: ClassList | None,
    frame_scale: int,
    *,
    learning: bool,
) -> LabelledPictures:
    """Find the training or validation pictures as samples of frames."""
    pictures, labels, fraction = (
        (data.pictures, data.labels, data.fraction)
        if learning
        else (data.validation_pictures, data.validation_labels, data.validation_fraction)
    )
    found = find_labelled(Path(pictures), Path(labels))
    chosen = choose_fraction([one.picture.stem for one in found], fraction)
    return LabelledPictures([found[i] for i in chosen], classes, options, frame_scale)


def _options(
    data: LabelledData,
    events: EventOptions,
    augmentation: AugmentationOptions,
    seed: int,
    windows: int,
) -> LabelledOptions:
    return LabelledOptions(
        data.width,
        data.height,
        events.input,
        events.window,
        events.history_ns,
        windows,
        augmentation,
        seed,
    )


def _film(data: LabelledData, events: EventOptions, seed: int, windows: int) -> FilmOptions:
    history_ns = events.history_ns
    if events.history_s is None:
        history_ns = min(history_ns, FILM_HISTORY_NS)
    history_ns += (windows - 1) * events.window.length_ns
    return FilmOptions(
        data.width, data.height, events.window, data.strength, seed, history_ns=history_ns
    )


def _open(
    data: LabelledData,
    events: EventOptions,
    film: FilmOptions,
    classes: ClassList | None,
    windows: int,
    *,
    learning: bool,
) -> Sequence[LabelledSource]:
    """Open all training or validation sequences, before a fraction is chosen."""
    pictures = Path(data.pictures if learning else data.validation_pictures)
    if data.kind == "stills_flow":
        return [FlowStills(pictures, film)]
    if data.kind == "stills":
        assert classes is not None
        labels = Path(data.labels if learning else data.validation_labels)
        return [LabelledStills(pictures, labels, classes, film)]
    try:
        return _open_recorded(data, events, classes, windows, learning=learning)
    except ModuleNotFoundError as error:
        msg = f"data.kind {data.kind} needs {error.name}: pip install 'scaleevent_ros[data]'"
        raise TaskError(msg) from error


def _open_recorded(
    data: LabelledData,
    events: EventOptions,
    classes: ClassList | None,
    windows: int,
    *,
    learning: bool,
) -> Sequence[LabelledSource]:
    """Open recorded (not simulated) data.

    Readers are imported here, so that training on pictures does not need HDF5.
    """
    root, task = Path(data.root), data.task
    window_ns = events.window.length_ns
    history_ns = events.history_ns + (windows - 1) * window_ns
    named = data.train if learning else data.validation

    def names(published: Split) -> tuple[str, ...]:
        return tuple(named) or (published.train if learning else published.validation)

    if data.kind.startswith("dsec_"):
        from scaleevent_ros.tasks.datasets import dsec

        return [
            dsec.DsecSequence(path, task, window_ns, classes, history_ns)
            for path in dsec.find(root, names(dsec.SPLITS[task]))
        ]
    if data.kind.startswith("mvsec_"):
        from scaleevent_ros.tasks.datasets import mvsec

        return [
            mvsec.MvsecSequence(path, task, window_ns, data.frames, history_ns)
            for path in mvsec.find(root, names(mvsec.SPLIT))
        ]
    if data.kind == "ddd17":
        from scaleevent_ros.tasks.datasets import ddd17

        assert classes is not None
        return [
            ddd17.Ddd17Sequence(path, window_ns, classes, history_ns)
            for path in ddd17.find(root, names(ddd17.split(root)))
        ]
    from scaleevent_ros.tasks.datasets.bags import LabelledBag

    length_ns = round(data.flow_ms * NS_PER_MS) if task == "flow" else window_ns
    return [
        LabelledBag(path, task, data.bags, length_ns, classes, history_ns)
        for place in named
        for path in find_recordings(place)
    ]
