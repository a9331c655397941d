"""Windows over a stream against the representations of the same events in one batch."""

from __future__ import annotations

import threading
from itertools import pairwise
from time import sleep
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_events import batches, random_batch

from scaleevent_ros.events import (
    EventBatch,
    EventsError,
    InputSpec,
    Window,
    WindowAccumulator,
    WindowOptions,
    leaky_integrals,
    patch_counts,
    represent,
    window_start,
)

if TYPE_CHECKING:
    from pathlib import Path

MS = 1_000_000


def assert_same(window: Window, events: EventBatch, accumulator: WindowAccumulator) -> None:
    """Compare a window with the representation of everything that was pushed."""
    spec, span = accumulator.spec, (window.t_start, window.t_end)
    inside = events.between(*span)
    # A pixel's events may each be off by what rounding their times does.
    most = np.bincount(inside.y.astype(int) * events.width + inside.x).max(initial=0)
    longest = accumulator.slice_ns * accumulator._longest * accumulator._intervals
    share = longest / (window.t_end - window.t_start)
    rounding = most * share * 2.0**-19 if spec.representation == "voxel" else 0
    np.testing.assert_allclose(
        window.tensor[: spec.represented],
        represent(spec.representation, events, *span, spec.bins),
        rtol=1e-6,
        atol=rounding,
    )
    if spec.leaky:
        expected = leaky_integrals(events, window.t_end, spec.leaky)
        np.testing.assert_allclose(
            window.tensor[spec.represented :], expected, rtol=2e-5, atol=2e-5
        )
    assert window.events == len(inside)
    np.testing.assert_array_equal(window.patch_counts, patch_counts(inside, accumulator.patch))


def fixed(length_ns: int) -> WindowOptions:
    return WindowOptions(length_ms=length_ns / MS)


def move_on(accumulator: WindowAccumulator, t: int) -> None:
    """Advance time by an event after which no window ends."""
    t = t // accumulator.slice_ns * accumulator.slice_ns
    zero, one = np.zeros(1, np.uint16), np.ones(1, np.uint8)
    accumulator.push(
        EventBatch(zero, zero, np.array([t]), one, accumulator.width, accumulator.height)
    )


def pieces(batch: EventBatch, cuts: list[int]) -> list[EventBatch]:
    edges = [0, *sorted(cut % (len(batch) + 1) for cut in cuts), len(batch)]
    return [batch[start:end] for start, end in pairwise(edges)]


