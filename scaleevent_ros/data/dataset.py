"""Training samples: pairs of frame and events, converted to tensors in worker processes."""

from __future__ import annotations

import logging
from bisect import bisect_right
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from scaleevent_ros.data.alignment import HomographyAlignment, covered_patches, move_mask
from scaleevent_ros.data.augmentation import (
    AugmentationOptions,
    CellMove,
    choose_shift,
    choose_view,
    move_events,
    move_state,
    perturb_events,
    shift_view,
)
from scaleevent_ros.data.errors import DataError
from scaleevent_ros.data.sampler import PADDING, SampleSpec
from scaleevent_ros.errors import ScaleEventError
from scaleevent_ros.events import EventBatch, InputSpec, LeakyState, activity_mask
from scaleevent_ros.events.windows import WindowOptions, window_start

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from scaleevent_ros.data.alignment import Alignment

logger = logging.getLogger(__name__)

_UNREADABLE, _UNREADABLE_SHARE = 10, 0.01  # unreadable pairs that a worker tolerates
_PATCH = 16  # side of the patches to which the activity threshold applies


class Pair(NamedTuple):
    """A frame, and the events up to the moment it was taken.

    Attributes:
        frame: uint8 [H, W, 3], RGB.
        events: Events of at least the longest window and, for leaky integrals, of the time before.
        t_end: Time of the frame on the clock of the events, in ns.
        alignment: Alignment of the frame with the event image.
        covered: Pixels of the event image that the frame covers, bool [H, W] of the sensor's size;
            None for those to which the alignment maps the frame.
        history: Leaky integrals of all events before ``events``; None if unknown.
        stored: Frame as a JPEG or PNG file; None if it was not recorded as one.
    """

    frame: NDArray[np.uint8]
    events: EventBatch
    t_end: int
    alignment: Alignment
    covered: NDArray[np.bool_] | None = None
    history: LeakyState | None = None
    stored: bytes | None = None


class PairSource(Protocol):
    """Interface of a recording: its pairs by index, in order of time."""

    @property
    def name(self) -> str:
        """Name of the recording, for error messages."""

    def __len__(self) -> int:
        """Count the pairs."""

    def read(self, index: int) -> Pair:
        """Read a pair; called in worker processes, any number of times, in any order."""


@dataclass(frozen=True)
class Subset:
    """Subset of consecutive pairs of a recording.

    Attributes:
        source: The recording.
        indices: Indices of the pairs in the recording.
    """

    source: PairSource
    indices: range

    @property
    def name(self) -> str:
        """Name of the recording."""
        return self.source.name

    def __len__(self) -> int:
        """Count the pairs of the subset."""
        return len(self.indices)

    def read(self, index: int) -> Pair:
        """Read a pair of the subset."""
        return self.source.read(self.indices[index])


class Sample(NamedTuple):
    """Training sample; a `Batch` has an additional first dimension B.

    Attributes:
        events: The event tensor, float32 [channels, H, W].
        frame: Frame, uint8 [3, scale * H, scale * W], RGB, aligned with the events; with stored
            features, before it is moved.
        active: Cells with enough events, bool [h, w] on the student's grid.
        covered: Cells covered completely by the frame, bool [h, w].
        features: The teacher's features of ``frame``, float16 [D, h, w], if they are stored; else
            empty.
        move: Move of stored features onto the events, `CellMove` as int64 [3].
    """

    events: Tensor
    frame: Tensor
    active: Tensor
    covered: Tensor
    features: Tensor
    move: Tensor


