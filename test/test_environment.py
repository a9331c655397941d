"""The set-up, `env.sh`, and the package as colcon and pip build it."""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
import unittest.mock
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import scaleevent_ros

if TYPE_CHECKING:
    from types import ModuleType

REPOSITORY = Path(__file__).resolve().parent.parent
BUILT = ("build", "install", "log")
CODE = "import scaleevent_ros, sys; print(scaleevent_ros.__file__, *sys.path[1:])"


@pytest.fixture
def setup_environment() -> ModuleType:
    path = REPOSITORY / "tools" / "setup" / "setup_environment.py"
    specification = importlib.util.spec_from_file_location("setup_environment", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what is tracked or could be, as a fresh clone has it."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    target = tmp_path / "checkout"
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, target / name)
    return target


def environment(**variables: str) -> dict[str, str]:
    """A new user's environment, without what the test run itself needed."""
    keep = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
    keep |= {n: v for n, v in os.environ.items() if n.startswith(("PIP_", "UV_", "SSL_"))}
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", **keep, **variables}


def test_versions_and_licences_agree() -> None:
    package = ET.parse(REPOSITORY / "package.xml").getroot()
    assert package.get("format") == "3"
    assert package.findtext("version") == scaleevent_ros.__version__
    assert package.findtext("license") == "Apache-2.0"
    assert "Apache License" in (REPOSITORY / "LICENSE").read_text()


def test_the_package_declares_the_ros_packages_that_it_imports() -> None:
    imported = {
        match
        for folder in ("scaleevent_ros", "launch")
        for path in (REPOSITORY / folder).rglob("*.py")
        for match in re.findall(r"^ *(?:from|import) (\w+)", path.read_text(), re.MULTILINE)
    }
    ros = {"rclpy", "launch", "launch_ros", "ament_index_python", "cv_bridge", "rosidl_runtime_py"}
    ros_imports = {name for name in imported if name in ros or name.endswith("_msgs")}
    package = ET.parse(REPOSITORY / "package.xml").getroot()
    declared = {str(element.text) for element in package.iter("exec_depend")}
    assert {"rclpy", "launch", "event_camera_msgs", "sensor_msgs"} <= ros_imports <= declared


def test_every_requirement_is_pinned() -> None:
    setup = runpy_setup()
    declared = {*setup["install_requires"], *setup["extras_require"]["dev"]}
    names = {
        re.split(r"[^\w.-]", requirement)[0].lower().replace(".", "-") for requirement in declared
    }
    for file in ("constraints.txt", "constraints-numpy1.txt"):
        lines = (REPOSITORY / "tools" / "setup" / file).read_text().splitlines()
        assert names <= {line.split("==")[0] for line in lines}


def runpy_setup() -> dict[str, Any]:
    """Return the arguments with which setup.py calls `setup`."""
    caught: dict[str, Any] = {}
    with unittest.mock.patch("setuptools.setup", caught.update):
        runpy.run_path(str(REPOSITORY / "setup.py"))
    return caught


