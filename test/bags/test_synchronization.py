"""Frames of simulated recordings, whose true times are known, against each mode."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
from moving_scene import EVENT_TOPIC, IMAGE_TOPIC, Rig, write_scene

from scaleevent_ros.bags import BagError, BagReader, BagWriter, SynchronizationError
from scaleevent_ros.bags.check import check_bag
from scaleevent_ros.bags.event_stream import EventStream
from scaleevent_ros.bags.messages import parse_image, serialize_image
from scaleevent_ros.bags.shift import _busiest_frames, estimate_shift
from scaleevent_ros.bags.summary_text import quality_text
from scaleevent_ros.bags.synchronization import _assign, synchronize
from scaleevent_ros.bags.timeline import RecordedClock, events_from, read_timeline
from scaleevent_ros.events import fit_clock

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from scaleevent_ros.bags.synchronization import Synchronization
    from scaleevent_ros.bags.timeline import Timeline


def synchronized(
    path: Path, rig: Rig, mode: str = "auto"
) -> tuple[Synchronization, NDArray[np.float64]]:
    """Record and synchronize; return the result and its errors in ms."""
    truth = write_scene(path / "bag", rig)
    reader = BagReader(path / "bag")
    result = synchronize(reader, read_timeline(reader), mode)
    return result, (result.frame_ns - truth)[result.known] / 1e6


@pytest.mark.parametrize("shift", [-50.0, -17.4, 0.0, 31.7, 50.0])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_shift_is_found_to_one_ms(tmp_path: Path, shift: float, seed: int) -> None:
    result, errors = synchronized(tmp_path, Rig(shift=shift, seed=seed), "estimated")
    assert result.shift_ms == pytest.approx(shift, abs=1.0)
    assert np.abs(errors).max() < 1.2  # the packets' clock is not exact either
    assert result.residual_ms < 2.0


def test_a_shift_is_found_at_slow_frame_rates_and_with_drift(tmp_path: Path) -> None:
    rig = Rig(shift=-40, frame_interval=100, duration=3000, drift=1e-4, stamp_jitter=1.0)
    result, errors = synchronized(tmp_path, rig)
    assert result.mode == "estimated"
    assert abs(np.median(errors)) < 1.0


def test_frames_out_of_order_and_recorded_at_one_time_do_not_matter(tmp_path: Path) -> None:
    """Deliver a backlog at once after a pause of the recorder; stamps step back."""
    write_scene(tmp_path / "bag", Rig(shift=30))
    reader = BagReader(tmp_path / "bag")
    timeline = read_timeline(reader)
    swapped = timeline.frames.stamp.copy()
    swapped[[20, 21]] = swapped[[21, 20]]
    messages = list(reader.messages())
    stamps = iter(swapped.tolist())
    with BagWriter(tmp_path / "odd") as writer:
        for name, info in reader.topics.items():
            writer.add_topic(name, info.msgtype)
        for message in messages:
            data, record_ns = bytes(message.data), message.record_time_ns
            if message.topic == IMAGE_TOPIC:
                data = serialize_image(parse_image(data)._replace(stamp_ns=next(stamps)))
                record_ns -= record_ns % 200_000_000
            writer.write(message.topic, record_ns, data)
    odd = BagReader(tmp_path / "odd")
    result = synchronize(odd, read_timeline(odd), "estimated")
    assert result.shift_ms == pytest.approx(30, abs=1.5)


def test_of_frames_far_apart_the_busiest_frames_two_are_taken() -> None:
    second = 1_000_000_000
    stamps = np.arange(0, 100, 1) * second
    events = np.where(stamps == 50 * second, 1000, 1)
    packets = SimpleNamespace(first=stamps, before=np.cumsum(events) - events)
    timeline = cast("Timeline", SimpleNamespace(packets=packets, start_ns=0, end_ns=100 * second))
    assert _busiest_frames(timeline, np.array([10, 30, 45, 80]) * second) == (2, 2)
    assert _busiest_frames(timeline, np.array([10, 30, 49, 69]) * second) == (2, 3)


def test_changes_of_exposure_do_not_hide_a_shift(tmp_path: Path) -> None:
    result, _ = synchronized(tmp_path, Rig(shift=22, flicker=2.0, seed=4), "estimated")
    assert result.shift_ms == pytest.approx(22, abs=1.0)


def test_no_shift_is_made_up_where_frames_and_events_have_nothing_in_common(
    tmp_path: Path,
) -> None:
    rig = Rig(frames_of_another_scene=True)
    with pytest.raises(SynchronizationError, match="motion does not show the shift"):
        synchronized(tmp_path, rig, "estimated")
    result = synchronized(tmp_path / "again", rig)[0]
    assert result.mode == "header_stamps"
    assert "motion does not show the shift" in result.reason


def test_a_shift_beyond_the_search_is_not_mistaken_for_its_limit(tmp_path: Path) -> None:
    with pytest.raises(SynchronizationError, match="motion does not show the shift"):
        synchronized(tmp_path, Rig(shift=130), "estimated")


def test_good_stamps_are_believed(tmp_path: Path) -> None:
    result, errors = synchronized(tmp_path, Rig(shift=0.5, stamp_jitter=0.1))
    assert (result.mode, result.shift_ms) == ("header_stamps", 0.0)
    assert np.abs(errors + 0.5).max() < 0.5
    assert "motion agrees with the stamps" in result.reason


LOST = (3, 4, 17, 30)


@pytest.mark.parametrize("shift", [-45.0, -12.0, 20.0])
def test_trigger_edges_are_matched_to_frames(tmp_path: Path, shift: float) -> None:
    rig = Rig(
        triggers=True,
        shift=shift,
        stamp_jitter=2.0,
        lost_triggers=LOST,
        extra_triggers=(238.0, 240.0, 907.3),
    )
    result, errors = synchronized(tmp_path, rig)
    assert result.mode == "hardware_trigger"
    assert np.abs(errors).max() < 0.001
    assert np.flatnonzero(~result.known).tolist() == list(LOST)
    assert result.shift_ms == pytest.approx(shift, abs=1.0)
    assert 1.0 < result.residual_ms < 3.0
    assert "have rising edges of trigger 1" in result.reason


def test_an_edge_belongs_to_one_frame_only() -> None:
    edges = np.array([0, 100, 200, 300])
    index, known = _assign(edges, np.array([3, 1, 99, 160, 301]), 25)
    assert index[[0, 1, 2, 4]].tolist() == [0, 0, 1, 3]
    assert known.tolist() == [False, True, True, False, True]


def test_edges_that_keep_no_time_with_the_frames_are_not_used(tmp_path: Path) -> None:
    extra = tuple(np.arange(10.0, 1450.0, 7.7))
    rig = Rig(extra_triggers=extra, stamp_jitter=3.0)
    with pytest.raises(SynchronizationError, match=r"the \d+ trigger edges do not match"):
        synchronized(tmp_path, rig, "hardware_trigger")


def test_frames_stamped_by_the_sensor_are_recognized(tmp_path: Path) -> None:
    result, errors = synchronized(tmp_path, Rig(sensor_stamps=True, drift=5e-5))
    assert result.mode == "sensor_time"
    assert np.abs(errors).max() == 0


def test_stamps_of_different_clocks_are_not_mixed(tmp_path: Path) -> None:
    rig = Rig(sensor_stamps=True)
    with pytest.raises(SynchronizationError, match=r"frames and of events are 1\d+\.\d s apart"):
        synchronized(tmp_path, rig, "header_stamps")


def test_modes_that_a_bag_does_not_support_say_so(tmp_path: Path) -> None:
    write_scene(tmp_path / "bag", Rig())
    reader = BagReader(tmp_path / "bag")
    timeline = read_timeline(reader)
    with pytest.raises(SynchronizationError, match="hold no trigger edges"):
        synchronize(reader, timeline, "hardware_trigger")
    with pytest.raises(SynchronizationError, match="not times of the sensor's clock"):
        synchronize(reader, timeline, "sensor_time")
    with pytest.raises(SynchronizationError, match="'guess' is none of auto, hardware_trigger"):
        synchronize(reader, timeline, "guess")


def test_a_bag_without_events_says_so(tmp_path: Path) -> None:
    write_scene(tmp_path / "bag", Rig(speed=0))
    with pytest.raises(BagError, match=f"no event could be decoded from {EVENT_TOPIC}"):
        read_timeline(BagReader(tmp_path / "bag"), EVENT_TOPIC, IMAGE_TOPIC)


def test_decoding_from_the_middle_gives_the_same_times(tmp_path: Path) -> None:
    """The sensor's 24 bits of time wrap at 16.8 s: a decoder that starts later does not know."""
    rig = Rig(sensor_start=16_000.0)
    write_scene(tmp_path / "bag", rig)
    reader = BagReader(tmp_path / "bag")
    timeline = read_timeline(reader)
    whole = np.concatenate([packet.events.t for packet in events_from(reader, timeline, 0)])
    start_ns = 17_100_000_000
    part = np.concatenate([packet.events.t for packet in events_from(reader, timeline, start_ns)])
    assert whole[-1] > 17_400_000_000 > 2**24 * 1000
    assert np.array_equal(part[part >= start_ns], whole[whole >= start_ns])
    assert len(part) < len(whole) / 2


