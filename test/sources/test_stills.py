"""Still pictures under a moving camera: what comes out belongs together."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest
from photographs import photograph

from scaleevent_ros.sources.camera_motion import (
    largest_displacement,
    random_motion,
    see,
    see_labels,
)
from scaleevent_ros.sources.errors import SimulationError
from scaleevent_ros.sources.moving_objects import MovingObject
from scaleevent_ros.sources.pixel_model import PIXEL_MODELS
from scaleevent_ros.sources.simulator import log_intensity
from scaleevent_ros.sources.stills import (
    UNLABELED,
    StillOptions,
    StillSequence,
    _render_times,
    simulate_still,
)

MS = 1_000_000
FINE = replace(PIXEL_MODELS["ideal"], threshold_on=0.05, threshold_off=0.05)
OPTIONS = StillOptions(frames=5, frame_rate=40, margin=0.05, strength=1.5, pixels=FINE)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return photograph()[100:340, 60:380]


@pytest.fixture(scope="module")
def labels(picture: np.ndarray) -> np.ndarray:
    return (picture[..., 0] // 64).astype(np.uint8)


@pytest.fixture(scope="module")
def sequence(picture: np.ndarray, labels: np.ndarray) -> StillSequence:
    return simulate_still(picture, labels, options=OPTIONS, seed=7, start_ns=1_000_000_000)


def test_times(sequence: StillSequence) -> None:
    np.testing.assert_array_equal(sequence.stamps, 1_050_000_000 + 25 * MS * np.arange(5))
    sequence.events.validate()
    assert 1_000_000_000 <= sequence.events.t[0] < 1_005_000_000
    assert 1_195_000_000 < sequence.events.t[-1] < 1_200_000_000


def test_frames_and_labels_are_views_of_the_picture(
    sequence: StillSequence, picture: np.ndarray, labels: np.ndarray
) -> None:
    assert sequence.labels is not None
    assert sequence.frames.shape == (5, 240, 320, 3)
    for frame, seen, homography in zip(
        sequence.frames, sequence.labels, sequence.homographies, strict=True
    ):
        np.testing.assert_array_equal(frame, see(picture, homography))
        np.testing.assert_array_equal(seen, see_labels(labels, homography))


def test_events_between_frames_are_their_log_change(
    sequence: StillSequence, picture: np.ndarray
) -> None:
    start, end = sequence.stamps[[0, -1]]
    events = sequence.events.between(int(start), int(end))
    change = np.zeros((240, 320))
    np.add.at(change, (events.y, events.x), np.where(events.p == 1, 0.05, -0.05))
    light = picture @ np.array([0.299, 0.587, 0.114])
    first, last = (log_intensity(see(light, sequence.homographies[i]), 20) for i in (0, -1))
    assert np.corrcoef(change.ravel(), (last - first).ravel())[0, 1] >= 0.98


def test_flow_leads_from_frame_to_frame(sequence: StillSequence) -> None:
    flow = sequence.flow(1)
    assert flow.shape == (240, 320, 2)
    y, x = 120, 150
    here = sequence.homographies[1] @ [x, y, 1]
    there = sequence.homographies[2] @ [x + flow[y, x, 0], y + flow[y, x, 1], 1]
    np.testing.assert_allclose(here[:2] / here[2], there[:2] / there[2], atol=1e-3)


def test_same_seed_same_sequence(picture: np.ndarray, sequence: StillSequence) -> None:
    again = simulate_still(picture, options=OPTIONS, seed=7, start_ns=1_000_000_000)
    other = simulate_still(picture, options=OPTIONS, seed=8, start_ns=1_000_000_000)
    np.testing.assert_array_equal(again.events.t, sequence.events.t)
    np.testing.assert_array_equal(again.events.x, sequence.events.x)
    np.testing.assert_array_equal(again.frames, sequence.frames)
    assert again.labels is None
    assert np.abs(other.homographies - sequence.homographies).max() > 1e-3


def test_nothing_moves_by_over_a_pixel_between_two_renderings() -> None:
    motion = random_motion(np.random.default_rng(2), (320, 240), 3.0)
    times = list(_render_times(motion, OPTIONS.frames_us))
    assert set(OPTIONS.frames_us) <= set(times)
    for one, other in pairwise(times):
        before, after = motion.homography(one * 1e-6), motion.homography(other * 1e-6)
        assert largest_displacement(before, after, (320, 240)) < 1.1


@pytest.mark.parametrize("size", [(160, 120), (100, 200), (400, 300)])
def test_any_size_of_view(picture: np.ndarray, labels: np.ndarray, size: tuple[int, int]) -> None:
    options = StillOptions(frames=2, margin=0.0, size=size)
    sequence = simulate_still(picture[..., 1], labels, options=options)
    assert sequence.labels is not None
    assert sequence.frames.shape == sequence.labels.shape == (2, size[1], size[0])
    assert (sequence.events.width, sequence.events.height) == size
    assert len(sequence.events) > 0


def disc() -> np.ndarray:
    """A bright disc cut out of a picture: uint8 [40, 40, 4]."""
    cutout = np.zeros((40, 40, 4), np.uint8)
    cv2.circle(cutout, (20, 20), 15, (250, 240, 230, 255), -1)
    return cutout


def test_a_still_camera_sees_events_only_where_objects_move(
    picture: np.ndarray, labels: np.ndarray
) -> None:
    options = StillOptions(
        frames=4, frame_rate=10, margin=0.2, still_share=1, objects=1, pixels=FINE
    )
    sequence = simulate_still(picture, labels, options=options, seed=5, cutouts=[disc()])
    assert sequence.labels is not None
    np.testing.assert_allclose(sequence.homographies, np.tile(np.eye(3), (4, 1, 1)), atol=1e-9)
    hidden = sequence.labels == UNLABELED
    assert hidden.any(axis=(1, 2)).all()
    for frame, away in zip(sequence.frames, ~hidden, strict=True):
        blended = cv2.erode(away.astype(np.uint8), np.ones((9, 9))) == 1
        np.testing.assert_array_equal(frame[blended], picture[blended])
    # Between two frames events fall where the object was, is, or passed, and nowhere else.
    start, end = sequence.stamps[[0, 1]]
    events = sequence.events.between(int(start), int(end))
    assert len(events) > 100
    rows, columns = np.nonzero(hidden[0] | hidden[1])
    assert events.y.min() >= rows.min() - 3
    assert events.y.max() <= rows.max() + 3
    assert events.x.min() >= columns.min() - 3
    assert events.x.max() <= columns.max() + 3


def test_an_object_is_drawn_where_its_path_leads() -> None:
    item = MovingObject(
        disc(), (40, 40), np.array([10.0, 30.0]), np.array([40.0, 0.0]), np.zeros(2), 1.0
    )
    view = np.full((60, 100), 20, np.float32)
    mask = item.draw(view, 1.0)
    center = np.array(np.nonzero(mask)).mean(axis=1)[::-1]
    # The disc's center is half a pixel right of and below its picture's.
    np.testing.assert_allclose(center, (50.5, 30.5), atol=0.05)
    assert (view[~mask & (view != 20)] < 250).all()
    assert view[30, 50] == pytest.approx(0.299 * 250 + 0.587 * 240 + 0.114 * 230)
    far = item.draw(view.copy(), 100.0)
    assert not far.any()


def test_frames_may_be_finer_than_the_sensor() -> None:
    # Smooth, so that resampling loses nothing.
    large = np.asarray(cv2.GaussianBlur(photograph()[:480], (0, 0), 4), np.uint8)
    options = StillOptions(frames=3, frame_rate=10, size=(256, 240), objects=1, strength=2)
    coarse = simulate_still(large, options=options, seed=3, cutouts=[disc()])
    finer = replace(options, frame_scale=2)
    fine = simulate_still(large, options=finer, seed=3, cutouts=[disc()])
    assert fine.frames.shape == (3, 480, 512, 3)
    np.testing.assert_array_equal(fine.events.x, coarse.events.x)
    for one, other in zip(fine.frames, coarse.frames, strict=True):
        halved = cv2.resize(one, (256, 240), interpolation=cv2.INTER_AREA).astype(float)
        assert np.abs(halved - other)[4:-4, 4:-4].mean() < 1.5
        shifted = np.abs(halved[:, 2:] - other[:, :-2].astype(float))[4:-4, 4:-4].mean()
        assert shifted > 2 * np.abs(halved - other)[4:-4, 4:-4].mean()


def test_pauses_and_varied_pixels_change_events_and_keep_frames(picture: np.ndarray) -> None:
    plain = StillOptions(frames=3, frame_rate=4, margin=0.2)
    varied = [
        simulate_still(picture, options=replace(plain, vary=True), seed=seed) for seed in range(4)
    ]
    bare = [simulate_still(picture, options=plain, seed=seed) for seed in range(4)]
    for one, other in zip(varied, bare, strict=True):
        np.testing.assert_array_equal(one.frames, other.frames)
        assert len(one.events) != len(other.events)
    paused = simulate_still(picture, options=replace(plain, pause_share=1), seed=0)
    assert len(paused.events) < len(bare[0].events)


def test_wrong_input_is_refused(picture: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(SimulationError, match="labels"):
        simulate_still(picture, labels[:-1])
    with pytest.raises(SimulationError, match="float64"):
        simulate_still(picture.astype(float))
    with pytest.raises(SimulationError, match="0 frames"):
        StillOptions(frames=0)
    with pytest.raises(SimulationError, match="too small"):
        StillOptions(size=(1, 100))
    with pytest.raises(SimulationError, match="probability"):
        StillOptions(pause_share=1.5)
    with pytest.raises(SimulationError, match="no cutouts"):
        simulate_still(picture, options=StillOptions(objects=1))
