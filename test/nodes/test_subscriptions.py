"""Raw subscriptions: what has arrived is handed over, and what cannot be subscribed is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from scaleevent_ros.nodes.parameters import NodeError
from scaleevent_ros.nodes.subscriptions import Topic, TopicFilter, TopicFollower

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ros_processes import Graph

ALL_IMAGES = TopicFilter((), ("sensor_msgs/msg/Image",), "", 100, "auto", "auto")


@pytest.fixture
def node(graph: Graph) -> Iterator[Node]:
    node = Node("subscriber", context=graph.node.context)
    yield node
    node.destroy_node()


def follow(node: Node, wanted: TopicFilter = ALL_IMAGES) -> TopicFollower:
    return TopicFollower(node, wanted, lambda _: None, lambda *_: None, lambda _: None)


def refreshed(inputs: TopicFollower) -> dict[str, Topic]:
    inputs.refresh()
    return inputs.topics


def test_a_topic_of_two_types_is_refused(graph: Graph, node: Node) -> None:
    graph.publisher(Image, "/mixed")
    graph.publisher(Image, "/image")
    other = Context()  # one participant has one type for a topic
    rclpy.init(args=[], context=other, domain_id=graph.domain)
    stranger = Node("stranger", context=other)
    stranger.create_publisher(DiagnosticStatus, "/mixed", 1)
    inputs = follow(node)
    graph.spin_until(
        lambda: len(dict(node.get_topic_names_and_types()).get("/mixed", [])) == 2, "both types"
    )
    graph.spin_until(lambda: refreshed(inputs), "the topic")
    assert list(inputs.topics) == ["/image"]
    inputs.close()
    stranger.destroy_node()
    other.shutdown()


def test_the_weakest_publisher_decides_at_once(graph: Graph, node: Node) -> None:
    graph.publisher(Image, "/image", 10)
    inputs = follow(node)
    graph.spin_until(lambda: refreshed(inputs), "the topic")
    topic = inputs.topics["/image"]
    assert topic.qos.reliability == ReliabilityPolicy.RELIABLE
    graph.publisher(Image, "/image", QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
    graph.spin_until(
        lambda: refreshed(inputs)["/image"].qos.reliability == ReliabilityPolicy.BEST_EFFORT,
        "the weaker subscription",
    )
    assert topic.publishers == 2
    inputs.close()


def test_a_pattern_that_is_none_is_named(node: Node) -> None:
    with pytest.raises(NodeError, match="'exclude' is not a regular expression"):
        follow(node, ALL_IMAGES._replace(exclude="("))