@pytest.mark.parametrize("shell", ["bash", "dash", "zsh"])
def test_env_sh_adds_and_loses_nothing(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    profile = tmp_path / "mine.xml"
    script = ". ./env.sh && . ./env.sh && env"
    done = subprocess.run(
        [shell, "-c", script],
        cwd=REPOSITORY,
        env={
            "PATH": "/mine/bin:/usr/bin:/bin",
            "AMENT_PREFIX_PATH": "/mine/workspace",
            "PYTHONPATH": "/mine/python",
            "FASTDDS_DEFAULT_PROFILES_FILE": str(profile),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    variables = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    assert variables["PATH"] == f"{REPOSITORY}/.venv/bin:/mine/bin:/usr/bin:/bin"
    assert variables["AMENT_PREFIX_PATH"] == f"{REPOSITORY}/.venv:/mine/workspace"
    assert variables["PYTHONPATH"] == "/mine/python"
    assert variables["FASTDDS_DEFAULT_PROFILES_FILE"] == str(profile)


def test_env_sh_lets_the_launch_files_of_a_sourced_ros_find_the_package(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", '. "$1/env.sh" && exec /usr/bin/python3 -c "$2"', "bash", REPOSITORY, CODE],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "ROS_DISTRO": "kilted", "PYTHONPATH": "/opt/ros/kilted"},
        capture_output=True,
        text=True,
        check=True,
    )
    module, *path = done.stdout.split()
    assert Path(module).resolve() == Path(scaleevent_ros.__file__)
    assert path.index("/opt/ros/kilted") == 1
    # Nothing else of ours may hide a library of the system.
    (folder,) = {Path(module).parents[1]}
    assert [entry.name for entry in folder.iterdir()] == ["scaleevent_ros"]


def test_pytest_starts_with_the_plugins_of_ros_installed(tmp_path: Path) -> None:
    """`launch_testing` and its kin are plugins of every pytest once ROS is sourced."""
    names = ("launch_testing", "launch_ros", "launch_pytest", "ament_copyright")
    for name in names:
        (tmp_path / f"{name}_plugin.py").write_text(f"raise RuntimeError('{name} is loaded')")
        metadata = tmp_path / f"{name}-1.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (metadata / "entry_points.txt").write_text(f"[pytest11]\n{name} = {name}_plugin\n")
    collect = [sys.executable, "-m", "pytest", "--collect-only", "-q", "test/test_imports.py"]
    variables = {**os.environ, "PYTHONPATH": str(tmp_path)}
    options: dict[str, Any] = {
        "cwd": REPOSITORY,
        "env": variables,
        "capture_output": True,
        "text": True,
    }
    done = subprocess.run(collect, **options, check=False)
    assert done.returncode == 0, done.stderr
    without_options = [*collect, "-o", "addopts="]
    assert "is loaded" in subprocess.run(without_options, **options, check=False).stderr


def test_the_environment_is_a_prefix_in_which_ros_finds_the_package() -> None:
    """`ros2 launch` walks through the share folder without following links to folders."""
    venv = REPOSITORY / ".venv"
    assert (venv / "share/ament_index/resource_index/packages/scaleevent_ros").is_file()
    share = venv / "share" / "scaleevent_ros"
    found = {
        str(path.relative_to(share))
        for folder, _, names in os.walk(share)
        for path in (Path(folder, name) for name in names)
    }
    launch_files = {f"launch/{path.name}" for path in (REPOSITORY / "launch").glob("*.py")}
    assert {"package.xml", "config/perception.yaml", *launch_files} <= found
    executables = venv / "lib" / "scaleevent_ros"
    assert all(os.access(path, os.X_OK) for path in executables.iterdir())


def test_env_sh_offers_the_transport_profile() -> None:
    script = 'cd / && . "$1/env.sh" && printf %s "$FASTDDS_DEFAULT_PROFILES_FILE"'
    done = subprocess.run(
        ["bash", "-c", script, "bash", REPOSITORY],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout) == REPOSITORY / "config" / "fastdds_large_messages.xml"
    assert Path(done.stdout).is_file()


def test_env_sh_without_set_up_says_what_to_do(checkout: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", ". ./env.sh"], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "run `make setup` first" in done.stderr


def test_a_package_that_was_cut_off_is_installed_again(
    setup_environment: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(setup_environment, "VENV", tmp_path)
    for name, files in (
        ("whole-1.0", ("METADATA", "INSTALLER", "RECORD")),
        ("torn-1.0", ("METADATA", "RECORD")),
        ("torn_too-1.0", ("METADATA", "INSTALLER")),
    ):
        folder = setup_environment.site_packages() / f"{name}.dist-info"
        folder.mkdir(parents=True)
        for file in files:
            (folder / file).touch()
    setup_environment.purge_torn_packages()
    assert [path.name for path in setup_environment.site_packages().iterdir()] == [
        "whole-1.0.dist-info"
    ]


@pytest.mark.parametrize(
    ("version", "accepted"), [((3, 9), False), ((3, 10), True), ((3, 14), True), ((3, 15), False)]
)
def test_an_unsupported_python_is_named(
    setup_environment: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    version: tuple[int, int],
    *,
    accepted: bool,
) -> None:
    monkeypatch.setattr(sys, "version_info", (*version, 0, "final", 0))
    if accepted:
        setup_environment.check_python()
    else:
        with pytest.raises(
            setup_environment.SetupError, match=rf"Python {version[0]}\.{version[1]}"
        ):
            setup_environment.check_python()


@pytest.mark.parametrize(
    ("present", "named"),
    [
        ([], "build-essential"),
        (["cc"], "build-essential"),
        (["cc", "c++"], "cmake"),
    ],
)
def test_a_missing_tool_is_named(
    setup_environment: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    present: list[str],
    named: str,
) -> None:
    for name in present:
        (tmp_path / name).symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(setup_environment.SetupError, match=named) as error:
        setup_environment.check_build_tools()
    assert "\n" not in str(error.value)


def test_a_missing_python_header_is_named(
    setup_environment: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        setup_environment.sysconfig, "get_paths", lambda: {"include": str(tmp_path)}
    )
    with pytest.raises(setup_environment.SetupError, match=r"Python\.h.*-dev"):
        setup_environment.check_build_tools()


def test_a_sourced_ros_that_python_cannot_import_is_named(
    setup_environment: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "rclpy.py").write_text("raise ImportError('built for another Python')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    with pytest.raises(setup_environment.SetupError, match="PYTHON=/usr/bin/python3"):
        setup_environment.system_ros()


@pytest.mark.parametrize("options", [[], ["--symlink-install"]])
def test_colcon_builds_a_package_whose_files_are_found(
    checkout: Path, tmp_path: Path, options: list[str]
) -> None:
    student = checkout / "scaleevent_ros" / "weights" / "any.safetensors"
    student.parent.mkdir(exist_ok=True)
    student.write_bytes(b"student")
    bases = [f"--{name}-base={tmp_path / name}" for name in ("build", "install")]
    subprocess.run(
        [
            sys.executable,
            "-m",
            "colcon",
            f"--log-base={tmp_path / 'log'}",
            "build",
            *bases,
            *options,
        ],
        cwd=checkout,
        check=True,
        capture_output=True,
        text=True,
    )
    code = """
import os
from ament_index_python.packages import get_package_share_directory
share = get_package_share_directory("scaleevent_ros")
print(share)
for folder, _, files in os.walk(share):
    for name in files:
        print(os.path.relpath(os.path.join(folder, name), share))
import scaleevent_ros
print(scaleevent_ros.__file__)
"""
    script = f'. "{tmp_path}/install/setup.bash" && exec "{sys.executable}" -c "$1"'
    done = subprocess.run(
        ["bash", "-c", script, "bash", code],
        cwd=tmp_path,
        env=environment(PATH=os.environ["PATH"]),
        capture_output=True,
        text=True,
        check=True,
    )
    share, *files, module = done.stdout.split()
    assert Path(share) == tmp_path / "install" / "scaleevent_ros" / "share" / "scaleevent_ros"
    expected = {
        str(path.relative_to(checkout))
        for folder in ("launch", "config")
        for path in (checkout / folder).rglob("*")
        if path.is_file()
    }
    assert expected | {"package.xml"} <= set(files)
    assert module.startswith(str(tmp_path))
    assert Path(module).with_name("weights").joinpath(student.name).read_bytes() == b"student"
    executables = tmp_path / "install" / "scaleevent_ros" / "lib" / "scaleevent_ros"
    assert {"scaleevent", "scaleevent_recorder"} <= {path.name for path in executables.iterdir()}


@pytest.mark.slow
def test_pip_installs_into_a_plain_environment(checkout: Path, tmp_path: Path) -> None:
    target = tmp_path / "plain"
    subprocess.run(["python3", "-m", "venv", target], env=environment(), check=True)
    uv = Path(sys.executable).parent / "uv"
    constraints = checkout / "tools" / "setup" / "constraints.txt"
    subprocess.run(
        [
            uv,
            "pip",
            "install",
            "--quiet",
            "--python",
            target,
            "--constraint",
            constraints,
            checkout,
        ],
        env=environment(),
        check=True,
    )
    help_text = subprocess.run(
        [target / "bin" / "scaleevent", "--help"],
        capture_output=True,
        text=True,
        env=environment(),
        check=True,
    ).stdout
    assert "doctor" in help_text
    code = "import scaleevent_ros.events, importlib.util as u; assert not u.find_spec('rclpy')"
    subprocess.run([target / "bin" / "python", "-c", code], env=environment(), check=True)
    assert (target / "share" / "scaleevent_ros" / "config").is_dir()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_set_up_survives_being_killed_at_any_moment(checkout: Path) -> None:
    """Kill the set-up and all that it started, later each time, until it finishes."""
    seconds = 2.0
    while True:
        process = subprocess.Popen(
            ["make", "setup"], cwd=checkout, env=environment(), start_new_session=True
        )
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            seconds *= 1.4
            continue
        assert code == 0
        break
    started = time.monotonic()
    subprocess.run(["make", "setup"], cwd=checkout, env=environment(), check=True)
    assert time.monotonic() - started < 5
    subprocess.run(
        ["bash", "-c", ". ./env.sh && scaleevent doctor"],
        cwd=checkout,
        env=environment(),
        check=True,
    )
    check = subprocess.run(
        [checkout / ".venv" / "bin" / "uv", "pip", "check", "--python", checkout / ".venv"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "incompatible" not in check.stdout, check.stderr


def find_python(version: str) -> str:
    """Find an installed Python of a version, on the path or among pyenv's."""
    name = f"python{version}"
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    candidates: list[str | Path | None] = [
        shutil.which(name),
        *pyenv.glob(f"versions/{version}.*/bin/{name}"),
    ]
    for python in [str(candidate) for candidate in candidates if candidate]:
        # A shim of pyenv exists also for versions that are not chosen.
        done = subprocess.run([python, "-c", ""], capture_output=True, check=False)
        if done.returncode == 0:
            return python
    pytest.skip(f"there is no Python {version} here")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("version", ["3.10", "3.12", "3.13", "3.14"])
def test_set_up_and_tests_without_ros_pass_under_other_pythons(
    checkout: Path, version: str
) -> None:
    """Humble has Python 3.10, Jazzy and Kilted 3.12."""
    python = find_python(version)
    subprocess.run(
        ["make", "setup", f"PYTHON={python}"], cwd=checkout, env=environment(), check=True
    )
    packages = ("events", "bags", "sources", "data", "models", "distill", "tasks", "runtime")
    folders = " ".join(f"test/{package}" for package in packages)
    command = f"python -m pytest -q -p no:cacheprovider -n auto --dist loadfile {folders}"
    recordings = os.environ.get("SCALEEVENT_TEST_DATA", str(REPOSITORY.parent / "shared" / "data"))
    subprocess.run(
        ["bash", "-c", f". ./env.sh && {command}"],
        cwd=checkout,
        env=environment(SCALEEVENT_TEST_DATA=recordings),
        check=True,
    )
