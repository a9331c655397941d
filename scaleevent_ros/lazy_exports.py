"""Public names of a package that are imported on first use (PEP 562)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def lazy_exports(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a package's `__getattr__`, which imports public names on first use.

    Launch files run under a Python without third-party libraries, and import parameter definitions
    that need a few constants of such a package.

    Args:
        package: Name of the package.
        modules: Submodule that defines a name, by that name.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807 - the name that the package gives it
        if name in modules:
            return getattr(import_module(f"{package}.{modules[name]}"), name)
        msg = f"module {package!r} has no attribute {name!r}"
        raise AttributeError(msg)

    return __getattr__
