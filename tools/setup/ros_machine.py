"""Build an imitation of a machine that has ROS 2 from apt, for tests: `ros_machine.py FOLDER`.

The core of ROS 2 is available as wheels. The imitation has a system Python with numpy 1 and without
this project's libraries, ROS 2 in a prefix outside of any environment, and a `setup.sh` to source.
It lacks `launch` and `ros2`, for which there are no wheels.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

import setup_environment

DISTRIBUTION = "kilted"
# Libraries that Ubuntu's packages of ROS 2 install into the system's Python.
SYSTEM_LIBRARIES = (
    "numpy",
    "PyYAML",
    "packaging",
    "typing-extensions",
    "lark-parser==0.12.0",
    "catkin_pkg",
    "empy",
    "setuptools",
)
SETUP = """\
# Source this, as one sources /opt/ros/DISTRIBUTION/setup.sh.
export ROS_DISTRO={distribution} ROS_VERSION=2 ROS_PYTHON_VERSION=3
export PATH="{prefix}/bin:{system}/bin:$PATH"
export PYTHONPATH="{packages}${{PYTHONPATH:+:$PYTHONPATH}}"
export LD_LIBRARY_PATH="{libraries}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"
export AMENT_PREFIX_PATH="{prefix}${{AMENT_PREFIX_PATH:+:$AMENT_PREFIX_PATH}}"
export CMAKE_PREFIX_PATH="{prefix}${{CMAKE_PREFIX_PATH:+:$CMAKE_PREFIX_PATH}}"
"""


def copy_python(system: Path) -> Path:
    """Copy this Python's interpreter to a folder, with links to the standard library only.

    Returns:
        Path of the copied interpreter.
    """
    version = f"python3.{sys.version_info[1]}"
    base = Path(sys.base_prefix)
    (system / "bin").mkdir(parents=True)
    python = system / "bin" / version
    shutil.copy2(setup_environment.BASE_PYTHON, python)
    (system / "bin" / "python3").symlink_to(version)
    standard_library = system / "lib" / version
    standard_library.mkdir(parents=True)
    for path in (base / "lib" / version).iterdir():
        if path.name not in ("site-packages", "dist-packages"):
            (standard_library / path.name).symlink_to(path)
    (system / "include").symlink_to(base / "include")
    return python


def system_packages(python: Path) -> Path:
    """Return the first site-packages folder of an interpreter; create it if it is missing."""
    code = "import site; print(site.getsitepackages()[0])"
    folder = Path(subprocess.check_output([python, "-I", "-c", code], text=True).strip())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def pinned(constraints: Path, pattern: str) -> list[str]:
    """Return the lines of a constraints file whose beginnings match a pattern."""
    return [line for line in constraints.read_text().splitlines() if re.match(pattern, line)]


def build(folder: Path, uv: Path) -> Path:
    """Build the imitation in an empty folder.

    Args:
        folder: Folder to build in; only the standard library is shared with this machine's Python.
        uv: Path of the installer uv.

    Returns:
        Path of the `setup.sh` to source.
    """
    here = setup_environment.HERE
    python = copy_python(folder / "usr")
    install = (uv, "pip", "install", "--quiet", "--python", python)
    environment = setup_environment.uv_environment()
    libraries = system_packages(python)
    setup_environment.run(
        *install,
        *("--target", libraries, "--constraint", here / "constraints-numpy1.txt"),
        *SYSTEM_LIBRARIES,
        env=environment,
    )
    prefix = folder / "opt" / "ros" / DISTRIBUTION
    wheels = pinned(here / "constraints.txt", r"ros-(?!wheels-bootstrapper)")
    setup_environment.run(*install, "--prefix", prefix, "--no-deps", *wheels, env=environment)
    packages = next(prefix.rglob("rclpy/__init__.py")).parents[1]
    setup_file = prefix / "setup.sh"
    content = SETUP.format(
        distribution=DISTRIBUTION,
        prefix=prefix,
        system=folder / "usr",
        packages=packages,
        libraries=":".join(map(str, [prefix / "lib", *sorted(packages.glob("ros_*.libs"))])),
    )
    setup_file.write_text(content)
    (prefix / "local_setup.bash").write_text(content)  # which workspaces of colcon source
    for path in prefix.glob("bin/python*"):
        path.unlink()
    setup_environment.build_interfaces(prefix, python, str(packages))
    return setup_file


def main() -> None:
    """Build the imitation; the last line printed is the path of its `setup.sh`."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where to build; new or empty")
    folder = parser.parse_args().folder.absolute()
    print(build(folder, Path(sys.prefix, "bin", "uv")), flush=True)


if __name__ == "__main__":
    main()
