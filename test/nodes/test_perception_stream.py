"""Packets of a camera as bytes: windows only while they are wanted, whole, and on one clock."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from scaleevent_ros.bags.messages import EventPacketView, serialize_event_packet
from scaleevent_ros.events import EventsError, InputSpec, WindowOptions
from scaleevent_ros.nodes.parameters import PerceptionParameters
from scaleevent_ros.nodes.perception_stream import (
    AGREEING,
    AGREEING_S,
    PacketStream,
    StreamCounts,
    Trigger,
)
from scaleevent_ros.nodes.perception_windows import make_windows
from scaleevent_ros.runtime.arrays import CPU

if TYPE_CHECKING:
    from scaleevent_ros.nodes.perception_windows import Windows

SIZE = (24, 40)
MS = 1_000_000
PACKET_NS = 5 * MS
EVENTS = 50  # a packet
STAMP_NS = 10**18


def windows() -> Windows:
    return make_windows(InputSpec(), SIZE, 16, WindowOptions(), CPU)


class Driver:
    """Makes packets of `libcaer`, whose events have the times that the driver's clock says."""

    def __init__(self) -> None:
        self.sensor_ns = 3600 * 10**9
        self.host_ns = STAMP_NS
        self.seq = 0

    def packet(self, size: tuple[int, int] = SIZE) -> bytes:
        words = np.empty((EVENTS, 2), "<u4")
        words[:, 0] = np.arange(EVENTS) % SIZE[1] << 17 | np.arange(EVENTS) % SIZE[0] << 2 | 1
        words[:, 1] = np.arange(EVENTS) * (PACKET_NS // 1000 // EVENTS)
        view = EventPacketView(
            self.host_ns, "camera", *size, self.seq, self.sensor_ns, "libcaer", False,
            words.tobytes(),
        )  # fmt: skip
        self.seq += 1
        self.sensor_ns += PACKET_NS
        self.host_ns += PACKET_NS
        return serialize_event_packet(view)


def stream() -> tuple[PacketStream, list[str]]:
    said: list[str] = []
    return PacketStream(SIZE, windows, 60.0, said.append, StreamCounts()), said


def test_windows_are_kept_while_wanted_and_offered_when_whole() -> None:
    packets, _ = stream()
    driver = Driver()

    def offered(*, keep: bool) -> bool:
        assert packets.push(driver.packet(), 0, keep=keep) == EVENTS
        return packets.live is not None

    assert not any(offered(keep=False) for _ in range(5))
    # A window of 50 ms is whole once the slice in which the first packet began is out of it.
    assert [offered(keep=True) for _ in range(13)].index(True) in {10, 11, 12}
    assert packets.live
    assert int(packets.live.windows.read().patch_counts.sum()) == 10 * EVENTS
    assert not offered(keep=False)
    assert not any(offered(keep=True) for _ in range(9))  # windows would lack what was not kept
    assert packets.counts.events == 28 * EVENTS


@pytest.mark.parametrize("step_s", [-3000, 3000])
def test_a_sensor_whose_clock_is_set_anew_is_followed(step_s: int) -> None:
    packets, said = stream()
    driver = Driver()
    for _ in range(60):
        packets.push(driver.packet(), 0, keep=True)
    assert packets.live is not None
    driver.sensor_ns += step_s * 10**9
    for _ in range(200):
        packets.push(driver.packet(), 0, keep=True)
    assert packets.counts.clock_steps == 1
    assert "was set: a new epoch" in said[0]
    live = packets.live
    assert live is not None
    window = live.windows.read()
    assert int(window.patch_counts.sum()) == 10 * EVENTS
    assert live.fit.to_ros(window.t_end) == pytest.approx(driver.host_ns, abs=3 * PACKET_NS)


@pytest.mark.parametrize("packets_before", [3, 100])
def test_stamps_that_step_back_begin_an_epoch_at_once(packets_before: int) -> None:
    """The epoch changes before the clock knows enough pairs of stamps too."""
    packets, said = stream()
    driver = Driver()
    for _ in range(packets_before):
        packets.push(driver.packet(), 0, keep=True)
    driver.host_ns -= 3600 * 10**9
    for _ in range(20):
        packets.push(driver.packet(), 0, keep=True)
    assert said == ["stamps step back by 3600.0 s: a new epoch begins"]
    assert (packets.counts.epochs, packets.counts.clock_steps) == (2, 1)
    assert packets.live is not None
    end = packets.live.windows.t_end
    assert end is not None
    assert packets.live.fit.to_ros(end) == pytest.approx(driver.host_ns, abs=3 * PACKET_NS)


def test_another_geometry_is_believed_once_the_old_one_is_gone() -> None:
    packets, said = stream()
    own, other = Driver(), Driver()
    other.seq = 10**6
    for _ in range(50):  # two cameras on one topic
        packets.push(own.packet(), 0, keep=True)
        own.seq = other.seq = other.seq + 1
        for _ in range(AGREEING + 1):
            packets.push(other.packet((48, 80)), 0, keep=True)
            assert packets.new_size is None
    assert packets.counts.malformed == 50 * (AGREEING + 1)
    assert "a packet of 80x48 pixels is ignored among those of 40x24" in said[0]
    time.sleep(AGREEING_S)
    for _ in range(AGREEING):
        packets.push(other.packet((48, 80)), 0, keep=True)
    assert packets.new_size == (48, 80)


def test_a_rebuilt_stream_has_no_window_until_one_is_whole() -> None:
    packets, _ = stream()
    driver = Driver()
    for _ in range(20):
        packets.push(driver.packet(), 0, keep=True)

    def impossible() -> Windows:
        msg = "no such window"
        raise EventsError(msg)

    before = packets.live
    packets._make = impossible
    with pytest.raises(EventsError):
        packets.rebuild()
    assert packets.live is before
    packets._make = windows
    packets.rebuild()
    packets.push(driver.packet(), 0, keep=True)
    assert packets.live is None


def test_triggers_ask_for_results() -> None:
    """Sixty packets of 50 events."""
    for settings, expected in (
        (PerceptionParameters(trigger="packet"), 60),
        (PerceptionParameters(trigger="count", count=200), 15),
        (PerceptionParameters(trigger="rate", rate=0.1), 1),
        (PerceptionParameters(trigger="image"), 0),
    ):
        requests: list[None] = []
        trigger = Trigger(settings, partial(requests.append, None), StreamCounts())
        for _ in range(60):
            trigger.packet(EVENTS, None)
            trigger.packet(0, None)  # without events there is nothing new
        assert len(requests) == expected


def test_an_image_waits_for_its_events() -> None:
    packets, _ = stream()
    driver = Driver()
    requests: list[int | None] = []
    trigger = Trigger(
        PerceptionParameters(trigger="image"),
        lambda: requests.append(trigger.due_ns),
        packets.counts,
    )

    def play(count: int) -> None:
        for _ in range(count):
            trigger.packet(packets.push(driver.packet(), 0, keep=True), packets.live)

    play(30)
    taken = driver.host_ns + 20 * MS
    trigger.image(taken - 15 * MS, packets.live)
    trigger.image(taken, packets.live)
    assert packets.counts.skipped == 1  # its events did not come in time
    play(3)
    assert not requests
    play(4)
    assert requests == [taken]
    play(5)
    assert requests == [taken]
    trigger.image(taken + 1, packets.live)  # its events are here already
    assert requests == [taken, taken + 1]
