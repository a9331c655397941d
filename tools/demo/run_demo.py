"""The main job from end to end, with the real parts. `make demo` runs this.

Each stage is one or two commands that a user could type. A stage is done again only if what it is
made from has changed; one that fails says which log to read and how to go on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
DONE = "stage.json"
READY = ": features"  # what the perception node says it publishes, once it is warm
# A domain of its own, so that the demo neither hears nor disturbs a robot beside it.
ROS = {"ROS_DOMAIN_ID": "87", "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
PHOTOGRAPHS = (
    "astronaut",
    "brick",
    "camera",
    "cat",
    "clock",
    "coffee",
    "coins",
    "gravel",
    "hubble_deep_field",
    "page",
    "rocket",
)


class StageError(Exception):
    """A stage failed; the message says which, where its log is, and how to go on."""


@dataclass(frozen=True)
class Stage:
    """A step of the journey.

    Attributes:
        name: Of the stage and of its folder.
        purpose: One line for the person who watches.
        made_from: Words whose change makes the stage's result stale.
        action: Does it, given the stage's folder.
    """

    name: str
    purpose: str
    made_from: list[str]
    action: Callable[[Path], None]


def fingerprint(words: list[str]) -> str:
    """Condense what a stage is made from, the package's code included."""
    sha = hashlib.sha256("\0".join(words).encode())
    for folder in ("scaleevent_ros", "training", "config"):
        for path in sorted((REPOSITORY / folder).rglob("*")):
            if path.suffix in (".py", ".yaml", ".xml"):
                sha.update(path.read_bytes())
    return sha.hexdigest()


def start(folder: Path, name: str, *command: str | Path) -> subprocess.Popen[bytes]:
    """Start a command whose output goes to a log in the stage's folder."""
    words = [str(word) for word in command]
    print(f"    $ {shlex.join([Path(words[0]).name, *words[1:]])}", flush=True)
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            words, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **ROS}
        )