def test_real_events_give_a_clock(test_data: Path) -> None:
    """The host's stamps of this bag scatter by 1.25 ms about the sensor's clock."""
    reader = BagReader(test_data / "bags/evt3_640x480")
    rows = [
        (packet.events.t[0], packet.stamp_ns)
        for packet in EventStream(reader).packets()
        if len(packet.events)
    ]
    sensor, host = np.array(rows, np.int64).T.copy()
    clock = RecordedClock.from_fits(fit_clock(sensor, host))
    assert 0.5 < clock.residual_ms < 2.0
    assert np.abs(clock.to_sensor(clock.to_host(sensor)) - sensor).max() <= 2


@pytest.mark.parametrize("rate", [1.1, 1.5, 2.0, 0.5])
def test_clocks_of_different_rates_are_refused_and_named(tmp_path: Path, rate: float) -> None:
    """The medians of these stamps agree."""
    write_scene(tmp_path / "bag", Rig(stamp_rate=rate, duration=3000, stamp_jitter=2.0))
    reader = BagReader(tmp_path / "bag")
    timeline = read_timeline(reader)
    match = rf"different rates.* stamps of {IMAGE_TOPIC} {rate:.2f}\d, stamps of {EVENT_TOPIC} 1.00"
    for mode in ("auto", "header_stamps", "estimated"):
        with pytest.raises(SynchronizationError, match=match):
            synchronize(reader, timeline, mode)
    quality = check_bag(reader)
    assert any("different rates" in problem for problem in quality.problems)


