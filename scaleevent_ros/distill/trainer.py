"""The loop of a run, for anything that trains on pairs: resume, precision, processes, logs.

Nothing in a run depends on what came before a step but the state that its checkpoints hold: data
follow from seed and step (see `scaleevent_ros.data.sampler`), the random numbers of a step from
seed, step and process. So a run that was killed and resumed takes the same path as one that was
not, bit by bit where the arithmetic itself is deterministic, as it is on a CPU.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections import defaultdict
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch
from lightning.fabric import Fabric
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from scaleevent_ros.data.sampler import BatchSampler, validation_batches
from scaleevent_ros.distill.average import WeightAverage
from scaleevent_ros.distill.errors import ConfigurationError, RunStopped, TrainingError
from scaleevent_ros.distill.journal import Journal
from scaleevent_ros.distill.optimizer import build_optimizer, freeze_parameters, set_rate
from scaleevent_ros.distill.run_folder import RunFolder
from scaleevent_ros.distill.schedule import rate_factor
from scaleevent_ros.distill.stop_request import stop_requests

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from lightning.fabric.wrappers import _FabricOptimizer
    from numpy.typing import NDArray
    from torch import Tensor, nn
    from torch.distributed.device_mesh import DeviceMesh
    from torch.utils.data import DataLoader

    from scaleevent_ros.data.sampler import Draw, Schedule
    from scaleevent_ros.distill.configuration import OptimizerOptions, TrainerOptions

logger = logging.getLogger(__name__)


class Objective(Protocol):
    """What is trained: a model, what it should minimize, and how it is judged."""

    model: nn.Module

    def to(self, device: torch.device) -> None:
        """Move everything but the model to where it is used."""

    def start_step(self, progress: float) -> None:
        """Prepare for a step; ``progress`` is the share of the run's steps that are done."""

    def losses(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        """Compute scalars, means over the batch's samples; ``total`` is minimized.

        ``model`` is ``self.model`` as the trainer wrapped it: call it, not the other.
        """

    def measure(
        self, model: nn.Module, batch: Any, pictures: int
    ) -> tuple[Mapping[str, Tensor], list[NDArray[np.uint8]]]:
        """Judge samples: sums by name, which add up over batches; and pictures of the first few."""

    def summarize(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Turn the sums over all samples into metrics."""

    def score(self, metrics: Mapping[str, float]) -> float:
        """Say how good the metrics of a validation are; more is better."""

    def write(self, path: Path, tensors: dict[str, Tensor], extra: dict[str, Any]) -> None:
        """Write the model so that others can load it."""


class Loaders(Protocol):
    """Where batches come from."""

    @property
    def schedule(self) -> Schedule:
        """Say in which order pairs come."""

    @property
    def validation_count(self) -> int:
        """Count the samples to judge by."""

    def training(self, batches: BatchSampler, device: torch.device) -> DataLoader[Any]:
        """Load these batches, in order."""

    def validation(self, batches: list[list[Draw]], device: torch.device) -> DataLoader[Any]:
        """Load these batches of validation samples, in order."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Attributes:
        step: How many were done.
        metrics: Of the last validation.
        best_step: Of the best validation.
        best_score: Its score.
    """

    step: int
    metrics: dict[str, float]
    best_step: int
    best_score: float


def start_fabric(options: TrainerOptions) -> Fabric:
    """Set up devices, precision and processes as `torchrun` or the options say.

    Raises:
        ConfigurationError: If there is no such device, or processes were not started as needed.
    """
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    world = int(os.environ.get("WORLD_SIZE", "1"))
    on_gpu = options.accelerator == "cuda" or (
        options.accelerator == "auto" and torch.cuda.is_available()
    )
    if on_gpu and torch.cuda.device_count() < local:
        msg = (
            f"{local} processes on this machine need as many GPUs, not {torch.cuda.device_count()}"
        )
        raise ConfigurationError(msg)
    if options.strategy == "fsdp" and world == 1:
        msg = "trainer.strategy fsdp shards over processes: start several with torchrun, or use ddp"
        raise ConfigurationError(msg)
    half = options.precision == "bfloat16" or (
        options.precision == "auto" and on_gpu and torch.cuda.is_bf16_supported()
    )
    if on_gpu:
        torch.set_float32_matmul_precision("high")
    return Fabric(
        accelerator="cuda" if on_gpu else "cpu",
        devices=local,
        num_nodes=world // local,
        strategy=_strategy(options.strategy, world),
        precision="bf16-mixed" if half else "32-true",
    )


def _strategy(name: str, world: int) -> Any:
    if world == 1:
        return "auto"
    if name != "fsdp":
        return "ddp"
    from lightning.fabric.strategies.model_parallel import ModelParallelStrategy

    return ModelParallelStrategy(shard_model, data_parallel_size=world, tensor_parallel_size=1)


def shard_model(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shard a model over processes, block by block (FSDP2)."""
    from torch.distributed.fsdp import fully_shard

    processes = mesh["data_parallel"]
    for name, module in model.named_modules():
        if name.rpartition(".")[2] == "blocks":
            for block in module.children():
                fully_shard(block, mesh=processes)
    fully_shard(model, mesh=processes)
    return model


class Trainer:
    """A run: sets up, resumes, trains, validates, saves.

    Attributes:
        fabric: Devices, precision and processes.
    """

    def __init__(
        self,
        objective: Objective,
        loaders: Loaders,
        optimizer: OptimizerOptions,
        options: TrainerOptions,
        configuration: dict[str, Any],
        fabric: Fabric,
    ) -> None:
        """Wrap the model for its devices.

        Args:
            objective: What is trained.
            loaders: Where batches come from.
            optimizer: See `OptimizerOptions`.
            options: See `TrainerOptions`.
            configuration: Of the whole run, plain values: kept in its checkpoints.
            fabric: Launched, from `start_fabric`.
        """
        self.fabric = fabric
        self._objective = objective
        self._loaders = loaders
        self._optimizer_options = optimizer
        self._options = options
        self._configuration = configuration
        self._folder = RunFolder(Path(options.output), options.keep)
        self._steps = options.epochs * loaders.schedule.steps_per_epoch
        self._step = 0
        self._best_step, self._best_score = 0, -math.inf
        self._metrics: dict[str, float] = {}
        model = objective.model
        if fabric.world_size > 1 and fabric.device.type == "cuda":
            # Batch norms must see the whole batch; there are none in a ViT.
            model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        freeze_parameters(model, optimizer)
        if options.strategy != "fsdp":  # which shards tensors of the plain layout alone
            # Convolutions run a quarter faster on CPUs, and on the tensor cores of GPUs.
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._bare = model
        self._model = fabric.setup_module(model)
        objective.to(fabric.device)
        self._optimizer = cast(
            "_FabricOptimizer", fabric.setup_optimizers(build_optimizer(model, optimizer))
        )
        if options.compile:
            model.compile()
        self._average = WeightAverage(model, options.average) if options.average else None

    def run(self) -> Outcome:
        """Train to the end, from the start or the newest checkpoint.

        Raises:
            TrainingError: If the folder holds another run, a loss is not finite, or nothing can be
                written.
            RunStopped: If SIGINT or SIGTERM came, once the step is done and saved.
        """
        self._resume()
        journal = Journal(
            self._folder.path,
            steps=self._steps,
            start=self._step,
            tensorboard=self._options.tensorboard,
            active=self.fabric.is_global_zero,
        )
        try:
            if self._options.evaluate:
                self._validate(journal)
            else:
                with stop_requests() as stop:
                    self._train(journal, stop)
        finally:
            journal.close()
        return Outcome(self._step, self._metrics, self._best_step, self._best_score)

    def _train(self, journal: Journal, stop: Callable[[], int]) -> None:
        with closing(self._training_batches()) as batches:  # which ends its workers, come what may
            self._train_on(batches, journal, stop)

    def _train_on(self, batches: Iterator[Any], journal: Journal, stop: Callable[[], int]) -> None:
        options = self._options
        log = _StepLog()
        self._model.train()
        if self._step == 0:
            self._validate(journal)
        while self._step < self._steps:
            log.add(self._train_step(batches, log))
            self._step += 1
            journal.advance(self._step)
            if self._step % options.log_every == 0:
                journal.training(self._step, self._summarize(log))
                log = _StepLog()
            last = self._step == self._steps
            if last or self._step % options.validate_every == 0:
                self._validate(journal)
            signal = self._stop_of_any(stop())
            saves = last or self._step % options.save_every == 0 or self._best_step == self._step
            if saves or signal:
                self._save()
            if signal and not last:
                raise RunStopped(signal, self._step)
            log.restart_clock()

    def _stop_of_any(self, signal: int) -> int:
        """Let all processes stop after the same step, whichever was asked to."""
        if self.fabric.world_size == 1:
            return signal
        asked = torch.tensor(float(signal), device=self.fabric.device)
        return int(cast("Tensor", self.fabric.all_reduce(asked, reduce_op="max")))

    def _train_step(self, batches: Iterator[Any], log: _StepLog) -> dict[str, Tensor]:
        """Take one step of the optimizer, over all parts of its batch."""
        options = self._options
        fabric, model, optimizer = self.fabric, self._model, self._optimizer
        schedule = self._loaders.schedule
        factor = rate_factor(
            self._step, self._steps, schedule.steps_per_epoch, self._optimizer_options
        )
        set_rate(optimizer.optimizer, factor)
        self._objective.start_step(self._step / self._steps)
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=fabric.device))
        for part in range(options.accumulate):
            with log.waiting():
                batch = next(batches)
            # Only now: the first batch of a session starts workers, which draws random numbers.
            key = (options.seed, self._step, part, fabric.global_rank)
            torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
            waits = fabric.world_size > 1 and part + 1 < options.accumulate
            with fabric.no_backward_sync(model) if waits else nullcontext():
                losses = self._objective.losses(model, batch)
                if not bool(torch.isfinite(losses["total"])):
                    raise self._not_finite(batch, losses, of="loss")
                fabric.backward(losses["total"] / options.accumulate)
            for name, value in losses.items():
                sums[name] += value.detach() / options.accumulate
        if self._optimizer_options.clip:
            norm = fabric.clip_gradients(
                model, optimizer, max_norm=self._optimizer_options.clip, error_if_nonfinite=False
            )
            norm = cast("Tensor", norm)
            sums["gradient"] = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
            if not bool(torch.isfinite(sums["gradient"])):
                raise self._not_finite(batch, sums, of="gradient")
        optimizer.step()
        optimizer.zero_grad()
        if self._average is not None:
            self._average.update()
        return dict(sums)

    def _training_batches(self) -> Generator[Any]:
        fabric = self.fabric
        sampler = BatchSampler(
            self._loaders.schedule,
            range(self._step, self._steps),
            fabric.global_rank,
            fabric.world_size,
            self._options.accumulate,
        )
        yield from self._on_device(self._loaders.training(sampler, fabric.device))

    def _on_device(self, loader: DataLoader[Any]) -> Any:
        return self.fabric.setup_dataloaders(loader, use_distributed_sampler=False)

    def _summarize(self, log: _StepLog) -> dict[str, float]:
        """Average what was logged since the last entry, over steps and processes."""
        seconds, waited = log.seconds_per_step()
        means = cast("dict[str, Tensor]", self.fabric.all_reduce(log.means(), reduce_op="mean"))
        options = self._options
        return {
            **{name: float(value) for name, value in means.items()},
            "rate": self._optimizer.param_groups[0]["lr"],
            "pairs_per_s": options.batch_size / seconds,
            "data_wait": waited,
            "epoch": self._step / self._loaders.schedule.steps_per_epoch,
        }

    @torch.no_grad()
    def _validate(self, journal: Journal) -> None:
        """Judge the model, with averaged weights where they are kept."""
        fabric = self.fabric
        batches = validation_batches(
            self._loaders.validation_count,
            max(1, self._options.batch_size // fabric.world_size // self._options.accumulate),
            fabric.global_rank,
            fabric.world_size,
        )
        loader = self._on_device(self._loaders.validation(batches, fabric.device))
        sums: dict[str, Tensor] = {}
        pictures: list[NDArray[np.uint8]] = []
        self._model.eval()
        with self._average.in_place() if self._average else nullcontext():
            for batch in loader:
                missing = self._options.pictures - len(pictures) if fabric.is_global_zero else 0
                found, drawn = self._objective.measure(self._model, batch, missing)
                pictures += drawn
                for name, pair in found.items():
                    sums[name] = sums[name] + pair if name in sums else pair
        self._model.train()
        sums = cast("dict[str, Tensor]", fabric.all_reduce(sums, reduce_op="sum"))
        self._metrics = self._objective.summarize(sums)
        score = self._objective.score(self._metrics)
        if score > self._best_score and self._step:
            self._best_step, self._best_score = self._step, score
        journal.validation(self._step, self._metrics, pictures)

    def _save(self) -> None:
        """Write a checkpoint; every process takes part, the first one writes."""
        whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state: dict[str, Any] = {
            "model": self._copy_weights(),
            "optimizer": get_optimizer_state_dict(
                self._bare, self._optimizer.optimizer, options=whole
            ),
            "average": None,
            "best": {"step": self._best_step, "score": self._best_score},
            "schedule": {"step": self._step, "steps": self._steps},
            "sampler": self._sampler_state(),
            "random": {"seed": self._options.seed, "step": self._step},
            "configuration": json.dumps(self._configuration),
        }
        if self._average is not None:
            with self._average.in_place():
                state["average"] = self._copy_weights()
        if self.fabric.is_global_zero:
            model = state["average"] or state["model"]
            extra = {"step": self._step, "metrics": self._metrics, "run": self._configuration}
            self._folder.save(
                self._step,
                state,
                lambda path: self._objective.write(path, model, extra),
                self._best_step,
            )
        self.fabric.barrier()

    def _copy_weights(self) -> dict[str, Tensor]:
        """Gather the model's state in the first process; a copy, which later steps leave alone."""
        whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights = get_model_state_dict(self._bare, options=whole)
        return {name: cast("Tensor", value).clone() for name, value in weights.items()}

    def _sampler_state(self) -> dict[str, Any]:
        schedule = self._loaders.schedule
        return {
            "step": self._step,
            "counts": list(schedule.counts),
            "weights": list(schedule.weights),
            "batch_size": schedule.batch_size,
            "pairs_per_epoch": schedule.pairs_per_epoch,
            "seed": schedule.seed,
        }

    def _resume(self) -> None:
        """Go on from the newest checkpoint in the folder, if there is one and it is wanted."""
        state = self._folder.load_newest()
        if state is None or not self._options.resume:
            if state is not None:
                msg = (
                    f"{self._folder.path} holds a run of {state['step']} steps: go on with "
                    "--trainer.resume true, or name another folder with --trainer.output"
                )
                raise TrainingError(msg)
            return
        self._step = state["step"]
        self._tell_changes(state)
        fresh = [
            {name: value for name, value in group.items() if name != "params"}
            for group in self._optimizer.param_groups
        ]
        whole = StateDictOptions(full_state_dict=True)
        try:
            if self._average is not None:
                set_model_state_dict(self._bare, state["average"] or state["model"], options=whole)
                self._average.restart()
            set_model_state_dict(self._bare, state["model"], options=whole)
            set_optimizer_state_dict(
                self._bare, self._optimizer.optimizer, state["optimizer"], options=whole
            )
        except (RuntimeError, KeyError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            msg = f"the checkpoint in {self._folder.path} is of another model: {reason}"
            raise TrainingError(msg) from error
        for group, options in zip(self._optimizer.param_groups, fresh, strict=True):
            group.update(options)  # what the configuration says now wins
        self._best_step, self._best_score = state["best"]["step"], state["best"]["score"]
        logger.info("going on after step %d of %d", self._step, self._steps)

    def _tell_changes(self, state: dict[str, Any]) -> None:
        """Warn where going on is not the same as never having stopped."""
        then = state["sampler"]
        for name, value in self._sampler_state().items():
            if then[name] != value:
                logger.warning(
                    "%s of the data was %s and is %s: pairs come in another order from here on",
                    name,
                    then[name],
                    value,
                )
        before = cast("dict[str, Any]", json.loads(state["configuration"]))
        for section, options in self._configuration.items():
            for name, value in options.items():
                was = before.get(section, {}).get(name)
                if was != value and (section, name) != ("trainer", "resume"):
                    logger.warning("%s.%s was %s and is %s", section, name, was, value)

    def _not_finite(self, batch: Any, values: Mapping[str, Tensor], *, of: str) -> TrainingError:
        """Keep the batch for a look at it, and say where it is."""
        rank = self.fabric.global_rank
        path = self._folder.path / f"not_finite_step{self._step + 1}_process{rank}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {
            name: value.detach().cpu().contiguous()
            for name, value in batch._asdict().items()
            if isinstance(value, torch.Tensor)
        }
        save_file(tensors, path)
        said = ", ".join(f"{name} {float(value.detach()):g}" for name, value in values.items())
        msg = f"step {self._step + 1}: the {of} is not finite ({said}); its batch is {path}"
        return TrainingError(msg)


class _StepLog:
    """What happened since the last entry of the log; costs no wait for the device."""

    def __init__(self) -> None:
        self._values: list[dict[str, Tensor]] = []
        self._waited = 0.0
        self._seconds = 0.0
        self._clock = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def add(self, values: dict[str, Tensor]) -> None:
        self._values.append(values)
        now = time.perf_counter()
        self._seconds += now - self._clock
        self._clock = now

    def restart_clock(self) -> None:
        """Do not count what was done between steps."""
        self._clock = time.perf_counter()

    def means(self) -> dict[str, Tensor]:
        return {
            name: torch.stack([values[name] for values in self._values]).mean()
            for name in self._values[0]
        }

    def seconds_per_step(self) -> tuple[float, float]:
        """Give seconds per step, and the share of them that was spent waiting for data."""
        return self._seconds / len(self._values), self._waited / self._seconds
