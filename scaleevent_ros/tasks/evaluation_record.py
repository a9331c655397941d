"""Result of evaluating a checkpoint, and its file, ``evaluation.json``."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple, get_args, get_type_hints

from scaleevent_ros.tasks.errors import TaskError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

RECORD_NAME = "evaluation.json"
RECORD_VERSION = 1


class Kind(NamedTuple):
    """Common properties of checkpoints that differ by their seed alone.

    Attributes:
        task: Task of the head.
        architecture: timm's name of the student's network.
        head: Kind and options, as the header describes it.
        classes: Their names by id, for segmentation.
        events: Event options of the student, `EventOptions` as plain values.
    """

    task: str
    architecture: str
    head: dict[str, Any]
    classes: list[str]
    events: dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """Scores of a checkpoint, and all that is needed to repeat the evaluation.

    Attributes:
        checkpoint: Path of the checkpoint as given.
        sha256: SHA-256 of the file.
        seed: Seed of the training run; None if the header lacks it.
        step: After how many steps of that run; None likewise.
        task: Task; see `Kind`.
        architecture: Architecture; see `Kind`.
        head: Head; see `Kind`.
        classes: Class names; see `Kind`.
        events: Event options; see `Kind`.
        data: Evaluation data, `LabelledData` as plain values.
        split: Part of the data.
        windows: Number of windows.
        truth: BLAKE2b digest (32 bytes) of the truth of all windows: equal where two checkpoints
            were judged by the same.
        scores: Scores by their names in a run's ``metrics.jsonl``; those in ``events/`` are of
            pixels with events. NaN without ground truth.
        device: Device of the evaluation.
        precision: ``fp32``, ``tf32``, ``bf16`` or ``fp16``.
        batch_size: Windows at a time.
        ms_per_window: Median time of student and head, without data and scores.
        git_revision: Revision of the evaluation code.
    """

    checkpoint: str
    sha256: str
    seed: int | None
    step: int | None
    task: str
    architecture: str
    head: dict[str, Any]
    classes: list[str]
    events: dict[str, Any]
    data: dict[str, Any]
    split: str
    windows: int
    truth: str
    scores: dict[str, float]
    device: str
    precision: str
    batch_size: int
    ms_per_window: float
    git_revision: str

    @property
    def kind(self) -> Kind:
        """Properties in common with checkpoints of other seeds."""
        return Kind(self.task, self.architecture, self.head, self.classes, self.events)


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Write ``evaluation.json`` into a folder.

    Raises:
        TaskError: If it cannot be written.
    """
    write_json(folder / RECORD_NAME, asdict(evaluation))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write plain values under our version, so that a reader sees the whole file or none.

    What is not finite becomes null, which JSON can say.

    Raises:
        TaskError: If it cannot be written.
    """
    text = json.dumps(_sayable({"version": RECORD_VERSION, **content}), indent=1, allow_nan=False)
    write_whole(path, (text + "\n").encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees all of it or nothing; its folder is made if needed.

    Raises:
        TaskError: If it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        msg = f"{path} cannot be written: {error.strerror}; what was written before it stays"
        raise TaskError(msg) from error


def is_record(path: Path) -> bool:
    """Return whether a path is an evaluation's file, by its name."""
    return path.suffix == ".json"


def read_evaluation(path: Path) -> Evaluation:
    """Read an ``evaluation.json``.

    Raises:
        TaskError: If it cannot be read, or is something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise TaskError(msg) from error
    except ValueError as error:
        msg = f"{path} is not JSON: {error}"
        raise TaskError(msg) from error
    if not isinstance(content, dict) or content.pop("version", None) != RECORD_VERSION:
        msg = f"{path} is not an evaluation of version {RECORD_VERSION}, which this release reads"
        raise TaskError(msg)
    hints = get_type_hints(Evaluation)
    names = {item.name for item in fields(Evaluation)}
    wrong = sorted(names ^ set(content)) or [
        name for name, value in content.items() if not _is_a(value, hints[name])
    ]
    scores = content.get("scores", {})
    if wrong or not all(_is_a(value, float | None) for value in scores.values()):
        msg = f"{path} is not an evaluation: look at {(wrong or ['scores'])[0]!r}"
        raise TaskError(msg)
    content["scores"] = {
        name: math.nan if value is None else float(value) for name, value in scores.items()
    }
    return Evaluation(**content)


def _is_a(value: object, kind: Any) -> bool:
    """Check a JSON value against one of the plain types of `Evaluation`."""
    options = get_args(kind) if "|" in str(kind) else (kind,)
    for option in options:
        plain = getattr(option, "__origin__", option)
        if isinstance(value, (int, float) if plain is float else plain):
            return not isinstance(value, bool)
    return False


def _sayable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sayable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_sayable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