def finish(folder: Path, name: str, process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait for a command that must succeed within a time."""
    try:
        code = process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        code = -1
    if code:
        log = folder / f"{name}.log"
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
        what = f"took longer than {seconds:.0f} s" if code == -1 else f"ended with {code}"
        msg = f"{name} {what}; the end of {log}:\n{tail}"
        raise StageError(msg)


def run(folder: Path, name: str, *command: str | Path, seconds: float = 900) -> None:
    """Run a command that must succeed."""
    finish(folder, name, start(folder, name, *command), seconds)


def take_photographs(folder: Path) -> None:
    """Write photographs that an installed package carries as picture files."""
    import cv2
    import numpy as np
    from skimage import data

    for name in PHOTOGRAPHS:
        picture = np.asarray(getattr(data, name)())
        if picture.ndim == 2:
            picture = np.repeat(picture[..., None], 3, axis=2)
        cv2.imwrite(str(folder / f"{name}.png"), picture[..., ::-1])


def record(folder: Path, bag: Path, *others: tuple[str, ...]) -> None:
    """Publish a bag on topics while the recorder node records all that appears.

    Args:
        folder: Of the stage; the recording is `recorded` in it.
        bag: To publish.
        others: Nodes that run beside, each an executable and its arguments.
    """
    arguments = ("-p", f"output_folder:={folder}", "-p", "name:=recorded")
    processes = {
        name: start(folder, name, BIN / name, "--ros-args", *parameters)
        for name, *parameters in (("scaleevent_recorder", *arguments), *others)
    }
    try:
        for name, *_ in others:
            wait_for(folder / f"{name}.log", READY, processes[name], 120)
        replay = ("--ros-args", "-p", f"path:={bag}", "-p", "delay:=5.0")
        run(folder, "scaleevent_replay", BIN / "scaleevent_replay", *replay)
        time.sleep(1)  # what is still on its way
        for name, process in processes.items():
            process.send_signal(signal.SIGINT)
            finish(folder, name, process, 30)
    finally:
        for process in processes.values():
            process.kill()


def wait_for(log: Path, word: str, process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait until a command has said a word."""
    deadline = time.monotonic() + seconds
    while word not in log.read_text(errors="replace"):
        if process.poll() is not None or time.monotonic() > deadline:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
            msg = f"{log.stem} never said {word!r}; the end of {log}:\n{tail}"
            raise StageError(msg)
        time.sleep(0.2)


def stages(output: Path) -> list[Stage]:
    """List the journey."""
    scaleevent = BIN / "scaleevent"
    photographs, simulated, recorded = (
        output / name for name in ("1-photographs", "2-simulated", "3-recorded")
    )
    bag = recorded / "recorded"
    pretrain: list[str | Path] = [
        *(BIN / "python", REPOSITORY / "training" / "pretrain.py"),
        *("--config", REPOSITORY / "config" / "pretrain" / "cpu.yaml"),
        *("--data.train", json.dumps([str(bag)])),
    ]
    student = output / "5-pretrained" / "run" / "best.safetensors"
    perception = (
        "scaleevent_perception",
        *("-p", f"model:={student}", "-p", "width:=320", "-p", "height:=240", "-p", "rate:=10.0"),
        *("-r", "~/events:=/event_camera/events"),
    )
    film = ["--still", "--size", "320x240", "--frames", "40", "--no-flow"]
    return [
        Stage(
            photographs.name,
            "photographs out of an installed package",
            list(PHOTOGRAPHS),
            take_photographs,
        ),
        Stage(
            simulated.name,
            "an event camera moves over them",
            film,
            lambda folder: run(
                folder, "simulate", scaleevent, "simulate", photographs, folder / "bag", *film
            ),
        ),
        Stage(
            recorded.name,
            "published on ROS 2 topics, and recorded by the recorder node",
            [],
            lambda folder: record(folder, simulated / "bag"),
        ),
        Stage(
            "4-checked",
            "the recording is judged",
            [],
            lambda folder: run(
                folder, "check", scaleevent, "check", bag, "--html", folder / "report.html"
            ),
        ),
        Stage(
            "5-pretrained",
            "a student of events learns from an ImageNet teacher of frames",
            [str(word) for word in pretrain],
            lambda folder: run(
                folder, "pretrain", *pretrain, "--trainer.output", str(folder / "run"), seconds=1800
            ),
        ),
        Stage(
            "6-perceived",
            "the student runs as a node on the replayed recording, and all it says is recorded",
            list(perception),
            lambda folder: record(folder, bag, perception),
        ),
        Stage(
            "7-reported",
            "what the student sees, as a page",
            [],
            lambda folder: run(
                folder,
                "report",
                *(scaleevent, "report", bag, "--model", student, "--out", folder / "report.html"),
            ),
        ),
    ]


def main() -> int:
    """Run the stages that are not done, in order; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=REPOSITORY / "demo_output")
    output = parser.parse_args().output.resolve()
    began = time.monotonic()
    made_from: list[str] = []
    for stage in stages(output):
        made_from += [stage.name, *stage.made_from]
        print(f"[{stage.name}] {stage.purpose}", flush=True)
        folder = output / stage.name
        mark = fingerprint(made_from)
        done = folder / DONE
        if done.is_file() and json.loads(done.read_text())["made_from"] == mark:
            print("    done before")
            continue
        if folder.exists():
            subprocess.run(["rm", "-rf", folder], check=True)
        folder.mkdir(parents=True)
        started = time.monotonic()
        try:
            stage.action(folder)
        except StageError as error:
            sys.stderr.write(f"demo: stage {stage.name}: {error}\n`make demo` goes on from here.\n")
            return 1
        except KeyboardInterrupt:
            sys.stderr.write(f"demo: interrupted in {stage.name}; `make demo` goes on from here\n")
            return 130
        seconds = time.monotonic() - started
        done.write_text(json.dumps({"made_from": mark, "seconds": round(seconds, 1)}))
        print(f"    took {seconds:.0f} s")
    print(f"The journey took {time.monotonic() - began:.0f} s. Look at:")
    for page in ("4-checked/report.html", "7-reported/report.html"):
        print(output / page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
