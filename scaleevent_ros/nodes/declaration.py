"""Declare and read a node's parameters by their dataclass."""

from __future__ import annotations

import difflib
import math
import sys
from typing import TYPE_CHECKING, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterUninitializedException,
)

from scaleevent_ros.nodes.errors import NodeError
from scaleevent_ros.nodes.parameters import TYPE_NAMES, checked, described, fields_of

if TYPE_CHECKING:
    import dataclasses
    from typing import Any

    from rclpy.node import Node

Parameters = TypeVar("Parameters")


def declare(node: Node, kind: type[object], *, read_only: bool = False) -> None:
    """Declare every parameter of a dataclass on a node, with its default and description.

    An unknown name among the values from the command line or a file, which ROS ignores, is warned
    of: it is often a typo.

    Args:
        node: Node to declare them on.
        kind: Dataclass whose fields were made by `parameter`.
        read_only: Whether all of them are fixed once the node has started.

    Raises:
        NodeError: If a value from the command line or a file has another type, or is out of range.
    """
    for field in fields_of(kind):
        name, default = field.name, field.default
        # An empty list has no type in ROS, so it stands as a list of one empty text.
        value = (list(default) or [""]) if isinstance(default, tuple) else default
        descriptor = _descriptor(field)
        descriptor.read_only |= read_only
        try:
            node.declare_parameter(name, value, descriptor)
        except InvalidParameterTypeException:
            description = field.metadata["description"]
            msg = f"parameter {name!r} must be {TYPE_NAMES[type(default)]}: {description}"
            raise NodeError(msg) from None
        except InvalidParameterValueException:
            # rclpy's message has only numbers: raise ours, which has the limits in words.
            checked(field, _overrides(node)[name].value)
            raise
    _warn_of_unknown(node, [name for name, _, _ in described(kind)])


def _descriptor(field: dataclasses.Field[Any]) -> ParameterDescriptor:
    """Describe a parameter for `ros2 param describe` and rqt."""
    limits, default = field.metadata["limits"], field.default
    descriptor = ParameterDescriptor(
        description=field.metadata["description"],
        read_only=field.metadata["read_only"],
        # A number may be written without a point: `-p duration:=60`.
        dynamic_typing=isinstance(default, float),
        additional_constraints=f"One of {', '.join(limits.choices)}." if limits.choices else "",
    )
    least, most = limits.minimum, limits.maximum
    if math.isfinite(least) or math.isfinite(most):
        if isinstance(default, float):
            bound = sys.float_info.max
            floats = FloatingPointRange(from_value=max(least, -bound), to_value=min(most, bound))
            descriptor.floating_point_range = [floats]
        else:
            low = int(least) if math.isfinite(least) else -(2**63)
            high = int(most) if math.isfinite(most) else 2**63 - 1
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
    return descriptor


def _overrides(node: Node) -> dict[str, Any]:
    """Return the values from the command line and from files: no public method of rclpy does."""
    return getattr(node, "_parameter_overrides", {})


def _warn_of_unknown(node: Node, known: list[str]) -> None:
    for name in _overrides(node):
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
