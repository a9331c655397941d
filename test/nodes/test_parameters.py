"""Parameters: declared from one dataclass, typed, limited, described."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from rclpy.node import Node
from rclpy.parameter import Parameter

from scaleevent_ros.nodes.managed_node import declare, read
from scaleevent_ros.nodes.parameters import NodeError, described, parameter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ros_processes import Graph


@dataclass(frozen=True)
class Example:
    topics: tuple[str, ...] = parameter((), "Topics.")
    rate: float = parameter(1.5, "Rate in Hz.", minimum=0.0)
    depth: int = parameter(10, "Depth.", minimum=1, maximum=1000)
    mode: str = parameter("auto", "Mode.", choices=("auto", "none"))
    enabled: bool = parameter(True, "Whether.", read_only=True)


@pytest.fixture
def start(graph: Graph) -> Iterator[Callable[..., Node]]:
    nodes: list[Node] = []

    def start(**values: object) -> Node:
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        node = Node("example", context=graph.node.context, parameter_overrides=overrides)
        nodes.append(node)
        return node

    yield start
    for node in nodes:
        node.destroy_node()


def test_defaults(start: Callable[..., Node]) -> None:
    node = start()
    declare(node, Example)
    assert read(node, Example) == Example()


def test_values_of_every_type(start: Callable[..., Node]) -> None:
    node = start(topics=["/a", "/b"], rate=2.5, depth=3, mode="none", enabled=False)
    declare(node, Example)
    assert read(node, Example) == Example(("/a", "/b"), 2.5, 3, "none", False)


def test_a_parameter_that_there_is_not_is_named(
    start: Callable[..., Node], capfd: pytest.CaptureFixture[str]
) -> None:
    given = {"rates": 2.0, "qos_overrides./a.publisher.depth": 2, "use_sim_time": False}
    node = start(**given, frobnicate=1, depth=3)
    declare(node, Example)
    assert read(node, Example) == Example(depth=3)
    warnings = [line for line in capfd.readouterr().err.splitlines() if "unknown" in line]
    assert [line.split("parameter ")[1].split(" is")[0] for line in warnings] == [
        "'rates'",
        "'frobnicate'",
    ]
    assert "did you mean 'rate'?" in warnings[0]
    assert "there are topics, rate, depth, mode, enabled" in warnings[1]


def test_an_empty_list_in_a_file_is_the_default(start: Callable[..., Node]) -> None:
    node = start(topics=None)
    declare(node, Example)
    assert read(node, Example).topics == ()


def test_a_number_may_be_written_without_a_point(start: Callable[..., Node]) -> None:
    node = start(rate=60)
    declare(node, Example)
    value = read(node, Example).rate
    assert value == 60.0
    assert isinstance(value, float)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rate", "fast", "'rate' is 'fast', not a number"),
        ("rate", -1.0, "'rate' is -1.0, outside its limits: At least 0"),
        ("depth", 1001, "'depth' is 1001, outside its limits: From 1 to 1000"),
        ("mode", "other", "'mode' is 'other', not one of auto, none"),
        ("enabled", "yes", "'enabled' must be true or false"),
        ("depth", 1.5, "'depth' must be a whole number"),
    ],
)
def test_a_wrong_value_is_named(
    start: Callable[..., Node], name: str, value: object, message: str
) -> None:
    node = start(**{name: value})

    def declare_and_read() -> None:
        declare(node, Example)
        read(node, Example)

    with pytest.raises(NodeError, match=message):
        declare_and_read()


def test_a_change_is_read(start: Callable[..., Node]) -> None:
    node = start()
    declare(node, Example)
    node.set_parameters([Parameter("depth", value=7)])
    assert read(node, Example).depth == 7


def test_descriptors_have_ranges_and_read_only_flags(start: Callable[..., Node]) -> None:
    node = start()
    declare(node, Example)
    (rate,) = node.describe_parameter("rate").floating_point_range
    assert (rate.from_value, rate.to_value, rate.step) == (0.0, sys.float_info.max, 0.0)
    (depth,) = node.describe_parameter("depth").integer_range
    assert (depth.from_value, depth.to_value) == (1, 1000)
    assert node.describe_parameter("mode").additional_constraints == "One of auto, none."
    assert node.describe_parameter("enabled").read_only
    assert not node.describe_parameter("depth").read_only
    for name, value in (("enabled", False), ("depth", 1001), ("rate", -0.5)):
        (result,) = node.set_parameters([Parameter(name, value=value)])
        assert not result.successful
    (result,) = node.set_parameters([Parameter("rate", value=1e9)])
    assert result.successful


def test_descriptions_say_the_limits(start: Callable[..., Node]) -> None:
    node = start()
    declare(node, Example)
    assert node.describe_parameter("depth").description == "Depth. From 1 to 1000."
    assert [name for name, *_ in described(Example)] == [
        "topics",
        "rate",
        "depth",
        "mode",
        "enabled",
    ]
