"""Samples of labelled windows: of known events and truth, by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from scaleevent_ros.data.augmentation import AugmentationOptions, View
from scaleevent_ros.data.sampler import PADDING, SampleSpec
from scaleevent_ros.events import EventBatch, InputSpec
from scaleevent_ros.events.windows import WindowOptions
from scaleevent_ros.tasks import TaskError
from scaleevent_ros.tasks.labelled import (
    LabelledDataset,
    LabelledOptions,
    LabelledWindow,
    move_truth,
    stack,
    take_fraction,
)
from scaleevent_ros.tasks.losses import IGNORED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scaleevent_ros.tasks.labelled import Task

MS = 1_000_000
T_END = 300 * MS
OPTIONS = LabelledOptions(8, 6, InputSpec("histogram", 1, "none"), WindowOptions(length_ms=50))


def events_at(*places: tuple[int, int, int]) -> EventBatch:
    """Create brighter events of an 8x6 sensor, at columns, rows and ms."""
    x, y, t = np.array(places).T
    p = np.ones(len(places), np.uint8)
    return EventBatch(x.astype(np.uint16), y.astype(np.uint16), t.astype(np.int64) * MS, p, 8, 6)


EVENTS = events_at((0, 0, 99), (1, 0, 100), (2, 1, 249), (3, 1, 250), (4, 2, 299), (5, 2, 300))


@dataclass(frozen=True)
class OneMoment:
    """A sequence whose windows are all the same."""

    truth: NDArray[Any]
    task: Task
    t_start: int | None = None
    keys: tuple[str, ...] = ("a/0",)
    name: str = "a moment"
    events: EventBatch = EVENTS

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, index: int) -> str:
        return self.keys[index]

    def read(self, index: int, take: int) -> LabelledWindow:
        del index, take
        return LabelledWindow(self.events, T_END, self.truth, self.t_start)


IDS = np.arange(48, dtype=np.uint8).reshape(6, 8) % 3
FLOW = np.stack([np.full((6, 8), 3), np.full((6, 8), -1)], axis=-1).astype(np.float32)
DEPTH = np.arange(48, dtype=np.float32).reshape(6, 8)


def places(mask: torch.Tensor) -> set[tuple[int, int]]:
    """List columns and rows that are set."""
    return {(int(x), int(y)) for y, x in mask.nonzero()}


def test_a_segmentation_sample_has_the_window_that_the_options_choose() -> None:
    sample = LabelledDataset([OneMoment(IDS, "segmentation")], OPTIONS)[SampleSpec(0, 0, 0)]
    assert sample.events.shape == (2, 6, 8)
    assert places(sample.at_events) == {(3, 1), (4, 2)}
    assert places(sample.events.sum(0) > 0) == {(3, 1), (4, 2)}
    assert sample.truth.dtype == torch.int64
    assert sample.truth.tolist() == IDS.tolist()


def test_a_flow_sample_has_the_window_of_the_truth_and_one_as_long_before() -> None:
    truth = FLOW.copy()
    truth[2, 4] = np.nan
    sample = LabelledDataset([OneMoment(truth, "flow", 200 * MS)], OPTIONS)[SampleSpec(0, 0, 0)]
    assert sample.events.shape == (2, 2, 6, 8)
    before, now = sample.events.sum(1) > 0
    assert places(before) == {(1, 0)}
    assert places(now) == places(sample.at_events) == {(2, 1), (3, 1), (4, 2)}
    assert sample.truth.shape == (2, 6, 8)
    assert sample.truth[:, 0, 0].tolist() == [3, -1]
    assert places(sample.truth.isnan().any(0)) == {(4, 2)}


def test_depth_that_is_not_known_is_zero() -> None:
    truth = DEPTH.copy()
    truth[0, :3] = np.nan, np.inf, -np.inf
    sample = LabelledDataset([OneMoment(truth, "depth")], OPTIONS)[SampleSpec(0, 0, 0)]
    assert sample.truth.shape == (1, 6, 8)
    assert sample.truth[0, 0].tolist() == [0, 0, 0, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("task", "truth"), [("segmentation", IDS), ("depth", DEPTH), ("flow", FLOW)]
)
def test_a_draw_that_pads_has_no_truth(task: Task, truth: NDArray[Any]) -> None:
    samples = LabelledDataset([OneMoment(truth, task, 200 * MS)], OPTIONS)
    batch = stack([samples[SampleSpec(0, 0, 0)], samples[SampleSpec(0, PADDING, 0)]])
    assert batch.events.shape[0] == batch.at_events.shape[0] == 2
    known = {
        "segmentation": batch.truth != IGNORED,
        "depth": batch.truth > 0,
        "flow": batch.truth.isfinite(),
    }[task]
    assert known[0].any()
    assert not known[1].any()


def test_a_view_moves_labels_to_the_nearest_pixel_and_flow_with_its_scale() -> None:
    half = View(2, 1, 4, 3, 8, 6)  # columns 2 to 5 and rows 1 to 3, twice as large
    assert move_truth(DEPTH, half)[:, 0].tolist() == [10, 10, 18, 18, 26, 26]
    assert move_truth(DEPTH, half)[0].tolist() == [10, 10, 11, 11, 12, 12, 13, 13]
    assert move_truth(FLOW, half)[0, 0].tolist() == [6, -2]
    mirrored = replace(half, flip=True)
    assert move_truth(DEPTH, mirrored)[0].tolist() == [13, 13, 12, 12, 11, 11, 10, 10]
    assert move_truth(FLOW, mirrored)[0, 0].tolist() == [-6, -2]


def test_events_and_truth_are_seen_in_one_view() -> None:
    one = events_at((1, 4, 299))
    augmentation = AugmentationOptions(zoom=(1.0, 2.0), crop=True, flip=0.5)
    options = replace(OPTIONS, augmentation=augmentation)
    shown = []
    for position in range(20):
        draw = SampleSpec(0, position, 0)
        columns, rows = (
            LabelledDataset([OneMoment(truth, "segmentation", events=one)], options)[draw]
            for truth in np.indices((6, 8)).astype(np.uint8)[::-1]
        )
        # The event falls somewhere in its pixel, whose neighbour may be nearer to the output's.
        assert ((columns.truth[columns.at_events] - 1).abs() <= 1).all()
        assert ((rows.truth[rows.at_events] - 4).abs() <= 1).all()
        shown += [x for x, _ in places(columns.at_events)]
    assert min(shown) < 3
    assert max(shown) > 4


def test_fractions_are_nested_and_follow_from_keys_alone() -> None:
    def sequence(first: int, last: int) -> OneMoment:
        return OneMoment(IDS, "segmentation", keys=tuple(f"{n:02d}" for n in range(first, last)))

    def keys(sources: list[Any]) -> list[str]:
        return [source.key(index) for source in sources for index in range(len(source))]

    whole, halves = [sequence(0, 6)], [sequence(0, 2), sequence(2, 6)]
    shares = [keys(take_fraction(whole, share)) for share in (0.01, 0.34, 0.67, 1)]
    assert [len(share) for share in shares] == [1, 2, 4, 6]
    for less, more in pairwise(shares):
        assert set(less) < set(more)
    assert shares[0] == ["03"]  # published: must never change
    assert shares[3] == [f"{n:02d}" for n in range(6)]
    for share in (0.01, 0.34, 0.67, 1):
        assert keys(take_fraction(halves, share)) == keys(take_fraction(whole, share))
    assert len(take_fraction(halves, 0.01)) == 1


def test_samples_come_from_the_sequence_that_holds_them() -> None:
    sources = [OneMoment(np.full((6, 8), n, np.uint8), "segmentation") for n in range(3)]
    sources[1] = replace(sources[1], keys=("1/0", "1/1"))
    samples = LabelledDataset(sources, OPTIONS)
    assert len(samples) == 4
    assert [int(samples[SampleSpec(0, 0, n)].truth[0, 0]) for n in range(4)] == [0, 1, 1, 2]


def test_truth_of_another_size_is_named() -> None:
    source = OneMoment(IDS[:5], "segmentation")
    with pytest.raises(TaskError, match=r"a moment: ground truth of \(5, 8\)"):
        LabelledDataset([source], OPTIONS)[SampleSpec(0, 0, 0)]
