"""Parameter definitions of a node: names, types, limits and descriptions in one frozen dataclass.

The node declares its parameters from it (`managed_node.declare`), launch files list them from it,
and the YAML files in `config/` are checked against it. Launch files run under the system's Python,
so this module and all parameter dataclasses need only the standard library.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from scaleevent_ros.nodes.errors import NodeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Parameters = TypeVar("Parameters")

RELIABILITIES = ("auto", "reliable", "best_effort")
DURABILITIES = ("auto", "volatile", "transient_local")

TYPE_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    tuple: "a list of texts",
}


class Limits(NamedTuple):
    """Allowed values of a parameter: numbers from `minimum` to `maximum`, texts of `choices`."""

    minimum: float = -math.inf
    maximum: float = math.inf
    choices: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the limits in words; empty if there are none."""
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
    read_only: bool = False,
) -> Any:
    """Define one parameter of a node, as a field of its dataclass.

    Args:
        default: Default value; its type is the parameter's.
        description: Purpose and unit.
        minimum: Smallest value of a number.
        maximum: Largest value of a number.
        choices: Allowed values of a text; empty for any.
        read_only: Whether the value is fixed once the node has started.
    """
    limits = Limits(minimum, maximum, choices)
    return dataclasses.field(
        default=default,
        metadata={
            "description": f"{description} {limits}".strip(),
            "limits": limits,
            "read_only": read_only,
        },
    )


class Described(NamedTuple):
    """A parameter's name, default and description, which includes its limits."""

    name: str
    default: Any
    description: str


def described(kind: type[object]) -> Iterator[Described]:
    """List the parameters of a dataclass whose fields were made by `parameter`, in order."""
    for field in fields_of(kind):
        yield Described(field.name, field.default, field.metadata["description"])


def shown(default: object) -> str:
    """Format a default as it is written on the command line."""
    if isinstance(default, tuple):
        return "[" + ", ".join(default) + "]"
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else repr(default)


def changed(settings: Parameters, changes: Mapping[str, object]) -> Parameters:
    """Return a copy of a parameter dataclass with new values of some parameters.

    Raises:
        NodeError: If a value is of a wrong type or outside its limits.
    """
    fields = {field.name: field for field in fields_of(type(settings))}
    values: Any = {name: checked(fields[name], value) for name, value in changes.items()}
    return dataclasses.replace(settings, **values)  # type: ignore[type-var]  # as for fields_of


def fields_of(kind: type[object]) -> tuple[dataclasses.Field[Any], ...]:
    """Return the fields of a parameter dataclass."""
    return dataclasses.fields(kind)  # type: ignore[arg-type]  # mypy has no name for "a dataclass"


def checked(field: dataclasses.Field[Any], value: object) -> object:
    """Check a value against its field's type and limits, and return it in this type.

    Integers are converted to floats for float fields, and lists to tuples without empty texts.

    Raises:
        NodeError: If the value is of a wrong type or outside its limits.
    """
    wanted, limits = type(field.default), field.metadata["limits"]
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if wanted is tuple and isinstance(value, (list, tuple)):
        value = tuple(text for text in value if text)
    if not isinstance(value, wanted):
        msg = f"parameter {field.name!r} is {value!r}, not {TYPE_NAMES[wanted]}"
        raise NodeError(msg)
    if limits.choices and value not in limits.choices:
        msg = f"parameter {field.name!r} is {value!r}, not one of {', '.join(limits.choices)}"
        raise NodeError(msg)
    if isinstance(value, (int, float)) and not limits.minimum <= value <= limits.maximum:
        msg = f"parameter {field.name!r} is {value}, outside its limits: {limits}"
        raise NodeError(msg)
    return value
