"""Declare and read a node's parameters by their dataclass."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, TypeVar

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, ParameterUninitializedException

from scaleevent_ros.nodes.errors import NodeError
from scaleevent_ros.nodes.parameters import TYPE_NAMES, checked, described, fields_of

if TYPE_CHECKING:
    import dataclasses
    from typing import Any

    from rclpy.node import Node

Parameters = TypeVar("Parameters")


def declare(node: Node, kind: type[object]) -> None:
    """Declare every parameter of a dataclass on a node, with its default and description.

    An unknown name among the values from the command line or a file, which ROS ignores, is warned
    of: it is often a typo.

    Raises:
        NodeError: If a value from the command line or a file has another type.
    """
    for name, default, description in described(kind):
        descriptor = ParameterDescriptor(
            description=description,
            # A number may be written without a point: `-p duration:=60`.
            dynamic_typing=isinstance(default, float),
        )
        # An empty list has no type in ROS, so it stands as a list of one empty text.
        value = (list(default) or [""]) if isinstance(default, tuple) else default
        try:
            node.declare_parameter(name, value, descriptor)
        except InvalidParameterTypeException:
            msg = f"parameter {name!r} must be {TYPE_NAMES[type(default)]}: {description}"
            raise NodeError(msg) from None
    _warn_of_unknown(node, [name for name, _, _ in described(kind)])


def _warn_of_unknown(node: Node, known: list[str]) -> None:
    # No public method of any rclpy tells which values were given for nothing.
    for name in getattr(node, "_parameter_overrides", {}):
        # Others are declared by rclpy itself, or later by topics for their QoS.
        if node.has_parameter(name) or name.startswith("qos_overrides."):
            continue
        meant = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {meant[0]!r}?" if meant else f"there are {', '.join(known)}"
        node.get_logger().warning(f"parameter {name!r} is unknown and passed over: {hint}")


def read(node: Node, kind: type[Parameters]) -> Parameters:
    """Read a node's declared parameters into their dataclass.

    Raises:
        NodeError: If a value is outside its limits, naming them.
    """
    return kind(**{field.name: checked(field, _value(node, field)) for field in fields_of(kind)})


def _value(node: Node, field: dataclasses.Field[Any]) -> object:
    try:
        return node.get_parameter(field.name).value
    except ParameterUninitializedException:
        return field.default  # what ROS makes of an empty list in a YAML file
