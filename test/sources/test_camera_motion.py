"""The virtual camera against projective geometry computed point by point."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from photographs import photograph

from scaleevent_ros.sources.camera_motion import (
    CameraMotion,
    exact_flow,
    largest_displacement,
    random_motion,
    see,
    see_labels,
)
from scaleevent_ros.sources.errors import SimulationError

SIZE = (64, 48)


def still_pose(pose: list[float]) -> CameraMotion:
    """Hold a camera at a pose: three rotations and three positions."""
    amplitude = np.zeros((6, 1))
    amplitude[:, 0] = pose
    return CameraMotion(SIZE, amplitude, np.zeros((6, 1)), np.full((6, 1), np.pi / 2))


@given(st.lists(st.floats(-0.1, 0.1), min_size=6, max_size=6))
@settings(max_examples=50, deadline=None)
def test_a_view_is_where_rays_meet_the_picture(pose: list[float]) -> None:
    motion = still_pose(pose)
    matrix = motion.camera_matrix
    turn, _ = cv2.Rodrigues(np.array(pose[:3]))
    position = np.array(pose[3:])
    for pixel in ([0, 0, 1], [63, 0, 1], [20, 31, 1]):
        ray = turn @ np.linalg.solve(matrix, pixel)
        point = position + ray * (1 - position[2]) / ray[2]
        assert point[2] == pytest.approx(1)
        expected = matrix @ point
        mapped = motion.homography(0.3) @ pixel
        np.testing.assert_allclose(mapped[:2] / mapped[2], expected[:2] / expected[2], atol=1e-9)


@given(seed=st.integers(0, 1 << 30))
@settings(max_examples=20, deadline=None)
def test_flow_takes_a_pixel_to_the_same_point_of_the_picture(seed: int) -> None:
    motion = random_motion(np.random.default_rng(seed), SIZE, 3.0)
    before, after = motion.homography(0.1), motion.homography(0.2)
    flow = exact_flow(before, after, SIZE)
    assert flow.shape == (48, 64, 2)
    for x, y in ((0, 0), (63, 47), (10, 40)):
        here = before @ [x, y, 1]
        there = after @ [x + flow[y, x, 0], y + flow[y, x, 1], 1]
        np.testing.assert_allclose(here[:2] / here[2], there[:2] / there[2], atol=1e-4)
    far = np.linalg.norm(flow, axis=-1).max()
    assert far == pytest.approx(largest_displacement(before, after, SIZE), rel=0.02, abs=1e-3)


def test_flow_and_views_agree_on_a_photograph() -> None:
    picture = cv2.GaussianBlur(photograph()[:384], (0, 0), 2)
    size = (512, 384)
    motion = random_motion(np.random.default_rng(4), size, 2.0)
    before, after = motion.homography(0.0), motion.homography(0.05)
    flow = exact_flow(before, after, size)
    assert np.linalg.norm(flow, axis=-1).mean() > 2
    grid = np.stack(np.meshgrid(np.arange(512), np.arange(384)), axis=-1).astype(np.float32)
    moved = cv2.remap(see(picture, after), grid + flow, np.empty(0), cv2.INTER_LINEAR)
    inner = np.s_[30:-30, 30:-30]
    error = np.abs(moved.astype(float) - see(picture, before))[inner].mean()
    still = np.abs(see(picture, after).astype(float) - see(picture, before))[inner].mean()
    assert error < 1.0 < 0.3 * still


def test_labels_move_with_the_picture_and_are_not_mixed() -> None:
    labels = np.zeros((384, 512), np.uint8)
    labels[100:200, 150:400] = 11
    labels[200:300, 150:400] = 200
    motion = random_motion(np.random.default_rng(1), (512, 384), 3.0)
    homography = motion.homography(0.4)
    seen = see_labels(labels, homography)
    assert set(np.unique(seen)) == {0, 11, 200}
    drawn = see((labels == 11).astype(np.float32), homography)
    clear = (drawn < 0.01) | (drawn > 0.99)
    np.testing.assert_array_equal((seen == 11)[clear], drawn[clear] > 0.5)


def test_outside_the_picture_its_mirror_image_goes_on() -> None:
    picture = photograph()[..., 0]
    aside = np.array([[1.0, 0, 500], [0, 1, 0], [0, 0, 1]])
    np.testing.assert_array_equal(see(picture, aside)[:, 12:200], picture[:, ::-1][:, 1:189])


def test_strength_zero_stands_still_and_seeds_differ() -> None:
    rng = np.random.default_rng
    np.testing.assert_allclose(
        random_motion(rng(0), SIZE, 0).homography(1.0), np.eye(3), atol=1e-12
    )
    one, same, other = (random_motion(rng(s), SIZE).homography(1.0) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3
    with pytest.raises(SimulationError, match="strength"):
        random_motion(rng(0), SIZE, -1.0)


def test_a_camera_rests_in_its_pauses_and_goes_on_where_it_stopped() -> None:
    motion = random_motion(np.random.default_rng(5), SIZE, 2.0)
    paused = replace(motion, pauses=np.array([[1.0, 2.0]]))
    np.testing.assert_array_equal(paused.homography(0.9), motion.homography(0.9))
    moved = [
        largest_displacement(paused.homography(t), paused.homography(t + 0.05), SIZE)
        for t in (0.9, 1.5, 2.5)
    ]
    assert moved[1] < 0.01 * min(moved[0], moved[2])
    times = np.linspace(0, 4, 4001)
    progress = np.array([paused.progress(t) for t in times])
    pace = np.diff(progress) / np.diff(times)
    assert pace.min() >= 0
    assert pace.max() <= 1 + 1e-9
    assert progress[-1] == pytest.approx(3.0, abs=0.01)
