"""Pairs hold the events of their frame's window, and all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from moving_scene import Rig, make_events, write_scene

from scaleevent_ros.bags import BagReader, pairs
from scaleevent_ros.bags.pairing import frame_windows, is_covered
from scaleevent_ros.bags.synchronization import synchronize
from scaleevent_ros.bags.timeline import read_timeline

if TYPE_CHECKING:
    from pathlib import Path

RIG = Rig(triggers=True, shift=-30, stamp_jitter=2.0, lost_triggers=(10,))


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    path = tmp_path_factory.mktemp("pairs") / "bag"
    return path, write_scene(path, RIG)


@pytest.mark.parametrize(("before_ms", "after_ms"), [(50, 0), (20, 20), (0, 33), (300, 0)])
def test_each_pair_holds_the_events_of_its_window(
    bag: tuple[Path, np.ndarray], before_ms: int, after_ms: int
) -> None:
    path, truth = bag
    everything = make_events(RIG.duration, RIG.speed, RIG.seed)
    offset = round(RIG.sensor_start * 1e6)
    found = list(
        pairs(BagReader(path), before_ns=before_ms * 1_000_000, after_ns=after_ms * 1_000_000)
    )
    for pair in found:
        moment = int(truth[pair.index]) - offset
        # EVT3 counts microseconds.
        expected = everything.between(moment - before_ms * 1_000_000, moment + after_ms * 1_000_000)
        assert len(pair.events) == len(expected)
        assert np.array_equal(pair.events.x, expected.x)
        assert np.array_equal(pair.events.p, expected.p)
        assert np.abs(pair.events.t - pair.stamp_ns - (expected.t - moment)).max() <= 1000
        assert (pair.mode, pair.frame.shape) == ("hardware_trigger", (48, 64, 3))
    indices = [pair.index for pair in found]
    inside = (truth - offset - before_ms * 1_000_000 > everything.t[0]) & (
        truth - offset + after_ms * 1_000_000 <= everything.t[-1]
    )
    inside[10] = False
    assert indices == np.flatnonzero(inside).tolist()


def test_a_part_of_the_pairs_is_what_it_is_in_the_whole(bag: tuple[Path, np.ndarray]) -> None:
    reader = BagReader(bag[0])
    timeline = read_timeline(reader)
    synchronization = synchronize(reader, timeline)
    whole = {window.index: window for window in frame_windows(reader, timeline, synchronization)}
    part = list(frame_windows(reader, timeline, synchronization, first=20, last=27))
    assert [window.index for window in part] == list(range(20, 27))
    for window in part:
        assert window.sensor_ns == whole[window.index].sensor_ns
        assert np.array_equal(window.events.t, whole[window.index].events.t)
        assert bytes(window.message.data) == bytes(whole[window.index].message.data)


def test_what_is_not_covered_has_no_pair(bag: tuple[Path, np.ndarray]) -> None:
    reader = BagReader(bag[0])
    timeline = read_timeline(reader)
    synchronization = synchronize(reader, timeline)
    covered = is_covered(timeline, synchronization, 10**12, 0)
    assert not covered.any()
    assert list(frame_windows(reader, timeline, synchronization, before_ns=10**12)) == []
