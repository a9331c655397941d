"""Every command of README.md and docs/: it can be parsed, and what is quick is run as it stands."""

from __future__ import annotations

import ast
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import typer
import yaml
from documented_commands import Command, commands_in
from photographs import photograph
from random_events import random_batch
from tiny_student import tiny_checkpoint
from torch.distributed.run import get_args_parser
from typer.testing import CliRunner

from scaleevent_ros.cli import app
from scaleevent_ros.distill.configuration import Pretraining, parse_configuration
from scaleevent_ros.events import encode_evt3
from scaleevent_ros.runtime import export as exporting
from scaleevent_ros.tasks.evaluation import request_parser
from scaleevent_ros.tasks.finetune import Finetuning
from scaleevent_ros.training import resolve_presets

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

pytest.importorskip("rosbags", reason="bags need rosbags")

REPOSITORY = Path(__file__).resolve().parent.parent
COMMANDS = [
    command
    for page in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
    for command in commands_in(page)
]
RUNS = {"pretrain": Pretraining, "cache-teacher": Pretraining, "finetune": Finetuning}
LAUNCHED = {
    "record.launch.py": "scaleevent_recorder",
    "perception.launch.py": "scaleevent_perception",
    "replay.launch.py": "scaleevent_replay",
    "simulate.launch.py": "scaleevent_simulate",
}
# Programs of others, with no argument of ours to check.
FOREIGN = {".", "sudo", "pip", "colcon", "git", "cd", "rviz2", "nvidia-smi", "df"}


