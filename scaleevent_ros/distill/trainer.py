"""The training loop of pretraining and task heads: resuming, precision, processes, logs.

A step depends on the past only through the state that checkpoints hold: its data follow from seed
and step (see `scaleevent_ros.data.sampler`), its random numbers from seed, step, part and process.
So a run that was killed and resumed gives the same result as one that was not, bit by bit where the
arithmetic itself is deterministic, as it is on a CPU. The loop, its checks and its checkpoints are
one module, as they share that state.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections import defaultdict
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from safetensors import SafetensorError
from torch.amp.grad_scaler import GradScaler

from scaleevent_ros.data.loading import named_tensors
from scaleevent_ros.data.sampler import BatchSampler, validation_batches
from scaleevent_ros.distill.average import WeightAverage
from scaleevent_ros.distill.configuration import flatten
from scaleevent_ros.distill.errors import RunStopped, TrainingError
from scaleevent_ros.distill.journal import Journal
from scaleevent_ros.distill.optimizer import (
    build_optimizer,
    freeze_parameters,
    set_rate,
    set_training,
)
from scaleevent_ros.distill.parallel import (
    precision_of,
    reshard,
    set_up_inference,
    synchronize_batch_norms,
)
from scaleevent_ros.distill.run_folder import RunFolder
from scaleevent_ros.distill.run_state import (
    gather_state,
    gather_weights,
    has_shards,
    read_shards,
    restore_state,
    write_shards,
)
from scaleevent_ros.distill.schedule import rate_factor
from scaleevent_ros.distill.stop_request import stop_requests
from scaleevent_ros.models.weights import write_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from lightning.fabric import Fabric
    from lightning.fabric.wrappers import _FabricOptimizer
    from numpy.typing import NDArray
    from torch import Tensor, nn
    from torch.utils.data import DataLoader

    from scaleevent_ros.distill.configuration import OptimizerOptions, TrainerOptions
    from scaleevent_ros.distill.objective import Loaders, Objective

logger = logging.getLogger(__name__)

# If gradients overflow even at a loss scale below this, the cause is not the scale.
_SMALLEST_LOSS_SCALE = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a run.

    Attributes:
        step: Number of steps that are done.
        metrics: Metrics of the last validation.
        best_step: Step of the best validation after training began; 0 if there was none.
        best_score: Score of that validation; ``-inf`` if there was none.
    """

    step: int
    metrics: dict[str, float]
    best_step: int
    best_score: float


class _Check(NamedTuple):
    """Check of a step, read while the device computes the next one, so that it never idles.

    With fp16 it is read at once, since a step whose gradients overflow must be skipped.

    Attributes:
        step: Number of the step, from 1.
        parts: Batches that were accumulated in the step.
        sums: Values to log.
        flags: For this process and for any process (rows), whether the loss of each part and the
            gradient are not finite, and the number of the signal to stop; float32
            ``[2, parts + 2]`` on the CPU.
        copied: Event after which ``flags`` are valid; None if they are valid at once.
    """

    step: int
    parts: list[Any]
    sums: Mapping[str, Tensor]
    flags: Tensor
    copied: torch.cuda.Event | None


