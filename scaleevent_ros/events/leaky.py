"""Leaky integrals: exponentially decaying sums of the polarities of each pixel's events.

``I(x, y) = sum of s_i * exp(-(t_end - t_i) / decay)`` over all events before ``t_end``, with the
sign ``s_i`` +1 for brighter and -1 for darker: the leaky integrator of event-based vision, a
low-pass filter of each pixel's events. Scheerlinck, Barnes and Mahony, "Continuous-time Intensity
Estimation Using Event Cameras", ACCV 2018, integrate events by the same recursion (their
high-pass filter of the log intensity) with an asynchronous update of one pixel per event.

A voxel grid shows what moved in the window; the integrals show also what moved seconds ago, so
that a student still sees the scene after the camera has stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from scaleevent_ros.events.compile import kernel
from scaleevent_ros.events.errors import EventsError
from scaleevent_ros.events.prefetch import DISTANCE, prefetch
from scaleevent_ros.events.representations import check_values
from scaleevent_ros.events.vectors import LANES, add_row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scaleevent_ros.events.batch import EventBatch

    Floats: TypeAlias = NDArray[np.float32]

LEAKY_DECAYS = (0.1, 0.5, 2.0)
"""Decays in seconds that the presets use; `benchmarks/representation.py` compares others."""

MAX_DECAYS = LANES
"""Maximum number of decays: one vector instruction updates all sums of a pixel."""

SHORTEST_DECAY, LONGEST_DECAY = 0.01, 100.0

# Sums are relative to an origin in time, so that they need no update between events. The weight of
# an event grows with its distance from the origin; the origin is moved before this exponent.
_LARGEST_EXPONENT = 40.0
TILE = 1024
TINY = np.float32(1e-6)


@dataclass(frozen=True, slots=True, eq=False)
class LeakyState:
    """Leaky integrals at one time, from which an integration can continue.

    Attributes:
        values: float32 [decays, height, width].
        t: Time in ns on the sensor's clock; all events before it are included.
    """

    values: Floats
    t: int


def check_decays(decays: Sequence[float]) -> None:
    """Check the decays of leaky integrals.

    Raises:
        EventsError: If there are more than `MAX_DECAYS`, or one is not 10 ms to 100 s.
    """
    if len(decays) > MAX_DECAYS:
        msg = f"at most {MAX_DECAYS} leaky integrals are possible, not {len(decays)}"
        raise EventsError(msg)
    for decay in decays:
        if not SHORTEST_DECAY <= decay <= LONGEST_DECAY:
            msg = f"the decay of a leaky integral must be 0.01 to 100 s, not {decay}"
            raise EventsError(msg)


def check_state(shape: Sequence[int], expected: Sequence[int], t_state: int, t: int) -> None:
    """Check that leaky integrals can be continued from a state.

    Args:
        shape: Shape of the state.
        expected: Shape of the integrals.
        t_state: Time of the state in ns.
        t: Time in ns from which the integrals are continued.

    Raises:
        EventsError: If the shapes differ, or the state is later than ``t``.
    """
    if tuple(shape) != tuple(expected):
        msg = f"a state of leaky integrals is {tuple(expected)}, not {tuple(shape)}"
        raise EventsError(msg)
    if t_state > t:
        msg = f"leaky integrals at {t_state} ns cannot be continued at {t} ns, before them"
        raise EventsError(msg)


def leaky_integrals(
    batch: EventBatch, t_end: int, decays: Sequence[float], state: LeakyState | None = None
) -> Floats:
    """Integrate the polarity of events with exponential decay (see the module's docstring).

    Args:
        batch: Events up to ``t_end`` at least; those at or after it are left out.
        t_end: End of the window in ns, excluded.
        decays: Time constants in seconds.
        state: Integrals of the events before the batch; zero if None.

    Returns:
        float32 [decays, height, width].

    Raises:
        EventsError: If a decay is out of range, an event lies off the sensor, or the state has
            another shape or is later than ``t_end``.
    """
    check_values(batch)
    integrator = LeakyIntegrator(batch.height, batch.width, decays)
    if state is not None:
        integrator.start(state, t_end)
    else:
        integrator.reset(t_end)
    integrator.add(batch[: int(np.searchsorted(batch.t, t_end))])
    return integrator.values(t_end)


class LeakyIntegrator:
    """Leaky integrals of a stream, in constant memory.

    One addition per event; decay is applied when the integrals are read. All sums are relative to
    an origin in time that follows the stream, so they stay within float32 for any duration.

    Args:
        height: Sensor height in pixels.
        width: Sensor width in pixels.
        decays: Time constants in seconds.

    Raises:
        EventsError: If a decay is out of range.
    """

    def __init__(self, height: int, width: int, decays: Sequence[float]) -> None:
        check_decays(decays)
        self.decays = tuple(decays)
        self._shape = (height, width)
        self._rates = np.array([1e-9 / decay for decay in decays])
        # The sums of a pixel have no padding: it would cost memory, and strides of a power of two
        # take twice as long. The vector of the last pixel ends beyond its sums.
        sums = height * width * len(decays)
        self._memory = np.zeros(sums + LANES - len(decays), np.float32)
        self._sums = self._memory[:sums].reshape(height * width, len(decays))
        self._origin: int | None = None
        shortest_ns = min(self.decays, default=1.0) * 1e9
        # Weights are exact at the start of a span this long, and quadratic in between: the
        # relative error is below 1e-10.
        self._span = max(int(shortest_ns / 1024), 1)
        self._reach = int(shortest_ns * _LARGEST_EXPONENT / 2)

    @property
    def memory_bytes(self) -> int:
        """Memory of the sums in bytes."""
        return self._memory.nbytes

    def reset(self, t: int | None = None) -> None:
        """Discard all events; the origin becomes ``t`` in ns, or the time of the next event."""
        self._sums[:] = 0
        self._origin = t

    def start(self, state: LeakyState, t: int) -> None:
        """Continue from a state, with the origin at ``t`` in ns.

        Raises:
            EventsError: If the state has another shape, or is later than ``t``.
        """
        check_state(state.values.shape, (len(self.decays), *self._shape), state.t, t)
        factors = np.exp(-(t - state.t) * self._rates[:, None])
        self._sums[:] = (state.values.reshape(len(self.decays), -1) * factors).T
        self._origin = t

    def add(self, batch: EventBatch, sign: int = 1) -> None:
        """Add events in order of time, all on the sensor.

        Args:
            batch: The stream's next events.
            sign: -1 to subtract events that were added before.
        """
        at = 0
        while at < len(batch):
            origin = self._move_origin(int(batch.t[at]))
            end = int(np.searchsorted(batch.t, origin + 2 * self._reach))
            add_events(
                batch.x[at:end], batch.y[at:end], batch.t[at:end], batch.p[at:end], batch.width,
                origin, self._rates, self._span, np.float32(sign), self._memory,
            )  # fmt: skip
            at = end

    def values(self, t_end: int, out: Floats | None = None) -> Floats:
        """Compute the integrals at a time at or after all events that were added.

        Args:
            t_end: Time in ns.
            out: Contiguous float32 [decays, height, width] to write to; new memory if None.

        Returns:
            float32 [decays, height, width].
        """
        if out is None:
            out = np.empty((len(self.decays), *self._shape), np.float32)
        origin = t_end if self._origin is None else self._origin
        factors = np.exp(-(t_end - origin) * self._rates)
        read_sums(self._sums, factors.astype(np.float32), out.reshape(len(out), -1))
        return out

    def _move_origin(self, t: int) -> int:
        """Move the origin to a time in ns if it lies far before it; return the origin."""
        if self._origin is None:
            self._origin = t
        elif t - self._origin > self._reach:
            decay_sums(self._sums, np.exp(-(t - self._origin) * self._rates).astype(np.float32))
            self._origin = t
        return self._origin


@kernel
def add_events(
    x: NDArray[np.uint16],
    y: NDArray[np.uint16],
    t: NDArray[np.int64],
    p: NDArray[np.uint8],
    width: int,
    origin: int,
    rates: NDArray[np.float64],
    span: int,
    sign: np.float32,
    sums: Floats,
) -> None:
    """Add each event's weights at its time to the ``len(rates)`` sums of its pixel."""
    columns, count, row = np.uint64(width), np.uint64(x.shape[0]), np.uint64(len(rates))
    # At `start`, and their slopes; 0 in lanes that belong to the next pixel.
    weights = np.zeros(8, np.float32)
    start = t[0] - span
    for i in range(count):
        ahead = min(i + np.uint64(DISTANCE), count - np.uint64(1))
        prefetch(sums, (np.uint64(y[ahead]) * columns + np.uint64(x[ahead])) * row)
        since = t[i] - start
        if since >= span or since < 0:
            start, since = t[i], 0
            for k in range(len(rates)):
                weights[k] = np.exp((start - origin) * rates[k])
                weights[4 + k] = weights[k] * rates[k]
        first = (np.uint64(y[i]) * columns + np.uint64(x[i])) * row
        add_row(sums, first, weights, np.float32(since), sign if p[i] else -sign)


@kernel
def read_sums(sums: Floats, factors: Floats, out: Floats) -> None:
    """Decay sums [pixels, decays] and write them as planes [decays, pixels]."""
    flat, pixels, row = sums.reshape(-1), sums.shape[0], len(out)
    for start in range(0, pixels, TILE):
        end = min(start + TILE, pixels)
        for k in range(row):
            factor, plane = factors[k], out[k, start:end]
            lane = flat[row * start + k : row * end]
            for i in range(np.uint64(end - start)):
                value = lane[np.uint64(row) * i] * factor
                plane[i] = value if abs(value) > TINY else np.float32(0)


@kernel
def decay_sums(sums: Floats, factors: Floats) -> None:
    """Decay the sums in place; negligible values become 0, since subnormal numbers are slow."""
    for i in range(sums.shape[0]):
        for k in range(len(factors)):
            value = sums[i, k] * factors[k]
            sums[i, k] = value if abs(value) > np.float32(1e-9) else np.float32(0)