DECLARED = ("clock_method", "hardware_trigger"), ("clock_detail", "a board triggers both")


def test_a_declared_exact_clock_is_believed(tmp_path: Path) -> None:
    """A different shift from motion is a warning, not a correction."""
    rig = Rig(shift=8, custom_data=DECLARED)
    result, errors = synchronized(tmp_path, rig)
    assert (result.mode, result.shift_ms) == ("hardware_trigger", 0.0)
    assert np.abs(errors + 8).max() < 0.5
    assert result.reason == "the bag declares hardware_trigger: a board triggers both"
    quality = check_bag(BagReader(tmp_path / "bag"))
    assert quality.clock is not None
    assert quality.clock.declared == "hardware_trigger"
    assert quality.clock.estimated_shift_ms == pytest.approx(8, abs=1.5)
    assert any("from their times by hardware_trigger" in text for text in quality.warnings)
    # Without the declaration, the shift is estimated away.
    assert synchronized(tmp_path / "again", replace(rig, custom_data=()))[0].mode == "estimated"


def test_a_declared_clock_that_motion_confirms_is_no_warning(tmp_path: Path) -> None:
    write_scene(tmp_path / "bag", Rig(custom_data=DECLARED))
    quality = check_bag(BagReader(tmp_path / "bag"))
    assert quality.warnings == []
    assert re.search(r"by motion +shift [+-]0\.\d\d ms, residual", quality_text(quality))


def test_a_declaration_that_cannot_be_is_not_believed(tmp_path: Path) -> None:
    rig = Rig(custom_data=DECLARED, sensor_stamps=True)
    assert synchronized(tmp_path, rig)[0].mode == "sensor_time"


@pytest.mark.parametrize("frame_interval", [25.0, 50.0, 100.0])
def test_slow_motion_does_not_replace_exact_stamps(tmp_path: Path, frame_interval: float) -> None:
    """An event completes a change that takes tens of ms here; without a model, a shift of 5 ms."""
    rig = Rig(speed=20, duration=4000, frame_interval=frame_interval, packet_jitter=0.1)
    write_scene(tmp_path / "bag", rig)
    reader = BagReader(tmp_path / "bag")
    timeline = read_timeline(reader)
    shift = estimate_shift(reader, timeline, timeline.clock.to_sensor(timeline.frames.stamp))
    assert shift.lag_ms > 2
    assert abs(shift.shift_ms) < 1.5
    assert abs(shift.shift_ms) < 3 * shift.residual_ms
    assert synchronize(reader, timeline).mode == "header_stamps"


def test_a_large_shift_under_slow_motion_is_still_found(tmp_path: Path) -> None:
    result, errors = synchronized(tmp_path, Rig(speed=20, duration=4000, shift=-40))
    assert result.mode == "estimated"
    assert np.abs(np.median(errors)) < 2
    assert np.abs(np.median(errors)) < 3 * result.residual_ms


def test_stamps_within_the_uncertainty_of_an_estimate_are_kept(tmp_path: Path) -> None:
    result, _ = synchronized(tmp_path, Rig(speed=20, duration=4000, shift=4))
    assert result.mode == "header_stamps"
    assert result.estimate is not None
    assert abs(result.estimate.shift_ms) < 3 * result.estimate.residual_ms
