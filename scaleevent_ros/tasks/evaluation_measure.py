"""Evaluation of one checkpoint on batches of windows with ground truth."""

from __future__ import annotations

import hashlib
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from rich.console import Console
from rich.progress import track

from scaleevent_ros.data.loading import load_batches
from scaleevent_ros.data.sampler import validation_batches
from scaleevent_ros.distill.configuration import EventOptions, plain
from scaleevent_ros.distill.parallel import precision_of
from scaleevent_ros.events.windows import WindowOptions
from scaleevent_ros.models import load_student, load_teacher, read_header
from scaleevent_ros.models.checkpoints import git_revision
from scaleevent_ros.tasks.classes import read_classes
from scaleevent_ros.tasks.downstream import Downstream, PictureDownstream
from scaleevent_ros.tasks.errors import TaskError
from scaleevent_ros.tasks.evaluation_results import Evaluation, Kind
from scaleevent_ros.tasks.heads import load_heads
from scaleevent_ros.tasks.labelled import stack
from scaleevent_ros.tasks.labelled_data import build_held_out
from scaleevent_ros.tasks.losses import IGNORED
from scaleevent_ros.tasks.metrics import segmentation_scores
from scaleevent_ros.tasks.objectives import OBJECTIVES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from lightning.fabric import Fabric
    from numpy.typing import NDArray
    from torch import Tensor, nn
    from torch.utils.data import DataLoader

    from scaleevent_ros.distill.objective import Objective
    from scaleevent_ros.models import Header
    from scaleevent_ros.tasks.classes import ClassList
    from scaleevent_ros.tasks.evaluation import EvaluationOptions
    from scaleevent_ros.tasks.labelled import LabelledSample, Task
    from scaleevent_ros.tasks.labelled_data import LabelledData

AT_EVENTS = "events/"
"""Prefix of the names of scores that are computed only over pixels with events."""

SPLIT = "validation"
"""Part of the data on which checkpoints are evaluated."""


class Example(NamedTuple):
    """Window and prediction, for a picture.

    Attributes:
        events: Event options of the student.
        tensor: Event tensor, float32 [channels, H, W], for flow that of the later window; or the
            teacher's frame, uint8 [3, H, W].
        prediction: Class ids, int64 [H, W]; depth in m, float32 [1, H, W]; or flow in px, right and
            down, float32 [2, H, W].
        truth: Ground truth, of the shape of the prediction.
        known: Pixels with known ground truth, bool [H, W].
        classes: Class list for segmentation; None for other tasks.
    """

    events: EventOptions
    tensor: NDArray[Any]
    prediction: NDArray[Any]
    truth: NDArray[Any]
    known: NDArray[np.bool_]
    classes: ClassList | None


Draw = Callable[[Example], "NDArray[np.uint8]"]
"""Function that draws an example: RGB, uint8 [H, W, 3]."""


def evaluate_checkpoint(
    path: Path,
    options: EvaluationOptions,
    fabric: Fabric,
    keep: Callable[[int, Example], None],
) -> Evaluation:
    """Evaluate a checkpoint on the validation part of the data, with constant memory.

    Args:
        path: Path of a checkpoint with a head for the data's task.
        options: Options of the evaluation.
        fabric: Device and precision, from `scaleevent_ros.distill.parallel.start_fabric`.
        keep: Callback with a window's index and example, for ``options.pictures`` windows, spread
            evenly over the data.

    Raises:
        ScaleEventError: If the checkpoint or the data are invalid, or do not fit each other.
    """
    data, header = options.data, read_header(path)
    kind, classes, events = kind_of(path, data), _classes(data), events_of(path, header)
    objective = _load(path, data, fabric)
    scale = header.teacher_options.get("scale", 1)
    memory = header.memory is not None
    samples = build_held_out(data, events, classes, scale, memory=memory)
    batches = validation_batches(len(samples), options.batch_size, rank=0, world=1)
    loader = load_batches(
        samples,
        batches,
        fabric.device,
        workers=data.workers,
        prefetch=data.prefetch,
        stack=stack,
    )
    model = cast("nn.Module", fabric.setup_module(objective.model)).eval()
    hook = _ForwardHook(model, fabric.device)
    wanted = _spread_evenly(options.pictures, len(samples))
    truth, any_known = hashlib.blake2b(digest_size=32), False
    sums: dict[str, Tensor] = {}
    for specs, batch in zip(batches, _on_device(loader, fabric, path), strict=True):
        with torch.inference_mode():
            found, _ = objective.measure(model, batch, 0)
        for name, part in found.items():
            sums[name] = sums[name] + part if name in sums else part
        truth.update(batch.truth.cpu().numpy().tobytes())
        known = known_pixels(data.task, batch.truth)
        any_known = any_known or bool(known.any())
        for place, spec in enumerate(specs):
            if spec.pair in wanted:
                keep(spec.pair, _example(events, classes, batch, known, hook.output, place))
    if not any_known:
        msg = (
            f"the {SPLIT} part of the data ({len(samples)} windows) has no pixel with ground truth"
        )
        raise TaskError(msg)
    run = recorded_run(header)
    return Evaluation(
        checkpoint=str(path),
        sha256=_sha256(path),
        seed=run.get("trainer", {}).get("seed"),
        step=header.extra.get("step") if run else None,
        **kind._asdict(),
        data=plain(data),
        split=SPLIT,
        windows=len(samples),
        truth=truth.hexdigest(),
        scores=_scores(objective, sums, kind.classes),
        device=_name(fabric.device),
        precision=precision_of(fabric),
        batch_size=options.batch_size,
        ms_per_window=hook.ms_per_window(),
        git_revision=git_revision(),
    )


