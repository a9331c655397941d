"""A whole run of two tiny ViTs on sliding textures, in processes of its own that can be killed."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric import Fabric  # noqa: F401 - loaded once, before processes fork off
from safetensors import safe_open
from safetensors.torch import load_file
from synthetic_pairs import SlidingTexture
from training_processes import launch_processes

from scaleevent_ros.data.dataset import PairDataset, SampleOptions, split_off
from scaleevent_ros.data.loading import PairLoaders
from scaleevent_ros.data.sampler import Schedule
from scaleevent_ros.distill import run_folder
from scaleevent_ros.distill.configuration import (
    OptimizerOptions,
    ParameterGroup,
    TrainerOptions,
)
from scaleevent_ros.distill.distillation import Distillation
from scaleevent_ros.distill.losses import build_loss
from scaleevent_ros.distill.parallel import start_fabric
from scaleevent_ros.distill.trainer import Trainer
from scaleevent_ros.models import build_student, build_teacher

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2}
ARCHITECTURE = "vit_tiny_patch16_224"


@dataclass(frozen=True)
class TinyRun:
    """Parameters of a run.

    Attributes:
        output: Folder of the run.
        options: Options of `TrainerOptions`, besides the folder.
        drop: Rate of the student's drop path, which draws random numbers in every step.
        kill_at: ``step N``: kill -9 when step N is about to begin; ``save N``: while the
            checkpoint of step N is written; never if empty. ``SIGINT N`` or ``SIGTERM N``: that
            signal to the first process before step N.
        poison_at: The step whose batch holds a value that is not finite; -1 for none.
    """

    output: Path
    options: dict[str, Any] = field(default_factory=dict)
    drop: float = 0.2
    kill_at: str = ""
    poison_at: int = -1


def trainer_options(run: TinyRun) -> TrainerOptions:
    defaults: dict[str, Any] = {
        "epochs": 3, "pairs_per_epoch": 40, "batch_size": 8, "accumulate": 1, "save_every": 4,
        "validate_every": 100, "log_every": 1, "loggers": [], "accelerator": "cpu",
        "ema_decay": 0.9,
    }  # fmt: skip
    return TrainerOptions(output=str(run.output), **{**defaults, **run.options})


def build_trainer(run: TinyRun) -> Trainer:
    options = trainer_options(run)
    torch.set_num_threads(1)
    fabric = start_fabric(options)
    fabric.launch()
    torch.manual_seed(options.seed)
    teacher = build_teacher(ARCHITECTURE, pretrained=False, options=VIT)
    student_options = {**VIT, "drop_path_rate": run.drop}
    student = build_student(ARCHITECTURE, 5, "random", teacher=teacher, options=student_options)
    samples = SampleOptions(width=64, height=48, threshold=24, seed=options.seed)
    parts = [split_off(SlidingTexture(count, seed=count), 0.3) for count in (9, 30)]
    schedule = Schedule(
        tuple(len(part[0]) for part in parts),
        (1.0, 2.0),
        options.batch_size,
        options.seed,
        options.pairs_per_epoch,
    )
    loaders = PairLoaders(
        PairDataset([part[0] for part in parts], samples),
        PairDataset([part[1] for part in parts], samples),
        schedule,
        workers=1,
        prefetch=2,
    )
    objective = Distillation(student, teacher, build_loss(), autocast=fabric.autocast)
    optimizer = OptimizerOptions(
        learning_rate=1e-3,
        warmup_steps=3,
        layer_decay=0.9,
        groups=[ParameterGroup("pos_embed", 0), ParameterGroup("patch_embed", 2)],
    )
    return Trainer(objective, loaders, optimizer, options, {}, fabric)


def run_here(run: TinyRun) -> None:
    trainer = build_trainer(run)
    _break(trainer, run)
    trainer.run()


def _break(trainer: Trainer, run: TinyRun) -> None:
    """Run with the given parameters."""
    if not run.kill_at and run.poison_at < 0:
        return
    what, _, number = run.kill_at.partition(" ")
    step = trainer._train_step
    flush = run_folder._flush

    def killing_step(*arguments: Any) -> Any:
        if what == "step" and trainer._step == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        if (
            what.startswith("SIG")
            and trainer._step == int(number)
            and trainer.fabric.is_global_zero
        ):
            os.kill(os.getpid(), signal.Signals[what])
        if trainer._step == run.poison_at:
            with torch.no_grad():
                next(iter(trainer._objective.model.parameters())).fill_(float("nan"))
        return step(*arguments)

    def killing_flush(path: Path) -> None:
        if what == "save" and trainer._step == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        flush(path)

    trainer._train_step = killing_step  # type: ignore[method-assign, assignment]
    run_folder._flush = killing_flush


def launch(run: TinyRun, world: int = 1, workers: str | None = None) -> list[int]:
    """Run in `world` processes and return their exit codes; see `launch_processes`."""
    return launch_processes(run_here, run, world, ["tiny_run"], workers)


def final_weights(output: Path) -> dict[str, Tensor]:
    """Load the weights that the run trained, not their average."""
    newest = max((output / "checkpoints").iterdir())
    state = torch.load(newest / "state.pt", weights_only=True)
    weights = dict(state["model"]) if "model" in state else _sharded_weights(newest)
    averaged = load_file(output / "last.safetensors").items()
    return weights | {f"averaged {name}": value for name, value in averaged}


def _sharded_weights(checkpoint: Path) -> dict[str, Tensor]:
    """Join the rows of all processes."""
    whole: dict[str, Tensor] = {}
    for path in sorted(checkpoint.glob("process-*.safetensors")):
        with safe_open(path, "pt") as file:
            (places,) = file.metadata().values()
            for name, (shape, offset) in json.loads(places).items():
                rows = file.get_tensor(name)
                target = whole.setdefault(name, torch.full(shape, torch.nan))
                target[tuple(slice(o, o + n) for o, n in zip(offset, rows.shape, strict=True))] = (
                    rows
                )
    return {
        name.removeprefix("model."): value
        for name, value in whole.items()
        if name.startswith("model.")
    }
