"""Counts of one topic: rates, gaps, geometry, bytes that lie."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from scaleevent_ros.bags.messages import (
    EVENT_PACKET,
    IMAGE,
    EventPacketView,
    ImageView,
    serialize_event_packet,
    serialize_image,
)
from scaleevent_ros.nodes.statuses import TopicMonitor


def packet(seq: int, width: int = 640, events: int = 100) -> bytes:
    return serialize_event_packet(
        EventPacketView(seq * 1000, "", 480, width, seq, 10**9, "libcaer", False, bytes(8 * events))
    )


def test_missing_packets_are_counted() -> None:
    monitor = TopicMonitor(EVENT_PACKET)
    for seq in (5, 6, 9, 10, 30):
        monitor.count(packet(seq))
    assert (monitor.messages, monitor.lost) == (5, 2 + 19)


def test_a_driver_that_starts_again_loses_nothing() -> None:
    monitor = TopicMonitor(EVENT_PACKET)
    for seq in (1000, 1001, 0, 1):
        monitor.count(packet(seq))
    assert monitor.lost == 0


def test_rates_are_those_since_the_last_call() -> None:
    monitor = TopicMonitor(EVENT_PACKET)
    assert monitor.rates(10.0) == (0, 0)
    for seq in range(100):
        monitor.count(packet(seq))
    assert monitor.rates(12.0) == (50, 50 * len(packet(0)))
    assert monitor.rates(13.0) == (0, 0)


def test_the_geometry_follows_the_messages() -> None:
    monitor = TopicMonitor(EVENT_PACKET)
    monitor.count(packet(0))
    assert monitor.geometry == (640, 480)
    monitor.count(packet(1, width=1280))
    assert monitor.geometry == (1280, 480)
    image = TopicMonitor(IMAGE)
    image.count(serialize_image(ImageView(0, "", 3, 5, "mono8", False, 5, bytes(15))))
    assert image.geometry == (5, 3)


def test_messages_that_lie_are_counted_and_harm_nothing() -> None:
    monitor = TopicMonitor(EVENT_PACKET)
    monitor.count(packet(0))
    monitor.count(packet(1)[:40])
    monitor.count(b"")
    monitor.count(packet(2))
    assert (monitor.messages, monitor.malformed, monitor.lost) == (4, 2, 1)
