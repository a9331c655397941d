"""The pixel model against an independent walk along each pixel's signal, and against physics."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from photographs import photograph

from scaleevent_ros.events import EventBatch
from scaleevent_ros.sources.errors import SimulationError
from scaleevent_ros.sources.pixel_model import PIXEL_MODELS, PixelModel
from scaleevent_ros.sources.simulator import EventSimulator, log_intensity

IDEAL = PIXEL_MODELS["ideal"]
MS = 1_000_000


def true_log(frame: np.ndarray, toe: float = 20.0) -> np.ndarray:
    """Compute the logarithm with its tangent as toe from the definition, in float64."""
    light = np.asarray(frame, np.float64)
    return np.where(light > toe, np.log(np.maximum(light, 1e-9)), math.log(toe) + light / toe - 1)


def run(simulator: EventSimulator, frames: np.ndarray, period: int = 10 * MS) -> EventBatch:
    batches = [simulator.push(frame, i * period) for i, frame in enumerate(frames)]
    return EventBatch.concatenate(batches)


def walk(signal: list[float], period_us: float, model: PixelModel) -> list[tuple[float, int]]:
    """Follow one pixel from event to event: times in µs, and polarities."""

    def level(t: float) -> float:
        index = min(int(t / period_us), len(signal) - 2)
        part = t / period_us - index
        drift = model.leak_rate * model.threshold_on * t * 1e-6
        return signal[index] * (1 - part) + signal[index + 1] * part + drift

    events: list[tuple[float, int]] = []
    memory, now = level(0), 0.0
    for index in range(len(signal) - 1):
        end = (index + 1) * period_us
        while now < end:
            here, there = level(now), level(end)
            polarity = int(there > here)
            goal = memory + (model.threshold_on if polarity else -model.threshold_off)
            if (there < goal) if polarity else (there > goal):
                break
            crossing = now + (goal - here) / (there - here) * (end - now)
            events.append((crossing, polarity))
            now = crossing + model.refractory * 1e6
            if now > period_us * (len(signal) - 1):
                return events
            memory = level(now)
        now = max(now, end)
    return events


@pytest.mark.parametrize(
    "model",
    [
        IDEAL,
        replace(IDEAL, threshold_on=0.3, threshold_off=0.1),
        replace(IDEAL, refractory=700e-6),
        replace(IDEAL, refractory=25e-3),
        replace(IDEAL, leak_rate=30.0),
        replace(IDEAL, threshold_on=0.07, refractory=2e-3, leak_rate=10.0),
    ],
)
@given(seed=st.integers(0, 1 << 30))
@settings(max_examples=10, deadline=None)
def test_each_pixel_follows_its_signal(model: PixelModel, seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames = rng.uniform(0, 255, (12, 4, 5))
    events = run(EventSimulator(5, 4, model), frames)
    events.validate()
    for y in range(4):
        for x in range(5):
            mine = (events.x == x) & (events.y == y)
            expected = walk(true_log(frames[:, y, x]).tolist(), 10_000, model)
            assert events.p[mine].tolist() == [polarity for _, polarity in expected]
            times = np.array([t for t, _ in expected])
            np.testing.assert_allclose(events.t[mine] / 1000, times, rtol=0, atol=1.5)


@pytest.mark.parametrize("name", ["standard", "ideal"])
def test_integrated_events_are_the_log_change(name: str) -> None:
    picture = photograph()[..., 1]
    frames = np.stack([picture[i : i + 240, 2 * i : 2 * i + 320] for i in range(60)])
    simulator = EventSimulator(320, 240, PIXEL_MODELS[name], seed=3)
    change = np.zeros((240, 320))
    measured, expected = [], []
    for i, frame in enumerate(frames):
        events = simulator.push(frame, i * 10 * MS)
        threshold = np.where(
            events.p == 1,
            simulator.threshold_on[events.y, events.x],
            -simulator.threshold_off[events.y, events.x],
        )
        np.add.at(change, (events.y, events.x), threshold)
        if i % 10 == 9:
            measured.append(change.copy())
            expected.append(true_log(frame) - true_log(frames[0]))
    correlation = np.corrcoef(np.ravel(measured), np.ravel(expected))[0, 1]
    assert correlation >= 0.98


def test_thresholds_differ_as_asked() -> None:
    model = replace(IDEAL, threshold_on=0.2, threshold_off=0.3, threshold_sigma=0.03)
    simulator = EventSimulator(200, 200, model, seed=1)
    for thresholds, mean in ((simulator.threshold_on, 0.2), (simulator.threshold_off, 0.3)):
        assert thresholds.mean() == pytest.approx(mean, abs=1e-3)
        assert thresholds.std() == pytest.approx(0.03, rel=0.02)
    assert (
        abs(np.corrcoef(simulator.threshold_on.ravel(), simulator.threshold_off.ravel())[0, 1])
        < 0.03
    )


@pytest.mark.parametrize("period", [MS // 10, 3 * MS])
@pytest.mark.parametrize("light", [255.0, 60.0])
def test_low_pass_answers_a_step_as_a_first_order_filter(period: int, light: float) -> None:
    """v2e's time constant is 275 / (light + 20) times that of white, at any frame rate."""
    cutoff = 20.0
    model = replace(IDEAL, threshold_on=0.01, threshold_off=0.01, cutoff=cutoff)
    simulator = EventSimulator(2, 2, model)
    tau = 275 / (light + 20) / (2 * math.pi * cutoff)
    simulator.push(np.full((2, 2), light / 2), 0)
    simulator.push(np.full((2, 2), light), 1000)
    times = 1000 + period * np.arange(1, int(6e9 * tau / period))
    events = EventBatch.concatenate([simulator.push(np.full((2, 2), light), int(t)) for t in times])
    mine = (events.x == 0) & (events.y == 0)
    assert (events.p == 1).all()
    for rise, t in zip(0.01 * np.arange(1, 60), events.t[mine][:59] * 1e-9, strict=True):
        expected = -tau * math.log(1 - rise / math.log(2))
        # Between frames the answer is drawn as a straight line.
        assert t == pytest.approx(expected, abs=0.02 * tau + 0.5e-9 * period)


