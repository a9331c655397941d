"""What a check finds about a bag: can it be used for pretraining, and if not, why?"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

    from scaleevent_ros.bags.event_tally import EventSummary
    from scaleevent_ros.bags.frame_quality import FrameQuality

REASONS = {
    "no trigger": "the frame has no trigger edge, so that its time is not known",
    "no stamp": "its header has no time, so that its place among the events is not known",
    "not covered": "its window reaches beyond the events",
    "events lost": "packets were lost in its window",
    "few events": "less than 5 % of its patches saw 64 events",
    "dark": "hardly a pixel is brighter than 30 of 255",
    "saturated": "more than a quarter of its pixels are white",
    "blurred": "it is much less sharp than the others, or not sharp at all",
    "duplicate": "it is the same as the frame before",
    "unreadable": "its message or its image is broken",
}


@dataclass(frozen=True)
class Series:
    """Something over time.

    Attributes:
        seconds: Since the start of the bag, [N].
        values: One for each.
    """

    seconds: list[float]
    values: list[float]


@dataclass(frozen=True)
class PairQuality:
    """Of one frame with the events of its window.

    Attributes:
        index: Of the frame among the bag's.
        stamp_ns: Of its header.
        reasons: Why it cannot be used for pretraining, by the names of `REASONS`; empty if it can.
        events: In its window.
        active: Share of patches with enough events.
        frame: Its grey values' measures; none where it was not looked at.
    """

    index: int
    stamp_ns: int
    reasons: tuple[str, ...]
    events: int
    active: float
    frame: FrameQuality | None


@dataclass(frozen=True, eq=False)
class Thumbnail:
    """A pair as pictures.

    Attributes:
        index: Of the frame among the bag's.
        frame: uint8 [H, W, 3], red first.
        events: OFF and ON events by pixel, float32 [2, H, W].
    """

    index: int
    frame: NDArray[np.uint8]
    events: NDArray[np.float32]


@dataclass(frozen=True)
class FrameSummary:
    """Of the image topic.

    Attributes:
        topic: Its name.
        count: Frames.
        rate: Of frames per second, in the median.
        missing: Frames that gaps in the stamps leave room for.
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
    """Of how frames and events were put on one clock.

    Attributes:
        mode: See `synchronize`.
        shift_ms: How much later than its stamp a frame was taken.
        residual_ms: How far stamps scatter about that.
        reason: Why this mode.
        declared: Clock that the bag's metadata declares; empty where it does not.
        estimated_shift_ms: How much later than by this mode the frames were taken, from motion;
            none where motion does not tell it, or this mode is `estimated`.
        estimated_residual_ms: How far that may be off.
        jitter_ms: How far packets' stamps scatter about the sensor's clock.
        drift_ppm: How much faster the host's clock runs, in millionths.
        segments: 1, and 1 more for each time that a clock was set anew.
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
    """All that a check finds.

    Attributes:
        bag: Its path.
        duration_s: From the first message to the last.
        damage: By file, what is missing or wrong.
        problems: What stands in the way of pretraining, in words; empty if nothing does.
        warnings: What is wrong besides.
        topics: Type and count of messages by topic.
        events: Of the event topic.
        frames: Of the image topic; none where there is none.
        clock: None where there are no frames, or they could not be put on one clock.
        pairs: One for each frame.
        series: `events` and `frames` per second, `stamp_jitter_ms` of packets, `active`.
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
        """Count the pairs that can be used for pretraining."""
        return sum(not pair.reasons for pair in self.pairs)

    def reasons(self) -> Counter[str]:
        """Count why pairs cannot be used; one may have several reasons."""
        return count_reasons(self.pairs)

    def to_dict(self) -> dict[str, Any]:
        """Put everything but the thumbnails into plain lists and dictionaries, as JSON wants."""
        content = asdict(replace(self, thumbnails=[]))
        del content["thumbnails"]
        return {
            "ok": not self.problems,
            "usable_pairs": self.usable,
            "reasons": dict(self.reasons()),
            **content,
        }


def count_reasons(pairs: Iterable[PairQuality]) -> Counter[str]:
    """Count why pairs cannot be used, by the names of `REASONS`."""
    return Counter(reason for pair in pairs for reason in pair.reasons)
