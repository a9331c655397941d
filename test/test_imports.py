"""Imports point one way, and what a cluster or a robot lacks is not imported there."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "scaleevent_ros"
# The journey of the data: each may import those before it (and itself).
ORDER = [
    "events",
    "bags",
    "sources",
    "data",
    "models",
    "distill",
    "tasks",
    "runtime",
    "visuals",
    "nodes",
]
WITHOUT_ROS = ["events", "data", "models", "distill", "tasks", "runtime", "visuals"]


def imported_modules(path: Path, *, lazy: bool) -> set[str]:
    """List the names that a file imports, with their modules; those in functions only if `lazy`."""
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if not lazy and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if isinstance(child, ast.Import):
                names.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                names.add(child.module)
                names.update(f"{child.module}.{alias.name}" for alias in child.names)
            visit(child)

    visit(ast.parse(path.read_text()))
    return names


@pytest.mark.parametrize("package", ORDER)
def test_imports_point_only_backwards(package: str) -> None:
    later = ORDER[ORDER.index(package) + 1 :]
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in sorted((PACKAGE / package).rglob("*.py"))
        for name in imported_modules(path, lazy=False)
        if name.startswith("scaleevent_ros.") and name.split(".")[1] in later
    ]
    assert not wrong


def test_modules_do_not_import_each_other() -> None:
    modules = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name != "__init__.py"  # which only collects the names of its modules
    }
    graph = {
        name: imported_modules(path, lazy=True) & set(modules) for name, path in modules.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


def test_only_nodes_import_rclpy() -> None:
    wrong = [
        str(path.relative_to(PACKAGE))
        for path in sorted(PACKAGE.rglob("*.py"))
        if "nodes" not in path.parts
        and any(name.split(".")[0] == "rclpy" for name in imported_modules(path, lazy=True))
    ]
    assert not wrong


def test_without_ros_and_rosbags_everything_but_nodes_bags_and_sources_imports() -> None:
    code = f"""
import importlib, pkgutil, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("rclpy", "rosbags", "mcap"):
            raise ImportError(f"{{name}} is not there")

sys.meta_path.insert(0, Refuse())
for name in {WITHOUT_ROS}:
    package = importlib.import_module(f"scaleevent_ros.{{name}}")
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
try:
    import rclpy
except ImportError:
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["refused"]


def test_the_command_line_imports_nothing_heavy() -> None:
    code = """
import sys
import scaleevent_ros.cli
heavy = {"numpy", "torch", "numba", "cv2", "timm", "rosbags", "rclpy", "scipy", "matplotlib"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_packages_that_launch_files_touch_export_every_name() -> None:
    code = """
import importlib, inspect, sys
import scaleevent_ros.bags.recovery  # must not hide a name of the package
for package in map(importlib.import_module, ("scaleevent_ros.bags", "scaleevent_ros.runtime")):
    assert "torch" not in sys.modules
    for name in package.__all__:
        assert not inspect.ismodule(getattr(package, name)), name
    try:
        package.absent
    except AttributeError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        f"module 'scaleevent_ros.{name}' has no attribute 'absent'" for name in ("bags", "runtime")
    ]
