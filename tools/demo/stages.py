"""Running of stages: in order, each once, and resumed after an interruption."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scaleevent_ros.errors import ScaleEventError
from tools.demo.processes import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NODE = "/scaleevent_perception"
REPOSITORY = Path(__file__).resolve().parents[2]
MARK = "stage.json"
# Code and configuration on which the result of any stage may depend.
_CODE = ("scaleevent_ros", "training", "config", "tools/demo")


class StageError(Exception):
    """A stage failed, for the reason that the message gives."""


@dataclass(frozen=True)
class Stage:
    """A stage of the demo.

    Attributes:
        name: Name of the stage and of its folder.
        purpose: Description in one line.
        made_from: Inputs, as text; if they change, this stage and all later ones are repeated.
        action: Function that runs the stage in its folder, and returns a summary in one line.
        goes_on: Whether the action can continue after an interruption; otherwise it starts again
            with an empty folder.
    """

    name: str
    purpose: str
    made_from: tuple[str, ...]
    action: Callable[[Path], str]
    goes_on: bool = False


def perform(stages: Sequence[Stage], output: Path) -> int:
    """Run all stages that are not complete, each in its own folder.

    A file in its folder holds a digest of the code and of the inputs of a stage and of all stages
    before it, and the result once it is finished. A finished stage with the same digest is skipped.

    Returns:
        Exit code: 0, or 1 after a failure, or 130 after Ctrl-C.
    """
    sha = _code_digest()
    for stage in stages:
        sha.update("\0".join((stage.name, *stage.made_from)).encode())
        print(f"[{stage.name}] {stage.purpose}", flush=True)
        folder, mark = output / stage.name, sha.hexdigest()
        before = _read_mark(folder)
        if before.get("made_from") == mark and "seconds" in before:
            print(f"    done before, in {before['seconds']:.0f} s: {before['said']}", flush=True)
            continue
        if not (stage.goes_on and before.get("made_from") == mark) and folder.exists():
            shutil.rmtree(folder)
        began = time.monotonic()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write_mark(folder, {"made_from": mark})
            said = stage.action(folder)
            seconds = time.monotonic() - began
            _write_mark(
                folder,
                {
                    "made_from": mark,
                    "seconds": seconds,
                    "purpose": stage.purpose,
                    "said": said,
                },
            )
        except (StageError, CommandError, ScaleEventError, OSError) as error:
            sys.stderr.write(
                f"demo: stage {stage.name} failed: {error}\n"
                "Fix the cause, and run the same command again: it continues with this stage.\n"
            )
            return 1
        except KeyboardInterrupt:
            sys.stderr.write(
                f"\ndemo: interrupted in stage {stage.name}; the same command continues with it.\n"
            )
            return 130
        print(f"    took {seconds:.0f} s: {said}", flush=True)
    return 0


def finished(output: Path) -> list[dict[str, str | float]]:
    """List the finished stages in order: name, purpose, summary (``said``), and seconds."""
    marks = [(path.parent.name, _read_mark(path.parent)) for path in output.glob(f"*/{MARK}")]
    return [{"name": name, **mark} for name, mark in sorted(marks) if "seconds" in mark]


def _code_digest() -> hashlib._Hash:
    sha = hashlib.sha256()
    for folder in _CODE:
        for path in sorted((REPOSITORY / folder).rglob("*")):
            if path.suffix in {".py", ".yaml", ".xml"}:
                sha.update(path.read_bytes())
    return sha


def _read_mark(folder: Path) -> dict[str, str | float]:
    try:
        return dict(json.loads((folder / MARK).read_text()))
    except (OSError, ValueError):
        return {}  # the stage was never started, or interrupted while the file was written


def _write_mark(folder: Path, mark: dict[str, str | float]) -> None:
    (folder / MARK).write_text(json.dumps(mark))
