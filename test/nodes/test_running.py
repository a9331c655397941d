"""The command line of every node."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from scaleevent_ros.nodes.parameters import (
    PerceptionParameters,
    RecorderParameters,
    ReplayParameters,
    SimulateParameters,
    described,
)


@pytest.mark.parametrize(
    ("node", "kind"),
    [
        ("perception", PerceptionParameters),
        ("recorder", RecorderParameters),
        ("replay", ReplayParameters),
        ("simulate", SimulateParameters),
    ],
)
def test_help_lists_every_parameter(node: str, kind: type) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"scaleevent_ros.nodes.{node}", "--help"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.startswith(f"usage: scaleevent_{node} ")
    lines = done.stdout.splitlines()
    for name, _, description in described(kind):
        (position,) = (i for i, line in enumerate(lines) if line.startswith(f"  {name} (default"))
        assert lines[position + 1].strip() == description


def test_an_argument_that_is_none_of_ros_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scaleevent_ros.nodes.replay", "bag", "--ros-args", "-p", "path:=x"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "unrecognized arguments: bag" in done.stderr
