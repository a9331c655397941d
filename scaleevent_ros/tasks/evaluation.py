"""Evaluation of checkpoints, comparison of groups, and their command line.

One checkpoint gives a folder with ``evaluation.json``, ``evaluation.md`` and ``pictures``. Several
give such a folder each, ``A1``, ``A2``, ..., ``B1``, ..., beside ``comparison.json`` and
``comparison.md``. Completed files are kept if a later step fails.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import cv2
import jsonargparse
import torch

from scaleevent_ros.distill.configuration import (
    Precision,
    TrainerOptions,
    first_reason,
    flatten,
)
from scaleevent_ros.distill.errors import ConfigurationError
from scaleevent_ros.distill.parallel import start_fabric
from scaleevent_ros.errors import check_ranges
from scaleevent_ros.models import read_header
from scaleevent_ros.tasks.errors import TaskError
from scaleevent_ros.tasks.evaluation_measure import evaluate_checkpoint, kind_of, recorded_run
from scaleevent_ros.tasks.evaluation_report import (
    comparison_markdown,
    comparison_table,
    evaluation_markdown,
    group_text,
    notes,
    score_table,
    text_table,
)
from scaleevent_ros.tasks.evaluation_results import (
    A,
    B,
    compare,
    is_record,
    read_evaluation,
    require_kinds,
    to_plain,
    write_evaluation,
    write_json,
    write_whole,
)
from scaleevent_ros.tasks.labelled_data import LabelledData  # noqa: TC001 - read at run time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning.fabric import Fabric

    from scaleevent_ros.tasks.evaluation_measure import Draw, Example
    from scaleevent_ros.tasks.evaluation_results import Evaluation, Kind

logger = logging.getLogger(__name__)

_USAGE = """%(prog)s CHECKPOINT... [--against CHECKPOINT...] [--data.FIELD VALUE ...]
                   [--output FOLDER] [--device DEVICE] [--batch_size N] [--pictures N]"""
_DESCRIPTION = """Evaluate checkpoints with a head: scores as JSON, Markdown, table, and pictures.

  one checkpoint:     %(prog)s runs/a0/best.safetensors
  one of each seed:   %(prog)s runs/a*/best.safetensors
  groups, compared:   %(prog)s runs/a*/best.safetensors --against runs/b*/best.safetensors

