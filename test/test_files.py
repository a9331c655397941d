"""Files that are replaced as a whole, and checks of numeric options."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from scaleevent_ros.data.errors import DataError
from scaleevent_ros.errors import ABOVE_ZERO, FINITE, check_ranges
from scaleevent_ros.files import atomic_write, to_json

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_is_replaced_only_on_success(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "kept.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("old")
        assert not path.exists()
    with pytest.raises(ZeroDivisionError), atomic_write(path) as temporary:  # noqa: PT012
        temporary.write_text("a part")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_numbers_that_json_lacks_become_null() -> None:
    assert to_json({"a": [math.nan, 1.5, (math.inf,)]}).split() == [
        "{", '"a":', "[", "null,", "1.5,", "[", "null", "]", "]", "}",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "low", "high", "wanted"),
    [
        (0, ABOVE_ZERO, FINITE, "above 0"),
        (math.inf, ABOVE_ZERO, FINITE, "above 0"),
        (0, ABOVE_ZERO, 5, "above 0 and at most 5"),
        (-1, 0, math.inf, "at least 0"),
        (math.nan, 1, 2.5, "from 1 to 2.5"),
    ],
)
def test_a_value_outside_its_limits_is_refused(
    value: float, low: float, high: float, wanted: str
) -> None:
    values = {"width": value, "height": None}
    with pytest.raises(DataError, match=f"^data.width is {value}, it must be {wanted}$"):
        check_ranges(values, {"width": (low, high), "height": (1, 2)}, DataError, "data.")


def test_values_at_their_limits_are_valid() -> None:
    check_ranges({"a": 1, "b": math.inf}, {"a": (1, 1), "b": (0, math.inf)}, DataError)
