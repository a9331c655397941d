"""Text of evaluations and comparisons, for terminals and as Markdown."""

from __future__ import annotations

import math
from dataclasses import MISSING, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from scaleevent_ros.distill.configuration import plain
from scaleevent_ros.tasks.evaluation_measure import AT_EVENTS
from scaleevent_ros.tasks.evaluation_results import A, B, Kind
from scaleevent_ros.tasks.labelled_data import LabelledData

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    from scaleevent_ros.tasks.evaluation_results import Comparison, Difference, Evaluation, Spread

    Table: TypeAlias = Sequence[Sequence[str]]

_NONE = "-"
_UNITS = {
    "rmse": "m", "mean_10m": "m", "mean_20m": "m", "mean_30m": "m", "epe": "px", "angular": "°",
}  # fmt: skip
_TRAINING_FIELDS = {
    "train", "pictures", "labels", "fraction", "augmentation", "workers", "prefetch",
}  # fmt: skip
_MORE_IS_BETTER = ("miou", "accuracy", "iou/", "delta")


def score_table(evaluation: Evaluation) -> Table:
    """Tabulate the scores of a checkpoint, over all pixels and over those with events."""
    scores = evaluation.scores
    names = dict.fromkeys(name.removeprefix(AT_EVENTS) for name in scores)
    rows = [("score", "all pixels", "pixels with events")]
    rows += [
        (_title(name), _number(scores.get(name)), _number(scores.get(AT_EVENTS + name)))
        for name in names
    ]
    return rows


def comparison_table(comparison: Comparison) -> Table:
    """Tabulate mean and standard deviation of groups, and the difference A - B."""
    heading = ["score", f"{A}: mean ± std"]
    if comparison.second:
        heading += [f"{B}: mean ± std", f"{A} - {B} ± standard error"]
    rows = [heading]
    for row in comparison.rows:
        cells = [_title(row.name), _spread(row.first)]
        if row.second is not None and row.difference is not None:
            cells += [_spread(row.second), _difference(row.difference)]
        rows.append(cells)
    return rows


def text_table(table: Table) -> str:
    """Align columns with spaces: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for first, *others in table:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip() + "\n")
    return "".join(lines)


def markdown_table(table: Table) -> str:
    """Write a table as Markdown."""
    heading, *rows = table
    ruler = ["---", *["---:"] * (len(heading) - 1)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (heading, ruler, *rows))


def evaluation_markdown(evaluation: Evaluation, pictures: Sequence[str]) -> str:
    """Write a checkpoint's evaluation as Markdown.

    Args:
        evaluation: Evaluation of the checkpoint.
        pictures: Paths of its pictures, relative to the text.
    """
    facts = {
        "checkpoint": f"`{evaluation.checkpoint}`, sha256 `{evaluation.sha256}`",
        "student": evaluation.architecture,
        "head": _text(evaluation.head),
        "seed": str(evaluation.seed),
        "events": _text(evaluation.events),
        "data": _data_text(evaluation),
        "truth": f"`{evaluation.truth}`",
        "ran on": f"{evaluation.device}, {evaluation.precision}",
        "student and head": (
            f"{evaluation.ms_per_window:.3g} ms a window, {evaluation.batch_size} at a time"
        ),
    }
    parts = [
        f"# Evaluation: {evaluation.task}",
        markdown_table(score_table(evaluation)),
        "\n".join(f"- {name}: {fact}" for name, fact in facts.items()),
        *(f"![window {path}]({path})" for path in pictures),
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def comparison_markdown(comparison: Comparison) -> str:
    """Write a comparison as Markdown."""
    files = [("", "checkpoint", "seed", "sha256")]
    files += [
        (name, f"`{one.checkpoint}`", str(one.seed), f"`{one.sha256[:12]}`")
        for name, one in comparison.named()
    ]
    parts = [
        f"# Comparison: {comparison.first[0].task}",
        markdown_table(comparison_table(comparison)),
        *notes(comparison),
        markdown_table(files),
        f"Evaluated on {_data_text(comparison.first[0])}.",
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def notes(comparison: Comparison) -> list[str]:
    """Notes below a comparison's table; empty for one group."""
    if not comparison.second:
        return []
    a, b = comparison.first[0].kind, comparison.second[0].kind
    return [
        _formula(comparison),
        *(
            f"Different {name}: A has {_text(own)}; B has {_text(other)}."
            for name, own, other in zip(Kind._fields, a, b, strict=True)
            if own != other
        ),
    ]


def group_text(comparison: Comparison) -> str:
    """List of the groups' checkpoints, for the terminal."""
    return "".join(
        f"{name}  {one.checkpoint}  seed {one.seed}\n" for name, one in comparison.named()
    )


def _formula(comparison: Comparison) -> str:
    """Description of how the standard errors of the differences were computed."""
    counts = len(comparison.first), len(comparison.second)
    if min(counts) == 1:
        return (
            "A single checkpoint has no spread over seeds, so differences have no standard error."
        )
    if comparison.paired:
        return (
            "Standard error: s / sqrt(n), where s is the standard deviation, over the n = "
            f"{counts[0]} seeds that A and B share, of the difference at equal seeds."
        )
    return (
        "Standard error: sqrt(s_A^2 / n_A + s_B^2 / n_B) with n_A = "
        f"{counts[0]}, n_B = {counts[1]} (Welch), as A and B have different seeds."
    )


def _title(name: str) -> str:
    """Return a score's name with its unit and the direction that is better."""
    bare = name.removeprefix(AT_EVENTS)
    unit = f" [{_UNITS[bare]}]" if bare in _UNITS else ""
    return f"{name}{unit} {'↑' if bare.startswith(_MORE_IS_BETTER) else '↓'}"


def _number(value: float | None) -> str:
    return _NONE if value is None or math.isnan(value) else f"{value:.4f}"


def _spread(spread: Spread) -> str:
    return f"{spread.mean:.4f}" + ("" if spread.std is None else f" ± {spread.std:.4f}")


def _difference(difference: Difference) -> str:
    error = difference.standard_error
    return f"{difference.mean:+.4f}" + ("" if error is None else f" ± {error:.4f}")


def _data_text(evaluation: Evaluation) -> str:
    """Description of the data: relevant fields that differ from the defaults."""
    usual: dict[str, Any] = {}
    for item in fields(LabelledData):
        made = item.default if item.default_factory is MISSING else item.default_factory()
        usual[item.name] = plain(made) if is_dataclass(made) else made
    changed = {
        name: value
        for name, value in evaluation.data.items()
        if name not in _TRAINING_FIELDS and (value != usual.get(name) or name == "kind")
    }
    return f"{evaluation.windows} windows of the {evaluation.split} part of {_text(changed)}"


def _text(value: Any) -> str:
    """Format plain values on one line, without empty ones."""
    if isinstance(value, dict):
        texts = {key: _text(item) for key, item in value.items()}
        return ", ".join(f"{key} {text}" for key, text in texts.items() if text)
    if isinstance(value, list):
        return " ".join(map(_text, value))
    return "" if value is None else str(value)
