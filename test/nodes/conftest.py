"""What tests of nodes share: a ROS graph, or a skip where ROS is absent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ros_processes import Graph


@pytest.fixture
def graph() -> Iterator[Graph]:
    """Give the test a ROS graph of its own."""
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    from ros_processes import Graph

    with Graph() as graph:
        yield graph
