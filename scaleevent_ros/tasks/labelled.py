"""Samples of labelled windows of events, from any data set."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
import torch

from scaleevent_ros.data.augmentation import (
    AugmentationOptions,
    choose_view,
    move_events,
    perturb_events,
)
from scaleevent_ros.data.sampler import PADDING
from scaleevent_ros.events import InputSpec
from scaleevent_ros.events.windows import WindowOptions, window_start
from scaleevent_ros.tasks.errors import TaskError
from scaleevent_ros.tasks.losses import IGNORED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from scaleevent_ros.data.augmentation import View
    from scaleevent_ros.data.sampler import SampleSpec
    from scaleevent_ros.events import EventBatch

Task = Literal["segmentation", "depth", "flow"]


class LabelledWindow(NamedTuple):
    """Labelled window of a data set.

    Attributes:
        events: Events of at least the longest window, in the pixels of the ground truth; for flow,
            with an equally long window before it; for leaky integrals, with their history.
        t_end: End of the window in ns, excluded: the time of the ground truth.
        truth: Segmentation: class ids, uint8 [H, W], `IGNORED` where there is none. Depth in m,
            float32 [H, W], 0 or not finite where unknown. Flow: displacement of each pixel from
            ``t_start`` to ``t_end``, in px to the right and down, float32 [H, W, 2], NaN where
            unknown.
        t_start: Start of the window in ns, if the ground truth has one, as for flow; if None, it
            follows from the options.
    """

    events: EventBatch
    t_end: int
    truth: NDArray[Any]
    t_start: int | None = None


class LabelledSource(Protocol):
    """A sequence of a data set: labelled windows by number."""

    @property
    def name(self) -> str:
        """Name of the sequence, for error messages."""

    @property
    def task(self) -> Task:
        """Task of the ground truth."""

    def __len__(self) -> int:
        """Count the windows."""

    def key(self, index: int) -> str:
        """Name of a window in the data set, independent of where the data set is stored."""

    def read(self, index: int, take: int) -> LabelledWindow:
        """Read a window; called in workers, any number of times, in any order.

        Args:
            index: Index of the window.
            take: Number of the epoch: simulated windows differ between epochs, recorded ones do
                not.
        """


@dataclass(frozen=True)
class Subset:
    """Subset of the windows of a sequence.

    Attributes:
        source: The sequence.
        indices: Indices of the windows in the sequence.
    """

    source: LabelledSource
    indices: tuple[int, ...]

    @property
    def name(self) -> str:
        """Name of the sequence."""
        return self.source.name

    @property
    def task(self) -> Task:
        """Task of the ground truth."""
        return self.source.task

    def __len__(self) -> int:
        """Count the windows of the subset."""
        return len(self.indices)

    def key(self, index: int) -> str:
        """Name of a window of the subset."""
        return self.source.key(self.indices[index])

    def read(self, index: int, take: int) -> LabelledWindow:
        """Read a window of the subset."""
        return self.source.read(self.indices[index], take)


def choose_fraction(keys: Sequence[str], fraction: float) -> list[int]:
    """Choose a fraction of keys, reproducibly; larger fractions include smaller ones.

    Keys are ordered by their BLAKE2b digest (64 bytes), and the first ``round(fraction * count)``
    are taken. So a fraction is a fixed split that depends on the names alone.

    Args:
        keys: Names of windows, at least one.
        fraction: Above 0, at most 1; at least one key is taken.

    Returns:
        Indices of the chosen keys, ascending.
    """
    order = sorted(range(len(keys)), key=lambda i: hashlib.blake2b(keys[i].encode()).digest())
    return sorted(order[: max(1, round(fraction * len(keys)))])


def take_fraction(sources: Sequence[LabelledSource], fraction: float) -> list[LabelledSource]:
    """Choose a fraction of the windows of all sequences; see `choose_fraction`.

    Returns:
        The chosen windows of each sequence that has any, in their own order.
    """
    places = [(number, i) for number, source in enumerate(sources) for i in range(len(source))]
    keys = [sources[number].key(index) for number, index in places]
    parts: list[list[int]] = [[] for _ in sources]
    for place in choose_fraction(keys, fraction):
        number, index = places[place]
        parts[number].append(index)
    return [
        Subset(source, tuple(part)) for source, part in zip(sources, parts, strict=True) if part
    ]


class LabelledSample(NamedTuple):
    """Labelled sample, or a batch of samples with an additional first dimension B.

    Attributes:
        events: Event tensor, float32 [channels, H, W]; for flow [2, channels, H, W], the previous
            window and this one; for a student with memory [T, channels, H, W], consecutive windows,
            of which the last has ground truth. With frames as input, the frame; see
            `LabelledPictures`.
        truth: Segmentation: class ids, int64 [H, W], `IGNORED` where there is none. Depth in m,
            float32 [1, H, W], 0 where unknown. Flow in px to the right and down, float32 [2, H, W],
            NaN where unknown.
        at_events: Pixels with an event in the window, bool [H, W]; all with frames as input.
    """

    events: Tensor
    truth: Tensor
    at_events: Tensor


@dataclass(frozen=True)
class LabelledOptions:
    """Options of labelled samples.

    Attributes:
        width: Width of the event tensor.
        height: Height of the event tensor.
        input: Specification of the event tensor.
        window: Length of the window of events, if the ground truth does not determine it.
        history_ns: Duration of history before the first window in ns, for leaky integrals.
        windows: Number T of consecutive windows for a student with memory; 1 for others.
        augmentation: Random augmentation.
        seed: Seed of all random numbers.
    """

    width: int = 480
    height: int = 360
    input: InputSpec = field(default_factory=InputSpec)
    window: WindowOptions = field(default_factory=WindowOptions)
    history_ns: int = 0
    windows: int = 1
    augmentation: AugmentationOptions = field(default_factory=AugmentationOptions)
    seed: int = 0


class LabelledDataset:
    """Samples of windows from any number of sequences, each determined by its specification."""

    def __init__(self, sources: Sequence[LabelledSource], options: LabelledOptions) -> None:
        """Create a data set of sequences, which must have the same task."""
        self._sources = list(sources)
        self._ends = list(accumulate(len(source) for source in self._sources))
        self._options = options

    def __len__(self) -> int:
        """Count the windows of all sequences."""
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, spec: SampleSpec) -> LabelledSample:
        """Build the sample of a specification; padding samples have no ground truth.

        Raises:
            ScaleEventError: If the window cannot be read, or its truth and events differ in size.
        """
        number = bisect_right(self._ends, spec.pair)
        source = self._sources[number]
        window = source.read(spec.pair - self._ends[number] + len(source), spec.epoch)
        sensor = (window.events.height, window.events.width)
        if window.truth.shape[:2] != sensor:
            msg = (
                f"{source.name}: ground truth of {window.truth.shape[:2]} does not fit events of "
                f"{sensor}"
            )
            raise TaskError(msg)
        sample = make_sample(window, source.task, self._options, spec)
        if spec.position == PADDING:
            return sample._replace(truth=torch.full_like(sample.truth, UNKNOWN[source.task]))
        return sample


UNKNOWN: dict[Task, float] = {"segmentation": IGNORED, "depth": 0, "flow": float("nan")}
"""Values of pixels without ground truth."""


def make_sample(
    window: LabelledWindow, task: Task, options: LabelledOptions, spec: SampleSpec
) -> LabelledSample:
    """Convert a window to a sample: augmented, and of the size in the options.

    Args:
        window: Window of a sequence.
        task: Task of the ground truth.
        options: Options of labelled samples.
        spec: Specification that, with the seed, determines all random numbers.
    """
    rng = np.random.default_rng((options.seed, spec.epoch, spec.position + 1))
    events, t_end = window.events, window.t_end
    view = choose_view(
        (events.width, events.height), (options.width, options.height), options.augmentation, rng
    )
    t_start = window_start(events, t_end, options.window)
    if window.t_start is not None:
        t_start = window.t_start
    length_ns, count = t_end - t_start, 2 if task == "flow" else options.windows
    earliest = t_end - count * length_ns
    seed = int(rng.integers(np.iinfo(np.int32).max))
    first = earliest - options.history_ns
    moved = move_events(events.between(first, t_end), view, seed)
    moved, _ = perturb_events(moved, first, t_end, options.augmentation, rng)
    starts = range(earliest, t_end, length_ns)
    built = [
        options.input.normalize(options.input.build(moved, start, start + length_ns))
        for start in starts
    ]
    tensors = torch.from_numpy(built[0] if count == 1 else np.stack(built))
    last = moved.between(t_start, t_end)
    at_events = np.zeros((options.height, options.width), np.bool_)
    at_events[last.y, last.x] = True
    truth = torch.from_numpy(move_truth(window.truth, view))
    if task == "segmentation":
        truth = truth.long()
    elif task == "depth":
        truth = truth.where(torch.isfinite(truth), 0).unsqueeze(0)
    else:
        truth = truth.movedim(-1, 0).contiguous()
    return LabelledSample(tensors, truth, torch.from_numpy(at_events))


def move_truth(truth: NDArray[Any], view: View) -> NDArray[Any]:
    """Resample ground truth in a view; each pixel takes the nearest value.

    Args:
        truth: Class ids or depth [H, W]; or flow in px, [H, W, 2], which is scaled and mirrored
            with the view. Depth is not scaled: a magnified scene is not nearer.
        view: View within the ground truth.

    Returns:
        [output_height, output_width] or [output_height, output_width, 2], of the same dtype.
    """
    height, width = truth.shape[:2]
    scale_x, scale_y = view.output_width / view.width, view.output_height / view.height
    columns = view.left + (np.arange(view.output_width) + 0.5) / scale_x
    rows = view.top + (np.arange(view.output_height) + 0.5) / scale_y
    columns, rows = columns.astype(np.intp), rows.astype(np.intp)
    if view.flip:
        columns = columns[::-1]
    moved = truth[rows.clip(0, height - 1)[:, None], columns.clip(0, width - 1)]
    if truth.ndim == 3:
        moved = moved * np.array([-scale_x if view.flip else scale_x, scale_y], truth.dtype)
    return np.ascontiguousarray(moved)


def stack(samples: Sequence[LabelledSample]) -> LabelledSample:
    """Stack samples to a batch."""
    return LabelledSample(*map(torch.stack, zip(*samples, strict=True)))
