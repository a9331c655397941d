"""The folder of a run, with checkpoints that appear atomically.

``checkpoints/step-00001000/`` holds ``student.safetensors``, ready to use, and ``state.pt``, from
which the run continues (with FSDP, also a ``process-*.safetensors`` of each process).
``last.safetensors`` and ``best.safetensors`` in the run's folder are the students of the newest
checkpoint and of the best one by validation.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import torch

from scaleevent_ros.distill.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

logger = logging.getLogger(__name__)

STATE_VERSION = 1
STATE_NAME = "state.pt"
MODEL_NAME = "student.safetensors"
_STEP = re.compile(r"step-(\d{8})")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Output folder of a run; only the first process writes.

    Attributes:
        path: The folder.
        keep: Number of latest checkpoints to keep besides the best.
    """

    path: Path
    keep: int

    def steps(self) -> list[int]:
        """List the steps of complete checkpoints, ascending."""
        found = (_STEP.fullmatch(entry.name) for entry in self._checkpoints.glob("step-*"))
        return sorted(int(match[1]) for match in found if match)

    def begin(self, step: int) -> Path:
        """Create the folder to which the files of a checkpoint are written before `save`.

        Raises:
            TrainingError: If it cannot be created.
        """
        partial = self.partial(step)
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        except OSError as error:
            msg = f"the checkpoint {partial} cannot be written: {error}"
            raise TrainingError(msg) from error
        return partial

    def save(
        self, step: int, state: dict[str, Any], write_model: Callable[[Path], None], best: int
    ) -> None:
        """Add the checkpoint of a step, after `begin`, and remove old ones.

        Everything is written and flushed to disk under another name first, so that a reader, or a
        power failure, never finds an incomplete checkpoint.

        Args:
            step: Number of steps that are done.
            state: Tensors, numbers, texts, and lists and dictionaries of them.
            write_model: Function that writes the loadable model to a path.
            best: Step of the best checkpoint so far.

        Raises:
            TrainingError: If it cannot be written.
        """
        target, partial = self.folder(step), self.partial(step)
        try:
            torch.save({"version": STATE_VERSION, "step": step, **state}, partial / STATE_NAME)
            write_model(partial / MODEL_NAME)
            for path in (*sorted(partial.iterdir()), partial):
                _flush(path)
            shutil.rmtree(target, ignore_errors=True)  # left if the run was resumed at an older one
            partial.rename(target)
            _flush(self._checkpoints)
            self._link(step, "last")
            if best == step:
                self._link(step, "best")
        except (OSError, RuntimeError) as error:  # torch raises the latter if the disk is full
            msg = f"the checkpoint {target} cannot be written: is the disk full? {error}"
            raise TrainingError(msg) from error
        for old in self.steps()[: -self.keep]:
            if old != best:
                shutil.rmtree(self.folder(old))

    def load_newest(self) -> dict[str, Any] | None:
        """Load the state of the newest readable checkpoint, on the CPU; None if there is none.

        Raises:
            TrainingError: If there are checkpoints, but none can be read.
        """
        steps = self.steps()
        for step in reversed(steps):
            path = self.folder(step) / STATE_NAME
            try:
                state = torch.load(path, map_location="cpu", weights_only=True)
            except (OSError, RuntimeError, EOFError, BadZipFile, pickle.UnpicklingError) as error:
                logger.warning("%s is damaged, looking for an older one: %s", path, error)
                continue
            if not isinstance(state, dict) or state.get("version") != STATE_VERSION:
                msg = f"{path} is not a state of version {STATE_VERSION}, which this release reads"
                raise TrainingError(msg)
            return state
        if steps:
            msg = (
                f"none of the {len(steps)} checkpoints in {self._checkpoints} can be read: "
                "remove them to start again"
            )
            raise TrainingError(msg)
        return None

    @property
    def _checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def folder(self, step: int) -> Path:
        """Return the folder of a complete checkpoint."""
        return self._checkpoints / f"step-{step:08d}"

    def partial(self, step: int) -> Path:
        """Return the folder of a checkpoint that is being written."""
        return self._checkpoints / f".step-{step:08d}.partial"

    def _link(self, step: int, name: str) -> None:
        """Point a fixed name to the model of a step, atomically."""
        source = self.folder(step) / MODEL_NAME
        temporary = self.path / f".{name}.partial"
        temporary.unlink(missing_ok=True)
        try:
            temporary.hardlink_to(source)
        except OSError:  # file systems without hard links
            shutil.copyfile(source, temporary)
        temporary.replace(self.path / f"{name}.safetensors")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
