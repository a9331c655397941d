"""The log of a run: progress bar, ``metrics.jsonl`` with a line for each entry, and loggers."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from scaleevent_ros.distill.errors import ConfigurationError
from scaleevent_ros.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

METRICS_NAME = "metrics.jsonl"
PROJECT = "scaleevent"
"""Project of W&B and experiment of MLflow that runs are logged to, unless the environment names one
(``WANDB_PROJECT``, ``MLFLOW_EXPERIMENT_NAME``)."""


class Journal:
    """The log of a run; only the run's first process writes.

    When a run is resumed, the entries after its checkpoint are dropped, so that each step is logged
    once.
    """

    def __init__(
        self,
        folder: Path,
        *,
        steps: int,
        start: int,
        loggers: Sequence[str] = (),
        configuration: Mapping[str, Any] | None = None,
        active: bool = True,
    ) -> None:
        """Open the log.

        Args:
            folder: Folder of the run.
            steps: Steps of the whole run.
            start: Number of steps that are done already.
            loggers: Names of experiment loggers; see `TrainerOptions.loggers`.
            configuration: Configuration of the run, as plain JSON values.
            active: Whether this process writes.

        Raises:
            ConfigurationError: If the package of a logger is missing, or it cannot start.
        """
        self._active = active
        if not active:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._metrics = folder / METRICS_NAME
        _drop_after(self._metrics, start)
        self._loggers = {name: _start_logger(name, folder, start) for name in loggers}
        for each in self._loggers.values():
            each.log_hyperparams(dict(configuration or {}))
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[entry]}"),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._progress.start()
        self._task = self._progress.add_task("training", total=steps, completed=start, entry="")

    def advance(self, step: int) -> None:
        """Set the progress bar to the number of steps that are done."""
        if self._active:
            self._progress.update(self._task, completed=step)

    def training(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log training metrics after ``step`` steps."""
        if not self._active:
            return
        entry = _as_text(metrics)
        if self._progress.disable:
            logger.info("step %d: %s", step, entry)
        else:
            self._progress.update(self._task, entry=entry)
        self._write("train", step, metrics)

    def validation(
        self, step: int, metrics: Mapping[str, float], pictures: list[NDArray[np.uint8]]
    ) -> None:
        """Log validation metrics after ``step`` steps, with pictures uint8 [H, W, 3]."""
        if not self._active:
            return
        entry = f"validation after step {step}: {_as_text(metrics)}"
        if self._progress.disable:
            logger.info(entry)
        else:
            self._progress.console.print(entry, highlight=False)
        self._write("validation", step, metrics)
        for name, each in self._loggers.items():
            for number, picture in enumerate(pictures):
                _log_picture(name, each, f"validation/{number}", picture, step)
            if name == "tensorboard":
                each.experiment.flush()

    def close(self) -> None:
        """Stop the bar and the loggers."""
        if self._active:
            self._progress.stop()
            for name, each in self._loggers.items():
                each.finalize("success")
                if name == "wandb":
                    each.experiment.finish()

    def _write(self, kind: str, step: int, metrics: Mapping[str, float]) -> None:
        line = {"kind": kind, "step": step, "time": round(time.time(), 3), **metrics}
        with self._metrics.open("a") as file:
            file.write(json.dumps(line) + "\n")
        for each in self._loggers.values():
            each.log_metrics({f"{kind}/{name}": value for name, value in metrics.items()}, step)


def _start_logger(name: str, folder: Path, start: int) -> Any:
    """Start one of Lightning's loggers, which Fabric shares."""
    try:
        if name == "tensorboard":
            from lightning.fabric.loggers.tensorboard import TensorBoardLogger

            return TensorBoardLogger(
                folder, "tensorboard", "", default_hp_metric=False, purge_step=start + 1
            )
        if name == "wandb":
            from lightning.pytorch.loggers import WandbLogger

            # The same run when it is resumed in the same folder.
            identity = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=8).hexdigest()
            project = os.environ.get("WANDB_PROJECT", PROJECT)
            return WandbLogger(
                folder.name, str(folder), id=identity, project=project, resume="allow"
            )
        from lightning.pytorch.loggers import MLFlowLogger

        return MLFlowLogger(
            os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT),
            folder.name,
            os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve()}/mlflow.db",
        )
    except ModuleNotFoundError as error:
        msg = f"trainer.loggers: {name} needs its package, `pip install {name}`: {error}"
        raise ConfigurationError(msg) from error


def _log_picture(name: str, target: Any, tag: str, picture: NDArray[np.uint8], step: int) -> None:
    if name == "tensorboard":
        target.experiment.add_image(tag, picture, step, dataformats="HWC")
    elif name == "wandb":
        target.log_image(tag, [picture], step)
    else:
        target.experiment.log_image(target.run_id, picture, key=tag.replace("/", "_"), step=step)


def _as_text(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def _drop_after(path: Path, step: int) -> None:
    """Remove the lines of later steps from a metrics file, and a last line cut off by a crash."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            known = json.loads(line)["step"] <= step
        except (ValueError, KeyError):
            continue
        if known:
            kept.append(line + "\n")
    with atomic_write(path) as temporary:
        temporary.write_text("".join(kept))