The default data are those on which the run of the first checkpoint was validated; --data.FIELD
overrides them. An evaluation.json may be given instead of an evaluated checkpoint."""


class _Help(jsonargparse.DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Help formatter that keeps the lines of the description."""


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of an evaluation.

    Attributes:
        data: Labelled events, whose validation part is used.
        output: Folder for the results, new or empty.
        device: Device to compute on; auto is the GPU, if there is one.
        precision: Precision, as ``trainer.precision`` of a run.
        batch_size: Number of windows in a batch.
        pictures: Number of windows to draw, spread evenly over the data.
    """

    data: LabelledData
    output: str = "runs/evaluation"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Precision = "auto"
    batch_size: int = 8
    pictures: int = 8

    def __post_init__(self) -> None:
        """Check ranges."""
        limits = {"batch_size": (1, 65536), "pictures": (0, 1_000_000)}
        check_ranges(vars(self), limits, ConfigurationError)

    @property
    def trainer(self) -> TrainerOptions:
        """Trainer options with this device, precision and batch size."""
        return TrainerOptions(
            accelerator=self.device, precision=self.precision, batch_size=self.batch_size
        )


class Request(NamedTuple):
    """Parsed command line.

    Attributes:
        checkpoints: Checkpoints of the first group, at least one.
        against: Checkpoints of the second group; empty without a comparison.
        options: Options of the evaluation.
    """

    checkpoints: tuple[Path, ...]
    against: tuple[Path, ...]
    options: EvaluationOptions


def parse_request(arguments: Sequence[str]) -> Request:
    """Parse a command line; ``--help`` and ``--print_config`` print and exit.

    Raises:
        ScaleEventError: If an argument or the first checkpoint is invalid.
    """
    parser, words = request_parser(), list(arguments)
    try:
        first = Path(parser.parse_args(words).checkpoints[0])
        parser.set_defaults(flatten({"data": recorded_data(first)}))
        made = parser.instantiate(parser.parse_args(words))
    except (jsonargparse.ArgumentError, KeyError, ValueError, TypeError) as error:
        raise ConfigurationError(first_reason(error)) from error
    options = EvaluationOptions(
        **{item.name: made[item.name] for item in fields(EvaluationOptions)}
    )
    return Request(tuple(map(Path, made.checkpoints)), tuple(map(Path, made.against)), options)


def request_parser() -> jsonargparse.ArgumentParser:
    """Build the command-line parser."""
    parser = jsonargparse.ArgumentParser(
        prog="scaleevent evaluate",
        usage=_USAGE,
        description=_DESCRIPTION,
        formatter_class=_Help,
        exit_on_error=False,
    )
    parser.add_argument(
        "checkpoints", nargs="+", help="Checkpoints that differ by their seed alone."
    )
    parser.add_argument(
        "--against", nargs="+", default=[], help="Second group of checkpoints, to compare with."
    )
    parser.add_argument("--config", action="config", help="YAML file; later arguments override it.")
    parser.add_class_arguments(EvaluationOptions, as_group=False)
    return parser


def recorded_data(path: Path) -> dict[str, Any]:
    """Return the data on which a checkpoint or ``evaluation.json`` was validated before.

    A head that was trained on frames is evaluated on events by default, since students see events.

    Returns:
        `LabelledData` as plain values; empty if the file does not contain it.

    Raises:
        ScaleEventError: If the file is missing, or neither a checkpoint nor an evaluation.
    """
    if is_record(path):
        return read_evaluation(path).data
    data = dict(recorded_run(read_header(path)).get("data", {}))
    return data | {"source": "events"} if data.get("kind") == "stills" else data


def evaluate(request: Request, draw: Draw) -> str:
    """Run an evaluation.

    Args:
        request: Checkpoints and options.
        draw: Function that draws a picture.

    Returns:
        Table for a terminal.

    Raises:
        ScaleEventError: If a checkpoint, the data or the folder are invalid, or the results cannot
            be written.
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
            f"--device cuda, but torch {torch.__version__} finds no GPU: check the driver "
            "(nvidia-smi), or choose --device cpu or auto"
        )
        raise TaskError(msg)
    fabric = start_fabric(options.trainer)
    output = _empty_folder(Path(options.output))
    evaluations: dict[str, list[Evaluation]] = {A: [], B: []}
    for name, paths in groups.items():
        for number, path in enumerate(paths, start=1):
            folder = output if len(every) == 1 else output / f"{name}{number}"
            evaluations[name].append(_evaluation(path, folder, options, fabric, draw))
    if len(every) == 1:
        return text_table(score_table(evaluations[A][0]))
    comparison = compare(evaluations[A], evaluations[B])
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

    evaluation = evaluate_checkpoint(path, options, fabric, keep)
    scores = ", ".join(f"{name} {value:.4f}" for name, value in evaluation.scores.items())
    logger.info("%s: %s", path, scores)
    write_evaluation(folder, evaluation)
    write_whole(folder / "evaluation.md", evaluation_markdown(evaluation, drawn).encode())
    return evaluation


def _empty_folder(path: Path) -> Path:
    """Create a folder, or accept an existing empty one."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        used = next(path.iterdir(), None) is not None
    except OSError as error:
        msg = f"the folder {path} cannot be created: {error.strerror}"
        raise TaskError(msg) from error
    if used:
        msg = f"{path} is not empty: give another folder with --output, or remove it"
        raise TaskError(msg)
    return path
