"""The package on a machine with ROS 2 from apt, as its users have it.

A stand-in for such a machine is built from registry packages alone (`tools/setup/ros_machine.py`);
there `make setup` takes the ROS 2 that is sourced, colcon builds, and the installed executables
talk over DDS. Minutes long, so marked `slow`; `.ci/run` runs the tests marked `ros_machine`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")
if os.environ.get("ROS_DISTRO"):
    pytest.skip("ROS 2 is installed: no stand-in is needed", allow_module_level=True)
if sys.version_info >= (3, 13):
    pytest.skip("numpy 1 has no wheels for this Python", allow_module_level=True)

from moving_scene import EVENT_TOPIC, HEIGHT, WIDTH, Rig, write_scene
from ros_processes import Graph
from sensor_msgs.msg import Image
from tiny_student import tiny_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

REPOSITORY = Path(__file__).resolve().parent.parent
SETUP = REPOSITORY / "tools" / "setup"
# Where a user's environment would already hold what this one was started with.
KEPT = ("HOME", "LANG")
KEPT_PREFIXES = ("PIP_", "UV_", "SSL_")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


class Machine(NamedTuple):
    """A stand-in with a checkout of this repository whose environment is set up.

    Attributes:
        setup_file: Script to source, like /opt/ros/DISTRIBUTION/setup.sh.
        checkout: Copy of the repository.
    """

    setup_file: Path
    checkout: Path

    def command(self, script: str) -> list[str]:
        """Run a script of a shell in which ROS is sourced."""
        return ["bash", "-c", f". {shlex.quote(str(self.setup_file))} && {script}"]

    def run(self, script: str) -> str:
        """Run a script in the checkout that must succeed; return its output."""
        done = subprocess.run(
            self.command(script),
            cwd=self.checkout,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """A new user's environment variables, without what the test run itself needed."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(KEPT_PREFIXES)}
    kept |= {name: os.environ[name] for name in KEPT if name in os.environ}
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", **kept, **(more or {})}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("ros_machine")
    build: list[str | Path] = [sys.executable, SETUP / "ros_machine.py", folder]
    setup_file = Path(subprocess.check_output(build, text=True).splitlines()[-1])
    listed = subprocess.check_output(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPOSITORY,
        text=True,
    )
    checkout = folder / "checkout"
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, checkout / name)
    subprocess.run(["git", "init", "-q"], cwd=checkout, check=True)  # tests list its files
    made = Machine(setup_file, checkout)
    made.run("make setup")
    yield made
    shutil.rmtree(folder)


@pytest.mark.ros_machine
def test_set_up_takes_what_the_system_has(machine: Machine) -> None:
    code = """
import importlib, pkgutil
import numpy, onnx, onnx_ir, onnxruntime, onnxscript, rclpy
import scaleevent_ros
print(numpy.__version__, rclpy.__file__)
for module in pkgutil.walk_packages(scaleevent_ros.__path__, "scaleevent_ros."):
    if module.name != "scaleevent_ros.nodes.launching":  # `launch` is in no registry
        importlib.import_module(module.name)
print("everything imports")
"""
    output = machine.run(f". ./env.sh && python -c {shlex.quote(code)}").splitlines()
    numpy_version, rclpy_file = output[-2].split()
    assert numpy_version == "1.26.4"
    assert Path(rclpy_file).is_relative_to(machine.setup_file.parent)
    assert output[-1] == "everything imports"
    assert not list((machine.checkout / ".venv").rglob("rclpy"))


@pytest.mark.ros_machine
def test_launch_files_run_under_the_systems_python(machine: Machine) -> None:
    code = (
        "import sys, scaleevent_ros.nodes.parameters; "
        "import scaleevent_ros.nodes.parameters; print(sys.executable)"
    )
    output = machine.run(f". ./env.sh && cd / && python3 -c {shlex.quote(code)}")
    assert Path(output.strip()) == machine.checkout / ".venv" / "bin" / "python3"
    system_python = machine.setup_file.parents[3] / "usr" / "bin" / "python3"
    output = machine.run(f". ./env.sh && cd / && {system_python} -c {shlex.quote(code)}")
    assert Path(output.strip()) == system_python


@pytest.mark.parametrize(
    "options",
    [pytest.param("--symlink-install", marks=pytest.mark.ros_machine), "", None],
    ids=["symlink-install", "plain", "environment"],
)
def test_installed_nodes_turn_events_into_features(
    machine: Machine, tmp_path: Path, options: str | None
) -> None:
    enter = f"cd {machine.checkout} && . ./env.sh && cd {tmp_path}"
    prefix = machine.checkout / ".venv"
    if options is not None:
        machine.run(f"{enter} && colcon build --base-paths {machine.checkout} {options}")
        prefix = tmp_path / "install" / "scaleevent_ros"
        enter += " && . install/setup.bash"
    executables = prefix / "lib" / "scaleevent_ros"
    interpreter = (executables / "scaleevent_perception").read_text().splitlines()[0]
    assert interpreter == f"#!{machine.checkout}/.venv/bin/python"
    write_scene(tmp_path / "bag", Rig())
    model = tiny_checkpoint(tmp_path / "student.safetensors")
    with Graph() as graph:
        domain = {
            name: graph.environment[name]
            for name in ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE")
        }
        features = graph.collect(Image, "/scaleevent_perception/features")
        arguments = {
            "scaleevent_perception": (
                f"-p model:={model} -p device:=cpu -p width:={WIDTH} -p height:={HEIGHT} "
                f"-r '~/events:={EVENT_TOPIC}'"
            ),
            "scaleevent_replay": f"-p path:={tmp_path / 'bag'} -p loop:=true",
        }
        processes = [
            graph.start_command(
                machine.command(f"{enter} && exec {executables / name} --ros-args {given}"),
                environment(domain),
            )
            for name, given in arguments.items()
        ]
        graph.spin_until(lambda: len(features) > 3, "features of the installed nodes", 120)
        assert [process.interrupt() for process in processes] == [0, 0]
    message = features[-1]
    assert message.encoding == "32FC32"
    assert (message.height, message.width) == (HEIGHT // 16, WIDTH // 16)
    values = np.frombuffer(message.data, np.float32)
    assert np.isfinite(values).all()
    assert values.std() > 0.1


def test_the_whole_suite_passes_with_numpy_1(machine: Machine, test_data: Path) -> None:
    command = "python -m pytest -q -p no:cacheprovider -n auto --dist loadfile"
    recordings = shlex.quote(str(test_data))
    output = machine.run(f". ./env.sh && SCALEEVENT_TEST_DATA={recordings} {command}")
    assert " failed" not in output
