"""Set up `.venv`, the environment of this project. `make setup` calls this.

On a machine without ROS 2 the environment gets ROS 2 from wheels and the interface packages built
into its prefix. On a machine with ROS 2 (`ROS_DISTRO` set, `rclpy` importable) it sees the system's
ROS packages and installs none of them.

This script uses only the standard library, and only old syntax: it must start on any Python to
report which one is needed. Each finished stage records a fingerprint of its inputs, so that an
interrupted run continues where it stopped, and a finished one has nothing to do.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY = Path(__file__).resolve().parents[2]
HERE = REPOSITORY / "tools" / "setup"
VENV = REPOSITORY / ".venv"
PYTHON = VENV / "bin" / "python"
# The interpreter outside any active environment, also this project's own.
BASE_PYTHON = str(Path(sys.base_prefix, "bin", f"python3.{sys.version_info[1]}").resolve())
STATE = VENV / "setup-state.json"
UV = "uv==0.13.9"
OLDEST, NEWEST = (3, 10), (3, 14)
INTERFACES = ("event_camera_msgs", "vision_msgs")
BYTES_NEEDED = 8 << 30


class Stage(NamedTuple):
    """A step of the set-up, which is repeated when the fingerprint of its inputs changes."""

    name: str
    fingerprint: str
    action: Callable[[], None]


class SetupError(Exception):
    """The set-up failed; the message gives the reason and, if something is missing, its package."""


def say(text: str) -> None:
    """Print a line without buffering."""
    print(text, flush=True)


def run(*command: str | Path, env: dict[str, str] | None = None, log: Path | None = None) -> None:
    """Run a command that must succeed.

    The command inherits the lock of `main` and holds it even if this process is killed, so that no
    second set-up starts meanwhile.

    Args:
        command: Executable and arguments.
        env: Variables to add to the environment.
        log: File to which the output is appended; None to show it.

    Raises:
        SetupError: If the command fails.
    """
    arguments = [str(word) for word in command]
    environment = {**os.environ, **(env or {})}
    if log is None:
        code = subprocess.run(arguments, env=environment, close_fds=False, check=False).returncode
        tail = ""
    else:
        with log.open("ab") as output:
            code = subprocess.run(
                arguments,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                close_fds=False,
                check=False,
            ).returncode
        tail = "\n" + "\n".join(log.read_text(errors="replace").splitlines()[-30:]) if code else ""
    if code:
        msg = f"`{' '.join(arguments[:6])} ...` failed with exit code {code}{tail}"
        raise SetupError(msg)


def apt(*packages: str) -> str:
    """Return a suggested fix for missing system packages, to follow a colon."""
    return f"install it, for example with `sudo apt install {' '.join(packages)}`"


def check_python() -> None:
    """Check that there are wheels for this Python, and that it has the venv module.

    Raises:
        SetupError: If one of them is not so.
    """
    version = sys.version_info[:2]
    if not OLDEST <= version <= NEWEST:
        msg = (
            f"Python {version[0]}.{version[1]} is not supported: install one from 3.{OLDEST[1]} "
            f"to 3.{NEWEST[1]} and run `make setup PYTHON=python3.{OLDEST[1] + 1}`"
        )
        raise SetupError(msg)
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        msg = f"Python's venv module is missing: {apt(f'python3.{sys.version_info[1]}-venv')}"
        raise SetupError(msg) from None


def system_ros() -> str | None:
    """Return the name of the sourced ROS 2 distribution; None without one.

    Raises:
        SetupError: If this Python cannot import its `rclpy`.
    """
    distribution = os.environ.get("ROS_DISTRO")
    if not distribution:
        return None
    found = subprocess.run(
        [BASE_PYTHON, "-c", "import rclpy"], capture_output=True, check=False
    ).returncode
    if found:
        msg = (
            f"ROS_DISTRO is {distribution}, but {BASE_PYTHON} cannot import rclpy: run "
            "`make setup PYTHON=/usr/bin/python3`, or use a shell without ROS to get it as wheels"
        )
        raise SetupError(msg)
    for package in (*INTERFACES, "cv_bridge"):
        missing = subprocess.run(
            [BASE_PYTHON, "-c", f"import {package}"], capture_output=True, check=False
        ).returncode
        if missing:
            say(
                f"note: the ROS package {package} is missing: "
                + apt(f"ros-{distribution}-{package.replace('_', '-')}")
            )
    return distribution


def check_build_tools() -> None:
    """Check platform, compilers, CMake and Python's headers before the build.

    Raises:
        SetupError: If one of them is missing.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        msg = (
            f"ROS 2 wheels exist for x86-64 Linux only, this is {sys.platform} on "
            f"{platform.machine()}: source a ROS 2 installation first, or, without ROS, "
            "`pip install '.[train]'`"
        )
        raise SetupError(msg)
    if not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        msg = f"no C compiler: {apt('build-essential')}"
        raise SetupError(msg)
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        msg = f"no C++ compiler: {apt('build-essential')}"
        raise SetupError(msg)
    if not shutil.which("cmake"):
        msg = f"no CMake: {apt('cmake')}"
        raise SetupError(msg)
    if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        msg = f"no Python header (Python.h): {apt(f'python3.{sys.version_info[1]}-dev')}"
        raise SetupError(msg)