class Trainer:
    """A training run: setup, resuming, steps, validation, checkpoints.

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
        """Set up model and optimizer on their devices.

        Args:
            objective: Objective to train.
            loaders: Source of batches.
            optimizer: Options of the optimizer.
            options: Options of the trainer.
            configuration: Configuration of the whole run as plain values, stored in checkpoints.
            fabric: Launched Fabric from `scaleevent_ros.distill.parallel.start_fabric`.

        Raises:
            ConfigurationError: If the optimizer's parameter groups are invalid.
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
        self._check: _Check | None = None
        self._overflowed = False
        self._sharded = options.strategy == "fsdp"
        model = synchronize_batch_norms(objective.model, fabric)
        freeze_parameters(model, optimizer)
        if not self._sharded:  # FSDP shards only tensors of the default layout
            # Convolutions run a quarter faster on CPUs, and on the tensor cores of GPUs.
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._bare = model
        self._average = WeightAverage(model, options.ema_decay) if options.ema_decay else None
        self._model = fabric.setup_module(model)
        self._validated: nn.Module = self._model
        if self._average is not None:
            copied = self._average.module
            self._validated = set_up_inference(fabric, copied, sharded=self._sharded)
        objective.to(fabric.device)
        # Gradients are unscaled before clipping, while fused optimizers unscale them themselves.
        fp16 = precision_of(fabric) == "fp16"
        self._scaler = GradScaler(fabric.device.type, enabled=fp16)
        built = build_optimizer(model, optimizer, options.batch_size, fused=not fp16)
        self._optimizer = cast("_FabricOptimizer", fabric.setup_optimizers(built))
        if options.compile:
            model.compile()
            if self._average is not None:
                self._average.module.compile()

    def run(self) -> Outcome:
        """Train to the end, from the start or the newest checkpoint.

        Raises:
            TrainingError: If the folder holds another run, a loss or gradient is not finite, or a
                checkpoint cannot be written.
            RunStopped: If SIGINT or SIGTERM came; the step is finished and saved before.
        """
        self._resume()
        journal = Journal(
            self._folder.path,
            steps=self._steps,
            start=self._step,
            loggers=self._options.loggers,
            configuration=self._configuration,
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
        with closing(self._training_batches()) as batches:  # ends its workers in any case
            self._train_on(batches, journal, stop)

    def _train_on(self, batches: Iterator[Any], journal: Journal, stop: Callable[[], int]) -> None:
        options = self._options
        log = _StepLog()
        set_training(self._model)
        if self._step == 0:
            self._validate(journal)
        while self._step < self._steps:
            values, signal = self._train_step(batches, log, stop)
            log.add(values)
            self._step += 1
            journal.advance(self._step)
            if self._step % options.log_every == 0:
                journal.training(self._step, self._summarize(log))
                log = _StepLog()
            last = self._step == self._steps
            validates = last or self._step % options.validate_every == 0
            saves = last or signal or self._step % options.save_every == 0
            if validates or saves:
                signal = max(signal, self._read_check())  # an unchecked step must not be saved
            if validates:
                self._validate(journal)
            if saves or signal or self._best_step == self._step:
                self._save()
            if signal and not last:
                raise RunStopped(signal, self._step)
            log.restart_clock()

    def _train_step(
        self, batches: Iterator[Any], log: _StepLog, stop: Callable[[], int]
    ) -> tuple[dict[str, Tensor], int]:
        """Run one optimizer step, over all parts of its batch.

        It waits for the device only to read the check of the previous step (see `_Check`).

        Returns:
            The values to log, and the number of the signal that asked any process to stop, or 0.
        """
        options = self._options
        fabric, model, optimizer = self.fabric, self._model, self._optimizer
        schedule = self._loaders.schedule
        factor = rate_factor(
            self._step, self._steps, schedule.steps_per_epoch, self._optimizer_options
        )
        set_rate(optimizer.optimizer, factor)
        self._objective.start_step(self._step / self._steps)
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=fabric.device))
        parts, totals = [], []
        for part in range(options.accumulate):
            with log.waiting():
                batch = next(batches)
            # Seeded after the batch: the first one starts the workers, which uses random numbers.
            key = (options.seed, self._step, part, fabric.global_rank)
            torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
            waits = fabric.world_size > 1 and part + 1 < options.accumulate
            with fabric.no_backward_sync(model) if waits else nullcontext():
                losses = self._objective.losses(model, batch)
                fabric.backward(self._scaler.scale(losses["total"] / options.accumulate))
            parts.append(batch)
            totals.append(losses["total"].detach())
            for name, value in losses.items():
                sums[name] += value.detach() / options.accumulate
        self._scaler.unscale_(optimizer.optimizer)
        norm = fabric.clip_gradients(
            model,
            optimizer,
            max_norm=self._optimizer_options.clip or math.inf,
            error_if_nonfinite=False,
        )
        norm = cast("Tensor", norm)
        sums["gradient"] = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        signal = self._read_check()
        own = stop()
        if fabric.world_size == 1:
            signal = own  # no other process to agree with
        self._check = self._begin_check(parts, totals, sums, own)
        if self._scaler.is_enabled():
            signal = max(signal, self._read_check())
        if not self._overflowed:
            optimizer.step()
        self._scaler.update()
        optimizer.zero_grad()
        if self._average is not None:
            self._average.update(self._bare)
        return dict(sums), signal

    def _begin_check(
        self, parts: list[Any], totals: list[Tensor], sums: Mapping[str, Tensor], signal: int
    ) -> _Check:
        """Start the check of the current step, for finite losses and gradient and for signals.

        Args:
            parts: Batches that were accumulated in the step.
            totals: Loss of each part.
            sums: Values to log, among them the norm of the ``gradient``.
            signal: Signal that this process received, or 0.
        """
        wrong = ~torch.isfinite(torch.stack([*totals, sums["gradient"]]))
        mine = torch.cat([wrong.float(), wrong.new_full((1,), signal, dtype=torch.float)])
        of_any = mine
        if self.fabric.world_size > 1:
            of_any = cast("Tensor", self.fabric.all_reduce(mine.clone(), reduce_op="max"))
        flags = torch.stack([mine, of_any])
        if not flags.is_cuda:
            return _Check(self._step + 1, parts, sums, flags, None)
        host = torch.empty(flags.shape, pin_memory=True).copy_(flags, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
        return _Check(self._step + 1, parts, sums, host, copied)

    def _read_check(self) -> int:
        """Read the pending check, if there is one.

        With fp16, a gradient that is not finite only sets ``_overflowed``, since it is expected
        while the loss scale is being found.

        Returns:
            The signal that any process had received when the check began, or 0.

        Raises:
            TrainingError: In all processes, if a loss or gradient of any process is not finite.
        """
        check, self._check = self._check, None
        if check is None:
            return 0
        if check.copied is not None:
            check.copied.synchronize()
        (*wrong, _), (*wrong_anywhere, signal) = check.flags.tolist()
        if any(wrong_anywhere[:-1]):
            if not any(wrong[:-1]):
                msg = f"step {check.step}: the loss of another process is not finite"
                raise TrainingError(msg)
            raise self._not_finite(check, wrong.index(1), of="loss")
        self._overflowed = bool(wrong_anywhere[-1])
        if self._overflowed and (
            not self._scaler.is_enabled() or self._scaler.get_scale() < _SMALLEST_LOSS_SCALE
        ):
            raise self._not_finite(check, -1, of="gradient")
        return int(signal)

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
        """Compute the log's entry: values averaged over its steps and all processes, and rates."""
        seconds, waited = log.seconds_per_step()
        names, means = log.means()
        means = cast("Tensor", self.fabric.all_reduce(means, reduce_op="mean"))
        options = self._options
        return {
            **dict(zip(names, means.tolist(), strict=True)),
            "rate": self._optimizer.param_groups[0]["lr"],
            "pairs_per_s": options.batch_size / seconds,
            "data_wait": waited,
            "epoch": self._step / self._loaders.schedule.steps_per_epoch,
        }

    @torch.no_grad()
    def _validate(self, journal: Journal) -> None:
        """Validate the model, with its averaged weights if there are any."""
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
        for batch in loader:
            missing = self._options.pictures - len(pictures) if fabric.is_global_zero else 0
            found, drawn = self._objective.measure(self._validated, batch, missing)
            pictures += drawn
            for name, value in found.items():
                sums[name] = sums[name] + value if name in sums else value
        set_training(self._model)
        reshard(self._average.module if self._average is not None else self._bare)
        sums = cast("dict[str, Tensor]", fabric.all_reduce(sums, reduce_op="sum"))
        self._metrics = self._objective.summarize(sums)
        score = self._objective.score(self._metrics)
        if score > self._best_score and self._step:
            self._best_step, self._best_score = self._step, score
        journal.validation(self._step, self._metrics, pictures)

    def _save(self) -> None:
        """Write a checkpoint; every process takes part."""
        fabric, average = self.fabric, self._average.module if self._average is not None else None
        if fabric.is_global_zero:
            self._folder.begin(self._step)
        if self._sharded:
            fabric.barrier()
            partial = self._folder.partial(self._step)
            write_shards(
                partial, fabric.global_rank, self._bare, self._optimizer.optimizer, average
            )
            fabric.barrier()
            tensors: dict[str, Any] = {}
            student = gather_weights(self._bare if average is None else average)
        else:
            tensors = gather_state(self._bare, self._optimizer.optimizer, average)
            student = tensors["average"] or tensors["model"]
        if fabric.is_global_zero:
            extra = {"step": self._step, "metrics": self._metrics, "run": self._configuration}
            self._folder.save(
                self._step,
                {**tensors, **self._progress()},
                lambda path: self._objective.write(path, student, extra),
                self._best_step,
            )
        fabric.barrier()

    def _progress(self) -> dict[str, Any]:
        """Return the state of a checkpoint besides the tensors of model and optimizer."""
        return {
            "best": {"step": self._best_step, "score": self._best_score},
            "metrics": self._metrics,
            "schedule": {"step": self._step, "steps": self._steps},
            "sampler": self._sampler_state(),
            "random": {"seed": self._options.seed, "step": self._step},
            "scaler": self._scaler.state_dict(),
            "configuration": json.dumps(self._configuration),
        }

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
        """Continue from the newest checkpoint in the folder, if there is one.

        Raises:
            TrainingError: If there is one but ``resume`` is not set, or it cannot be read.
        """
        state = self._folder.load_newest()
        if state is None:
            return
        if not self._options.resume:
            msg = (
                f"{self._folder.path} holds a run of {state['step']} steps: continue it with "
                "--trainer.resume true, or give another folder with --trainer.output"
            )
            raise TrainingError(msg)
        self._step = state["step"]
        self._warn_of_changes(state)
        self._restore_tensors(state)
        self._best_step, self._best_score = state["best"]["step"], state["best"]["score"]
        self._metrics = state.get("metrics", {})
        if state.get("scaler"):  # there is none without fp16
            self._scaler.load_state_dict(state["scaler"])
        logger.info("continuing after step %d of %d", self._step, self._steps)

    def _restore_tensors(self, state: dict[str, Any]) -> None:
        optimizer = self._optimizer.optimizer
        fresh = [
            {name: value for name, value in group.items() if name != "params"}
            for group in optimizer.param_groups
        ]
        average = self._average.module if self._average is not None else None
        folder = self._folder.folder(self._step)
        try:
            if has_shards(folder):
                read_shards(folder, self._bare, optimizer, average)
            else:
                restore_state(state, self._bare, optimizer, average)
        except (RuntimeError, KeyError, ValueError, SafetensorError) as error:
            reason = str(error).strip().splitlines()[0]
            msg = f"the checkpoint {folder} is of another model or damaged: {reason}"
            raise TrainingError(msg) from error
        for group, options in zip(optimizer.param_groups, fresh, strict=True):
            group.update(options)  # the current configuration replaces the checkpoint's

    def _warn_of_changes(self, state: dict[str, Any]) -> None:
        """Warn of changes of data or configuration since the checkpoint."""
        then = state["sampler"]
        for name, value in self._sampler_state().items():
            if then[name] != value:
                logger.warning(
                    "%s of the data was %s and is %s: pairs come in another order from here on",
                    name,
                    then[name],
                    value,
                )
        before = flatten(json.loads(state["configuration"]))
        for name, value in flatten(self._configuration).items():
            if before.get(name) != value and name != "trainer.resume":
                logger.warning("%s was %s and is %s", name, before.get(name), value)

    def _not_finite(self, check: _Check, part: int, *, of: str) -> TrainingError:
        """Write a part of a step's batch to a file, and return an error that names it."""
        rank = self.fabric.global_rank
        path = self._folder.path / f"not_finite_step{check.step}_process{rank}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {
            name: value.detach().cpu().contiguous()
            for name, value in named_tensors(check.parts[part]).items()
        }
        write_tensors(tensors, path)
        said = ", ".join(f"{name} {float(value.detach()):g}" for name, value in check.sums.items())
        msg = f"step {check.step}: the {of} is not finite ({said}); its batch is saved in {path}"
        return TrainingError(msg)


class _StepLog:
    """Values and times since the last entry of the log; adding to it never waits for the device."""

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
        """Restart the clock, to exclude the time between steps."""
        self._clock = time.perf_counter()

    def means(self) -> tuple[list[str], Tensor]:
        names = list(self._values[0])
        return names, torch.stack(
            [torch.stack([values[name] for name in names]) for values in self._values]
        ).mean(dim=0)

    def seconds_per_step(self) -> tuple[float, float]:
        """Return seconds per step, and the share of them spent waiting for data."""
        return self._seconds / len(self._values), self._waited / self._seconds
