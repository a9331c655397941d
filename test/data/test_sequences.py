"""Sequences of windows are the pairs' own samples, in order, with the time between them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from synthetic_pairs import SlidingTexture

from scaleevent_ros.data.augmentation import AugmentationOptions
from scaleevent_ros.data.dataset import Pair, PairDataset, SampleOptions
from scaleevent_ros.data.loading import named_tensors
from scaleevent_ros.data.sampler import PADDING, SampleSpec
from scaleevent_ros.data.sequences import (
    SequenceDataset,
    SequenceOptions,
    collate_sequences,
)

OPTIONS = SampleOptions(64, 48, threshold=5)


@dataclass(frozen=True)
class Interrupted(SlidingTexture):
    """A texture whose clock jumps ahead by 2 s before its fifth pair."""

    def read(self, index: int) -> Pair:
        pair = super().read(index)
        jump = 2_000_000_000 * (index >= 4)
        events = replace(pair.events, t=pair.events.t + jump)
        return pair._replace(t_end=pair.t_end + jump, events=events)


@pytest.fixture(scope="module")
def pairs() -> PairDataset:
    return PairDataset([SlidingTexture(5), Interrupted(8, seed=1)], OPTIONS)


def test_windows_are_those_of_the_pairs_before(pairs: PairDataset) -> None:
    sequences = SequenceDataset(pairs, SequenceOptions(length=3, stride=1))
    assert len(sequences) == 13
    found = sequences[SampleSpec(0, 7, 8)]
    for sample, number in zip(found.samples, (6, 7, 8), strict=True):
        for one, other in zip(sample, pairs[SampleSpec(0, 7, number)], strict=True):
            assert torch.equal(one, other)
    assert found.elapsed_s.tolist() == pytest.approx([torch.inf, 0.04, 0.04])
    assert found.samples[1].covered.any()


def test_sequences_do_not_reach_into_the_recording_before(pairs: PairDataset) -> None:
    """The first pair fills them, without masks, and the memory begins after it."""
    found = SequenceDataset(pairs, SequenceOptions(length=4, stride=1))[SampleSpec(0, 0, 6)]
    first = pairs[SampleSpec(0, 0, 5)]
    for sample in found.samples[:2]:
        assert torch.equal(sample.events, first.events)
        assert not sample.covered.any()
        assert not sample.active.any()
    assert torch.equal(found.samples[2].covered, first.covered)
    assert found.elapsed_s.tolist() == pytest.approx([torch.inf] * 3 + [0.04])


def test_strides_and_gaps(pairs: PairDataset) -> None:
    options = SequenceOptions(length=3, stride=2, longest_gap_s=1.0)
    elapsed = SequenceDataset(pairs, options)[SampleSpec(0, 0, 10)].elapsed_s  # pairs 6, 8 | 10
    assert elapsed.tolist() == pytest.approx([torch.inf, 0.08, torch.inf])
    patient = SequenceDataset(pairs, replace(options, longest_gap_s=3.0))
    elapsed = patient[SampleSpec(0, 0, 10)].elapsed_s
    assert elapsed.tolist() == pytest.approx([torch.inf, 0.08, 2.08])


def test_one_view_shows_all_windows_of_a_sequence() -> None:
    """Else the memory would have to follow a camera that jumps."""
    augmented = replace(OPTIONS, augmentation=AugmentationOptions(flip=0.5, shift=1))
    pairs = PairDataset([SlidingTexture(8)], augmented)
    plain = PairDataset([SlidingTexture(8)], OPTIONS)
    sequences = SequenceDataset(pairs, SequenceOptions(length=4))
    seen = set()
    for position in range(12):
        draw = SampleSpec(0, position, 7)
        found = sequences[draw]
        for back, sample in enumerate(reversed(found.samples)):
            frame = plain[draw._replace(pair=7 - back)].frame
            moves = {
                (flip, rows, columns)
                for flip in (False, True)
                for rows in (-16, 0, 16)
                for columns in (-16, 0, 16)
                if moved(frame, sample.frame, flip=flip, rows=rows, columns=columns)
            }
            assert len(moves) == 1
            seen.add((position, *moves))
    assert len(seen) == 12  # one for all windows of a sequence
    assert len({move for _, move in seen}) > 3


def moved(frame: torch.Tensor, found: torch.Tensor, *, flip: bool, rows: int, columns: int) -> bool:
    """Whether a frame was mirrored and shifted so; where it leaves the view is not compared."""
    expected = (frame.flip(2) if flip else frame).roll((rows, columns), (1, 2))
    inner = slice(16, -16)
    return torch.equal(expected[:, inner, inner], found[:, inner, inner])


def test_batches_hold_the_last_windows_first(pairs: PairDataset) -> None:
    sequences = SequenceDataset(pairs, SequenceOptions(length=3), only_last=True)
    chosen = [sequences[SampleSpec(0, 0, 3)], sequences[SampleSpec(0, 1, 8)]]
    batch = collate_sequences(chosen)
    assert batch.windows.events.shape == (6, 5, 48, 64)
    events, elapsed = batch.in_order
    assert events.shape == (2, 3, 5, 48, 64)
    assert torch.equal(events[1, 2], chosen[1].samples[2].events)
    assert torch.equal(elapsed[1], chosen[1].elapsed_s)
    windows = batch.windows
    named = named_tensors(batch)
    assert [*named] == [*windows._fields, "elapsed_s"]
    assert torch.equal(named["frames"], windows.frames)
    assert torch.equal(windows.events[1], chosen[1].samples[-1].events)
    assert torch.equal(windows.frames[4], chosen[0].samples[0].frame)
    assert windows.covered[:2].any()
    assert not windows.covered[2:].any()
    padded = sequences[SampleSpec(0, PADDING, 3)]
    assert not any(sample.covered.any() for sample in padded.samples)
