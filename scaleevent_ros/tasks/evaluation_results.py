"""Results of evaluations, their file ``evaluation.json``, and comparisons of two groups.

With n scores of a group, their mean m and their standard deviation s (of a sample: divided by
n - 1), the difference of the groups A and B is ``m_A - m_B``. Its standard error is

- ``s_d / sqrt(n)`` if both groups have the same seeds, each once: d are the differences of the
  scores of equal seeds, which share the order of the data and the initial weights of the heads.
  There are n - 1 degrees of freedom.
- ``sqrt(s_A ** 2 / n_A + s_B ** 2 / n_B)`` otherwise: Welch, "The generalization of 'Student's'
  problem when several different population variances are involved", Biometrika 1947. Its degrees
  of freedom are Satterthwaite's (Biometrics Bulletin 1946):
  ``e ** 4 / (s_A ** 4 / (n_A ** 2 * (n_A - 1)) + s_B ** 4 / (n_B ** 2 * (n_B - 1)))`` with the
  standard error e.

A single score has no spread.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, NamedTuple, get_type_hints

from scaleevent_ros.files import atomic_write, to_json
from scaleevent_ros.models.checkpoints import matches_type
from scaleevent_ros.tasks.errors import TaskError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

RECORD_NAME = "evaluation.json"
RECORD_VERSION = 1


class Kind(NamedTuple):
    """Properties that checkpoints of one group have in common: they differ by their seed alone.

    Attributes:
        task: Task of the head.
        architecture: timm's name of the student's network.
        head: Kind and options of the head, as in the checkpoint's header.
        classes: Class names by id, for segmentation.
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
        step: Number of steps of that run; None if the header lacks it.
        task: Task; see `Kind`.
        architecture: Architecture; see `Kind`.
        head: Head; see `Kind`.
        classes: Class names; see `Kind`.
        events: Event options; see `Kind`.
        data: Evaluation data, `LabelledData` as plain values.
        split: Part of the data.
        windows: Number of windows.
        truth: BLAKE2b digest (32 bytes) of the ground truth of all windows.
        scores: Scores by their names in a run's ``metrics.jsonl``; those in ``events/`` are
            computed only over pixels with events. NaN without ground truth.
        device: Device of the evaluation.
        precision: ``fp32``, ``tf32``, ``bf16`` or ``fp16``.
        batch_size: Number of windows in a batch.
        ms_per_window: Median time of student and head per window in ms, without loading data and
            computing scores.
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
    """Write plain values with the version, atomically; values that are not finite become null.

    Raises:
        TaskError: If it cannot be written.
    """
    text = to_json({"version": RECORD_VERSION, **content})
    write_whole(path, (text + "\n").encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically; its folder is created if needed.

    Raises:
        TaskError: If it cannot be written.
    """
    try:
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        msg = f"{path} cannot be written: {error.strerror}; files written before it are kept"
        raise TaskError(msg) from error


def is_record(path: Path) -> bool:
    """Return whether a path is that of an evaluation, not of a checkpoint, by its suffix."""
    return path.suffix == ".json"


def read_evaluation(path: Path) -> Evaluation:
    """Read an ``evaluation.json``.

    Raises:
        TaskError: If it cannot be read, or is not an evaluation.
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
    kinds = {**get_type_hints(Evaluation), "scores": dict[str, float | None]}
    wrong = sorted(set(kinds) ^ set(content)) or [
        name for name, value in content.items() if not matches_type(value, kinds[name])
    ]
    if wrong:
        msg = f"{path} is not an evaluation: wrong field {wrong[0]!r}"
        raise TaskError(msg)
    content["scores"] = {
        name: math.nan if value is None else float(value)
        for name, value in content["scores"].items()
    }
    return Evaluation(**content)


class Spread(NamedTuple):
    """Scores of a group.

    Attributes:
        mean: Mean of the scores.
        std: Standard deviation of the scores; None for a single score.
        seeds: Number of scores.
    """

    mean: float
    std: float | None
    seeds: int


class Difference(NamedTuple):
    """Difference of two groups' scores.

    Attributes:
        mean: The difference of the means.
        standard_error: Standard error of the difference; None if a group has a single score.
        degrees_of_freedom: Degrees of freedom of the standard error; None without one or without
            any spread.
        paired: Whether scores of equal seeds were compared.
    """

    mean: float
    standard_error: float | None
    degrees_of_freedom: float | None
    paired: bool


def spread(scores: Sequence[float]) -> Spread:
    """Compute mean and standard deviation of the scores of a group, at least one."""
    return Spread(fmean(scores), stdev(scores) if len(scores) > 1 else None, len(scores))


def pair_seeds(
    first: Sequence[int | None], second: Sequence[int | None]
) -> list[tuple[int, int]] | None:
    """Pair equal seeds of two groups.

    Args:
        first: Seeds of the first group; None if unknown.
        second: Seeds of the second group.

    Returns:
        Indices in both groups, by ascending seeds; None unless both have the same seeds, each once.
    """
    known = [seed for seed in first if seed is not None]
    if len(set(known)) < len(first) or len(first) != len(second) or set(known) != set(second):
        return None
    return [(first.index(seed), second.index(seed)) for seed in sorted(known)]


def difference(
    first: Sequence[float],
    second: Sequence[float],
    pairs: Sequence[tuple[int, int]] | None,
) -> Difference:
    """Compute the difference of two groups; see the formulas above.

    Args:
        first: Scores of the first group.
        second: Scores of the second group.
        pairs: Pairs of scores from `pair_seeds`; None to compare the groups unpaired.
    """
    mean = fmean(first) - fmean(second)
    if pairs is not None:
        of_seeds = spread([first[i] - second[j] for i, j in pairs])
        if of_seeds.std is None:
            return Difference(mean, None, None, paired=True)
        error = of_seeds.std / math.sqrt(of_seeds.seeds)
        return Difference(mean, error, of_seeds.seeds - 1, paired=True)
    a, b = spread(first), spread(second)
    if a.std is None or b.std is None:
        return Difference(mean, None, None, paired=False)
    parts = [each.std**2 / each.seeds for each in (a, b) if each.std is not None]
    weights = sum(part**2 / (each.seeds - 1) for part, each in zip(parts, (a, b), strict=True))
    freedom = sum(parts) ** 2 / weights if weights else None
    return Difference(mean, math.sqrt(sum(parts)), freedom, paired=False)


A, B = "A", "B"
"""Names of both groups in tables and folders."""


class Row(NamedTuple):
    """A score of both groups.

    Attributes:
        name: Name of the score in `Evaluation.scores`.
        first: Mean and deviation of A.
        second: Mean and deviation of B; None without a comparison.
        difference: A minus B; None without a comparison.
    """

    name: str
    first: Spread
    second: Spread | None
    difference: Difference | None


class Comparison(NamedTuple):
    """Result of a comparison.

    Attributes:
        first: The group A.
        second: The group B; empty without a comparison.
        paired: Whether scores of equal seeds were compared.
        rows: A row for each score that all evaluations have.
    """

    first: tuple[Evaluation, ...]
    second: tuple[Evaluation, ...]
    paired: bool
    rows: tuple[Row, ...]

    def named(self) -> Iterator[tuple[str, Evaluation]]:
        """Iterate over the evaluations and their names: A1, A2, ..., B1, ..."""
        for name, group in ((A, self.first), (B, self.second)):
            for number, one in enumerate(group, start=1):
                yield f"{name}{number}", one


def compare(first: Sequence[Evaluation], second: Sequence[Evaluation]) -> Comparison:
    """Compare two groups of evaluations, or summarize one.

    Scores that are NaN or missing in an evaluation are left out, such as the IoU of a class that
    has no pixel in ground truth or prediction.

    Args:
        first: Evaluations of the first group, of one `Kind`; at least one.
        second: Evaluations of the second group, of one `Kind`; may be empty.

    Raises:
        TaskError: If a group is not of one kind, or the ground truth differs.
    """
    require_kinds([one.kind for one in first], [one.kind for one in second])
    _require_same_truth([*first, *second])
    pairs = pair_seeds([one.seed for one in first], [one.seed for one in second])
    rows = []
    for name in first[0].scores:
        scores = [[one.scores.get(name, math.nan) for one in group] for group in (first, second)]
        if any(math.isnan(score) for group in scores for score in group):
            continue
        rows.append(
            Row(
                name,
                spread(scores[0]),
                spread(scores[1]) if second else None,
                difference(scores[0], scores[1], pairs) if second else None,
            )
        )
    return Comparison(tuple(first), tuple(second), bool(second) and pairs is not None, tuple(rows))


def to_plain(comparison: Comparison) -> dict[str, Any]:
    """Convert a comparison to plain values for JSON."""
    groups = {A: comparison.first, B: comparison.second}
    scores: dict[str, Any] = {}
    for row in comparison.rows:
        entry: dict[str, Any] = {}
        for name, of_group in ((A, row.first), (B, row.second)):
            if of_group is not None:
                values = [one.scores[row.name] for one in groups[name]]
                entry[name] = {**of_group._asdict(), "values": values}
        if row.difference is not None:
            entry["difference"] = row.difference._asdict()
        scores[row.name] = entry
    return {
        "task": comparison.first[0].task,
        "windows": comparison.first[0].windows,
        "truth": comparison.first[0].truth,
        "paired": comparison.paired,
        "compared": {
            name: {"checkpoint": one.checkpoint, "sha256": one.sha256, "seed": one.seed}
            for name, one in comparison.named()
        },
        "scores": scores,
    }


def require_kinds(first: Sequence[Kind], second: Sequence[Kind]) -> None:
    """Refuse groups that are not of one kind each, or have different tasks or classes.

    Raises:
        TaskError: If they are or have; the message names the difference.
    """
    for name, group in ((A, first), (B, second)):
        for number, one in enumerate(group[1:], start=2):
            for what, own, wanted in zip(Kind._fields, one, group[0], strict=True):
                if own != wanted:
                    msg = (
                        f"{name}{number} is of another kind than {name}1, its {what} is {own}, "
                        f"not {wanted}: checkpoints of a group must differ by their seed alone"
                    )
                    raise TaskError(msg)
    if second and (first[0].task, first[0].classes) != (second[0].task, second[0].classes):
        a, b = (f"{kind.task} {', '.join(kind.classes)}".strip() for kind in (first[0], second[0]))
        msg = f"A has {a}, B has {b}: they cannot be compared"
        raise TaskError(msg)


def _require_same_truth(every: Sequence[Evaluation]) -> None:
    for one in every[1:]:
        if one.truth != every[0].truth:
            msg = (
                f"{one.checkpoint} and {every[0].checkpoint} were evaluated on different ground "
                f"truth ({one.windows} and {every[0].windows} windows): use the same data"
            )
            raise TaskError(msg)
