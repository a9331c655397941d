"""Evaluation of checkpoints, comparison of groups, and their files.

One checkpoint gives a folder with ``evaluation.json``, ``evaluation.md`` and ``pictures``. Several
give such a folder each, ``A1``, ``A2``, ..., ``B1``, ..., beside ``comparison.json`` and
``comparison.md``. What is written stays, whatever goes wrong later.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import torch

from scaleevent_ros.distill.parallel import start_fabric
from scaleevent_ros.tasks.errors import TaskError
from scaleevent_ros.tasks.evaluation_comparison import A, B, compare, require_kinds, to_plain
from scaleevent_ros.tasks.evaluation_measure import judge, kind_of
from scaleevent_ros.tasks.evaluation_record import (
    is_record,
    read_evaluation,
    write_evaluation,
    write_json,
    write_whole,
)
from scaleevent_ros.tasks.evaluation_report import (
    comparison_markdown,
    comparison_table,
    evaluation_markdown,
    group_text,
    notes,
    score_table,
    text_table,
)

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from scaleevent_ros.tasks.evaluation_measure import Draw, Example
    from scaleevent_ros.tasks.evaluation_options import EvaluationOptions, Request
    from scaleevent_ros.tasks.evaluation_record import Evaluation, Kind

logger = logging.getLogger(__name__)


def evaluate(request: Request, draw: Draw) -> str:
    """Run an evaluation.

    Args:
        request: Checkpoints, and how they are judged.
        draw: Makes the pictures.

    Returns:
        The table, for a terminal.

    Raises:
        ScaleEventError: If a checkpoint, the data or the folder are not as they should be, or the
            results cannot be written.
    """
    groups = {A: request.checkpoints, B: request.against}
    options = request.options
    every = [*request.checkpoints, *request.against]
    if len(every) == 1 and is_record(every[0]):
        return text_table(score_table(read_evaluation(every[0])))
    kinds = [[_kind(path, options) for path in paths] for paths in groups.values()]
    require_kinds(*kinds)
    if options.device == "cuda" and not torch.cuda.is_available():
        msg = (
            f"device cuda, but torch {torch.__version__} finds no GPU: check the driver "
            "(nvidia-smi), or choose --device cpu or auto"
        )
        raise TaskError(msg)
    fabric = start_fabric(options.trainer)
    output = _empty_folder(Path(options.output))
    judged: dict[str, list[Evaluation]] = {A: [], B: []}
    for name, paths in groups.items():
        for number, path in enumerate(paths, start=1):
            folder = output if len(every) == 1 else output / f"{name}{number}"
            judged[name].append(_evaluation(path, folder, options, fabric, draw))
    if len(every) == 1:
        return text_table(score_table(judged[A][0]))
    comparison = compare(judged[A], judged[B])
    write_json(output / "comparison.json", to_plain(comparison))
    write_whole(output / "comparison.md", comparison_markdown(comparison).encode())
    parts = [group_text(comparison), text_table(comparison_table(comparison)), *notes(comparison)]
    return "\n".join(parts) + "\n"


def _kind(path: Path, options: EvaluationOptions) -> Kind:
    return read_evaluation(path).kind if is_record(path) else kind_of(path, options.data)


def _evaluation(
    path: Path, folder: Path, options: EvaluationOptions, fabric: Fabric, draw: Draw
) -> Evaluation:
    """Evaluate a checkpoint into a folder, or read its evaluation."""
    if is_record(path):
        return read_evaluation(path)
    drawn: list[str] = []

    def keep(number: int, example: Example) -> None:
        _, content = cv2.imencode(".png", draw(example)[..., ::-1])
        drawn.append(f"pictures/{number:04d}.png")
        write_whole(folder / drawn[-1], content.tobytes())

    evaluation = judge(path, options, fabric, keep)
    said = ", ".join(f"{name} {value:.4f}" for name, value in evaluation.scores.items())
    logger.info("%s: %s", path, said)
    write_evaluation(folder, evaluation)
    write_whole(folder / "evaluation.md", evaluation_markdown(evaluation, drawn).encode())
    return evaluation


def _empty_folder(path: Path) -> Path:
    """Create a folder, or accept an existing empty one."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        used = next(path.iterdir(), None) is not None
    except OSError as error:
        msg = f"the folder {path} cannot be made: {error.strerror}"
        raise TaskError(msg) from error
    if used:
        msg = f"{path} is not empty: name another folder with --output, or remove it"
        raise TaskError(msg)
    return path
