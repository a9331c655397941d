"""Counts by patch, and the mask of active ones, against plain Python counting."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_events import batches, random_batch

from scaleevent_ros.events import EventBatch, EventsError, activity_mask, patch_counts


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
    counts = patches_reference(batch, 1)
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
    marked = stacked > 1
    np.testing.assert_array_equal(patch_counts(marked, patch), patch_counts(1 * marked, patch))
    assert patch_counts(marked, 300).tolist() == [[[int(one.sum())]] for one in marked]


@pytest.mark.parametrize(("events", "active"), [(63, False), (64, True)])
def test_defaults_are_the_papers(events: int, active: bool) -> None:
    """A patch of 16x16 pixels is active from its 64th event on, of whatever polarity."""
    batch = random_batch(np.random.default_rng(0), events, 16, 16, 0, 100)
    moved = EventBatch(batch.x + np.uint16(16), batch.y, batch.t, batch.p, 40, 16)
    np.testing.assert_array_equal(activity_mask(moved), [[False, active, False]])


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
    outside = EventBatch(
        np.array([6], np.uint16), np.zeros(1, np.uint16), np.zeros(1, np.int64),
        np.zeros(1, np.uint8), 6, 4,
    )  # fmt: skip
    with pytest.raises(EventsError, match="outside the width 6"):
        activity_mask(outside)
