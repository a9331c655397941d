"""A node's parameters: one frozen dataclass names, types, limits and describes all of them.

The node declares them from it, launch files list them from it, and the YAML files in `config/` are
checked against it.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, ParameterUninitializedException

from scaleevent_ros.nodes.errors import NodeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rclpy.node import Node

Parameters = TypeVar("Parameters")

_IN_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    tuple: "a list of texts",
}


class Limits(NamedTuple):
    """What a parameter may be: numbers from `minimum` to `maximum`, texts among `choices`."""

    minimum: float = -math.inf
    maximum: float = math.inf
    choices: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Say the limits in words, or nothing where there are none."""
        if self.choices:
            return "One of " + ", ".join(self.choices) + "."
        if math.isfinite(self.minimum) and math.isfinite(self.maximum):
            return f"From {self.minimum:g} to {self.maximum:g}."
        if math.isfinite(self.minimum):
            return f"At least {self.minimum:g}."
        return ""


def parameter(
    default: bool | float | str | tuple[str, ...],
    description: str,
    *,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    choices: tuple[str, ...] = (),
) -> Any:
    """Describe one parameter of a node: a field of its dataclass.

    Args:
        default: Its value where nobody sets one; its type is the parameter's.
        description: What it does, with its unit.
        minimum: The least number that it may be.
        maximum: The greatest number that it may be.
        choices: The texts that it may be, where not any text will do.
    """
    limits = Limits(minimum, maximum, choices)
    return dataclasses.field(
        default=default,
        metadata={"description": f"{description} {limits}".strip(), "limits": limits},
    )


class Described(NamedTuple):
    """A parameter's name, default and description in words."""

    name: str
    default: Any
    description: str


def described(kind: type[object]) -> Iterator[Described]:
    """List the parameters of a dataclass whose fields were made by `parameter`, in its order."""
    for field in _fields(kind):
        yield Described(field.name, field.default, field.metadata["description"])


def declare(node: Node, kind: type[object]) -> None:
    """Declare every parameter of a dataclass on a node, with its default and description.

    A value for a parameter that there is not is warned of: ROS would pass over a slip of the pen.

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
            msg = f"parameter {name!r} must be {_IN_WORDS[type(default)]}: {description}"
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
    return kind(**{field.name: _checked(field, _value(node, field)) for field in _fields(kind)})


def changed(settings: Parameters, changes: Mapping[str, object]) -> Parameters:
    """Check new values of some parameters and put them into a copy of the dataclass.

    Raises:
        NodeError: If a value is of a wrong type or outside its limits, naming them.
    """
    fields = {field.name: field for field in _fields(type(settings))}
    checked: Any = {name: _checked(fields[name], value) for name, value in changes.items()}
    return dataclasses.replace(settings, **checked)  # type: ignore[type-var]  # as for _fields


def _fields(kind: type[object]) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(kind)  # type: ignore[arg-type]  # mypy has no name for "a dataclass"


def _value(node: Node, field: dataclasses.Field[Any]) -> object:
    try:
        return node.get_parameter(field.name).value
    except ParameterUninitializedException:
        return field.default  # what ROS makes of an empty list in a YAML file


def _checked(field: dataclasses.Field[Any], value: object) -> object:
    wanted, limits = type(field.default), field.metadata["limits"]
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if wanted is tuple and isinstance(value, (list, tuple)):
        value = tuple(text for text in value if text)
    if not isinstance(value, wanted):
        msg = f"parameter {field.name!r} is {value!r}, not {_IN_WORDS[wanted]}"
        raise NodeError(msg)
    if limits.choices and value not in limits.choices:
        msg = f"parameter {field.name!r} is {value!r}, not one of {', '.join(limits.choices)}"
        raise NodeError(msg)
    if isinstance(value, (int, float)) and not limits.minimum <= value <= limits.maximum:
        msg = f"parameter {field.name!r} is {value}, outside its limits: {limits}"
        raise NodeError(msg)
    return value
