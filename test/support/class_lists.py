"""Lists of classes for tests."""

from __future__ import annotations

from scaleevent_ros.tasks.classes import ClassList


def numbered_classes(count: int) -> ClassList:
    """Create classes named after their ids; 255 is ignored."""
    names = tuple(f"class {number}" for number in range(count))
    return ClassList(names, tuple((n, n, n) for n in range(count)), frozenset({255}))
