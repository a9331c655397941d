"""The commands ``scaleevent pretrain``, ``cache-teacher``, ``finetune`` and ``evaluate``.

The scripts in ``training/`` of a checkout run the same functions.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from scaleevent_ros.share_folder import share_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)

FOLDERS = {"pretrain": "config/pretrain", "finetune": "config/finetune"}
"""Folders of presets in a checkout, and below ``share/scaleevent_ros`` of an installation."""


def pretrain(arguments: Sequence[str]) -> None:
    """Distil an image teacher into an event student: `--config PRESET` or a YAML file."""
    from scaleevent_ros.distill import Pretraining
    from scaleevent_ros.distill import pretrain as run
    from scaleevent_ros.distill.configuration import parse_configuration
    from scaleevent_ros.visuals.panels import draw_panel

    _start_logging()
    arguments = resolve_presets("pretrain", arguments)
    configuration = parse_configuration(
        Pretraining, arguments, str(pretrain.__doc__), "scaleevent pretrain"
    )
    outcome = run(configuration, draw_panel)
    logger.info(
        "done after step %d; best after step %d: %.4f",
        outcome.step,
        outcome.best_step,
        outcome.best_score,
    )


def cache_teacher(arguments: Sequence[str]) -> None:
    """Fill `teacher.cache` for a pretraining run, with the same fields as `pretrain`; resumable."""
    from scaleevent_ros.distill import Pretraining
    from scaleevent_ros.distill.configuration import parse_configuration
    from scaleevent_ros.distill.pretraining import cache_features

    _start_logging()
    arguments = resolve_presets("pretrain", arguments)
    configuration = parse_configuration(
        Pretraining, arguments, str(cache_teacher.__doc__), "scaleevent cache-teacher"
    )
    pairs, computed = cache_features(configuration)
    logger.info("%d pairs: features of %d frames computed, the others were cached", pairs, computed)


def finetune(arguments: Sequence[str]) -> None:
    """Train a task head on an event student: `--config PRESET` or a YAML file."""
    from scaleevent_ros.distill.configuration import parse_configuration
    from scaleevent_ros.tasks.finetune import Finetuning
    from scaleevent_ros.tasks.finetune import finetune as run
    from scaleevent_ros.tasks.objectives import OBJECTIVES

    _start_logging()
    arguments = resolve_presets("finetune", arguments)
    configuration = parse_configuration(
        Finetuning, arguments, str(finetune.__doc__), "scaleevent finetune"
    )
    outcome = run(configuration)
    metric = OBJECTIVES[configuration.data.task].metric
    logger.info(
        "done after step %d with %s %.4f; best after step %d",
        outcome.step,
        metric,
        outcome.metrics[metric],
        outcome.best_step,
    )


def evaluate(arguments: Sequence[str]) -> None:
    """Evaluate checkpoints with heads, and compare groups of them."""
    from scaleevent_ros.tasks.evaluation import evaluate as run
    from scaleevent_ros.tasks.evaluation import parse_request
    from scaleevent_ros.visuals.predictions import draw_example

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.stdout.write(run(parse_request(list(arguments)), draw_example))


def resolve_presets(command: str, arguments: Sequence[str]) -> list[str]:
    """Replace the name of a preset after ``--config`` by the path of its file.

    Args:
        command: ``pretrain`` or ``finetune``.
        arguments: Command-line arguments; others are returned unchanged.
    """
    resolved = list(arguments)
    for index, word in enumerate(resolved):
        option, equals, value = word.partition("=")
        if option == "--config" and equals:
            resolved[index] = f"--config={_preset(command, value)}"
        elif word == "--config" and index + 1 < len(resolved):
            resolved[index + 1] = _preset(command, resolved[index + 1])
    return resolved


def _preset(command: str, name: str) -> str:
    """Return the path of a preset of this checkout or installation; ``name`` if there is none."""
    path = share_folder() / FOLDERS[command] / f"{name}.yaml"
    if Path(name).suffix or Path(name).exists() or not path.is_file():
        return name
    return str(path)


def _start_logging() -> None:
    first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun starts
    logging.basicConfig(level=logging.INFO if first else logging.ERROR, format="%(message)s")
