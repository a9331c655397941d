"""Random augmentation: a common view for frame and events, and perturbation of events."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scaleevent_ros.data.errors import DataError
from scaleevent_ros.errors import check_ranges
from scaleevent_ros.events import EventBatch, LeakyState
from scaleevent_ros.events.compile import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class AugmentationOptions:
    """Random augmentation of each sample, off by default.

    Attributes:
        zoom: Minimum and maximum magnification relative to the full view, at least 1.
        crop: Place the view at random instead of at the sensor's centre.
        flip: Probability of a horizontal flip.
        shift: Maximum shift of the view in both directions, in cells of the student's grid; cells
            from outside the view are masked out. For pretraining.
        event_dropout: Maximum fraction of events that is dropped; the fraction is drawn uniformly.
        polarity_flip: Probability that the polarities of a sample are swapped.
        noise_hz: Maximum rate of added noise events per pixel in Hz; the rate is drawn uniformly.
    """

    zoom: tuple[float, float] = (1.0, 1.0)
    crop: bool = False
    flip: float = 0.0
    shift: int = 0
    event_dropout: float = 0.0
    polarity_flip: float = 0.0
    noise_hz: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 1 <= self.zoom[0] <= self.zoom[1] <= 16:
            msg = f"augmentation.zoom is {self.zoom}, it must be two numbers from 1 to 16 in order"
            raise DataError(msg)
        limits = {
            "flip": (0, 1), "polarity_flip": (0, 1), "shift": (0, 1000),
            "event_dropout": (0, 0.999999), "noise_hz": (0, 1000),
        }  # fmt: skip
        check_ranges(vars(self), limits, DataError, "augmentation.")

    @property
    def resamples(self) -> bool:
        """Whether views differ by more than a mirror image and a shift by whole cells."""
        return self.zoom != (1.0, 1.0) or self.crop

    @property
    def moves_cells(self) -> bool:
        """Whether views differ by a mirror image or a shift by whole cells."""
        return self.flip > 0 or self.shift > 0


@dataclass(frozen=True, slots=True)
class View:
    """A rectangle of the sensor that fills the output, perhaps mirrored.

    Attributes:
        left: Left edge in pixels of the sensor; pixel ``i`` spans from ``i`` to ``i + 1``.
        top: Top edge in pixels of the sensor.
        width: Width in pixels of the sensor.
        height: Height in pixels of the sensor.
        output_width: Width of the output in pixels.
        output_height: Height of the output in pixels.
        flip: Whether the view is mirrored, left to right.
    """

    left: float
    top: float
    width: float
    height: float
    output_width: int
    output_height: int
    flip: bool = False

    @property
    def whole(self) -> bool:
        """Whether output pixels are sensor pixels, starting at the upper left corner."""
        return (
            (self.left, self.top) == (0, 0)
            and (self.width, self.height) == (self.output_width, self.output_height)
            and not self.flip
        )

    def matrix(self, scale: int = 1) -> NDArray[np.float64]:
        """Return the homography from pixel centres of the sensor to those of the output.

        Args:
            scale: Factor of the output's resolution.

        Returns:
            float64 [3, 3], for homogeneous ``(x, y, 1)`` with whole numbers at pixel centres.
        """
        sx = self.output_width * scale / self.width
        sy = self.output_height * scale / self.height
        tx, ty = (0.5 - self.left) * sx - 0.5, (0.5 - self.top) * sy - 0.5
        if self.flip:
            sx, tx = -sx, self.output_width * scale - 1 - tx
        return np.array([[sx, 0, tx], [0, sy, ty], [0, 0, 1]])


class CellMove(NamedTuple):
    """Mapping of a view's cells to those of the view without shift and flip.

    Attributes:
        rows: Number of cells by which the picture moves down.
        columns: Number of cells by which the picture moves right, before it is mirrored.
        flip: Whether the picture is mirrored, left to right.
    """

    rows: int = 0
    columns: int = 0
    flip: bool = False


def choose_shift(
    view: View, options: AugmentationOptions, cell: int, rng: np.random.Generator
) -> CellMove:
    """Draw the shift of a view in cells of the student's grid.

    Args:
        view: View of the sensor, perhaps flipped.
        options: Options of the augmentation.
        cell: Side of a cell in pixels of the output.
        rng: Random number generator.
    """
    most = [min(options.shift, side // cell) for side in (view.output_height, view.output_width)]
    rows, columns = (int(rng.integers(-limit, limit, endpoint=True)) for limit in most)
    return CellMove(rows, columns, view.flip)


def shift_view(view: View, move: CellMove, cell: int) -> View:
    """Shift a view so that its picture moves by whole cells of ``cell`` pixels of the output."""
    return replace(
        view,
        left=view.left - move.columns * cell * view.width / view.output_width,
        top=view.top - move.rows * cell * view.height / view.output_height,
    )


def choose_view(
    size: tuple[int, int],
    output: tuple[int, int],
    options: AugmentationOptions,
    rng: np.random.Generator,
) -> View:
    """Draw the view of one sample: the largest one of the output's shape, zoomed and placed.

    Args:
        size: Width and height of the sensor.
        output: Width and height of the output.
        options: Options of the augmentation.
        rng: Random number generator. Four numbers are always drawn, so that one option does not
            change the random numbers of another.
    """
    draws = rng.random(4)
    low, high = options.zoom
    zoom = low * (high / low) ** draws[0]
    scale = min(size[0] / output[0], size[1] / output[1]) / zoom
    width, height = output[0] * scale, output[1] * scale
    place = draws[1:3] if options.crop else np.array([0.5, 0.5])
    left, top = (size[0] - width) * place[0], (size[1] - height) * place[1]
    if not options.crop and zoom == 1:
        left, top = float(math.floor(left)), float(math.floor(top))
    return View(
        float(left), float(top), width, height, output[0], output[1], bool(draws[3] < options.flip)
    )


def move_events(batch: EventBatch, view: View, seed: int) -> EventBatch:
    """Map events into a view; events outside are dropped.

    If the view magnifies, a pixel becomes several, and each of its events falls into one of them,
    drawn by hashing: counts over patches are preserved, and no grid of empty pixels appears. If it
    shrinks, events of several pixels fall into one. Inside the view, no event is added or lost.

    Args:
        batch: The sensor's events.
        view: Part of the sensor, and size of the output.
        seed: Seed of the random numbers.

    Returns:
        Events of a sensor of the output's size.
    """
    if view.whole and (batch.width, batch.height) == (view.output_width, view.output_height):
        return batch
    x, y = np.empty_like(batch.x), np.empty_like(batch.y)
    t, p = np.empty_like(batch.t), np.empty_like(batch.p)
    count = _move(
        batch.x, batch.y, batch.t, batch.p, view.left, view.top,
        view.output_width / view.width, view.output_height / view.height,
        view.output_width, view.output_height, view.flip, seed & 0x7FFFFFFF, x, y, t, p,
    )  # fmt: skip
    moved = EventBatch(x, y, t, p, view.output_width, view.output_height)
    return moved[:count]


def move_state(state: LeakyState | None, view: View) -> LeakyState | None:
    """Resample leaky integrals in a view, as the mean effect of `move_events` on their events.

    The value of a pixel is divided among the pixels of the output that it overlaps, by area.

    Args:
        state: Leaky integrals of the sensor, or None.
        view: Part of the sensor, and the size of the output.

    Returns:
        Leaky integrals of the output's size.
    """
    height, width = (0, 0) if state is None else state.values.shape[1:]
    same = view.whole and (width, height) == (view.output_width, view.output_height)
    if state is None or same:
        return state
    moved = np.zeros((len(state.values), view.output_height, view.output_width), np.float32)
    _share_out(
        state.values, view.left, view.top, view.output_width / view.width,
        view.output_height / view.height, view.flip, moved,
    )  # fmt: skip
    return LeakyState(moved, state.t)


def perturb_events(
    batch: EventBatch,
    t_start: int,
    t_end: int,
    options: AugmentationOptions,
    rng: np.random.Generator,
    state: LeakyState | None = None,
) -> tuple[EventBatch, LeakyState | None]:
    """Drop events, swap polarities and add noise events, by the options.

    Random dropping is the first of the three augmentations of EventDrop (Gu et al., IJCAI 2021).

    Args:
        batch: Events of the window, and of its history where the student has leaky integrals.
        t_start: The first ns at which noise may fall.
        t_end: End of the window in ns, excluded: noise falls before it.
        options: Options of the augmentation.
        rng: Random number generator of this sample.
        state: Leaky integrals before the batch. They are scaled by the share of events that is
            kept, and change sign with the polarity.

    Returns:
        Events in order of time, and the state; both unchanged where nothing was drawn.
    """
    share, swap, rate = rng.random(3)
    x, y, t, p = batch.x, batch.y, batch.t, batch.p
    factor = 1 - share * options.event_dropout
    if options.event_dropout:
        kept = rng.random(len(batch), np.float32) >= share * options.event_dropout
        x, y, t, p = x[kept], y[kept], t[kept], p[kept]
    if swap < options.polarity_flip:
        p, factor = 1 - p, -factor
    if options.noise_hz:
        seconds = (t_end - t_start) * 1e-9
        pixels = batch.width * batch.height
        count = rng.poisson(rate * options.noise_hz * pixels * seconds)
        x = np.concatenate([x, rng.integers(batch.width, size=count, dtype=np.uint16)])
        y = np.concatenate([y, rng.integers(batch.height, size=count, dtype=np.uint16)])
        t = np.concatenate([t, np.sort(rng.integers(t_start, t_end, size=count))])
        p = np.concatenate([p, rng.integers(2, size=count, dtype=np.uint8)])
        order = np.argsort(t, kind="stable")
        x, y, t, p = x[order], y[order], t[order], p[order]
    if state is not None and factor != 1:
        state = LeakyState(state.values * np.float32(factor), state.t)
    return EventBatch(x, y, t, p, batch.width, batch.height), state


@kernel
def _move(
    x: NDArray[np.uint16],
    y: NDArray[np.uint16],
    t: NDArray[np.int64],
    p: NDArray[np.uint8],
    left: float,
    top: float,
    scale_x: float,
    scale_y: float,
    width: int,
    height: int,
    flip: bool,
    seed: int,
    new_x: NDArray[np.uint16],
    new_y: NDArray[np.uint16],
    new_t: NDArray[np.int64],
    new_p: NDArray[np.uint8],
) -> int:
    """Map the events inside a view, and return their number."""
    count = 0
    state = np.uint64(seed) * np.uint64(0xD1342543DE82EF95)
    for i in range(len(x)):
        # SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): random position within the pixel.
        state += np.uint64(0x9E3779B97F4A7C15)
        z = state
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
        u = np.float64(z >> np.uint64(32)) * 2.0**-32
        v = np.float64(z & np.uint64(0xFFFFFFFF)) * 2.0**-32
        column = math.floor((x[i] + u - left) * scale_x)
        row = math.floor((y[i] + v - top) * scale_y)
        if 0 <= column < width and 0 <= row < height:
            new_x[count] = width - 1 - column if flip else column
            new_y[count] = row
            new_t[count] = t[i]
            new_p[count] = p[i]
            count += 1
    return count


@kernel
def _share_out(
    values: NDArray[np.float32],
    left: float,
    top: float,
    scale_x: float,
    scale_y: float,
    flip: bool,
    moved: NDArray[np.float32],
) -> None:
    """Add each pixel's value to the output's pixels that it overlaps, in proportion to the area."""
    planes, height, width = moved.shape
    for row in range(values.shape[1]):
        low, high = (row - top) * scale_y, (row + 1 - top) * scale_y
        for y in range(max(math.floor(low), 0), min(math.ceil(high), height)):
            share_y = (min(high, y + 1) - max(low, y)) / scale_y
            for column in range(values.shape[2]):
                start, end = (column - left) * scale_x, (column + 1 - left) * scale_x
                for x in range(max(math.floor(start), 0), min(math.ceil(end), width)):
                    share = share_y * (min(end, x + 1) - max(start, x)) / scale_x
                    for plane in range(planes):
                        value = values[plane, row, column]
                        moved[plane, y, width - 1 - x if flip else x] += np.float32(share * value)
