"""Fit of one line from sensor time to host stamps, along their lower edge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np

from scaleevent_ros.events.compile import kernel

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float64]
    Times: TypeAlias = NDArray[np.int64]

WARM_UP = 32  # pairs before any can be an outlier
MAX_DRIFT = 500e-6  # of real clocks; also how fast NTP may slew the host's
MIN_SPAN_S = 1.0  # of pairs: over less, an estimated drift would be worse than none
BLOCKS = 16  # parts of a segment that are compared with each other
STRAY_GAPS = 4.0  # the logarithm of how much denser stamps are above their edge than below it
STRAY_LIMIT = 64  # maximum number of stray stamps below the edge that are left out


@dataclass(frozen=True, slots=True)
class ClockFit:
    """Linear map from sensor time to ROS time.

    Attributes:
        sensor_ns: Sensor time of a point on the line, in ns.
        ros_ns: ROS time of that point, in ns.
        drift: Rate of ROS time relative to sensor time, minus 1.
        pairs: Number of pairs of sensor time and stamp that were given.
        jitter_ns: Standard deviation of the stamps about the line in ns, without outliers.
        residual_ns: Residual of the line in ns: median, over up to 16 parts, of the distance
            between the line and the earliest stamp of the part.
    """

    sensor_ns: int
    ros_ns: int
    drift: float
    pairs: int
    jitter_ns: float
    residual_ns: float

    @overload
    def to_ros(self, sensor_ns: int) -> int: ...
    @overload
    def to_ros(self, sensor_ns: Times) -> Times: ...
    def to_ros(self, sensor_ns: int | Times) -> int | Times:
        """Map one sensor time, or int64 [N] of them, to ROS time, ns."""
        since = sensor_ns - self.sensor_ns
        if isinstance(since, int):
            return self.ros_ns + since + round(since * self.drift)
        times: Times = self.ros_ns + since + np.rint(since * self.drift).astype(np.int64)
        return times


def fit_line(sensor_ns: Times, host_ns: Times) -> ClockFit:
    """Fit one line to pairs without a step.

    Args:
        sensor_ns: Sensor times in ns, int64 [N], N at least 1; a few may be out of order.
        host_ns: Stamps in ns, int64 [N].
    """
    sensor_zero, host_zero = int(sensor_ns[-1]), int(host_ns[-1])
    since = (sensor_ns - sensor_zero).astype(np.float64)
    seconds: Floats = since * 1e-9
    offset: Floats = (host_ns - host_zero) - since
    pairs = len(seconds)
    slope = _coarse_slope(seconds, offset)
    deviation = offset - slope * seconds
    middle = np.median(deviation)
    scale = max(float(np.median(np.abs(deviation - middle))), 1.0)
    inliers = np.abs(deviation - middle) <= 6 * scale
    seconds, offset, deviation = seconds[inliers], offset[inliers], deviation[inliers]
    order = np.argsort(seconds, kind="stable")
    seconds, offset, deviation = seconds[order], offset[order], deviation[order]
    edge = deviation >= _dense_edge(deviation, scale)
    seconds, offset, deviation = seconds[edge], offset[edge], deviation[edge]
    slope, intercept = _lower_line(seconds, offset, deviation, 4 * scale / pairs)
    deviation = offset - slope * seconds - intercept
    parts = [np.min(part) for part in np.array_split(deviation, BLOCKS) if len(part)]
    return ClockFit(
        sensor_zero,
        host_zero + round(intercept),
        slope * 1e-9,
        pairs,
        float(deviation.std()),
        float(np.median(np.abs(parts))),
    )


def _coarse_slope(seconds: Floats, offset: Floats) -> float:
    """Estimate the drift (ns a second) from the medians of blocks, which ignore outliers."""
    if np.ptp(seconds) < MIN_SPAN_S or len(seconds) < WARM_UP:
        return 0.0
    blocks = [
        (np.median(t), np.median(o))
        for t, o in zip(
            np.array_split(seconds, BLOCKS), np.array_split(offset, BLOCKS), strict=True
        )
    ]
    t, o = np.array(blocks).T
    first, second = np.triu_indices(BLOCKS, BLOCKS // 4)
    apart = t[second] > t[first]
    slopes = (o[second] - o[first])[apart] / (t[second] - t[first])[apart]
    return _clamp_drift(float(np.median(slopes)) if len(slopes) else 0.0)


def _clamp_drift(slope: float) -> float:
    """Clamp a drift (ns a second) to the range of real clocks."""
    return min(max(slope, -MAX_DRIFT * 1e9), MAX_DRIFT * 1e9)


def _dense_edge(deviation: Floats, scale: float) -> float:
    """Find the deviation (ns) at which their bulk begins; early outliers lie below it."""
    width = scale / 8
    ordered = np.sort(deviation)
    within = np.searchsorted(ordered, ordered + width, side="right") - np.arange(len(ordered))
    start = int(np.argmax(within >= max(len(ordered) // 100, 2)))
    return float(ordered[start] - width)


def _lower_line(
    seconds: Floats, offset: Floats, deviation: Floats, typical_gap: float
) -> tuple[float, float]:
    """Find slope and intercept of the highest line below all points but stray ones.

    A point is stray where the line without it, at the mean time, is higher by more than
    `STRAY_GAPS` typical gaps between neighbours: the gain in likelihood of a line that is closer
    to all others, against the loss for the one that it leaves out.
    """
    low = np.sort(_lowest_of_parts(deviation))
    seconds, offset = seconds[low], offset[low]
    cost = STRAY_GAPS * typical_gap
    slope, intercept = 0.0, -np.inf
    if len(seconds) > 8 and np.ptp(seconds) >= MIN_SPAN_S:
        slope, intercept = edge_line(seconds, offset, cost)
    if intercept == -np.inf or abs(slope) > MAX_DRIFT * 1e9:
        slope = _clamp_drift(slope)
        lowest = np.sort(offset - slope * seconds)[:STRAY_LIMIT]
        intercept = float(lowest[np.argmax(lowest - cost * np.arange(len(lowest)))])
    return slope, intercept


def _lowest_of_parts(deviation: Floats) -> NDArray[np.int64]:
    """Return the indices of the four lowest points of each of 128 parts, which form the edge."""
    part = np.arange(len(deviation)) * 128 // len(deviation)
    order = np.lexsort((deviation, part))
    starts = np.searchsorted(part, part)
    return order[np.arange(len(order)) - starts < 4]


@kernel
def edge_line(seconds: Floats, offset: Floats, cost: float) -> tuple[float, float]:
    """Find slope and intercept of the line that is highest at the mean time, below most points.

    It is the edge of the lower convex hull at the mean time (Moon et al. 1999). Points are left out
    one by one: of the two points of the edge, the one whose absence lifts the edge more. Of all
    lines met on the way, the result is the one with the greatest height, less ``cost`` for each
    point left out. The intercept is -inf if there is no edge.
    """
    keep = np.ones(len(seconds), np.bool_)
    mean = seconds.mean()
    a, b = _edge(seconds, offset, keep, mean)
    slope, intercept, best = 0.0, -np.inf, -np.inf
    for dropped in range(STRAY_LIMIT):
        if a < 0:
            break
        rise = (offset[b] - offset[a]) / (seconds[b] - seconds[a])
        height = offset[a] + rise * (mean - seconds[a])
        if height - cost * dropped > best:
            best = height - cost * dropped
            slope, intercept = rise, offset[a] - rise * seconds[a]
        highest = -np.inf
        left_out, next_a, next_b = a, -1, -1
        for point in (a, b):
            keep[point] = False
            c, d = _edge(seconds, offset, keep, mean)
            keep[point] = True
            if c >= 0:
                lifted = offset[c] + (offset[d] - offset[c]) / (seconds[d] - seconds[c]) * (
                    mean - seconds[c]
                )
                if lifted > highest:
                    highest = lifted
                    left_out, next_a, next_b = point, c, d
        keep[left_out] = False
        a, b = next_a, next_b
    return slope, intercept


@kernel
def _edge(seconds: Floats, offset: Floats, keep: NDArray[np.bool_], mean: float) -> tuple[int, int]:
    """Find the two points of the lower hull's edge at the mean time; -1 where there is none."""
    hull = np.empty(len(seconds), np.int64)
    size = 0
    for i in range(len(seconds)):
        if not keep[i]:
            continue
        while size > 1:
            a, b = hull[size - 2], hull[size - 1]
            turn = (seconds[b] - seconds[a]) * (offset[i] - offset[a])
            if turn > (offset[b] - offset[a]) * (seconds[i] - seconds[a]):
                break
            size -= 1
        hull[size] = i
        size += 1
    at = 0
    while at < size - 2 and seconds[hull[at + 1]] < mean:
        at += 1
    if size < 2 or seconds[hull[at + 1]] <= seconds[hull[at]]:
        return -1, -1
    return hull[at], hull[at + 1]