def test_noise_comes_at_its_rate_and_does_not_add_up() -> None:
    model = replace(IDEAL, shot_noise_rate=4.0)
    frames = np.repeat(
        np.array([[0, 255]], np.uint8).repeat(50, axis=1)[None].repeat(80, 1), 101, 0
    )
    simulator = EventSimulator(100, 80, model, seed=5)
    events = run(simulator, frames)
    seconds, pixels = 1.0, 4000
    for half, brightness in ((events.x < 50, 20 / 275), (events.x >= 50, 1.0)):
        expected = 4.0 * (1 - 0.75 * brightness) * seconds * pixels
        assert half.sum() == pytest.approx(expected, abs=4 * math.sqrt(expected))
    change = np.zeros((80, 100))
    np.add.at(change, (events.y, events.x), np.where(events.p == 1, 1, -1))
    assert np.abs(change).max() <= 1


def test_leak_makes_on_events_at_its_rate() -> None:
    model = replace(IDEAL, leak_rate=20.0, leak_spread=0.1)
    frames = np.full((201, 40, 50), 90, np.uint8)
    events = run(EventSimulator(50, 40, model, seed=2), frames)
    assert (events.p == 1).all()
    counts = np.bincount(events.y.astype(int) * 50 + events.x, minlength=2000)
    mean = 20.0 * 2 * math.exp((0.1 * math.log(10)) ** 2 / 2)
    assert counts.mean() == pytest.approx(mean, rel=0.05)
    assert np.log10(counts + 0.5).std() == pytest.approx(0.1, rel=0.1)


def test_a_pixel_is_silent_in_its_refractory_period() -> None:
    model = replace(PixelModel(), refractory=5e-3, shot_noise_rate=20.0)
    rng = np.random.default_rng(0)
    events = run(EventSimulator(32, 24, model, seed=1), rng.uniform(0, 255, (40, 24, 32)), 7 * MS)
    pixel = events.y.astype(np.int64) * 32 + events.x
    order = np.lexsort((events.t, pixel))
    gaps = np.diff(events.t[order])[np.diff(pixel[order]) == 0]
    assert len(gaps) > 1000
    assert gaps.min() >= 5 * MS - 1000


def test_same_seed_same_events_another_seed_others() -> None:
    frames = np.random.default_rng(1).integers(0, 255, (5, 30, 40), np.uint8)

    def events(seed: int) -> EventBatch:
        return run(EventSimulator(40, 30, PIXEL_MODELS["noisy"], seed), frames)

    first, again, other = events(1), events(1), events(2)
    for name in ("x", "y", "t", "p"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert len(first) != len(other) or (first.t != other.t).any()


@given(
    seed=st.integers(0, 1 << 30),
    period_us=st.sampled_from([1, 7, 999, 2_047, 2_048, 40_000, 5_000_000]),
    start=st.sampled_from([0, 1_700_000_000_123_456_789]),
)
@settings(max_examples=25, deadline=None)
def test_events_are_sorted_and_between_their_frames(seed: int, period_us: int, start: int) -> None:
    rng = np.random.default_rng(seed)
    simulator = EventSimulator(17, 9, PixelModel(), seed)
    simulator.push(rng.integers(0, 255, (9, 17), np.uint8), start)
    for i in range(1, 4):
        t = start + i * period_us * 1000
        events = simulator.push(rng.integers(0, 255, (9, 17), np.uint8), t)
        events.validate()
        if len(events):
            floor = start // 1000 * 1000
            assert floor + (i - 1) * period_us * 1000 <= events.t[0]
            assert events.t[-1] < floor + i * period_us * 1000


def test_grey_levels_and_floats_are_seen_alike() -> None:
    frames = np.random.default_rng(0).integers(0, 255, (6, 20, 20), np.uint8)
    one = run(EventSimulator(20, 20), frames)
    other = run(EventSimulator(20, 20), frames.astype(np.float64))
    np.testing.assert_array_equal(one.t, other.t)
    np.testing.assert_allclose(log_intensity(frames, 20), true_log(frames), rtol=1e-6)


@pytest.mark.parametrize(
    ("frame", "t", "what"),
    [
        (np.zeros((4, 5), np.uint8), 0, "must increase"),
        (np.zeros((4, 5), np.uint8), 1 << 62, "35 minutes"),
        (np.zeros((5, 4), np.uint8), MS, r"\(5, 4\)"),
        (np.zeros((4, 5), np.int32), MS, "int32"),
        (np.full((4, 5), np.nan), MS, "not finite"),
    ],
)
def test_wrong_frames_are_refused(frame: np.ndarray, t: int, what: str) -> None:
    simulator = EventSimulator(5, 4)
    simulator.push(np.zeros((4, 5), np.uint8), 0)
    with pytest.raises(SimulationError, match=what):
        simulator.push(frame, t)
    assert len(simulator.push(np.full((4, 5), 200, np.uint8), 20 * MS)) > 0


@pytest.mark.parametrize(
    "wrong",
    [{"threshold_on": 0.0}, {"cutoff": 0.0}, {"leak_rate": -1.0}, {"refractory": math.nan}],
)
def test_impossible_pixels_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SimulationError, match=next(iter(wrong))):
        PixelModel(**wrong)
