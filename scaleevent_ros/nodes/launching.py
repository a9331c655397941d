"""Launch files of this package's nodes: one argument for each parameter of a node's dataclass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.launch_description import LaunchDescription
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from scaleevent_ros.nodes.parameters import described, shown
from scaleevent_ros.nodes.transport import profile_environment
from scaleevent_ros.share_folder import share_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from launch.launch_context import LaunchContext

PACKAGE = "scaleevent_ros"


def launch_node(
    name: str, kind: type[object], config: str, remaps: Mapping[str, str] | None = None
) -> LaunchDescription:
    """Describe the launch of one node.

    Its arguments are the parameters of `kind`, a file of parameters, and the topics of `remaps`.
    What is given as an argument overrules the file; what is in neither has its default.

    Args:
        name: Of the node, and of its executable.
        kind: The dataclass of its parameters.
        config: Of the default parameters file, in `config/`.
        remaps: Descriptions of the topics that may be remapped, by the node's own names for them.
            The argument is the name without `~/`, its default is empty: not remapped.
    """
    remaps = remaps or {}
    arguments = [
        DeclareLaunchArgument(
            "params_file",
            default_value=str(share_folder() / "config" / config),
            description="YAML file of parameters.",
        ),
        DeclareLaunchArgument("namespace", default_value="", description="Of the node."),
        *(
            DeclareLaunchArgument(topic.removeprefix("~/"), default_value="", description=text)
            for topic, text in remaps.items()
        ),
        *(
            DeclareLaunchArgument(
                parameter.name,
                default_value="",
                description=(
                    f"{parameter.description} Unset: that of params_file, or "
                    f"{shown(parameter.default)}."
                ),
            )
            for parameter in described(kind)
        ),
    ]

    def start(context: LaunchContext) -> list[Node]:
        def given(argument: str) -> str:
            return str(LaunchConfiguration(argument).perform(context))

        overrides = {
            parameter.name: _parsed(given(parameter.name), parameter.default)
            for parameter in described(kind)
            if given(parameter.name)
        }
        return [
            Node(
                package=PACKAGE,
                executable=name,
                name=name,
                namespace=given("namespace"),
                parameters=[given("params_file"), overrides],
                remappings=[
                    (topic, target)
                    for topic in remaps
                    if (target := given(topic.removeprefix("~/")))
                ],
                additional_env=profile_environment(),
                output="screen",
                emulate_tty=True,
            )
        ]

    return LaunchDescription([*arguments, OpaqueFunction(function=start)])


def _parsed(text: str, default: object) -> Any:
    """Read an argument as the type of its parameter, which the node checks."""
    if isinstance(default, str):
        return ParameterValue(text, value_type=str)
    if isinstance(default, tuple):
        return text.strip("[] ").replace(",", " ").split()
    return yaml.safe_load(text)