def digest(*parts: str | Path) -> str:
    """Compute a fingerprint of texts, and of the contents of files and folders."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            sha.update(part.encode())
            continue
        for path in sorted(part.rglob("*")) if part.is_dir() else [part]:
            if path.is_file() and "__pycache__" not in path.parts:
                sha.update(str(path.relative_to(REPOSITORY)).encode())
                sha.update(path.read_bytes())
    return sha.hexdigest()


def system_numpy_is_1() -> bool:
    """Return whether the system's numpy, for which its ROS was compiled, has major version 1."""
    code = "import numpy, sys; sys.exit(numpy.__version__.split('.')[0] != '1')"
    return subprocess.run([BASE_PYTHON, "-c", code], check=False).returncode == 0


def system_torch_for_jetson() -> bool:
    """Return whether this is a Jetson with NVIDIA's own PyTorch, which must not be replaced.

    Raises:
        SetupError: On a Jetson without it: the registry's wheels cannot use its GPU.
    """
    if not Path("/etc/nv_tegra_release").is_file():
        return False
    code = "import torch, torchvision"
    if subprocess.run([BASE_PYTHON, "-c", code], capture_output=True, check=False).returncode:
        msg = (
            f"{BASE_PYTHON} has no PyTorch for this Jetson: install NVIDIA's torch and "
            "torchvision for your JetPack first (docs/installation.md)"
        )
        raise SetupError(msg)
    return True


def uv_environment() -> dict[str, str]:
    """Return variables that pass pip's index and certificate to uv, which does not read them."""
    environment = {}
    for option, variables in (
        ("index-url", ("UV_DEFAULT_INDEX", "UV_INDEX_URL")),
        ("cert", ("SSL_CERT_FILE",)),
    ):
        if any(os.environ.get(variable) for variable in variables):
            continue
        for scope in (":env:", "install", "global"):
            answer = subprocess.run(
                [str(PYTHON), "-m", "pip", "config", "get", f"{scope}.{option}"],
                capture_output=True,
                text=True,
                check=False,
            )
            if answer.returncode == 0 and answer.stdout.strip():
                environment[variables[0]] = answer.stdout.strip()
                break
    return environment


def site_packages() -> Path:
    """Return the environment's folder of pure and compiled packages."""
    return VENV / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


def purge_torn_packages() -> None:
    """Remove records of interrupted installations, so that they are repeated.

    INSTALLER and RECORD are the last files that an installer writes.
    """
    for metadata in site_packages().glob("*.dist-info"):
        if not ((metadata / "INSTALLER").is_file() and (metadata / "RECORD").is_file()):
            say(f"    installation of {metadata.name[:-10]} was interrupted: repeating it")
            shutil.rmtree(metadata)


