from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaleevent_ros.data.errors import DataError
from scaleevent_ros.data.sampler import PADDING, BatchSampler, Schedule, validation_batches


def test_an_epoch_of_all_pairs_holds_each_once() -> None:
    schedule = Schedule(counts=(7, 5, 12), weights=(1, 1, 1), batch_size=4, seed=3)
    for epoch in range(3):
        assert sorted(schedule.epoch_order(epoch)) == list(range(24))
    assert list(schedule.epoch_order(0)) != list(schedule.epoch_order(1))


def test_a_pair_is_as_likely_whatever_the_length_of_its_recording() -> None:
    """A recording of one pair and one of a thousand: by clip, the one would come half the time."""
    schedule = Schedule((1, 1000), (1, 1), batch_size=10, seed=0, pairs_per_epoch=100)
    drawn = np.concatenate([schedule.epoch_order(epoch) for epoch in range(100)])
    times = np.bincount(drawn, minlength=1001)
    assert times[0] == pytest.approx(10, abs=9)
    # Without repetition until all have come: ten laps of a thousand, less what the one took.
    assert set(times[1:]) <= {9, 10}


def test_weights_multiply_pairs() -> None:
    schedule = Schedule((100, 100), (3, 1), batch_size=8, seed=1, pairs_per_epoch=80)
    order = np.concatenate([schedule.epoch_order(epoch) for epoch in range(5)])
    assert (order < 100).sum() == pytest.approx(300, abs=5)


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    batch=st.integers(1, 9),
    share=st.floats(0.1, 3),
    seed=st.integers(0, 9),
    data=st.data(),
)
def test_every_epoch_is_full_and_inside(
    counts: list[int], batch: int, share: float, seed: int, data: st.DataObject
) -> None:
    weights = data.draw(st.lists(st.floats(0.01, 10), min_size=len(counts), max_size=len(counts)))
    pairs = max(batch, int(sum(counts) * share))
    schedule = Schedule(tuple(counts), tuple(weights), batch, seed, pairs)
    for epoch in (0, 1, 5):
        order = schedule.epoch_order(epoch)
        assert len(order) == pairs // batch * batch
        assert order.min() >= 0
        assert order.max() < sum(counts)


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (1, 3), (2, 2), (4, 3)])
def test_processes_and_parts_together_see_the_batch_of_one(world: int, accumulate: int) -> None:
    schedule = Schedule((50, 9), (1, 2), batch_size=24, seed=5, pairs_per_epoch=72)
    whole = list(BatchSampler(schedule, range(7)))
    hands = [list(BatchSampler(schedule, range(7), r, world, accumulate)) for r in range(world)]
    for step, batch in enumerate(whole):
        dealt = [
            draw
            for hand in hands
            for part in hand[step * accumulate : (step + 1) * accumulate]
            for draw in part
        ]
        assert sorted(dealt) == sorted(batch)
        sizes = {len(part) for hand in hands for part in hand}
        assert sizes == {24 // world // accumulate}


def test_a_run_that_goes_on_sees_what_the_uninterrupted_would_have_seen() -> None:
    schedule = Schedule((30,), (1,), batch_size=4, seed=2)
    assert list(BatchSampler(schedule, range(20)))[9:] == list(BatchSampler(schedule, range(9, 20)))


def test_validation_deals_every_pair_once_and_as_many_lists_to_each_process() -> None:
    hands = [validation_batches(11, 2, rank, 3) for rank in range(3)]
    assert {len(hand) for hand in hands} == {2}
    dealt = [draw for hand in hands for batch in hand for draw in batch]
    assert sorted(draw.pair for draw in dealt if draw.position != PADDING) == list(range(11))
    assert sum(draw.position == PADDING for draw in dealt) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"weights": (1,)}, "as many weights"),
        ({"weights": (0, 0)}, "none to draw"),
        ({"weights": (-1, 2)}, "none to draw"),
        ({"batch_size": 40}, "does not fill"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments: dict[str, object], words: str) -> None:
    sound: dict[str, object] = {
        "counts": (5, 6), "weights": (1, 1), "batch_size": 2, "seed": 0,
    }  # fmt: skip
    with pytest.raises(DataError, match=words):
        Schedule(**{**sound, **arguments})  # type: ignore[arg-type]


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(DataError, match="4 processes times 2"):
        BatchSampler(Schedule((50,), (1,), 20, 0), range(1), 0, 4, 2)
