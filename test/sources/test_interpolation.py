"""Frames between frames against frames of a motion that is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from photographs import photograph

from scaleevent_ros.sources.interpolation import frames_between
from scaleevent_ros.sources.pixel_model import PIXEL_MODELS
from scaleevent_ros.sources.simulator import EventSimulator

INNER = np.s_[20:-20, 20:-20]


@pytest.fixture(scope="module")
def light() -> np.ndarray:
    return cv2.GaussianBlur(photograph()[..., 1], (0, 0), 1).astype(np.float32)


def shifted(light: np.ndarray, x: float, y: float) -> np.ndarray:
    matrix = np.array([[1.0, 0, x], [0, 1, y]])
    moved = cv2.warpAffine(light, matrix, light.shape[::-1], borderMode=cv2.BORDER_REFLECT)
    return np.rint(moved).astype(np.uint8)


def test_frames_between_are_where_the_motion_was(light: np.ndarray) -> None:
    before, after = shifted(light, 0, 0), shifted(light, 9, -4)
    between = list(frames_between(before, after))
    steps = len(between) + 1
    assert 9 <= steps <= 12
    for step, (fraction, frame) in enumerate(between, 1):
        assert fraction == pytest.approx(step / steps)
        truth = shifted(light, 9 * fraction, -4 * fraction).astype(float)
        fade = before * (1 - fraction) + after * fraction
        error = np.abs(frame - truth)[INNER].mean()
        assert error < 0.25 * np.abs(fade - truth)[INNER].mean()


@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_slow_motion_needs_none(light: np.ndarray, shift: float) -> None:
    assert not list(frames_between(shifted(light, 0, 0), shifted(light, shift, 0)))


def test_the_number_of_steps_is_bounded(light: np.ndarray) -> None:
    assert len(list(frames_between(shifted(light, 0, 0), shifted(light, 9, 0), max_steps=4))) == 3


def test_an_occluded_background_stays_sharp(light: np.ndarray) -> None:
    """A patch moves over a background that stands still."""
    before, after = shifted(light, 0, 0), shifted(light, 0, 0)
    before[200:260, 200:260] = 250 - before[200:260, 200:260] // 2
    after[200:260, 212:272] = before[200:260, 200:260]
    middle = dict(frames_between(before, after)).get(0.5)
    if middle is None:
        middle = min(frames_between(before, after), key=lambda item: abs(item[0] - 0.5))[1]
    far = np.abs(middle - before)[np.s_[300:, :]]
    assert far.max() < 2


def test_the_number_of_threads_changes_nothing(light: np.ndarray) -> None:
    before, after = shifted(light, 0, 0), shifted(light, 5, 3)
    threads = cv2.getNumThreads()
    try:
        results = []
        for number in (1, 2, 4):
            cv2.setNumThreads(number)
            results.append(np.stack([frame for _, frame in frames_between(before, after)]))
    finally:
        cv2.setNumThreads(threads)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_events_come_when_edges_pass(light: np.ndarray) -> None:
    """Events in each twelfth of a frame's time, against those of frames a quarter pixel apart."""
    way, period = 12, 24_000_000
    before, after = shifted(light, 0, 0), shifted(light, way, 0)
    quarters = [(i / 48, shifted(light, way * i / 48, 0)) for i in range(1, 48)]

    def counts(between: list[tuple[float, np.ndarray]]) -> np.ndarray:
        simulator = EventSimulator(512, 512, PIXEL_MODELS["ideal"])
        simulator.push(before, 0)
        volume = np.zeros((12, 512, 512))
        for fraction, frame in [*between, (1.0, after)]:
            events = simulator.push(frame, round(fraction * period))
            np.add.at(volume, (events.t * 12 // period, events.y, events.x), 2.0 * events.p - 1)
        return volume[:, 20:-20, 20:-20].ravel()

    truth = counts(quarters)
    assert np.corrcoef(counts(list(frames_between(before, after))), truth)[0, 1] > 0.8
    assert np.corrcoef(counts([]), truth)[0, 1] < 0.5
