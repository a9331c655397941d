"""Launch files and parameter files: they say what the nodes' dataclasses say, and they start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from scaleevent_ros.bags import BagReader
from scaleevent_ros.nodes.parameters import (
    INPUTS,
    PerceptionParameters,
    RecorderParameters,
    ReplayParameters,
    SimulateParameters,
    described,
)

if TYPE_CHECKING:
    from pathlib import Path

NODES = {
    "perception.launch.py": ("perception.yaml", PerceptionParameters),
    "record.launch.py": ("recorder.yaml", RecorderParameters),
    "replay.launch.py": ("replay.yaml", ReplayParameters),
    "simulate.launch.py": ("simulate.yaml", SimulateParameters),
}
NO_LAUNCH = "ROS 2's launch is not installed: it is in no package registry"


@pytest.mark.parametrize(("file", "kind"), NODES.values())
def test_parameter_files_hold_the_defaults(repository: Path, file: str, kind: type) -> None:
    content = yaml.safe_load((repository / "config" / file).read_text())
    written = content["/**"]["ros__parameters"]
    defaults = {
        name: (list(default) or [""]) if isinstance(default, tuple) else default
        for name, default, _ in described(kind)
    }
    assert written == defaults
    assert [type(value) for value in written.values()] == [type(defaults[name]) for name in written]


@pytest.mark.parametrize("launch_file", NODES)
def test_every_parameter_is_a_described_argument(repository: Path, launch_file: str) -> None:
    pytest.importorskip("launch_ros", reason=NO_LAUNCH)
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    source = PythonLaunchDescriptionSource(str(repository / "launch" / launch_file))
    description = source.try_get_launch_description_without_context()
    assert description is not None
    arguments = {argument.name: argument for argument in description.get_launch_arguments()}
    parameters = {name: text for name, _, text in described(NODES[launch_file][1])}
    topics = {topic.removeprefix("~/") for topic in INPUTS if "perception" in launch_file}
    usual = {"params_file", "namespace", "use_sim_time", "log_level", "respawn", "remap"}
    usual.add("node_name" if "name" in parameters else "name")
    assert arguments.keys() == parameters.keys() | topics | usual
    for name, text in parameters.items():
        assert arguments[name].description.startswith(text)


def test_the_recorder_starts_with_the_arguments(repository: Path, tmp_path: Path) -> None:
    pytest.importorskip("launch_ros", reason=NO_LAUNCH)
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix
    from launch.actions import IncludeLaunchDescription
    from launch.launch_description import LaunchDescription
    from launch.launch_description_sources import PythonLaunchDescriptionSource
    from launch.launch_service import LaunchService

    try:
        get_package_prefix("scaleevent_ros")
    except PackageNotFoundError:
        pytest.skip("scaleevent_ros is not built by colcon, or its workspace is not sourced")
    arguments = {
        "output_folder": str(tmp_path),
        "name": "2024",  # stays a text
        "topics": "[/a, /b]",
        "duration": "1",
        "min_free_space": "0",
        "max_file_size": "5.5",
    }
    source = PythonLaunchDescriptionSource(str(repository / "launch" / "record.launch.py"))
    service = LaunchService(argv=[])
    service.include_launch_description(
        LaunchDescription([IncludeLaunchDescription(source, launch_arguments=arguments.items())])
    )
    assert service.run() == 0
    assert BagReader(tmp_path / "2024").topics == {}