class StoredFeatures(Protocol):
    """Interface of stored teacher features, such as those in a `FeatureFolder`."""

    def load(self, frame: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor | None:
        """Load the features of a frame, float16 [D, h, w]; None if they are not stored.

        Args:
            frame: Frame of a `Sample`, uint8 [3, scale * H, scale * W].
            grid: Rows and columns of the student's grid.
            size: Height and width of the event tensor, in pixels.
        """


class Batch(NamedTuple):
    """A batch of samples; see `Sample`."""

    events: Tensor
    frames: Tensor
    active: Tensor
    covered: Tensor
    features: Tensor
    moves: Tensor

    def to(self, device: torch.device) -> Batch:
        """Move the batch, but keep the masks on the CPU.

        The number of tokens that a loss compares is then known without waiting for the GPU.
        """
        masks = {"active", "covered"}
        return Batch(
            *(
                value if name in masks else value.to(device, non_blocking=True)
                for name, value in self._asdict().items()
            )
        )


@dataclass(frozen=True)
class SampleOptions:
    """Options of samples.

    Attributes:
        width: Width of the event tensor in pixels.
        height: Height of the event tensor in pixels.
        stride: Pixels per feature of the student, in each direction.
        frame_scale: Resolution of frames relative to the event tensor.
        input: Specification of the event tensor.
        window: Length of the window of events.
        history_ns: Duration of events before the longest window, in ns, for leaky integrals.
        threshold: Number of events that make 16x16 pixels active.
        augmentation: Random augmentation.
        seed: Seed of all random numbers.
    """

    width: int = 640
    height: int = 480
    stride: int = 16
    frame_scale: int = 1
    input: InputSpec = field(default_factory=InputSpec)
    window: WindowOptions = field(default_factory=WindowOptions)
    history_ns: int = 0
    threshold: int = 64
    augmentation: AugmentationOptions = field(default_factory=AugmentationOptions)
    seed: int = 0


class PairDataset(Dataset[Sample]):
    """Samples of pairs from any number of recordings, each a function of its specification alone.

    A pair that cannot be read is logged, and its sample has masks without active and covered cells,
    so that losses ignore it.
    """

    def __init__(
        self,
        sources: Sequence[PairSource],
        options: SampleOptions,
        stored: StoredFeatures | None = None,
        *,
        strict: bool = False,
    ) -> None:
        """Create a dataset of recordings.

        Args:
            sources: The recordings.
            options: Options of samples.
            stored: Storage of teacher features; None if they are not stored.
            strict: Raise an error at the first pair that cannot be read.
        """
        self._strict = strict
        self._unreadable: set[int] = set()
        self._sources = list(sources)
        self._stored = stored
        self._ends = list(accumulate(len(source) for source in self._sources))
        self._options = options

    def __len__(self) -> int:
        """Count the pairs of all recordings."""
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, spec: SampleSpec) -> Sample:
        """Build the sample of a specification; see `timed`."""
        return self.timed(spec)[0]

    def timed(self, spec: SampleSpec) -> tuple[Sample, int | None]:
        """Build a sample, with the time of its frame in ns; None if unreadable.

        Raises:
            ScaleEventError: If the pair cannot be read and ``strict`` is set.
            DataError: If more than 1 % of all pairs (and more than 10) could not be read in this
                process.
        """
        try:
            pair = self._read(spec.pair)
        except (ScaleEventError, OSError) as error:
            if self._strict:
                raise
            self._skip(spec.pair, error)
            blank = make_sample(_blank_pair(self._options), self._options, spec)
            return without_masks(blank), None
        sample = make_sample(pair, self._options, spec, self._stored)
        return (without_masks(sample) if spec.position == PADDING else sample), pair.t_end

    def first_of_recording(self, number: int) -> int:
        """Return the index of the first pair in the recording of a pair, over all recordings."""
        recording = bisect_right(self._ends, number)
        return self._ends[recording] - len(self._sources[recording])

    def _read(self, number: int) -> Pair:
        recording = bisect_right(self._ends, number)
        source = self._sources[recording]
        return source.read(number - self._ends[recording] + len(source))

    def _skip(self, number: int, error: Exception) -> None:
        """Count a pair that cannot be read, in this process."""
        if number not in self._unreadable:
            logger.warning("pair left out, it cannot be read: %s", error)
        self._unreadable.add(number)
        count = len(self._unreadable)
        if count > max(_UNREADABLE, _UNREADABLE_SHARE * len(self)):
            msg = f"{count} of {len(self)} pairs cannot be read, the last one: {error}"
            raise DataError(msg) from error


def without_masks(sample: Sample) -> Sample:
    """Clear the masks of a sample, so that losses and scores ignore it."""
    return sample._replace(
        active=torch.zeros_like(sample.active), covered=torch.zeros_like(sample.covered)
    )


def _blank_pair(options: SampleOptions) -> Pair:
    width, height = options.width, options.height
    frame = np.zeros((height, width, 3), np.uint8)
    return Pair(frame, EventBatch.empty(width, height), 0, HomographyAlignment(np.eye(3)))