def make_venv(ros: str | None) -> None:
    """Create a new environment with the installer uv, which the other stages use."""
    shutil.rmtree(VENV, ignore_errors=True)
    options = ["--system-site-packages"] if ros else []
    run(BASE_PYTHON, "-m", "venv", *options, VENV)
    run(PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", UV)


def install_packages(ros: str | None, constraints: Path, keep_system_torch: bool) -> None:
    """Install all pinned packages, and ROS 2 if the machine has none.

    Args:
        ros: Name of the machine's ROS 2 distribution; None without one.
        constraints: File of pinned versions.
        keep_system_torch: Whether the system's torch and torchvision are used.
    """
    purge_torn_packages()
    command: list[str | Path] = [VENV / "bin" / "uv", "pip", "install", "--python", PYTHON]
    command += ["--compile-bytecode", "--constraint", constraints]
    command += ["--requirements", REPOSITORY / "setup.py", "--extra", "dev"]
    # What `--no-build-isolation` needs when the project itself is installed.
    command += ["setuptools<80", "wheel"]
    if ros is None:
        command += ["--requirements", HERE / "requirements-ros.txt"]
    if keep_system_torch:
        overrides = VENV / "overrides.txt"
        never = "; python_version < '3'\n"
        overrides.write_text(f"torch {never}torchvision {never}")
        command += ["--override", overrides]
    run(*command, env=uv_environment())


def repair_cmake_exports(prefix: Path, python: Path) -> None:
    """Replace paths of the build machine in the CMake exports of the ROS wheels by local ones."""
    numpy_include = subprocess.run(
        [str(python), "-c", "import numpy; print(numpy.get_include())"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    python_include = sysconfig.get_paths()["include"]
    built = r"/opt/python/cp\d+-cp\d+"
    numpy_built = built + r"/lib/python3\.\d+/site-packages/numpy/(?:_core|core)/include"
    python_built = built + r"/include/python3\.\d+"
    for export in (prefix / "share").glob("*/cmake/*rosidl_generator_pyExport.cmake"):
        text = export.read_text()
        repaired = re.sub(numpy_built, lambda _: numpy_include, text)
        repaired = re.sub(python_built, lambda _: python_include, repaired)
        if repaired != text:
            export.write_text(repaired)


def build_interfaces(prefix: Path, python: Path, python_path: str = "") -> None:
    """Build the interface packages and install them into a prefix with ROS from wheels.

    Args:
        prefix: Folder with the wheels' `bin`, `lib` and `share`.
        python: Interpreter for which the packages are built.
        python_path: `PYTHONPATH` with which it finds the wheels and numpy.
    """
    repair_cmake_exports(prefix, python)
    environment = {
        "PATH": f"{prefix / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "AMENT_PREFIX_PATH": str(prefix),
        "CMAKE_PREFIX_PATH": str(prefix),
        "PYTHONPATH": python_path,
    }
    builds = prefix / "build"
    shutil.rmtree(builds, ignore_errors=True)
    builds.mkdir()
    for package in INTERFACES:
        say(f"    building {package}")
        folder, log = builds / package, builds / f"{package}.log"
        run(
            "cmake",
            "-S",
            HERE / "interfaces" / package,
            "-B",
            folder,
            f"-DCMAKE_INSTALL_PREFIX={prefix}",
            f"-DPython3_EXECUTABLE={python}",
            "-DCMAKE_BUILD_TYPE=Release",
            "-DBUILD_TESTING=OFF",
            env=environment,
            log=log,
        )
        jobs = str(os.cpu_count() or 1)
        run(
            *("cmake", "--build", folder, "--parallel", jobs, "--target", "install"),
            env=environment,
            log=log,
        )
    shutil.rmtree(builds)


def replace_link(link: Path, target: Path) -> None:
    """Create a link to a target, replacing an existing link or file."""
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def shared_files() -> list[Path]:
    """Return the files for the package's share folder."""
    folders = (REPOSITORY / "launch", REPOSITORY / "config")
    paths = sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())
    return [REPOSITORY / "package.xml", *(p for p in paths if "__pycache__" not in p.parts)]


def install_project() -> None:
    """Install this package, editable, so that the shell, `ros2 run` and `ros2 launch` find it.

    An editable installation omits data files, so `share` and ament's index are linked.
    """
    purge_torn_packages()
    run(
        *(VENV / "bin" / "uv", "pip", "install", "--quiet", "--python", PYTHON),
        *("--no-deps", "--no-build-isolation", "--reinstall-package", "scaleevent-ros"),
        *("--editable", REPOSITORY),
        env=uv_environment(),
    )
    executables, share = VENV / "lib" / "scaleevent_ros", VENV / "share" / "scaleevent_ros"
    for folder in (executables, share):
        shutil.rmtree(folder, ignore_errors=True)
    for path in (VENV / "bin").glob("scaleevent*"):
        replace_link(executables / path.name, Path("..", "..", "bin", path.name))
    # One link for each file: `ros2 launch` does not follow links to folders.
    for path in shared_files():
        replace_link(share / path.relative_to(REPOSITORY), path)
    index = VENV / "share" / "ament_index" / "resource_index" / "packages"
    replace_link(index / "scaleevent_ros", REPOSITORY / "resource" / "scaleevent_ros")
    # `ros2 launch` runs launch files in the system's Python: env.sh adds this folder, which holds
    # only this package, to its path.
    replace_link(share / "python" / "scaleevent_ros", REPOSITORY / "scaleevent_ros")


def read_state() -> dict[str, str]:
    """Return the fingerprints of the finished stages, by name."""
    try:
        state = json.loads(STATE.read_text())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def write_state(state: dict[str, str]) -> None:
    """Write the fingerprints of the finished stages, atomically."""
    draft = STATE.with_suffix(".draft")
    draft.write_text(json.dumps(state, indent=1))
    draft.replace(STATE)


def set_up() -> None:
    """Run the stages that are not finished or whose inputs have changed.

    Raises:
        SetupError: If the machine lacks something, or a stage fails.
    """
    check_python()
    ros = system_ros()
    constraints = HERE / "constraints.txt"
    if ros and system_numpy_is_1():
        constraints = HERE / "constraints-numpy1.txt"
    keep_system_torch = system_torch_for_jetson()
    if ros is None:
        check_build_tools()

    ros_files = (HERE / "requirements-ros.txt", HERE / "interfaces")
    base = digest(sys.version, BASE_PYTHON, ros or "wheels", Path(__file__).resolve())
    pinned = digest(base, constraints)
    declared = digest(pinned, REPOSITORY / "setup.py")
    stages = [
        Stage("venv", base, lambda: make_venv(ros)),
        Stage(
            "packages",
            digest(declared, *ros_files[:1]),
            lambda: install_packages(ros, constraints, keep_system_torch),
        ),
        Stage("interfaces", digest(pinned, *ros_files), lambda: build_interfaces(VENV, PYTHON)),
        Stage(
            "project",
            digest(declared, REPOSITORY / "setup.cfg", *map(str, shared_files())),
            install_project,
        ),
    ]
    if ros:
        stages = [stage for stage in stages if stage.name != "interfaces"]

    state = read_state()
    pending = [stage for stage in stages if state.get(stage.name) != stage.fingerprint]
    if not pending:
        say("The environment .venv is up to date.")
        return
    if any(stage.name in ("venv", "packages") for stage in pending):
        free = shutil.disk_usage(REPOSITORY).free
        if free < BYTES_NEEDED:
            msg = (
                f"{free >> 30} GiB free in {REPOSITORY}: the environment needs "
                f"{BYTES_NEEDED >> 30} GiB; free some, or work on a larger disk"
            )
            raise SetupError(msg)
    where = f"ROS 2 {ros} of this machine" if ros else "ROS 2 from wheels"
    say(f"Setting up .venv: Python {platform.python_version()}, {where}.")
    for number, stage in enumerate(pending, 1):
        say(f"[{number}/{len(pending)}] {stage.name}")
        started = time.monotonic()
        state = {} if stage.name == "venv" else read_state()
        state.pop(stage.name, None)
        if STATE.exists():
            write_state(state)
        stage.action()
        state[stage.name] = stage.fingerprint
        write_state(state)
        say(f"    done in {time.monotonic() - started:.0f} s")
    say("The environment is ready: `. ./env.sh` enters it.")


def main() -> int:
    """Run the set-up, one at a time; return the exit code."""
    with (REPOSITORY / ".venv.lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("Waiting for another set-up of this folder to finish ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            set_up()
        except SetupError as error:
            sys.stderr.write(f"setup: {error}\n")
            return 1
        except KeyboardInterrupt:
            sys.stderr.write("setup: interrupted; run `make setup` again to continue\n")
            return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
