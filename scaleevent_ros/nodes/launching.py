"""Launch descriptions of nodes, with an argument for each parameter of the node's dataclass."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction
from launch.launch_description import LaunchDescription
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from scaleevent_ros.nodes.parameters import described, shown
from scaleevent_ros.nodes.transport import profile_environment
from scaleevent_ros.share_folder import share_folder

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from launch.launch_context import LaunchContext

PACKAGE = "scaleevent_ros"


def launch_node(
    name: str, kind: type[object], config: str, remaps: Mapping[str, str] | None = None
) -> LaunchDescription:
    """Build the launch description of one node.

    Launch arguments are the parameters of `kind`, a file of parameters, the topics of `remaps`, and
    usual ones such as `namespace` and `log_level`. An argument overrides the file; a parameter in
    neither has its default.

    Args:
        name: Name of the node and of its executable.
        kind: Dataclass of the node's parameters.
        config: Name of the default parameters file in `config/`.
        remaps: Descriptions of the topics that may be remapped, by their names in the node, such as
            `~/image`. The argument is the name without `~/`; its default is empty: not remapped.
    """
    remaps = remaps or {}
    parameters = {parameter.name: parameter for parameter in described(kind)}
    # The recorder has a parameter `name`, of the bag.
    node_name = "node_name" if "name" in parameters else "name"
    usual = {
        "params_file": ("YAML file of parameters.", str(share_folder() / "config" / config)),
        "namespace": ("Namespace of the node.", ""),
        node_name: ("Name of the node.", name),
        "use_sim_time": ("Whether to take the time from /clock: true or false.", ""),
        "log_level": ("Log level: debug, info, warn, error or fatal.", "info"),
        "respawn": ("Whether to start the node again when it ends: true or false.", "false"),
        "remap": ("Further remappings, as FROM:=TO, separated by spaces.", ""),
    }
    topics = {topic.removeprefix("~/"): (text, "") for topic, text in remaps.items()}
    own = {
        parameter.name: (
            f"{parameter.description} Unset: that of params_file, or {shown(parameter.default)}.",
            "",
        )
        for parameter in parameters.values()
    }
    arguments = {**usual, **topics, **own}

    def start(context: LaunchContext) -> list[Any]:
        def given(argument: str) -> str:
            return str(LaunchConfiguration(argument).perform(context)).strip()

        file = given("params_file")
        if file and not Path(file).is_file():
            msg = f"params_file {file} does not exist"
            raise RuntimeError(msg)
        overrides = {
            name: _parsed(given(name), parameter.default)
            for name, parameter in parameters.items()
            if given(name)
        }
        if given("use_sim_time"):
            overrides["use_sim_time"] = _parsed(given("use_sim_time"), False)
        mapped = [(topic, given(topic.removeprefix("~/"))) for topic in remaps]
        pairs = [text.partition(":=") for text in given("remap").split()]
        mapped += [(source, target) for source, _, target in pairs]
        return [
            *(LogInfo(msg=text) for text in _typos(context.launch_configurations, arguments)),
            Node(
                package=PACKAGE,
                executable=name,
                name=given(node_name),
                namespace=given("namespace"),
                parameters=[*([file] if file else []), overrides],
                remappings=[(source, target) for source, target in mapped if target],
                ros_arguments=["--log-level", given("log_level")],
                respawn=given("respawn").lower() == "true",
                respawn_delay=1.0,
                additional_env=profile_environment(),
                output="screen",
                emulate_tty=True,
            ),
        ]

    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(argument, default_value=default, description=text)
                for argument, (text, default) in arguments.items()
            ),
            OpaqueFunction(function=start),
        ]
    )


def _typos(given: Iterable[str], known: Collection[str]) -> Iterator[str]:
    """Find arguments that are not declared, which launch ignores, but similar to a declared one."""
    for name in given:
        if name not in known and (meant := difflib.get_close_matches(name, known, 1, 0.75)):
            yield f"WARNING: there is no launch argument {name!r}: did you mean {meant[0]!r}?"


def _parsed(text: str, default: object) -> Any:
    """Parse an argument as the type of its parameter, which the node checks."""
    if isinstance(default, str):
        return ParameterValue(text, value_type=str)
    if isinstance(default, tuple):
        return text.strip("[] ").replace(",", " ").split()
    return yaml.safe_load(text)