def make_sample(
    pair: Pair, options: SampleOptions, spec: SampleSpec, stored: StoredFeatures | None = None
) -> Sample:
    """Convert a pair to tensors.

    Args:
        pair: Pair of a recording.
        options: Options of samples.
        spec: Specification that, with the seed, determines all random numbers.
        stored: Storage of teacher features; with stored features, the frame is not moved.
    """
    rng = np.random.default_rng((options.seed, spec.epoch, spec.position + 1))
    size = (options.width, options.height)
    events = pair.events
    still = choose_view((events.width, events.height), size, options.augmentation, rng)
    # A separate generator, so that the shift does not change any other random number.
    of_shift = np.random.default_rng((options.seed, spec.epoch, spec.position + 1, 1))
    move = choose_shift(still, options.augmentation, options.stride, of_shift)
    view = shift_view(still, move, options.stride)
    t_start = window_start(events, pair.t_end, options.window)
    first, state = t_start, None
    if options.input.leaky:
        first = pair.t_end - options.window.length_ns - options.history_ns
        state = move_state(pair.history, view)
    past = events[: int(np.searchsorted(events.t, pair.t_end))]
    if state is None:  # otherwise the state ends where the events begin, to a µs
        past = past.between(first, pair.t_end)
    moved = move_events(past, view, int(rng.integers(np.iinfo(np.int32).max)))
    moved, state = perturb_events(moved, first, pair.t_end, options.augmentation, rng, state)
    tensor = options.input.normalize(options.input.build(moved, t_start, pair.t_end, state))
    seen = moved.between(t_start, pair.t_end)
    threshold = max(1, round(options.threshold * (options.stride / _PATCH) ** 2))
    shape = (options.height, options.width)
    mask = pair.alignment.covered(pair.frame.shape[:2], view)
    if pair.covered is not None:
        known = move_mask(pair.covered, view)
        mask = known if mask is None else mask & known
    covered = torch.from_numpy(covered_patches(mask, shape, options.stride))
    shown = view if stored is None else replace(still, flip=False)
    pixels = pair.alignment.warp(pair.frame, shown, options.frame_scale)
    frame = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    grid = (covered.shape[0], covered.shape[1])
    features = None if stored is None else stored.load(frame, grid, shape)
    if move.rows or move.columns:
        inside = torch.ones(1, 1, *grid)
        covered &= move_cells(inside, torch.tensor([move]), outside=0)[0, 0] > 0
    return Sample(
        torch.from_numpy(tensor),
        frame,
        torch.from_numpy(activity_mask(seen, options.stride, threshold)),
        covered,
        torch.empty(0, dtype=torch.float16) if features is None else features,
        torch.tensor(CellMove() if stored is None else move, dtype=torch.int64),
    )


def move_cells(features: Tensor, moves: Tensor, outside: float | None = None) -> Tensor:
    """Move the cells of feature maps, without waiting for a device.

    Args:
        features: ``[B, D, h, w]``.
        moves: `CellMove` of each map, int64 ``[B, 3]``.
        outside: Value of cells that come from outside; None to repeat the cells of the edge.

    Returns:
        ``[B, D, h, w]``.
    """
    height, width = features.shape[-2:]
    down, right, flip = moves.to(features.device).unbind(1)
    rows = torch.arange(height, device=features.device) - down[:, None]
    columns = torch.arange(width, device=features.device).expand(len(moves), width)
    columns = torch.where(flip[:, None] > 0, width - 1 - columns, columns) - right[:, None]
    near_rows, near_columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    batch = torch.arange(len(moves), device=features.device)[:, None, None]
    moved = features[batch, :, near_rows[:, :, None], near_columns[:, None, :]].movedim(-1, 1)
    if outside is None:
        return moved
    known = (rows == near_rows)[:, None, :, None] & (columns == near_columns)[:, None, None, :]
    return moved.where(known, outside)


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples; features only if all samples have them, since teachers take whole batches."""
    events, frames, active, covered, features, moves = zip(*samples, strict=True)
    found = all(len(each) for each in features)
    return Batch(
        torch.stack(events),
        torch.stack(frames),
        torch.stack(active),
        torch.stack(covered),
        torch.stack(features) if found else torch.empty(0, dtype=torch.float16),
        torch.stack(moves),
    )


def split_off(source: PairSource, share: float) -> tuple[Subset, Subset]:
    """Split a recording into a training part and its last part, which is held out.

    Args:
        source: The recording.
        share: Fraction to hold out; at least one pair is held out.

    Raises:
        DataError: If no pair is left for training.
    """
    held_out = max(1, round(len(source) * share))
    first = len(source) - held_out
    if first < 1:
        msg = f"{source.name} has {len(source)} pairs: too few to hold {held_out} out"
        raise DataError(msg)
    return Subset(source, range(first)), Subset(source, range(first, len(source)))
