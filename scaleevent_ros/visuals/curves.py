"""Plots as SVG for pages of HTML, such as curves of a run's log."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

from scaleevent_ros.errors import ScaleEventError

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Scores of validations to plot, all between 0 and 1.
SCORES = (
    "cosine_active",
    "cosine_all",
    "affinity_correlation",
    "miou",
    "accuracy",
    "events/miou",
    "events/accuracy",
)


def new_figure(height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Create a figure, 10.5 inches wide, and its axes, row by row.

    Args:
        height: Height in inches.
        rows: Number of rows of axes.
        columns: Number of columns of axes.

    Raises:
        ScaleEventError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        msg = "the plots of a report need matplotlib: pip install 'scaleevent_ros[train]'"
        raise ScaleEventError(msg) from None
    figure = Figure(figsize=(10.5, height), layout="constrained")
    grid = figure.subplots(rows, columns, sharex="col", squeeze=False)
    all_axes = [axes for row in grid for axes in row]
    for axes in all_axes:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, all_axes


def figure_svg(figure: Figure) -> str:
    """Draw a figure as an SVG element."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    stream = io.StringIO()
    FigureCanvasSVG(figure).print_svg(stream)  # type: ignore[no-untyped-call]
    text = stream.getvalue()
    return f"<figure class='plot'>{text[text.index('<svg') :]}</figure>"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the entries of a run's ``metrics.jsonl``; see `scaleevent_ros.distill.journal`.

    Raises:
        ScaleEventError: If it cannot be read.
    """
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        msg = f"cannot read the metrics {path}: {error}"
        raise ScaleEventError(msg) from None


def training_curves(entries: list[dict[str, Any]]) -> str:
    """Plot the training loss and the validation scores over steps, as SVG.

    Args:
        entries: Log entries from `read_metrics`.

    Raises:
        ScaleEventError: If matplotlib is not installed.
    """
    figure, (loss, scores) = new_figure(2.8, columns=2)
    train = [entry for entry in entries if entry["kind"] == "train"]
    validated = [entry for entry in entries if entry["kind"] == "validation"]
    for axes, kind, names in (
        (loss, train, [name for name in ("total",) if train]),
        (scores, validated, [name for name in SCORES if validated and name in validated[-1]]),
    ):
        for name in names:
            axes.plot(
                [entry["step"] for entry in kind],
                [entry[name] for entry in kind],
                marker="." if axes is scores else "",
                label=name,
            )
        axes.set_xlabel("step")
    loss.set_title("training loss", loc="left", fontsize=10)
    scores.set_title("validation", loc="left", fontsize=10)
    if scores.lines:
        scores.legend(frameon=False, fontsize=8)
    return figure_svg(figure)
