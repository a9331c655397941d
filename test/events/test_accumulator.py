"""Windows over a stream against the representations of the same events in one batch."""

from __future__ import annotations

import threading
from itertools import pairwise
from time import sleep
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_events import batches, random_batch

from scaleevent_ros.events import (
    ByActivity,
    ByCount,
    ByTime,
    EventBatch,
    EventsError,
    Window,
    WindowAccumulator,
    patch_counts,
    represent,
)

MS = 1_000_000


def assert_same(window: Window, events: EventBatch, accumulator: WindowAccumulator) -> None:
    """Compare a window with the representation of everything that was pushed."""
    name, span = accumulator.representation, (window.t_start, window.t_end)
    inside = events.between(*span)
    # A pixel's events may each be off by what rounding their times does.
    most = np.bincount(inside.y.astype(int) * events.width + inside.x).max(initial=0)
    np.testing.assert_allclose(
        window.tensor,
        represent(name, events, *span, accumulator.bins),
        rtol=1e-6,
        atol=most * 2.0**-19 if name == "voxel" else 0,
    )
    assert window.events == len(inside)
    np.testing.assert_array_equal(window.patch_counts, patch_counts(inside, accumulator.patch))


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
)
@settings(max_examples=150, deadline=None)
def test_windows_are_the_representations(
    data: st.DataObject,
    batch: EventBatch,
    cuts: list[int],
    name: str,
    bins: int,
    slices: int,
) -> None:
    """However packets are cut, and wherever between them a window is asked for."""
    span = int(batch.t[-1] - batch.t[0]) + 1 if len(batch) else 1
    rule = ByTime(data.draw(st.integers(max(span // 5, 1), 2 * span)), slices)
    accumulator = WindowAccumulator(
        batch.height, batch.width, bins=bins, rule=rule, representation=name, patch=3
    )
    pushed = 0
    for part in pieces(batch, cuts):
        accumulator.push(part)
        pushed += len(part)
        if pushed:
            assert_same(accumulator.read(), batch[:pushed], accumulator)
    if pushed:
        accumulator.advance(int(batch.t[-1]) + accumulator.slice_ns)
        window = accumulator.read()
        assert window.t_end > batch.t[-1]
        assert window.t_end - window.t_start >= rule.length_ns
        assert_same(window, batch, accumulator)
        earlier = accumulator.read(window.t_end - 1)
        assert earlier.t_end == window.t_end - accumulator.slice_ns
        assert_same(earlier, batch, accumulator)
        stats = accumulator.stats
        assert (stats.events, stats.late_events, stats.outside_events) == (len(batch), 0, 0)


def test_a_voxel_grid_of_short_windows_is_exact() -> None:
    batch = random_batch(np.random.default_rng(0), 20_000, 20, 10, 0, 4 * MS)
    accumulator = WindowAccumulator(10, 20, rule=ByTime(1 * MS))
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
            1, 1, bins=3, rule=ByTime(2 * count, 1), representation=name
        )
        for turn in range(1, 7):
            start = 10**18 + turn * count
            accumulator.push(EventBatch(one.x, one.y, one.t + start, one.p, 1, 1))
        accumulator.advance(10**18 + 8 * count)
        last = EventBatch.concatenate([
            EventBatch(one.x, one.y, one.t + 10**18 + turn * count, one.p, 1, 1)
            for turn in (4, 5, 6)
        ])  # fmt: skip
        window = accumulator.read(10**18 + 7 * count)
        expected = represent(name, last, window.t_start, window.t_end, 3)
        np.testing.assert_allclose(window.tensor, expected, rtol=1e-5)


def test_windows_by_count_grow_until_they_hold_enough() -> None:
    batch = random_batch(np.random.default_rng(1), 10_000, 20, 10, 0, 100 * MS)
    rule = ByCount(2000, shortest_ns=4 * MS, longest_ns=60 * MS)
    accumulator = WindowAccumulator(10, 20, bins=3, rule=rule)
    accumulator.push(batch)
    window = accumulator.read()
    length = window.t_end - window.t_start
    assert length % rule.shortest_ns == 0
    shorter = batch.between(window.t_start + rule.shortest_ns, window.t_end)
    assert len(shorter) < rule.events <= window.events
    assert_same(window, batch, accumulator)
    accumulator.advance(190 * MS)  # nothing moves any more
    window = accumulator.read()
    assert (window.t_end - window.t_start, window.events) == (rule.longest_ns, 0)


def test_windows_by_activity_grow_until_enough_patches_are_active() -> None:
    batch = random_batch(np.random.default_rng(2), 10_000, 32, 16, 0, 100 * MS)
    rule = ByActivity(0.9, shortest_ns=4 * MS, longest_ns=60 * MS, threshold=50)
    accumulator = WindowAccumulator(16, 32, bins=3, rule=rule, patch=8)
    accumulator.push(batch)
    window = accumulator.read()
    shorter = batch.between(window.t_start + rule.shortest_ns, window.t_end)
    assert (patch_counts(shorter, 8) >= 50).mean() < 0.9 <= (window.patch_counts >= 50).mean()
    assert_same(window, batch, accumulator)


def test_what_nobody_read_is_counted_when_it_goes() -> None:
    batch = random_batch(np.random.default_rng(3), 10_000, 20, 10, 0, 1000 * MS)
    accumulator = WindowAccumulator(10, 20, bins=3, rule=ByTime(20 * MS, 1))
    memory = accumulator.memory_bytes
    for part in pieces(batch, list(range(0, 10_000, 97))):
        accumulator.push(part)
    window = accumulator.read()
    kept = 4 * 10 * MS  # a window, and one bin's interval by which its end may lie back
    lost = batch.between(0, window.t_end - kept)
    stats = accumulator.stats
    assert stats.dropped_events == len(lost) > 0
    assert stats.dropped_slices == (window.t_end - kept) // (10 * MS)
    assert accumulator.memory_bytes == memory
    with pytest.raises(EventsError, match=r"out of reach: the latest ends at 990000000 ns"):
        accumulator.read(window.t_end - 30 * MS)
    # A consumer that keeps up loses nothing more.
    later = random_batch(np.random.default_rng(4), 10_000, 20, 10, 1000 * MS, 2000 * MS)
    for part in pieces(later, list(range(0, 10_000, 97))):
        accumulator.push(part)
        accumulator.read()
    assert accumulator.stats.dropped_events == stats.dropped_events


def test_time_that_steps_back_or_far_ahead() -> None:
    rng = np.random.default_rng(5)
    accumulator = WindowAccumulator(10, 20, bins=3, rule=ByTime(20 * MS, 1))
    accumulator.push(random_batch(rng, 1000, 20, 10, 10**18, 10**18 + 100 * MS))
    late = random_batch(rng, 100, 20, 10, 10**18 + 80 * MS, 10**18 + 85 * MS)
    accumulator.push(late)
    assert accumulator.stats.late_events == 100
    for start, restarts in ((0, 1), (10**17, 1), (10**17 - 10**12, 2)):
        batch = random_batch(rng, 1000, 20, 10, start, start + 100 * MS)
        accumulator.push(batch)
        accumulator.advance(start + 100 * MS)
        assert accumulator.stats.restarts == restarts
        assert_same(accumulator.read(), batch, accumulator)


def test_events_off_the_sensor_are_left_out_and_counted() -> None:
    batch = random_batch(np.random.default_rng(6), 500, 30, 30, 0, 10 * MS)
    wrong = EventBatch(batch.x, batch.y, batch.t, batch.p, 20, 10)
    fits = (wrong.x < 20) & (wrong.y < 10)
    right = EventBatch(wrong.x[fits], wrong.y[fits], wrong.t[fits], wrong.p[fits], 20, 10)
    accumulator = WindowAccumulator(10, 20, rule=ByTime(10 * MS))
    accumulator.push(wrong)
    accumulator.advance(10 * MS)
    assert accumulator.stats.outside_events == 500 - len(right) > 0
    assert_same(accumulator.read(), right, accumulator)


def test_output_memory_may_be_given() -> None:
    batch = random_batch(np.random.default_rng(7), 500, 20, 10, 0, 10 * MS)
    accumulator = WindowAccumulator(10, 20, rule=ByTime(5 * MS))
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
    accumulator = WindowAccumulator(height, width, rule=ByTime(20 * MS))
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
    """All that is kept is replaced, or time starts anew, between the choice and the reading."""
    rng = np.random.default_rng(9)
    batch = random_batch(rng, 5000, 20, 10, 0, 100 * MS)
    more = random_batch(rng, 50_000, 20, 10, start, start + 1000 * MS)
    accumulator = WindowAccumulator(10, 20, rule=ByTime(20 * MS))
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
        WindowAccumulator(10, 20, representation="time_surface")
    for height, width, bins, patch in ((10, 20, 0, 16), (10, 20, 5, 0), (0, 20, 5, 16),
                                       (10, 70_000, 5, 16)):  # fmt: skip
        with pytest.raises(EventsError, match="cannot accumulate"):
            WindowAccumulator(height, width, bins=bins, patch=patch)
    for rule in (ByTime(0), ByTime(5, 0), ByCount(5, 0, 9), ByCount(5, 9, 8)):
        with pytest.raises(EventsError, match="no window can have"):
            WindowAccumulator(10, 20, rule=rule)
    with pytest.raises(EventsError, match=r"from 0 to 1, not 1\.5"):
        WindowAccumulator(10, 20, rule=ByActivity(1.5, 5, 9))
    accumulator = WindowAccumulator(10, 20)
    accumulator.push(EventBatch.empty(20, 10))
    accumulator.advance(5)
    assert accumulator.t_end is None
    with pytest.raises(EventsError, match="no event has been pushed yet"):
        accumulator.window()
    for times in ([1 << 62, 1 << 62], [-(1 << 62), 0], [5, 4]):
        two = EventBatch(*(np.zeros(2, np.uint16),) * 2, np.array(times), np.zeros(2, "u1"), 20, 10)
        with pytest.raises(EventsError, match="in order and below"):
            accumulator.push(two)
    with pytest.raises(EventsError, match="10x20 sensor do not fit windows of 20x10"):
        accumulator.push(EventBatch.empty(10, 20))
