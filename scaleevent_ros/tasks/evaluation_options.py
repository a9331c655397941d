"""Command-line options of an evaluation."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jsonargparse

from scaleevent_ros.distill.configuration import (
    Precision,
    TrainerOptions,
    first_reason,
)
from scaleevent_ros.distill.errors import ConfigurationError
from scaleevent_ros.models import read_header
from scaleevent_ros.tasks.evaluation_measure import recorded_run
from scaleevent_ros.tasks.evaluation_record import is_record, read_evaluation
from scaleevent_ros.tasks.labelled_data import LabelledData  # noqa: TC001 - read at run time

if TYPE_CHECKING:
    from collections.abc import Sequence

_USAGE = """%(prog)s CHECKPOINT... [--against CHECKPOINT...] [--data.FIELD VALUE ...]
                   [--output FOLDER] [--device DEVICE] [--batch_size N] [--pictures N]"""
_DESCRIPTION = """Evaluate checkpoints with a head: scores as JSON, Markdown, table, and pictures.

  one:           evaluate.py runs/a0/best.safetensors
  one kind:      evaluate.py runs/a*/best.safetensors
  two compared:  evaluate.py runs/a*/best.safetensors --against runs/b*/best.safetensors

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
        batch_size: Windows in a batch.
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
        for name, low, high in (("batch_size", 1, 65536), ("pictures", 0, 1_000_000)):
            if not low <= getattr(self, name) <= high:
                msg = f"{name} is {getattr(self, name)}, it must be from {low} to {high}"
                raise ConfigurationError(msg)

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
        ScaleEventError: An argument or the first checkpoint is invalid; names it.
    """
    parser, words = request_parser(), list(arguments)
    try:
        first = Path(parser.parse_args(words).checkpoints[0])
        parser.set_defaults(_flatten("data", recorded_data(first)))
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
        usage=_USAGE, description=_DESCRIPTION, formatter_class=_Help, exit_on_error=False
    )
    parser.add_argument(
        "checkpoints", nargs="+", help="Checkpoints of one kind, such as one for each seed."
    )
    parser.add_argument(
        "--against", nargs="+", default=[], help="Checkpoints of another kind to compare with."
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


def _flatten(name: str, value: Any) -> dict[str, Any]:
    """Flatten nested dictionaries; keys become dotted paths."""
    if not isinstance(value, dict):
        return {name: value}
    return {
        path: leaf
        for key, item in value.items()
        for path, leaf in _flatten(f"{name}.{key}", item).items()
    }