@given(
    st.data(),
    batches(),
    st.lists(st.integers(0, 10**6), max_size=5),
    st.sampled_from(["voxel", "histogram", "stacked_histogram"]),
    st.integers(1, 6),
    st.integers(1, 4),
    st.lists(st.floats(0.05, 10), max_size=4),
)
@settings(max_examples=150, deadline=None)
def test_windows_are_the_representations(
    data: st.DataObject,
    batch: EventBatch,
    cuts: list[int],
    name: str,
    bins: int,
    slices: int,
    leaky: list[float],
) -> None:
    """However packets are cut, and wherever between them a window is asked for."""
    span = int(batch.t[-1] - batch.t[0]) + 1 if len(batch) else 1
    length = data.draw(st.integers(max(min(span, 10**9) // 5, 1), 2 * min(span, 10**9)))
    bins = 1 if name == "histogram" else bins
    accumulator = WindowAccumulator(
        batch.height, batch.width, InputSpec(name, bins, leaky=tuple(leaky)), fixed(length),
        slices_per_bin=slices, patch=3,
    )  # fmt: skip
    pushed = 0
    for part in pieces(batch, cuts):
        accumulator.push(part)
        pushed += len(part)
        if pushed:
            assert_same(accumulator.read(), batch[:pushed], accumulator)
    if pushed:
        move_on(accumulator, int(batch.t[-1]) + accumulator.slice_ns)
        window = accumulator.read()
        assert window.t_end > batch.t[-1]
        assert window.t_end - window.t_start >= length
        assert_same(window, batch, accumulator)
        earlier = accumulator.read(window.t_end - 1)
        assert earlier.t_end == window.t_end - accumulator.slice_ns
        assert_same(earlier, batch, accumulator)
        stats = accumulator.stats
        assert (stats.events, stats.late_events, stats.outside_events) == (len(batch) + 1, 0, 0)


def test_a_voxel_grid_of_short_windows_is_exact() -> None:
    batch = random_batch(np.random.default_rng(0), 20_000, 20, 10, 0, 4 * MS)
    accumulator = WindowAccumulator(10, 20, window=fixed(1 * MS))
    accumulator.push(batch)
    window = accumulator.read()
    np.testing.assert_array_equal(
        window.tensor, represent("voxel", batch, window.t_start, window.t_end, 5)
    )


def test_a_long_stream_wraps_its_sums_and_is_still_right() -> None:
    """Far more events than the bits of a pixel's sums can count, over far more time."""
    count = 1_000_000
    one = EventBatch(np.zeros(count, np.uint16), np.zeros(count, np.uint16),
                     np.arange(count, dtype=np.int64), np.ones(count, np.uint8), 1, 1)  # fmt: skip
    for name in ("voxel", "stacked_histogram"):
        accumulator = WindowAccumulator(
            1, 1, InputSpec(name, 3), fixed(2 * count), slices_per_bin=1
        )
        for turn in range(1, 7):
            start = 10**18 + turn * count
            accumulator.push(EventBatch(one.x, one.y, one.t + start, one.p, 1, 1))
        move_on(accumulator, 10**18 + 8 * count)
        last = EventBatch.concatenate([
            EventBatch(one.x, one.y, one.t + 10**18 + turn * count, one.p, 1, 1)
            for turn in (4, 5, 6)
        ])  # fmt: skip
        window = accumulator.read(10**18 + 7 * count)
        expected = represent(name, last, window.t_start, window.t_end, 3)
        np.testing.assert_allclose(window.tensor, expected, rtol=1e-5)


@given(
    st.integers(0, 2**32),
    st.sampled_from([2, 3, 5]),
    st.floats(0.05, 20),
    st.lists(st.floats(0.05, 10), max_size=2),
)
@settings(max_examples=30, deadline=None)
def test_windows_that_follow_motion_are_those_of_training(
    seed: int, bins: int, events_per_pixel: float, leaky: list[float]
) -> None:
    rng = np.random.default_rng(seed)
    options = WindowOptions("motion", 60, 4, events_per_pixel)
    spec = InputSpec("voxel", bins, leaky=tuple(leaky))
    accumulator = WindowAccumulator(10, 20, spec, options)
    parts, start = [], 0
    for _ in range(40):
        length = int(rng.integers(1, 20 * MS))
        parts.append(random_batch(rng, int(rng.integers(1, 2000)), 20, 10, start, start + length))
        start += length
        accumulator.push(parts[-1])
        window = accumulator.read()
        everything = EventBatch.concatenate(parts)
        assert window.t_start == window_start(everything, window.t_end, options)
        assert_same(window, everything, accumulator)


def test_windows_that_follow_motion_grow_until_they_hold_enough() -> None:
    batch = random_batch(np.random.default_rng(1), 10_000, 20, 10, 0, 100 * MS)
    accumulator = WindowAccumulator(10, 20, InputSpec(bins=3), WindowOptions("motion", 60, 4, 10))
    accumulator.push(batch)
    window = accumulator.read()
    length = window.t_end - window.t_start
    assert length % (4 * MS) == 0
    shorter = batch.between(window.t_start + 4 * MS, window.t_end)
    assert len(shorter) < 2000 <= window.events
    move_on(accumulator, 190 * MS)  # nothing moves any more
    window = accumulator.read()
    assert (window.t_end - window.t_start, window.events) == (60 * MS, 0)


def test_integrals_end_where_the_window_does() -> None:
    """Windows that ended before the newest events, and after far more than are kept, count too."""
    spec = InputSpec(bins=3, leaky=(0.05, 2.0))
    batch = random_batch(np.random.default_rng(2), 60_000, 20, 10, 0, 300 * MS)
    accumulator = WindowAccumulator(10, 20, spec, fixed(20 * MS))
    for part in pieces(batch, list(range(997, 60_000, 1997))):
        accumulator.push(part)
        newest = accumulator.read()
        assert_same(newest, batch.between(0, int(part.t[-1]) + 1), accumulator)
        if newest.t_end > 40 * MS:
            assert_same(accumulator.read(newest.t_end - 5 * MS), batch, accumulator)
            np.testing.assert_allclose(  # nothing was disturbed
                accumulator.read().tensor, newest.tensor, rtol=1e-4, atol=1e-4
            )
    memory = accumulator.memory_bytes
    assert memory == WindowAccumulator(10, 20, spec, fixed(20 * MS)).memory_bytes
    assert sum(map(len, accumulator._recent)) < 20_000


def test_memory_is_bounded_whatever_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaleevent_ros.events.accumulator.RECENT_EVENTS", 500)
    spec = InputSpec(bins=3, leaky=(2.0,))
    batch = random_batch(np.random.default_rng(2), 60_000, 20, 10, 0, 300 * MS)
    accumulator = WindowAccumulator(10, 20, spec, fixed(20 * MS))
    for part in pieces(batch, list(range(4000, 60_000, 4000))):
        accumulator.push(part)
        assert sum(map(len, accumulator._recent)) <= 500
    found = accumulator.read()
    expected = leaky_integrals(batch, found.t_end, (2.0,))
    # The last slice's events are a little early in it.
    assert np.abs(found.tensor[3:] - expected).max() <= 10
    assert np.corrcoef(found.tensor[3].ravel(), expected[0].ravel())[0, 1] > 0.98


def test_a_recording_in_packets_is_what_training_sees(test_data: Path) -> None:
    """A real camera's stream, decoded packet by packet, at moments all through it."""
    from scaleevent_ros.bags import BagReader
    from scaleevent_ros.bags.event_stream import EventStream

    spec, options = InputSpec(leaky=(0.1, 0.5, 2.0)), WindowOptions("motion", 50, 5, 0.05)
    accumulator: WindowAccumulator | None = None
    parts: list[EventBatch] = []
    for index, packet in enumerate(
        EventStream(BagReader(test_data / "bags" / "evt3_640x480")).packets()
    ):
        if not len(packet.events):
            continue
        parts.append(packet.events)
        if accumulator is None:
            accumulator = WindowAccumulator(480, 640, spec, options)
        accumulator.push(packet.events)
        if index % 120 == 119:
            window = accumulator.read()
            everything = EventBatch.concatenate(parts)
            start = window_start(everything, window.t_end, options)
            assert window.t_start == start
            expected = spec.build(everything, start, window.t_end)
            np.testing.assert_allclose(window.tensor, expected, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(
                spec.normalize(window.tensor), spec.normalize(expected), rtol=1e-3, atol=1e-3
            )
    assert len(parts) > 300


def test_windows_out_of_reach_are_refused_in_constant_memory() -> None:
    batch = random_batch(np.random.default_rng(3), 10_000, 20, 10, 0, 1000 * MS)
    accumulator = WindowAccumulator(
        10, 20, InputSpec(bins=3, leaky=(0.5,)), fixed(20 * MS), slices_per_bin=1
    )
    memory = accumulator.memory_bytes
    for part in pieces(batch, list(range(0, 10_000, 97))):
        accumulator.push(part)
    window = accumulator.read()
    assert accumulator.memory_bytes == memory
    with pytest.raises(EventsError, match=r"out of reach: the latest ends at 990000000 ns"):
        accumulator.read(window.t_end - 30 * MS)


def test_time_that_steps_back_or_far_ahead() -> None:
    rng = np.random.default_rng(5)
    accumulator = WindowAccumulator(
        10, 20, InputSpec(bins=3, leaky=(0.5,)), fixed(20 * MS), slices_per_bin=1
    )
    accumulator.push(random_batch(rng, 1000, 20, 10, 10**18, 10**18 + 100 * MS))
    late = random_batch(rng, 100, 20, 10, 10**18 + 80 * MS, 10**18 + 85 * MS)
    accumulator.push(late)
    assert accumulator.stats.late_events == 100
    for start, restarts in ((0, 1), (10**17, 1), (10**17 - 10**12, 2)):
        batch = random_batch(rng, 1000, 20, 10, start, start + 100 * MS)
        accumulator.push(batch)
        move_on(accumulator, start + 100 * MS)
        assert accumulator.stats.restarts == restarts
        assert_same(accumulator.read(), batch, accumulator)


def test_events_off_the_sensor_are_left_out_and_counted() -> None:
    batch = random_batch(np.random.default_rng(6), 500, 30, 30, 0, 10 * MS)
    wrong = EventBatch(batch.x, batch.y, batch.t, batch.p, 20, 10)
    fits = (wrong.x < 20) & (wrong.y < 10)
    right = EventBatch(wrong.x[fits], wrong.y[fits], wrong.t[fits], wrong.p[fits], 20, 10)
    accumulator = WindowAccumulator(10, 20, spec=InputSpec(leaky=(0.1,)), window=fixed(10 * MS))
    accumulator.push(wrong)
    move_on(accumulator, 10 * MS)
    assert accumulator.stats.outside_events == 500 - len(right) > 0
    assert_same(accumulator.read(), right, accumulator)


def test_output_memory_may_be_given() -> None:
    batch = random_batch(np.random.default_rng(7), 500, 20, 10, 0, 10 * MS)
    accumulator = WindowAccumulator(10, 20, window=fixed(5 * MS))
    accumulator.push(batch)
    out = np.full((5, 10, 20), np.nan, np.float32)
    assert accumulator.window(out=out) is out
    np.testing.assert_array_equal(out, accumulator.window())
    for wrong in (out[:4], out.astype(float), out.transpose(0, 2, 1)):
        with pytest.raises(EventsError, match="C-contiguous float32"):
            accumulator.window(out=wrong)


def test_one_thread_pushes_while_another_reads() -> None:
    """Every window that is read is right, whatever was pushed meanwhile."""
    width, height, total = 64, 48, 400_000
    batch = random_batch(np.random.default_rng(8), total, width, height, 0, 1000 * MS)
    accumulator = WindowAccumulator(
        height, width, spec=InputSpec(leaky=(0.1, 2.0)), window=fixed(20 * MS)
    )
    windows: list[Window] = []
    done = threading.Event()

    def consume() -> None:
        while not done.is_set():
            if accumulator.t_end is not None:
                windows.append(accumulator.read())

    consumer = threading.Thread(target=consume)
    consumer.start()
    for start in range(0, total, 500):
        accumulator.push(batch[start : start + 500])
        if start % 10_000 == 0:
            sleep(0.001)  # packets come at a pace that leaves time to read some windows
    done.set()
    consumer.join()
    ends = [window.t_end for window in windows]
    assert ends == sorted(ends)
    assert len(set(ends)) > 5
    for window in windows[:: max(len(windows) // 50, 1)]:
        assert_same(window, batch, accumulator)


@pytest.mark.parametrize("start", [100 * MS, -(10**9) * MS])
def test_a_window_that_is_being_read_stays_what_it_was(
    start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All planes are replaced, or time restarts, between the choice and the reading."""
    rng = np.random.default_rng(9)
    batch = random_batch(rng, 5000, 20, 10, 0, 100 * MS)
    more = random_batch(rng, 50_000, 20, 10, start, start + 1000 * MS)
    accumulator = WindowAccumulator(10, 20, spec=InputSpec(leaky=(0.1, 2.0)), window=fixed(20 * MS))
    accumulator.push(batch)
    render = accumulator._render

    def overtaken(*arguments: Any) -> None:
        for part in pieces(more, list(range(0, 50_000, 97))):
            accumulator.push(part)
        render(*arguments)

    monkeypatch.setattr(accumulator, "_render", overtaken)
    assert_same(accumulator.read(), batch, accumulator)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(EventsError, match="'time_surface'; known: voxel, histogram"):
        WindowAccumulator(10, 20, InputSpec("time_surface"))
    for height, width, bins, patch in ((10, 20, 0, 16), (10, 20, 5, 0), (0, 20, 5, 16),
                                       (10, 70_000, 5, 16)):  # fmt: skip
        with pytest.raises(EventsError, match="cannot accumulate"):
            WindowAccumulator(height, width, InputSpec(bins=bins), patch=patch)
    with pytest.raises(EventsError, match="bins of 0 slices"):
        WindowAccumulator(10, 20, slices_per_bin=0)
    accumulator = WindowAccumulator(10, 20)
    accumulator.push(EventBatch.empty(20, 10))
    assert accumulator.t_end is None
    with pytest.raises(EventsError, match="no event has been pushed yet"):
        accumulator.window()
    for times in ([1 << 62, 1 << 62], [-(1 << 62), 0], [5, 4]):
        two = EventBatch(*(np.zeros(2, np.uint16),) * 2, np.array(times), np.zeros(2, "u1"), 20, 10)
        with pytest.raises(EventsError, match="in order and below"):
            accumulator.push(two)
    with pytest.raises(EventsError, match="10x20 sensor do not fit windows of 20x10"):
        accumulator.push(EventBatch.empty(10, 20))
