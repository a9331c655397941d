from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import pytest
import torch
from synthetic_pairs import SlidingTexture
from torch.nn.functional import avg_pool2d

from scaleevent_ros.data.alignment import HomographyAlignment
from scaleevent_ros.data.augmentation import AugmentationOptions
from scaleevent_ros.data.dataset import (
    Batch,
    Pair,
    PairDataset,
    SampleOptions,
    Subset,
    collate,
    make_sample,
    move_cells,
    split_off,
)
from scaleevent_ros.data.errors import DataError
from scaleevent_ros.data.loading import PairLoaders
from scaleevent_ros.data.sampler import PADDING, BatchSampler, SampleSpec, Schedule
from scaleevent_ros.events import InputSpec, LeakyState, activity_mask, leaky_integrals, represent
from scaleevent_ros.events.windows import WindowOptions

ALL = AugmentationOptions(
    zoom=(1, 2), crop=True, flip=0.5, event_dropout=0.3, polarity_flip=0.5, noise_hz=5
)
CPU = torch.device("cpu")


def batches(workers: int, augmentation: AugmentationOptions = ALL) -> list[Batch]:
    options = SampleOptions(width=48, height=32, augmentation=augmentation, seed=4)
    dataset = PairDataset([SlidingTexture(5), SlidingTexture(4, seed=2)], options)
    schedule = Schedule((5, 4), (1.0, 1.0), batch_size=3, seed=4)
    loaders = PairLoaders(dataset, dataset, schedule, workers, prefetch=2)
    return list(loaders.training(BatchSampler(schedule, range(6)), CPU))


