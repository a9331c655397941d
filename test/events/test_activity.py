"""Counts by pixel and patch, and what resizing does to them, against plain Python counting."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_events import batches, random_batch

from scaleevent_ros.events import (
    EventBatch,
    EventsError,
    activity_mask,
    event_counts,
    patch_counts,
    resize_batch,
    resize_counts,
)


def patches_reference(batch: EventBatch, patch: int) -> np.ndarray:
    counts = np.zeros((-(-batch.height // patch), -(-batch.width // patch)), int)
    for (row, column), count in Counter(
        zip((batch.y // patch).tolist(), (batch.x // patch).tolist(), strict=True)
    ).items():
        counts[row, column] = count
    return counts


@given(batches(), st.integers(1, 12), st.integers(0, 20))
@settings(max_examples=80, deadline=None)
def test_mask_counts_events(batch: EventBatch, patch: int, threshold: int) -> None:
    expected = patches_reference(batch, patch)
    counts = event_counts(batch)
    np.testing.assert_array_equal(patch_counts(batch, patch), expected)
    for source in (batch, counts, counts.astype(np.float32)):
        mask = activity_mask(source, patch, threshold)
        assert mask.dtype == np.bool_
        np.testing.assert_array_equal(mask, expected >= threshold)
    tensor = torch.tensor(counts).expand(2, 3, *counts.shape)
    masks = activity_mask(tensor, patch, threshold)
    assert masks.shape == (2, 3, *expected.shape)
    np.testing.assert_array_equal(masks[1, 2].numpy(), expected >= threshold)
    stacked = np.stack([counts, 2 * counts])
    np.testing.assert_array_equal(patch_counts(stacked, patch), [expected, 2 * expected])


@pytest.mark.parametrize(("events", "active"), [(63, False), (64, True)])
def test_defaults_are_the_papers(events: int, active: bool) -> None:
    """A patch of 16x16 pixels is active from its 64th event on, of whatever polarity."""
    batch = random_batch(np.random.default_rng(0), events, 16, 16, 0, 100)
    moved = EventBatch(batch.x + np.uint16(16), batch.y, batch.t, batch.p, 40, 16)
    np.testing.assert_array_equal(activity_mask(moved), [[False, active, False]])


@given(batches(), st.integers(1, 30), st.integers(1, 30))
@settings(max_examples=80, deadline=None)
def test_resizing_keeps_counts(batch: EventBatch, width: int, height: int) -> None:
    resized = resize_batch(batch, width, height)
    resized.validate()
    assert (resized.width, resized.height, len(resized)) == (width, height, len(batch))
    counts = event_counts(batch)
    moved = resize_counts(counts, width, height)
    assert moved.dtype == counts.dtype
    np.testing.assert_array_equal(moved, event_counts(resized))
    assert moved.sum() == len(batch)


@given(batches(), st.integers(1, 5), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_an_upscaled_mask_is_the_mask(batch: EventBatch, scale: int, patch: int) -> None:
    """Whole patches scaled with the picture hold the events that they held."""
    resized = resize_batch(batch, batch.width * scale, batch.height * scale)
    np.testing.assert_array_equal(
        patch_counts(resized, patch * scale), patches_reference(batch, patch)
    )


def test_wrong_input_is_refused() -> None:
    batch = EventBatch.empty(6, 4)
    with pytest.raises(EventsError, match="at least 1 pixel, not 0"):
        activity_mask(batch, 0)
    with pytest.raises(EventsError, match="height and a width"):
        activity_mask(np.zeros(3, int))
    with pytest.raises(EventsError, match="height and a width"):
        activity_mask(torch.zeros(3))
    for counts in (np.full((4, 4), 0.5), np.full((4, 4), -1)):
        with pytest.raises(EventsError, match="whole numbers of events"):
            activity_mask(counts)
    for size in (0, 70_000):
        with pytest.raises(EventsError, match=f"resize events to {size} pixels"):
            resize_batch(batch, size, 4)
        with pytest.raises(EventsError, match=f"resize events to {size} pixels"):
            resize_counts(np.ones((4, 4)), 4, size)
    with pytest.raises(EventsError, match=r"not the shape \(0, 4\)"):
        resize_counts(np.ones((0, 4)), 4, 4)
    outside = EventBatch(
        np.array([6], np.uint16), np.zeros(1, np.uint16), np.zeros(1, np.int64),
        np.zeros(1, np.uint8), 6, 4,
    )  # fmt: skip
    for function in (event_counts, activity_mask, lambda batch: resize_batch(batch, 3, 2)):
        with pytest.raises(EventsError, match="outside the width 6"):
            function(outside)
