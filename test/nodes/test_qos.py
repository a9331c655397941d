"""QoS: the strongest that every publisher of a topic offers."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from scaleevent_ros.nodes.subscriptions import adapt_qos

RELIABLE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


@pytest.mark.parametrize(
    ("offers", "reliable", "lasting"),
    [
        ([], False, False),
        ([RELIABLE], True, False),
        ([BEST_EFFORT], False, False),
        ([RELIABLE, BEST_EFFORT], False, False),
        ([LATCHED], True, True),
        ([LATCHED, RELIABLE], True, False),
    ],
)
def test_the_strongest_that_all_offer(
    offers: list[QoSProfile], reliable: bool, lasting: bool
) -> None:
    qos = adapt_qos(offers, depth=300)
    assert qos.depth == 300
    assert (qos.reliability == ReliabilityPolicy.RELIABLE) is reliable
    assert (qos.durability == DurabilityPolicy.TRANSIENT_LOCAL) is lasting


def test_what_is_asked_for_overrules() -> None:
    qos = adapt_qos([BEST_EFFORT], 10, reliability="reliable", durability="transient_local")
    assert qos.reliability == ReliabilityPolicy.RELIABLE
    assert qos.durability == DurabilityPolicy.TRANSIENT_LOCAL
    qos = adapt_qos([LATCHED], 10, reliability="best_effort", durability="volatile")
    assert qos.reliability == ReliabilityPolicy.BEST_EFFORT
    assert qos.durability == DurabilityPolicy.VOLATILE
