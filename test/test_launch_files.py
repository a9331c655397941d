"""Launch files run in the system's Python, which has ROS 2 and yaml and nothing of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
LAUNCH_FILES = sorted(path.name for path in (REPOSITORY / "launch").glob("*.launch.py"))
MOST_MEMORY_MB = 100

# ROS 2's `launch` is in no package registry: where it is not installed, mocks stand in for it. The
# import hook goes in after the real one has loaded what it needs itself.
PROCESS = """
import importlib.util, runpy, sys

ALLOWED = sys.stdlib_module_names | {"scaleevent_ros", "yaml", "_yaml", "ament_index_python"}
ALLOWED |= {"launch", "launch_ros"}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in ALLOWED:
            raise ModuleNotFoundError(f"{name} is none of ROS 2's dependencies")

mocked = importlib.util.find_spec("launch_ros") is None
if mocked:
    from unittest.mock import MagicMock

    for name in ("launch", "launch.actions", "launch.launch_description", "launch.substitutions",
                 "launch_ros", "launch_ros.actions", "launch_ros.parameter_descriptions"):
        sys.modules[name] = MagicMock()
    sys.modules["launch.substitutions"].LaunchConfiguration.return_value.perform.return_value = ""
else:
    import launch, launch_ros.actions, launch_ros.parameter_descriptions

sys.meta_path.insert(0, Refuse())
try:
    import zlib, cv2
except ModuleNotFoundError as error:
    print(error)

description = runpy.run_path(sys.argv[1])["generate_launch_description"]()
if mocked:
    (call,) = sys.modules["launch.actions"].OpaqueFunction.call_args_list
    entities = call.kwargs["function"](MagicMock())
else:
    context = launch.LaunchContext()
    entities = [argument.execute(context) for argument in description.get_launch_arguments()]
    entities = description.entities[-1].execute(context)
print(len(entities) > 0)
with open("/proc/self/status") as status:
    print(*(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM")))
"""


@pytest.mark.parametrize("name", LAUNCH_FILES)
def test_a_launch_file_needs_nothing_but_ros_and_yaml(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, REPOSITORY / "launch" / name],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    refused, started, memory_mb = done.stdout.splitlines()
    assert refused == "cv2 is none of ROS 2's dependencies"
    assert started == "True"
    assert int(memory_mb) < MOST_MEMORY_MB
