"""Two groups of judged checkpoints, score by score."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from scaleevent_ros.tasks.errors import TaskError
from scaleevent_ros.tasks.evaluation_record import Kind
from scaleevent_ros.tasks.evaluation_spread import (
    Difference,
    Spread,
    difference,
    pair_seeds,
    spread,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from scaleevent_ros.tasks.evaluation_record import Evaluation

A, B = "A", "B"
"""Names of both groups in tables and folders."""


class Row(NamedTuple):
    """A score of both groups.

    Attributes:
        name: Name of the score in `Evaluation.scores`.
        first: Mean and deviation of A.
        second: Mean and deviation of B; None without a comparison.
        difference: A less B; None likewise.
    """

    name: str
    first: Spread
    second: Spread | None
    difference: Difference | None


class Comparison(NamedTuple):
    """Result of a comparison.

    Attributes:
        first: The group A.
        second: The group B; empty where A is not compared.
        paired: Scores of equal seeds were compared.
        rows: Row of each score that all evaluations have.
    """

    first: tuple[Evaluation, ...]
    second: tuple[Evaluation, ...]
    paired: bool
    rows: tuple[Row, ...]

    def named(self) -> Iterator[tuple[str, Evaluation]]:
        """Name what is compared: A1, A2, ..., B1, ..."""
        for name, group in ((A, self.first), (B, self.second)):
            for number, one in enumerate(group, start=1):
                yield f"{name}{number}", one


def compare(first: Sequence[Evaluation], second: Sequence[Evaluation]) -> Comparison:
    """Compare a group of evaluations with another, or sum up one.

    A score that is not in all of them, such as the IoU of a class that only one of them ever tells,
    is left out, and so is one that nothing is known of.

    Args:
        first: Evaluations of one kind: same training and input, except for the seed; at least one.
        second: Evaluations of the second group; may be empty.

    Raises:
        TaskError: If they are not of one kind, or were not judged by the same truth.
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
    """Turn a comparison into plain values, for JSON."""
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
    """Refuse groups that are not each of one kind, and groups that do not do the same.

    Raises:
        TaskError: Evaluations differ; names the difference.
    """
    for name, group in ((A, first), (B, second)):
        for number, one in enumerate(group[1:], start=2):
            for what, own, wanted in zip(Kind._fields, one, group[0], strict=True):
                if own != wanted:
                    msg = (
                        f"{name}{number} is of another kind than {name}1, its {what} is {own} and "
                        f"not {wanted}: a group has one checkpoint for each seed"
                    )
                    raise TaskError(msg)
    if second and (first[0].task, first[0].classes) != (second[0].task, second[0].classes):
        a, b = (f"{kind.task} {', '.join(kind.classes)}".strip() for kind in (first[0], second[0]))
        msg = f"A does {a}, B {b}: that cannot be compared"
        raise TaskError(msg)


def _require_same_truth(every: Sequence[Evaluation]) -> None:
    for one in every[1:]:
        if one.truth != every[0].truth:
            msg = (
                f"{one.checkpoint} and {every[0].checkpoint} were not judged by the same truth "
                f"({one.windows} and {every[0].windows} windows): judge both by the same data"
            )
            raise TaskError(msg)
