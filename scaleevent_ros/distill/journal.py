"""What a run tells: a progress bar, TensorBoard, and ``metrics.jsonl``, a line for each entry."""

from __future__ import annotations

import json
import logging
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

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

METRICS_NAME = "metrics.jsonl"


class Journal:
    """The log of a run, of its first process alone; elsewhere it says nothing.

    A run that goes on forgets what was logged after the checkpoint that it goes on from, so that
    each step stands there once.
    """

    def __init__(
        self, folder: Path, *, steps: int, start: int, tensorboard: bool, active: bool
    ) -> None:
        self._active = active
        if not active:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._metrics = folder / METRICS_NAME
        _forget_after(self._metrics, start)
        self._board: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[said]}"),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._progress.start()
        self._task = self._progress.add_task("training", total=steps, completed=start, said="")

    def advance(self, step: int) -> None:
        """Move the bar to the count of steps that are done."""
        if self._active:
            self._progress.update(self._task, completed=step)

    def training(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write an entry of training after ``step`` steps."""
        if not self._active:
            return
        said = _sentence(metrics)
        if self._progress.disable:
            logger.info("step %d: %s", step, said)
        else:
            self._progress.update(self._task, said=said)
        self._write("train", step, metrics)

    def validation(
        self, step: int, metrics: Mapping[str, float], pictures: list[NDArray[np.uint8]]
    ) -> None:
        """Write an entry of validation after ``step`` steps, with pictures uint8 [H, W, 3]."""
        if not self._active:
            return
        said = f"validation after step {step}: {_sentence(metrics)}"
        if self._progress.disable:
            logger.info(said)
        else:
            self._progress.console.print(said, highlight=False)
        self._write("validation", step, metrics)
        if self._board is not None:
            for number, picture in enumerate(pictures):
                self._board.add_image(f"validation/{number}", picture, step, dataformats="HWC")
            self._board.flush()

    def close(self) -> None:
        """End the bar and the files."""
        if self._active:
            self._progress.stop()
            if self._board is not None:
                self._board.close()

    def _write(self, kind: str, step: int, metrics: Mapping[str, float]) -> None:
        line = {"kind": kind, "step": step, "time": round(time.time(), 3), **metrics}
        with self._metrics.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self._board is not None:
            for name, value in metrics.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)


def _sentence(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def _forget_after(path: Path, step: int) -> None:
    """Drop lines of later steps, and one that a crash cut off."""
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
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text("".join(kept))
    temporary.replace(path)