def test_commands_are_found() -> None:
    found = {command.words[0] for command in COMMANDS}
    assert {"make", "scaleevent", "python", "torchrun", "ros2", "scaleevent_recorder"} <= found
    assert len(COMMANDS) > 80


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_it_can_be_parsed(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    program = command.words[0]
    if program not in FOREIGN:
        PARSERS[program](command)


def parse_scaleevent(command: Command) -> dict[str, Any]:
    """Parse with the command line's own parser; return the arguments."""
    root: Any = typer.main.get_command(app)
    name, *arguments = command.words[1:]
    if name == "--help":
        return {}
    assert name in root.commands, f"there is no `scaleevent {name}`"
    if name in {*RUNS, "evaluate"}:
        if arguments or not command.inline:
            parse_training(name, arguments)
        return {}
    if arguments == ["--help"] or (command.inline and not arguments):
        return {}
    try:
        context = root.commands[name].make_context(name, list(arguments))
    except Exception as error:
        # A sentence may speak of an option alone.
        if command.inline and type(error).__name__ == "MissingParameter":
            return {}
        raise
    return dict(context.params)


def parse_training(name: str, arguments: Sequence[str]) -> None:
    """Parse the arguments of a command that trains or evaluates."""
    if name == "evaluate":
        request_parser().parse_args(list(arguments))
    else:
        parse_configuration(
            RUNS[name],
            resolve_presets("finetune" if name == "finetune" else "pretrain", arguments),
            "",
        )


def parse_make(command: Command) -> None:
    subprocess.run(["make", "-n", *command.words[1:]], check=True, capture_output=True)


def parse_python(command: Command) -> None:
    script, *arguments = command.words[1:]
    if script == "-m":
        module, *arguments = arguments
        script = f"{module.replace('.', '/')}/__main__.py"
    if script == "-c" or script.startswith(("pytest/", "mkdocs/")):
        return
    assert (REPOSITORY / script).is_file(), f"there is no {script}"
    name = Path(script).stem
    name = name.replace("_", "-")
    if script.startswith("training/") and name in {*RUNS, "evaluate"}:
        parse_training(name, arguments)
        return
    known = options_of(REPOSITORY / script)
    for word in arguments:
        if word.startswith("--"):
            assert word.partition("=")[0] in known, f"{script} has no option {word}"


def options_of(script: Path) -> set[str]:
    """List what a script adds to its parser, without running it."""
    return {
        node.args[0].value
        for node in ast.walk(ast.parse(script.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "add_argument"
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    }


def parse_torchrun(command: Command) -> None:
    parsed = get_args_parser().parse_args(command.words[1:])
    script = [parsed.training_script, *parsed.training_script_args]
    if parsed.module and parsed.training_script == "scaleevent_ros.cli":
        parse_scaleevent(command._replace(words=["scaleevent", *parsed.training_script_args]))
        return
    parse_python(Command(command.page, ["python", *script], command.inline))


def parse_srun(command: Command) -> None:
    parse_torchrun(command._replace(words=command.words[1:]))


def parse_node(command: Command) -> None:
    """Check parameters, files of parameters and remapped topics of a node's command line."""
    node, *arguments = command.words
    if not arguments:
        return
    assert arguments[0] == "--ros-args"
    kind, topics = node_declarations(node)
    for flag, value in zip(arguments[1::2], arguments[2::2], strict=True):
        name, _, given = value.partition(":=")
        if flag == "--params-file":
            assert (REPOSITORY / value).is_file()
        elif flag == "-p":
            check_parameter(kind, name, given)
        else:
            assert flag == "-r"
            assert name in topics or name == "from", f"{node} has no topic {name}"


def parse_ros2(command: Command) -> None:
    """Check what is ours in a command of `ros2`."""
    words = command.words
    if words[1] == "launch" and len(words) > 2:
        assert words[2] == "scaleevent_ros"
        assert (REPOSITORY / "launch" / words[3]).is_file()
        kind, topics = node_declarations(LAUNCHED[words[3]])
        others = {"params_file", "namespace", *(topic.removeprefix("~/") for topic in topics)}
        for word in words[4:]:
            name, separator, given = word.partition(":=")
            if separator and name not in others:
                check_parameter(kind, name, given)
    elif words[1:3] == ["param", "set"]:
        check_parameter(node_declarations(words[3].lstrip("/"))[0], words[4], words[5])
    elif words[1:3] == ["service", "call"]:
        node, service = words[3].strip("/").split("/")
        module = REPOSITORY / "scaleevent_ros" / "nodes" / f"{node.removeprefix('scaleevent_')}.py"
        assert f"~/{service}" in module.read_text(), f"{node} has no service {service}"


def node_declarations(node: str) -> tuple[type[object], Sequence[str]]:
    pytest.importorskip("rclpy", reason="parameters of nodes need rclpy")
    from scaleevent_ros.nodes.parameters import (
        INPUTS,
        PerceptionParameters,
        RecorderParameters,
        ReplayParameters,
        SimulateParameters,
    )

    return {
        "scaleevent_recorder": (RecorderParameters, ()),
        "scaleevent_perception": (PerceptionParameters, tuple(INPUTS)),
        "scaleevent_replay": (ReplayParameters, ()),
        "scaleevent_simulate": (SimulateParameters, ()),
    }[node]


def check_parameter(kind: type[object], name: str, given: str) -> None:
    """Check that a parameter is declared and may have the value."""
    from scaleevent_ros.nodes.parameters import changed, described

    if (name, given) == ("name", "value"):
        return  # how a parameter is given, not one
    defaults = {each.name: each.default for each in described(kind)}
    assert name in defaults, f"no parameter {name}"
    text = isinstance(defaults[name], str)
    changed(kind(), {name: given if text else yaml.safe_load(given)})


PARSERS: dict[str, Callable[[Command], Any]] = {
    "scaleevent": parse_scaleevent,
    "make": parse_make,
    "python": parse_python,
    "torchrun": parse_torchrun,
    "srun": parse_srun,
    "ros2": parse_ros2,
    "scaleevent_recorder": parse_node,
    "scaleevent_perception": parse_node,
    "scaleevent_replay": parse_node,
}


# What the documentation calls its inputs, by what stands for it here.
STAND_INS = {
    "BAG": "bags/bag",
    "bags/NAME": "bags/bag",
    "bags/drive": "bags/bag",
    "recordings/drive": "bags/bag",
    "BAGS": "bags",
    "drive.raw": "recordings/drive.raw",
    "FOLDER": "recordings",
    "drive.mp4": "video.mp4",
    "frames": "pictures",
    "photos": "pictures",
    "labels": "labels",
    "student.safetensors": "student",
    "runs/cpu/best.safetensors": "student",
}
OUTPUTS = ("out", "output", "html", "pictures")
# `test_quantization.py` does the same from Python.
SLOW = {"scaleevent export lite lite8.onnx --bag recordings/drive --precision int8 --dynamic"}
TYPED = {
    str(command): command
    for command in COMMANDS
    if command.words[0] == "scaleevent" and not command.inline
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write one small input of each kind."""
    folder = tmp_path_factory.mktemp("inputs")
    scene = np.asarray(cv2.resize(photograph("astronaut"), (240, 180)), np.uint8)
    for name, pixels in (("pictures", scene), ("labels", scene[..., 0] // 64)):
        (folder / name).mkdir()
        for number in range(2):
            cv2.imwrite(str(folder / name / f"{number}.png"), pixels[number : number + 96, :128])
    code = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(folder / "video.mp4"), code, 25, (128, 96))
    for step in range(6):
        writer.write(scene[40:136, 4 * step : 4 * step + 128])
    writer.release()
    cv2.imwrite(str(folder / "scene.png"), scene)
    (folder / "bags").mkdir()
    film = ["--still", "--frames", "45", "--no-flow", "--strength", "3"]
    ran = CliRunner().invoke(
        app, ["simulate", str(folder / "scene.png"), str(folder / "bags" / "bag"), *film]
    )
    assert ran.exit_code == 0, ran.output
    (folder / "recordings").mkdir()
    header = b"% format EVT3;height=48;width=64\n% end\n"
    events = encode_evt3(random_batch(np.random.default_rng(0), 5000, 64, 48, 0, 100_000_000))
    (folder / "recordings" / "drive.raw").write_bytes(header + events)
    tiny_checkpoint(folder / "student")
    return folder


@pytest.mark.usefixtures("exports_here")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (" ".join(command.words) in SLOW))
        for name, command in TYPED.items()
    ],
)
def test_it_runs(name: str, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command as it stands, in a folder where its inputs have the names that it uses."""
    arguments = parse_scaleevent(TYPED[name])
    given = {key: str(value).rstrip("/") for key, value in arguments.items() if value is not None}
    made = [Path(given.pop(key)) for key in OUTPUTS if key in given]
    wanted = [value for value in given.values() if value in STAND_INS]
    if not wanted:
        pytest.skip("its inputs are of another machine")
    if any(path.suffix == ".engine" for path in made):
        pytest.importorskip("tensorrt", reason="needs TensorRT")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(inputs / "cache"))
    monkeypatch.setattr(exporting, "CALIBRATION_WINDOWS", 4)  # each costs a second
    for place in wanted:
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        source = inputs / STAND_INS[place]
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, place)
    for path in made:
        path.parent.mkdir(parents=True, exist_ok=True)
    ran = CliRunner().invoke(app, TYPED[name].words[1:])
    assert ran.exit_code == 0, f"{ran.output}\n{ran.exception}"
    assert all(path.exists() for path in made)
