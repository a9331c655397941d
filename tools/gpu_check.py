"""Check and measure this machine's GPU in one command: `python -m tools.gpu_check`.

Runs the tests that use a GPU, then the benchmarks, each in a separate process with a time limit,
and writes ``gpu_check.json`` and ``gpu_check.md`` to the output folder. Without a GPU the same
commands run with little work on the CPU, so that the script itself can be tested anywhere. Exit
code 0: every step succeeded; 1: a step failed or ran out of time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parent.parent
GPU_TESTS = (
    "test/runtime",
    "test/events/test_normalization.py",
    "test/events/test_representations.py",
)
PACKAGES = ("torch", "timm", "onnxruntime", "onnxruntime-gpu", "tensorrt", "numba", "numpy")
TAIL = 2000  # characters of a failed step's output that are kept
CLASSES = 11  # of config/labels/camvid11.yaml


@dataclass(frozen=True)
class Step:
    """A command to run.

    Attributes:
        name: Title in the tables.
        command: Arguments of Python.
        share: Share of the time limit of all steps, 0 to 1.
    """

    name: str
    command: tuple[str, ...]
    share: float


@dataclass
class Result:
    """Result of a step.

    Attributes:
        name: Title of the step.
        command: Command line.
        outcome: ``ok``, ``failed``, or ``out of time``.
        seconds: Duration in s.
        tables: Markdown tables that it printed: rows of cells by title.
        tail: End of its output; empty if it succeeded.
    """

    name: str
    command: str
    outcome: str
    seconds: float
    tables: list[list[dict[str, str]]] = field(default_factory=list)
    tail: str = ""


def gpu_steps(pictures: Path, output: Path) -> list[Step]:
    """List the steps for a machine with a GPU, in order."""
    row = representation(pictures, output, "small")
    tests = ("-m", "pytest", "-q", "-p", "no:cacheprovider", *GPU_TESTS)
    return [
        Step("tests", tests, 0.2),
        Step("events", ("benchmarks/representations.py", "--gpu-only"), 0.1),
        Step("losses", ("benchmarks/losses.py", "--repeats", "10"), 0.1),
        Step("pretraining", ("benchmarks/pretrain.py", "--steps", "10"), 0.25),
        Step("perception", ("benchmarks/perception.py", "--seconds", "2"), 0.2),
        Step("representation", row, 0.15),
    ]


def cpu_steps(pictures: Path, output: Path) -> list[Step]:
    """List the same steps with little work, for a test on the CPU."""
    one = ("--models", "lite0", "--sizes", "64x64", "--backends", "eager", "--seconds", "0.1")
    tiny = ("--models", "small", "--sizes", "32x32", "--batch", "1", "--steps", "1")
    few = ("--tokens", "2048", "--width", "64", "--repeats", "1")
    tests = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", *GPU_TESTS)
    events = ("benchmarks/representations.py", "--gpu-only")
    return [
        Step("tests", tests, 0.2),
        Step("events", (*events, "--events", "10000", "--runs", "1"), 0.1),
        Step("losses", ("benchmarks/losses.py", *few), 0.2),
        Step("pretraining", ("benchmarks/pretrain.py", *tiny), 0.2),
        Step("perception", ("benchmarks/perception.py", *one), 0.1),
        Step("representation", representation(pictures, output, "tiny"), 0.2),
    ]


def representation(pictures: Path, output: Path, scale: str) -> tuple[str, ...]:
    """Compose the arguments of Python for one row of the table of representations."""
    options = ("--scale", scale, "--only", "structure_active", "--finetune")
    folders = ("--pictures", str(pictures), "--output", str(output))
    return ("benchmarks/representation.py", *options, *folders)


def run_step(step: Step, limit_s: float) -> Result:
    """Run a step; kill it with all its child processes when its time limit is reached."""
    start = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'test' / 'support'}"}
    process = subprocess.Popen(
        [sys.executable, *step.command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit_s)
        outcome = "failed" if process.returncode else "ok"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        outcome = "out of time"
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    command = " ".join(("python", *step.command))
    seconds = round(time.monotonic() - start, 1)
    tail = "" if outcome == "ok" else output[-TAIL:]
    return Result(step.name, command, outcome, seconds, read_tables(output), tail)


def read_tables(output: str) -> list[list[dict[str, str]]]:
    """Parse the Markdown tables in an output; one may be incomplete after a time limit."""
    tables: list[list[dict[str, str]]] = []
    titles: list[str] | None = None
    for line in output.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            titles = None
        elif titles is None:
            titles = cells
            tables.append([])
        elif not set("".join(cells)) <= set("-:"):
            tables[-1].append(dict(zip(titles, cells, strict=False)))
    return tables


def machine() -> dict[str, str]:
    """Return the hardware and the package versions that results depend on."""
    found = {
        "python": platform.python_version(),
        "processor": platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "gpu": "none",
    }
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        memory = torch.cuda.get_device_properties(0).total_memory / 1e9
        found["gpu"] = f"{torch.cuda.get_device_name()}, {memory:.0f} GB, sm_{major}{minor}"
        found["cuda"] = str(torch.version.cuda)
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def to_markdown(facts: dict[str, str], results: Sequence[Result]) -> str:
    """Write the report: the machine, the steps, and each step's tables."""
    lines = ["# GPU check", "", ", ".join(f"{key} {value}" for key, value in facts.items()), ""]
    lines += ["| step | outcome | s |", "|---|---|---|"]
    lines += [f"| {one.name} | {one.outcome} | {one.seconds} |" for one in results]
    for one in results:
        lines += ["", f"## {one.name}", "", f"`{one.command}`"]
        for table in filter(None, one.tables):
            titles = list(table[0])
            lines += ["", f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
            lines += [f"| {' | '.join(row.get(t, '') for t in titles)} |" for row in table]
        if one.tail:
            lines += ["", "```", one.tail, "```"]
    return "\n".join(lines) + "\n"


def write_pictures(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Write pictures of textured rectangles and their labels, for a machine without CamVid."""
    width, height = size
    for part, first in (("train", 0), ("val", count)):
        for kind in ("images", "labels"):
            (folder / part / kind).mkdir(parents=True)
        for number in range(first, first + count):
            random = np.random.default_rng(number)
            labels = np.zeros((height, width), np.uint8)
            for class_id in range(1, CLASSES):
                x, y = random.integers(0, width), random.integers(0, height)
                labels[y : y + height // 3, x : x + width // 3] = class_id
            noise = random.integers(-12, 12, (height, width, 3))
            colours = np.random.default_rng(0).integers(20, 235, (CLASSES, 3))
            picture = (colours[labels] + noise).astype(np.uint8)
            cv2.imwrite(str(folder / part / "images" / f"{number:03d}.png"), picture)
            cv2.imwrite(str(folder / part / "labels" / f"{number:03d}.png"), labels)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all steps and write the report; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=8.0, help="time limit of all steps")
    parser.add_argument("--output", type=Path, default=Path("gpu_check"), help="folder to write")
    parser.add_argument("--pictures", type=Path, help="CamVid; without it made-up pictures")
    parser.add_argument("--only", nargs="+", metavar="STEP", help="names of the steps to run")
    options = parser.parse_args(arguments)
    gpu = torch.cuda.is_available()
    options.output.mkdir(parents=True, exist_ok=True)
    facts = machine()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        pictures = options.pictures
        if pictures is None:
            pictures = Path(folder) / "pictures"
            write_pictures(pictures, 32 if gpu else 4, (480, 352) if gpu else (96, 64))
        pictures, rows = pictures.resolve(), Path(folder) / "representation"
        steps = gpu_steps(pictures, rows) if gpu else cpu_steps(pictures, rows)
        unknown = set(options.only or ()) - {step.name for step in steps}
        if unknown:
            parser.error(f"no step {sorted(unknown)}; there are {[step.name for step in steps]}")
        for step in steps:
            if options.only and step.name not in options.only:
                continue
            print(f"{step.name} ...", flush=True)
            results.append(run_step(step, 60 * options.minutes * step.share))
            print(f"{step.name}: {results[-1].outcome} in {results[-1].seconds} s", flush=True)
            # After each step, so that an interrupted run leaves its results.
            report = {"machine": facts, "steps": [asdict(one) for one in results]}
            (options.output / "gpu_check.json").write_text(json.dumps(report, indent=1))
            (options.output / "gpu_check.md").write_text(to_markdown(facts, results))
    return int(any(one.outcome != "ok" for one in results))


if __name__ == "__main__":
    sys.exit(main())
