"""What an evaluation is asked for: checkpoints, what they are judged by, and where results go."""

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
_DESCRIPTION = """Judge checkpoints with a head: scores as JSON, Markdown and table, and pictures.

  one:           evaluate.py runs/a0/best.safetensors
  one kind:      evaluate.py runs/a*/best.safetensors
  two compared:  evaluate.py runs/a*/best.safetensors --against runs/b*/best.safetensors

Data are those that the run of the first checkpoint was validated on, but for what --data.FIELD says
here. An evaluation.json may stand for a checkpoint that was judged before."""


class _Help(jsonargparse.DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Leaves the lines of the description as they are."""


@dataclass(frozen=True)
class EvaluationOptions:
    """How checkpoints are judged.

    Attributes:
        data: Labelled events; judged by its validation part.
        output: Folder for the results, new or empty.
        device: Where to compute; auto is the GPU, if there is one.
        precision: Precision, as ``trainer.precision`` of a run.
        batch_size: Windows at a time.
        pictures: How many windows are drawn, spread evenly over the data.
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
        """Say the same in the trainer's words, which sets up device and precision."""
        return TrainerOptions(
            accelerator=self.device, precision=self.precision, batch_size=self.batch_size
        )


class Request(NamedTuple):
    """A command line.

    Attributes:
        checkpoints: Files of the group that is looked at, one or more.
        against: Files of the group that it is compared with; none if nothing is compared.
        options: How they are judged.
    """

    checkpoints: tuple[Path, ...]
    against: tuple[Path, ...]
    options: EvaluationOptions


def parse_request(arguments: Sequence[str]) -> Request:
    """Read a command line; ``--help`` and ``--print_config`` print and exit.

    Raises:
        ScaleEventError: Naming the argument, or the first checkpoint, that is wrong.
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
    """Build the parser of the command line."""
    parser = jsonargparse.ArgumentParser(
        usage=_USAGE, description=_DESCRIPTION, formatter_class=_Help, exit_on_error=False
    )
    parser.add_argument(
        "checkpoints", nargs="+", help="Files of one kind, such as one for each seed."
    )
    parser.add_argument(
        "--against", nargs="+", default=[], help="Files of another kind to compare them with."
    )
    parser.add_argument(
        "--config", action="config", help="A YAML file; what follows on the line wins over it."
    )
    parser.add_class_arguments(EvaluationOptions, as_group=False)
    return parser


def recorded_data(path: Path) -> dict[str, Any]:
    """Tell which data a checkpoint, or what an ``evaluation.json`` is of, was judged by before.

    A head that was fitted on frames is judged on events, if nothing else is asked for: that is
    what students see.

    Returns:
        `LabelledData` as plain values; none if the file does not say it.

    Raises:
        ScaleEventError: If there is no such file, or it is neither.
    """
    if is_record(path):
        return read_evaluation(path).data
    data = dict(recorded_run(read_header(path)).get("data", {}))
    return data | {"source": "events"} if data.get("kind") == "stills" else data


def _flatten(name: str, value: Any) -> dict[str, Any]:
    """Name the leaves of nested dictionaries by dotted paths."""
    if not isinstance(value, dict):
        return {name: value}
    return {
        path: leaf
        for key, item in value.items()
        for path, leaf in _flatten(f"{name}.{key}", item).items()
    }
