"""Common fixtures of tests of nodes: a ROS graph, or a skip without ROS."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ros_processes import Graph


@pytest.fixture
def graph() -> Iterator[Graph]:
    """Provide a separate ROS graph for the test."""
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    from ros_processes import Graph

    with Graph() as graph:
        yield graph