def test_samples_do_not_depend_on_the_number_of_workers() -> None:
    alone = batches(0)
    for workers in (1, 2):
        for expected, found in zip(alone, batches(workers), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_what_is_drawn_differs_from_epoch_to_epoch_and_not_with_one_draw() -> None:
    options = SampleOptions(width=48, height=32, augmentation=ALL)
    dataset = PairDataset([SlidingTexture(5)], options)
    first, again, later = (dataset[SampleSpec(epoch, 2, 3)] for epoch in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.frame, later.frame)
    assert not torch.equal(first.events, later.events)


def test_a_sample_without_augmentation_is_the_pair_itself() -> None:
    source = SlidingTexture(5)
    options = SampleOptions(
        width=64, height=48, threshold=20, input=InputSpec(bins=3, normalization="none")
    )
    pair = source.read(3)
    sample = PairDataset([source], options)[SampleSpec(0, 0, 3)]
    start = pair.t_end - options.window.length_ns
    assert np.array_equal(sample.frame.permute(1, 2, 0).numpy(), pair.frame)
    expected = represent("voxel", pair.events, start, pair.t_end, 3)
    assert np.array_equal(sample.events.numpy(), expected)
    window = pair.events.between(start, pair.t_end)
    assert np.array_equal(sample.active.numpy(), activity_mask(window, 16, 20))
    assert sample.covered.all()
    assert sample.active.any()


def test_history_reaches_the_leaky_integrals_as_events_or_as_their_sum() -> None:
    source, spec = SlidingTexture(20), InputSpec(bins=3, leaky=(0.05, 2.0))
    window = WindowOptions(length_ms=20)
    options = SampleOptions(width=64, height=48, input=spec, window=window, history_ns=10**9)
    pair = source.read(15)
    start = pair.t_end - window.length_ns
    assert len(pair.events.between(0, start)) > 500
    sample = make_sample(pair, options, SampleSpec(0, 0, 15))
    raw = np.concatenate(
        [
            represent("voxel", pair.events, start, pair.t_end, 3),
            leaky_integrals(pair.events, pair.t_end, spec.leaky),
        ]
    )
    assert np.array_equal(sample.events.numpy(), spec.normalize(raw))
    assert np.array_equal(
        sample.active.numpy(), activity_mask(pair.events.between(start, pair.t_end), 16, 64)
    )
    state = LeakyState(leaky_integrals(pair.events, start, spec.leaky), start)
    short = pair._replace(events=pair.events.between(start, pair.t_end), history=state)
    again = make_sample(short, options, SampleSpec(0, 0, 15))
    assert torch.equal(again.events[:3], sample.events[:3])
    torch.testing.assert_close(again.events, sample.events, rtol=1e-4, atol=1e-4)
    short_history = make_sample(pair, replace(options, history_ns=0), SampleSpec(0, 0, 15))
    assert not torch.allclose(short_history.events[3:], sample.events[3:], atol=0.1)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_the_frame_follows_the_events_through_any_view(flip: float) -> None:
    """The texture slides, so what events add up to is the frame's slope along its motion."""
    options = SampleOptions(
        width=48,
        height=32,
        augmentation=AugmentationOptions(zoom=(1, 2), crop=True, flip=flip),
        window=WindowOptions(length_ms=4),
        input=InputSpec(normalization="none"),
    )
    dataset = PairDataset([SlidingTexture(5)], options)
    aligned, mirrored = [], []
    for position in range(20):
        sample = dataset[SampleSpec(0, position, 3)]
        motion = -1 if flip else 1
        slope = motion * np.gradient(sample.frame.float().mean(0).numpy(), axis=1)
        change = cv2.GaussianBlur(sample.events.sum(0).numpy(), (0, 0), 1)
        aligned.append(np.corrcoef(slope.ravel(), change.ravel())[0, 1])
        mirrored.append(np.corrcoef(-slope[:, ::-1].ravel(), change.ravel())[0, 1])
    assert np.mean(aligned) > 0.3
    assert np.mean(mirrored) < 0.1


def test_the_teachers_frame_is_finer_and_the_threshold_follows_the_stride() -> None:
    options = SampleOptions(width=64, height=48, stride=32, frame_scale=2, threshold=20)
    sample = PairDataset([SlidingTexture(5)], options)[SampleSpec(0, 0, 3)]
    assert sample.frame.shape == (3, 96, 128)
    assert sample.active.shape == (2, 2) == sample.covered.shape
    pair = SlidingTexture(5).read(3)
    window = pair.events.between(pair.t_end - options.window.length_ns, pair.t_end)
    assert np.array_equal(sample.active.numpy(), activity_mask(window, 32, 80))


def test_pixels_without_a_frame_are_not_covered() -> None:
    pair = SlidingTexture(5).read(3)
    shifted = np.array([[1, 0, 17.0], [0, 1, 0], [0, 0, 1]])
    options = SampleOptions(width=64, height=48)
    sample = make_sample(
        pair._replace(alignment=HomographyAlignment(shifted)), options, SampleSpec(0, 0, 0)
    )
    assert sample.covered.tolist() == [[False, False, True, True]] * 3
    known = np.ones((48, 64), bool)
    known[40:] = False
    sample = make_sample(pair._replace(covered=known), options, SampleSpec(0, 0, 0))
    assert sample.covered.tolist() == [[True] * 4, [True] * 4, [False] * 4]


class CellColours:
    """A teacher whose features are each cell's mean colour: they move as the frame does."""

    def load(
        self, frame: torch.Tensor, grid: tuple[int, int], size: tuple[int, int]
    ) -> torch.Tensor:
        assert frame.shape[-2:] == size
        return avg_pool2d(frame.float(), size[0] // grid[0]).half()


def test_stored_features_are_moved_as_the_events_are() -> None:
    """Features of the whole frame, moved by cells, are those of the frame that was moved."""
    augmentation = AugmentationOptions(flip=0.5, shift=2)
    options = SampleOptions(width=64, height=48, stride=8, augmentation=augmentation)
    source, teacher = SlidingTexture(5), CellColours()
    moved, stored = PairDataset([source], options), PairDataset([source], options, teacher)
    still = PairDataset([source], replace(options, augmentation=AugmentationOptions()))
    seen = set()
    for position in range(40):
        draw = SampleSpec(0, position, 3)
        expected, found = moved[draw], stored[draw]
        assert torch.equal(found.events, expected.events)
        assert torch.equal(found.active, expected.active)
        assert torch.equal(found.covered, expected.covered)
        assert torch.equal(found.frame, still[draw].frame)
        features = move_cells(found.features[None], found.move[None])[0]
        truth = teacher.load(expected.frame, (6, 8), (48, 64))
        assert torch.equal(features[:, found.covered], truth[:, found.covered])
        rows, columns, flip = found.move.tolist()
        assert found.covered.sum() == (6 - abs(rows)) * (8 - abs(columns))
        seen.add((rows, columns, flip))
    assert {rows for rows, _, _ in seen} == {columns for _, columns, _ in seen} == {*range(-2, 3)}
    assert {flip for _, _, flip in seen} == {0, 1}


def test_a_batch_has_features_if_all_its_samples_have() -> None:
    options = SampleOptions(width=64, height=48)
    known = PairDataset([SlidingTexture(3)], options, CellColours())[SampleSpec(0, 0, 0)]
    unknown = PairDataset([SlidingTexture(3)], options)[SampleSpec(0, 0, 1)]
    assert collate([known, known]).features.shape == (2, 3, 3, 4)
    assert len(collate([known, unknown]).features) == 0


def test_padding_counts_nowhere() -> None:
    dataset = PairDataset([SlidingTexture(3)], SampleOptions(width=64, height=48, threshold=1))
    sample = dataset[SampleSpec(0, PADDING, 1)]
    assert not sample.active.any()
    assert not sample.covered.any()


def test_the_last_part_is_held_out() -> None:
    source = SlidingTexture(10)
    train, held_out = split_off(source, 0.25)
    assert (len(train), len(held_out)) == (8, 2)
    assert held_out.read(0).t_end == source.read(8).t_end
    assert isinstance(train, Subset)
    with pytest.raises(DataError, match="too few"):
        split_off(SlidingTexture(1), 0.1)


def test_a_pair_of_another_size_fills_the_tensor() -> None:
    pair: Pair = SlidingTexture(4, width=80, height=40).read(2)
    sample = make_sample(pair, SampleOptions(width=32, height=32), SampleSpec(0, 0, 0))
    assert sample.events.shape == (5, 32, 32)
    assert sample.frame.shape == (3, 32, 32)
    assert sample.covered.all()


@dataclass(frozen=True)
class Damaged(SlidingTexture):
    """A recording of which some pairs cannot be read."""

    damaged: tuple[int, ...] = ()

    def read(self, index: int) -> Pair:
        if index in self.damaged:
            msg = f"pair {index} is torn"
            raise DataError(msg)
        return super().read(index)


def test_a_pair_that_cannot_be_read_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    options = SampleOptions(width=64, height=48, threshold=20)
    dataset = PairDataset([SlidingTexture(5), Damaged(9, damaged=(2,))], options)
    with caplog.at_level("WARNING"):
        samples = [dataset[SampleSpec(0, n, n)] for n in (6, 7, 8, 7)]
    assert [bool(sample.covered.any()) for sample in samples] == [True, False, True, False]
    assert [bool(sample.active.any()) for sample in samples] == [True, False, True, False]
    assert [record.getMessage() for record in caplog.records] == [
        "pair left out, it cannot be read: pair 2 is torn"
    ]
    assert collate(samples).events.shape == (4, 5, 48, 64)
    strict = PairDataset([Damaged(9, damaged=(2,))], options, strict=True)
    with pytest.raises(DataError, match="pair 2 is torn"):
        strict[SampleSpec(0, 0, 2)]


def test_many_pairs_that_cannot_be_read_stop_a_run() -> None:
    options = SampleOptions(width=64, height=48)
    dataset = PairDataset([Damaged(30, damaged=tuple(range(30)))], options)
    for number in range(10):
        dataset[SampleSpec(0, number, number)]
    with pytest.raises(DataError, match="11 of 30 pairs cannot be read, the last one: pair 10"):
        dataset[SampleSpec(0, 10, 10)]