def known_pixels(task: Task, truth: Tensor) -> Tensor:
    """Return where the ground truth of a batch is known, bool ``[B, H, W]``."""
    if task == "segmentation":
        return truth != IGNORED
    if task == "depth":
        return (torch.isfinite(truth) & (truth > 0)).squeeze(1)
    return torch.isfinite(truth).all(dim=1)


def recorded_run(header: Header) -> Mapping[str, Any]:
    """Return the configuration of the run that trained a checkpoint's head; empty if unknown."""
    run = header.extra.get("run")
    return run if isinstance(run, Mapping) and "head" in run else {}


def events_of(path: Path, header: Header) -> EventOptions:
    """Return the event options of a checkpoint's header.

    Args:
        path: Path of the checkpoint, for error messages.
        header: Header of the checkpoint.

    Raises:
        ScaleEventError: If the header is incomplete or invalid.
    """
    window = recorded_run(header).get("events", {}).get("window")
    if header.window is None and window is not None:  # headers of older releases lack it
        header = replace(header, window=WindowOptions(**window))
    if header.normalization is None or header.window is None:
        missing = "the normalization of events" if header.window else "the length of a window"
        msg = f"{path}: the header lacks {missing}; `scaleevent finetune` writes it"
        raise TaskError(msg)
    return EventOptions.of(header)


def kind_of(path: Path, data: LabelledData) -> Kind:
    """Return the kind of a checkpoint, and check that it fits the data.

    Raises:
        ScaleEventError: If it has no head for the data's task, other classes, or no event options.
    """
    header = read_header(path)
    if not header.heads:
        msg = f"{path} has no head: `scaleevent finetune` trains one"
        raise TaskError(msg)
    if data.task not in header.heads:
        msg = f"{path} has a head for {', '.join(header.heads)}, the data are for {data.task}"
        raise TaskError(msg)
    classes = _classes(data)
    if classes is not None and tuple(header.classes) != classes.names:
        msg = (
            f"{path} has the classes {', '.join(header.classes) or '(unnamed)'}, but the class "
            f"list {data.classes} has {', '.join(classes.names)}"
        )
        raise TaskError(msg)
    return Kind(
        data.task,
        header.architecture,
        header.heads[data.task],
        list(classes.names) if classes else [],
        plain(events_of(path, header)),
    )


def _classes(data: LabelledData) -> ClassList | None:
    return read_classes(data.classes) if data.task == "segmentation" else None


def _load(path: Path, data: LabelledData, fabric: Fabric) -> Objective:
    """Build the objective of the checkpoint's student and head, or teacher and head for frames."""
    task = data.task
    student, head = load_student(path), load_heads(path)[task]
    on_teacher = student.header.space_of(task) == "teacher"
    if data.source == "events":
        return OBJECTIVES[task](Downstream(student, head, frozen=True, on_teacher=on_teacher))
    if not on_teacher:
        msg = f"{path}: its head takes the student's features: it needs data.source events"
        raise TaskError(msg)
    teacher = load_teacher(student.header).to(fabric.device)
    return OBJECTIVES[task](PictureDownstream(student, head, teacher))


def _scores(
    objective: Objective, sums: Mapping[str, Tensor], classes: Sequence[str]
) -> dict[str, float]:
    """Compute the scores as in a run's validation, and the IoU of each class at events."""
    scores = objective.summarize(sums)
    if classes:
        at_events = segmentation_scores(sums["events"], classes)
        scores |= {f"{AT_EVENTS}{name}": value for name, value in at_events.items()}
    return scores


class _ForwardHook:
    """Hook that stores a model's latest output and its timing."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.output = torch.empty(0)
        self._device = device
        self._start = 0.0
        self._ms: list[float] = []
        model.register_forward_pre_hook(self._before)
        model.register_forward_hook(self._after)

    def ms_per_window(self) -> float:
        """Return the median time per window in ms, without the first batch if there are others."""
        return statistics.median(self._ms[1:] or self._ms)

    def _before(self, *_: Any) -> None:
        self._wait()
        self._start = time.perf_counter()

    def _after(self, _model: nn.Module, _inputs: Any, output: Tensor) -> None:
        self._wait()
        self._ms.append((time.perf_counter() - self._start) * 1000 / len(output))
        self.output = output

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _example(
    events: EventOptions,
    classes: ClassList | None,
    batch: LabelledSample,
    known: Tensor,
    output: Tensor,
    place: int,
) -> Example:
    tensor, predicted = batch.events[place], output[place].float()
    return Example(
        events,
        (tensor[-1] if tensor.ndim == 4 else tensor).cpu().numpy(),  # the last window
        (predicted if classes is None else predicted.argmax(dim=0)).cpu().numpy(),
        batch.truth[place].cpu().numpy(),
        known[place].cpu().numpy(),
        classes,
    )


def _spread_evenly(wanted: int, count: int) -> set[int]:
    """Choose evenly spaced indices below ``count``, with the first and the last."""
    steps = max(min(wanted, count) - 1, 1)
    return {place * (count - 1) // steps for place in range(min(wanted, count))}


def _on_device(
    loader: DataLoader[LabelledSample], fabric: Fabric, path: Path
) -> Iterable[LabelledSample]:
    """Iterate over batches on the device, with a progress bar on a terminal."""
    batches = fabric.setup_dataloaders(loader, use_distributed_sampler=False)
    return cast(
        "Iterable[LabelledSample]",
        track(
            batches,
            f"evaluating {path}",
            len(loader),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        ),
    )


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
