"""The base class of all expected errors, and the check of numeric options that raises them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

ABOVE_ZERO = sys.float_info.min
"""Lower limit of numbers that must be above 0."""
FINITE = sys.float_info.max
"""Upper limit of numbers that must only be finite."""


class ScaleEventError(Exception):
    """Expected error with a cause outside the program; the message gives it and a suggested fix.

    Each layer derives its own class from it. The command line and the nodes print the message
    without a traceback; any other exception is a defect of this package.

    Attributes:
        exit_code: Exit code of a command that ends with it.
    """

    exit_code = 2


def describe(error: OSError) -> str:
    """Write an error of the operating system as one line that names the file."""
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename is not None else reason


def check_ranges(
    values: Mapping[str, Any],
    limits: Mapping[str, tuple[float, float]],
    error: type[ScaleEventError],
    prefix: str = "",
) -> None:
    """Check that numeric options are within their limits.

    Args:
        values: Options by name, such as the fields of a dataclass; those that are None are valid.
        limits: Smallest and largest valid value by name.
        error: Class of the error.
        prefix: Text before an option's name in the message, such as ``data.``.

    Raises:
        ScaleEventError: If a value is outside its limits or NaN; its class is ``error``.
    """
    for name, (low, high) in limits.items():
        value = values[name]
        if value is None or low <= value <= high:
            continue
        above = "above 0" if low == ABOVE_ZERO else f"at least {low:g}"
        if high < FINITE:
            span = f"{above} and at most" if low == ABOVE_ZERO else f"from {low:g} to"
            above = f"{span} {high:g}"
        msg = f"{prefix}{name} is {value}, it must be {above}"
        raise error(msg)
