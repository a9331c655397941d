"""Result of a bag quality check."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

    from scaleevent_ros.bags.event_summary import EventSummary
    from scaleevent_ros.bags.frame_quality import FrameQuality

REASONS = {
    "no trigger": "the frame has no trigger edge, so its time is unknown",
    "no stamp": "its header has no time stamp, so its time is unknown",
    "not covered": "its window reaches beyond the events",
    "events lost": "packets were lost in its window",
    "few events": "less than 5 % of its patches have 64 events or more",
    "dark": "at most a tenth of its pixels is brighter than 29 of 255",
    "saturated": "more than a quarter of its pixels are white",
    "blurred": "it is much less sharp than the others, or not sharp at all",
    "duplicate": "it is the same as the frame before",
    "unreadable": "its message or its image cannot be read",
}


@dataclass(frozen=True)
class Series:
    """Values over time.

    Attributes:
        seconds: Times since the start of the bag in s, [N].
        values: Values, [N].
    """

    seconds: list[float]
    values: list[float]


@dataclass(frozen=True)
class PairQuality:
    """Quality of one frame and the events of its window.

    Attributes:
        index: Index of the frame in the bag.
        stamp_ns: Header stamp of the frame, in ns.
        reasons: Reasons against using it for pretraining, keys of `REASONS`; empty if there are
            none.
        events: Number of events in its window.
        active: Share of patches with enough events.
        frame: Measures of its grey values; None if it was not read.
    """

    index: int
    stamp_ns: int
    reasons: tuple[str, ...]
    events: int
    active: float
    frame: FrameQuality | None


@dataclass(frozen=True, eq=False)
class Thumbnail:
    """Small frame and event counts of a pair, for the report.

    Attributes:
        index: Index of the frame in the bag.
        frame: Scaled-down frame, uint8 [h, w, 3], red first.
        events: OFF and ON events by pixel of the sensor, float32 [2, H, W].
    """

    index: int
    frame: NDArray[np.uint8]
    events: NDArray[np.float32]


@dataclass(frozen=True)
class FrameSummary:
    """Quality of the image topic.

    Attributes:
        topic: Name of the topic.
        count: Number of frames.
        rate: Median frame rate in Hz.
        missing: Number of missing frames, estimated from gaps in the stamps.
        unordered: Frames stamped before their predecessors, or at the same time.
        unstamped: Frames whose stamp was never set.
    """

    topic: str
    count: int
    rate: float
    missing: int
    unordered: int
    unstamped: int


@dataclass(frozen=True)
class ClockSummary:
    """Quality of the common clock of frames and events.

    Attributes:
        mode: Clock mode; see `synchronize`.
        shift_ms: Delay of a frame after its stamp, in ms.
        residual_ms: Scatter of the stamps about this delay, in ms.
        reason: Reason for this mode, as text.
        declared: Clock mode that the bag's metadata declares; empty if it declares none.
        estimated_shift_ms: Delay of the frames relative to this mode, estimated from motion, in ms;
            None if motion is not sufficient, or this mode is `estimated`.
        estimated_residual_ms: Residual of the estimate in ms.
        jitter_ms: Scatter of the packets' stamps about the sensor's clock, in ms.
        drift_ppm: Rate of the host's clock relative to the sensor's, in ppm.
        segments: Number of segments: 1, plus 1 for each time that a clock was set.
    """

    mode: str
    shift_ms: float
    residual_ms: float
    reason: str
    declared: str
    estimated_shift_ms: float | None
    estimated_residual_ms: float | None
    jitter_ms: float
    drift_ppm: float
    segments: int


@dataclass(frozen=True)
class BagQuality:
    """Result of a check.

    Attributes:
        bag: Path of the bag.
        duration_s: Duration from the first message to the last, in s.
        damage: Damage by file.
        problems: Problems that prevent pretraining; empty if there are none.
        warnings: Other problems.
        topics: Message type and number of messages, by topic.
        events: Quality of the event topic.
        frames: Quality of the image topic; None without one.
        clock: Quality of the common clock; None without frames or without a common clock.
        pairs: Quality of each frame.
        series: `events` and `frames` per second, `stamp_jitter_ms` of packets, `active` of pairs.
        thumbnails: Some pairs, spread evenly.
    """

    bag: str
    duration_s: float
    damage: dict[str, str]
    problems: list[str]
    warnings: list[str]
    topics: dict[str, dict[str, Any]]
    events: EventSummary
    frames: FrameSummary | None
    clock: ClockSummary | None
    pairs: list[PairQuality]
    series: dict[str, Series]
    thumbnails: list[Thumbnail]

    @property
    def usable(self) -> int:
        """Number of pairs that can be used for pretraining."""
        return sum(not pair.reasons for pair in self.pairs)

    def reasons(self) -> Counter[str]:
        """Count the reasons why pairs cannot be used; a pair may have several."""
        return count_reasons(self.pairs)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain lists and dictionaries for JSON, without the thumbnails."""
        content = asdict(replace(self, thumbnails=[]))
        del content["thumbnails"]
        return {
            "ok": not self.problems,
            "usable_pairs": self.usable,
            "reasons": dict(self.reasons()),
            **content,
        }


def count_reasons(pairs: Iterable[PairQuality]) -> Counter[str]:
    """Count the reasons why pairs cannot be used, by the keys of `REASONS`."""
    return Counter(reason for pair in pairs for reason in pair.reasons)
