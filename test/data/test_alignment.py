from __future__ import annotations

import cv2
import numpy as np
import pytest

from scaleevent_ros.data.alignment import (
    HomographyAlignment,
    MapAlignment,
    covered_patches,
    filling_homography,
    move_mask,
)
from scaleevent_ros.data.augmentation import View
from scaleevent_ros.sources.calibration import Homography

WHOLE = View(0, 0, 64, 48, 64, 48)


@pytest.fixture
def frame() -> np.ndarray:
    noise = np.random.default_rng(0).random((48, 64, 3), np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    return np.asarray((smooth - smooth.min()) / np.ptp(smooth) * 255, np.uint8)


def test_an_aligned_frame_is_left_as_it_is(frame: np.ndarray) -> None:
    alignment = HomographyAlignment(np.eye(3))
    assert np.array_equal(alignment.warp(frame, WHOLE), frame)
    assert alignment.covered((48, 64), WHOLE) is None


def test_a_shift_moves_pixels_and_uncovers_others(frame: np.ndarray) -> None:
    shift = np.array([[1, 0, 5.0], [0, 1, -3.0], [0, 0, 1]])
    alignment = HomographyAlignment(shift)
    warped = alignment.warp(frame, WHOLE)
    covered = alignment.covered((48, 64), WHOLE)
    assert np.array_equal(warped[:45, 5:], frame[3:, :-5])
    assert covered is not None
    expected = np.zeros((48, 64), bool)
    expected[:45, 5:] = True
    assert np.array_equal(covered, expected)
    assert not warped[~expected].any()


def test_a_finer_frame_that_shows_the_same_is_shrunk_by_area(frame: np.ndarray) -> None:
    fine = np.repeat(np.repeat(frame, 4, axis=0), 4, axis=1)
    alignment = HomographyAlignment(filling_homography((256, 192), (64, 48)))
    assert alignment.covered((192, 256), WHOLE) is None
    assert np.abs(alignment.warp(fine, WHOLE).astype(int) - frame).max() <= 1
    # At the teacher's finer scale nothing is lost at all.
    assert np.abs(alignment.warp(fine, WHOLE, scale=4).astype(int) - fine).max() <= 1


def test_a_look_up_does_what_its_homography_does(frame: np.ndarray) -> None:
    matrix = np.array([[1.02, 0.03, -2.0], [-0.02, 0.98, 1.5], [1e-4, 0, 1]])
    by_matrix = HomographyAlignment(matrix)
    by_map = MapAlignment(Homography((64, 48), (64, 48), matrix).sample_map())
    for view in (WHOLE, View(8, 6, 32, 24, 64, 48), View(8, 6, 32, 24, 64, 48, flip=True)):
        one, other = by_matrix.covered((48, 64), view), by_map.covered((48, 64), view)
        known = np.ones((48, 64), bool)
        for mask in (one, other):
            known &= True if mask is None else mask
        assert known.mean() > 0.85
        inner = cv2.erode(known.astype(np.uint8), np.ones((3, 3))).astype(bool)
        difference = np.abs(by_matrix.warp(frame, view).astype(int) - by_map.warp(frame, view))
        assert difference[inner].max() <= 6


def test_a_patch_counts_only_if_all_its_pixels_are_covered() -> None:
    mask = np.ones((40, 50), bool)
    mask[17, 33] = False
    patches = covered_patches(mask, (40, 50), 16)
    assert patches.shape == (3, 4)
    assert not patches[1, 2]
    assert patches.sum() == 11
    assert covered_patches(None, (40, 50), 16).all()


def test_a_mask_moves_with_the_view() -> None:
    mask = np.zeros((48, 64), bool)
    mask[10:20, 10:20] = True
    moved = move_mask(mask, View(8, 8, 16, 12, 64, 48))
    assert moved.sum() == pytest.approx(1600, rel=0.1)
    assert moved[8:48, 8:48].mean() > 0.97
