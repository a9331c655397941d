"""Comparison of losses: pretraining with each, then a linear probe for segmentation.

    PYTHONPATH=. python benchmarks/representation.py --pictures CAMVID --output runs/representation

CAMVID holds ``train`` and ``val``, each with ``images`` and ``labels`` of the same names (uint8
class ids as in config/labels/camvid11.yaml). The simulator films every picture; a teacher whose
ImageNet weights come from a Python package sees the frames, students of the same network see the
events. Each row of the table is a loss, or none: the student as it was before. All rows have the
same films, seeds and steps, but that students from random weights learn longer. Then the features
are judged twice, on pictures of ``val``: by a linear head on the frozen student, and by training
student and head together.

A row and seed that is done is kept in the output folder and not computed again, and one that was
interrupted goes on where it was. ``--only`` chooses rows, ``--scale large`` is for a GPU.

Needs torch, timm, lightning and OpenCV; no ROS, no rosbags, no jsonargparse.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scaleevent_ros.data.dataset import PairLoaders, Sample, collate
from scaleevent_ros.data.sampler import PADDING, Draw, Schedule
from scaleevent_ros.distill.configuration import (
    EventOptions,
    LossOptions,
    OptimizerOptions,
    ParameterGroup,
    StudentOptions,
    TrainerOptions,
)
from scaleevent_ros.distill.distillation import Distillation
from scaleevent_ros.distill.journal import METRICS_NAME
from scaleevent_ros.distill.losses import build_loss
from scaleevent_ros.distill.parallel import start_fabric
from scaleevent_ros.distill.trainer import Trainer
from scaleevent_ros.events import activity_mask
from scaleevent_ros.events.windows import WindowOptions
from scaleevent_ros.models import build_student, build_teacher
from scaleevent_ros.sources.pictures import read_photograph
from scaleevent_ros.sources.stills import StillOptions, simulate_still
from scaleevent_ros.tasks.classes import read_classes
from scaleevent_ros.tasks.finetune import Finetuning, HeadOptions, build_downstream
from scaleevent_ros.tasks.labelled import LabelledSample, stack
from scaleevent_ros.tasks.labelled_data import LabelledData
from scaleevent_ros.tasks.labelled_stills import find_labelled
from scaleevent_ros.tasks.objectives import Segmentation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from scaleevent_ros.models import Teacher
    from scaleevent_ros.tasks.classes import ClassList

WINDOW = WindowOptions(mode="fixed", length_ms=50)
EVENTS = EventOptions(representation="voxel", bins=5, normalization="percentile", window=WINDOW)
MOTION = 2.0  # strength of the camera's


@dataclass(frozen=True)
class Training:
    """Length and learning rate of a training."""

    steps: int
    batch: int
    rate: float
    multiplier: float = 1.0  # of the rate, for the student under a head


@dataclass(frozen=True)
class Scale:
    """Amount of computation."""

    width: int
    height: int
    views: int  # frames of each picture to learn from
    pretraining: dict[str, Training]  # of students from these weights
    probe: Training
    finetuning: dict[str, Training]


SCALES = {
    "tiny": Scale(  # to try the script
        48, 32, 1,
        {"teacher": Training(2, 2, 3e-3), "random": Training(2, 2, 3e-3)},
        Training(2, 2, 1e-2),
        {"teacher": Training(2, 2, 5e-3, 0.3), "random": Training(2, 2, 5e-3)},
    ),
    "small": Scale(
        176, 128, 4,
        {"teacher": Training(120, 16, 3e-3), "random": Training(900, 8, 3e-3)},
        Training(80, 16, 1e-2),
        {"teacher": Training(50, 16, 5e-3, 0.3), "random": Training(50, 16, 5e-3)},
    ),
    "large": Scale(
        480, 352, 8,
        {"teacher": Training(1000, 32, 3e-3), "random": Training(4000, 16, 3e-3)},
        Training(500, 32, 1e-2),
        {"teacher": Training(400, 32, 5e-3, 0.3), "random": Training(400, 32, 5e-3)},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    name: str
    init: str
    loss: str | None
    dilation: int = LossOptions().dilation


LOSSES = (
    "patch",
    "patch_mask",
    "superpixel",
    "structure_intra",
    "structure",
    "structure_released",
    "structure_active",
)
ROWS = (
    Row("random", "random", None),
    Row("random + structure_active", "random", "structure_active"),
    Row("teacher", "teacher", None),
    *(Row(f"teacher + {loss}", "teacher", loss) for loss in LOSSES),
    Row("teacher + structure_active, dilation 0", "teacher", "structure_active", dilation=0),
)


# ---- films -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Films:
    """Windows of events with what the frame at their end showed; N of them.

    Attributes:
        events: Event tensors, float16 [N, bins, H, W].
        frames: uint8 [N, H, W, 3].
        labels: Class ids, uint8 [N, H, W].
        active: bool [N, h, w].
        taught: The teacher's features, float16 [N, D, h, w].
    """

    events: NDArray[np.float16]
    frames: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    active: NDArray[np.bool_]
    taught: NDArray[np.float16]


def film(
    paths: tuple[Path, Path, int], classes: ClassList, scale: Scale, views: int, stride: int
) -> tuple[NDArray[Any], ...]:
    """Film one picture: event tensors, frames, labels, active tokens."""
    picture, labels, seed = paths
    # Frames are so far apart that their windows do not overlap.
    options = StillOptions(
        frames=views,
        frame_rate=5,
        margin=WINDOW.length_ms / 1000,
        strength=MOTION,
        size=(scale.width, scale.height),
    )
    truth = classes.to_truth(read_photograph(labels))
    clip = simulate_still(read_photograph(picture), truth, options=options, seed=seed)
    tensors, active = [], []
    for t_end in clip.stamps.tolist():
        t_start = t_end - WINDOW.length_ns
        window = clip.events.between(t_start, t_end)
        tensors.append(EVENTS.input.normalize(EVENTS.input.build(clip.events, t_start, t_end)))
        active.append(activity_mask(window, stride, EVENTS.activity_threshold))
    assert clip.labels is not None
    return np.stack(tensors).astype(np.float16), clip.frames, clip.labels, np.stack(active)


def make_films(
    folder: Path, classes: ClassList, scale: Scale, views: int, teacher: Teacher, first_seed: int
) -> Films:
    """Film all pictures of a folder, and let the teacher see the frames."""
    found = find_labelled(folder / "images", folder / "labels")
    jobs = [(*one, first_seed + i) for i, one in enumerate(found)]
    stride = teacher.backbone.stride
    one = partial(film, classes=classes, scale=scale, views=views, stride=stride)
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        made = list(pool.map(one, jobs, chunksize=8))
    events, frames, labels, active = (np.concatenate(each) for each in zip(*made, strict=True))
    size = (scale.height, scale.width)
    grid = (scale.height // stride, scale.width // stride)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher.to(device)
    taught = [
        teacher(torch.from_numpy(part).permute(0, 3, 1, 2).to(device), grid, size).half().cpu()
        for part in np.array_split(frames, math.ceil(len(frames) / 32))
    ]
    return Films(events, frames, labels, active, torch.cat(taught).numpy())


def write_films(path: Path, films: Films) -> None:
    """Write films, whole or not at all."""
    temporary = path.with_suffix(".part.npz")
    np.savez(temporary, **vars(films))
    temporary.replace(path)


@cache
def read_films(path: Path) -> Films:
    """Read, once in a process, what `write_films` wrote."""
    with np.load(path, allow_pickle=False) as found:
        return Films(**{key: found[key] for key in found.files})


def flipped(draw: Draw, seed: int) -> bool:
    """Return whether a draw is flipped."""
    return bool(np.random.default_rng((seed, draw.epoch, draw.position + 1)).random() < 0.5)


class Pairs:
    """Films as samples of pretraining, whose frame the teacher has seen already."""

    def __init__(self, films: Films, chosen: Sequence[int], seed: int | None) -> None:
        self._films, self._chosen, self._seed = films, list(chosen), seed

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, draw: Draw) -> Sample:
        films, index = self._films, self._chosen[draw.pair]
        events = torch.from_numpy(films.events[index]).float()
        taught = torch.from_numpy(films.taught[index]).float()
        active = torch.from_numpy(films.active[index])
        if self._seed is not None and flipped(draw, self._seed):
            events, taught, active = (each.flip(-1) for each in (events, taught, active))
        covered = torch.full_like(active, fill_value=draw.position != PADDING)
        features, move = torch.empty(0), torch.zeros(3, dtype=torch.int64)
        return Sample(events, taught, active, covered, features, move)


class Labelled:
    """Films as labelled samples; without a seed always the same, to judge by."""

    def __init__(self, films: Films, seed: int | None) -> None:
        self._films, self._seed = films, seed

    def __len__(self) -> int:
        return len(self._films.events)

    def __getitem__(self, draw: Draw) -> LabelledSample:
        events = torch.from_numpy(self._films.events[draw.pair]).float()
        truth = torch.from_numpy(self._films.labels[draw.pair].astype(np.int64))
        if self._seed is not None and flipped(draw, self._seed):
            events, truth = events.flip(-1), truth.flip(-1)
        if draw.position == PADDING:
            truth = torch.full_like(truth, 255)
        return LabelledSample(events, truth, (events != 0).any(dim=0))


# ---- rows --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """Common parts of all rows."""

    scale: Scale
    teacher: str
    stride: int
    classes: str
    output: Path
    threads: int
    workers: int


def trainer_options(folder: Path, training: Training, seed: int) -> TrainerOptions:
    """One epoch of a number of steps, validated at its end."""
    return TrainerOptions(
        output=str(folder),
        resume=True,
        seed=seed,
        epochs=1,
        pairs_per_epoch=training.steps * training.batch,
        batch_size=training.batch,
        save_every=max(20, training.steps // 4),
        keep=1,
        validate_every=training.steps,
        log_every=max(1, training.steps // 5),
        pictures=0,
        loggers=[],
    )


def loaders(
    train: Any, held_out: Any, options: TrainerOptions, workers: int, stack_samples: Any
) -> PairLoaders:
    """Load samples from memory, in the order that the seed gives."""
    schedule = Schedule(
        (len(train),), (1.0,), options.batch_size, options.seed, options.pairs_per_epoch
    )
    return PairLoaders(train, held_out, schedule, workers, prefetch=4, stack=stack_samples)


def optimizer_options(
    training: Training, decay: float, groups: list[ParameterGroup]
) -> OptimizerOptions:
    """AdamW, warm-up, cosine."""
    return OptimizerOptions(
        learning_rate=training.rate,
        weight_decay=decay,
        groups=groups,
        warmup_steps=training.steps // 6,
        clip=1.0,
    )


def seen_already(frames: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Teacher whose features are given in place of frames."""
    del grid, size
    return frames


def last_validation(folder: Path) -> dict[str, float]:
    """Read the metrics of a run's last validation."""
    entries = [json.loads(line) for line in (folder / METRICS_NAME).read_text().splitlines()]
    return dict([entry for entry in entries if entry["kind"] == "validation"][-1])


def pretrain(row: Row, seed: int, setting: Setting, train: Films, held_out: Films) -> Path:
    """Train the student of a row; return the folder of its run."""
    assert row.loss is not None
    scale = setting.scale
    training = scale.pretraining[row.init]
    folder = setting.output / "runs" / f"{row.name}, seed {seed}" / "pretraining"
    options = trainer_options(folder, training, seed)
    torch.manual_seed(seed)
    teacher = build_teacher(setting.teacher, stride=setting.stride)
    name = setting.teacher.partition(".")[0]
    student = build_student(
        name, EVENTS.channels, row.init, teacher=teacher, stride=teacher.backbone.stride
    )
    student.header = EVENTS.describe(student.header)
    objective = Distillation(
        student, teacher, build_loss(row.loss), dilation=row.dilation, features=seen_already
    )
    pairs = Pairs(train, range(len(train.events)), seed)
    judged = Pairs(held_out, range(len(held_out.events)), None)
    fabric = start_fabric(options)
    Trainer(
        objective,
        loaders(pairs, judged, options, setting.workers, collate),
        optimizer_options(training, 1e-2, []),
        options,
        {"row": asdict(row), "scale": asdict(scale)},
        fabric,
    ).run()
    return folder


def segment(
    row: Row, seed: int, setting: Setting, init: str, training: Training, train: Films, val: Films
) -> dict[str, float]:
    """Train a linear head on a student, frozen if its rate is 0; return the metrics on ``val``."""
    scale, frozen = setting.scale, training.multiplier == 0
    what = "probe" if frozen else "finetuning"
    folder = setting.output / "runs" / f"{row.name}, seed {seed}" / what
    options = trainer_options(folder, training, seed)
    from_image = init == "teacher"
    configuration = Finetuning(
        data=LabelledData(
            pictures="films", labels="films", validation_pictures="films",
            validation_labels="films", classes=setting.classes,
            width=scale.width, height=scale.height,
        ),
        events=EVENTS,
        student=StudentOptions(
            name=setting.teacher if from_image else setting.teacher.partition(".")[0],
            init=init,
            stride=setting.stride,
        ),
        head=HeadOptions(kind="segmentation_linear", frozen=frozen),
        optimizer=optimizer_options(
            training, 1e-4, [ParameterGroup("^student", training.multiplier)]
        ),
        trainer=options,
    )  # fmt: skip
    model = build_downstream(configuration, read_classes(setting.classes))
    Trainer(
        Segmentation(model),
        loaders(Labelled(train, seed), Labelled(val, None), options, setting.workers, stack),
        configuration.optimizer,
        options,
        {"row": asdict(row), "scale": asdict(scale), "training": asdict(training)},
        start_fabric(options),
    ).run()
    return last_validation(folder)


def compute(row: Row, seed: int, setting: Setting) -> dict[str, Any]:
    """Compute a row for a seed, or read what an earlier run made of it."""
    done = setting.output / f"{row.name}, seed {seed}.json"
    if done.is_file():
        return dict(json.loads(done.read_text()))
    torch.set_num_threads(setting.threads)
    scale = setting.scale
    films = {name: read_films(setting.output / f"{name}.npz") for name in ("train", "val")}
    start = time.perf_counter()
    init, cosine = row.init, math.nan
    if row.loss is not None:
        folder = pretrain(row, seed, setting, films["train"], films["val"])
        init = str(folder / "last.safetensors")
        cosine = last_validation(folder)["cosine_active"]
    pretrained = time.perf_counter()
    trainings = {
        "probe": replace(scale.probe, multiplier=0.0),
        "finetuning": scale.finetuning[row.init],
    }
    scores = {
        name: segment(row, seed, setting, init, training, films["train"], films["val"])
        for name, training in trainings.items()
    }
    result = {
        "row": row.name,
        "seed": seed,
        "cosine": cosine,
        "seconds_pretraining": round(pretrained - start, 1),
        "seconds": round(time.perf_counter() - start, 1),
        **{f"{name}_{key}": value for name, all_ in scores.items() for key, value in all_.items()},
    }
    part = done.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1))
    part.replace(done)
    return result


# ---- table -------------------------------------------------------------------------------------


def spread(values: Sequence[float]) -> str:
    """Format a mean and the standard deviation over seeds."""
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return f"{statistics.fmean(values):.2f} ± {deviation:.2f}"


def table(results: Sequence[dict[str, Any]]) -> str:
    """Format the rows in Markdown; mIoU in points."""
    lines = [
        "| row | seeds | cosine to teacher | linear probe, mIoU | fine-tuning, mIoU | median s |",
        "|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        own = [result for result in results if result["row"] == row.name]
        if not own:
            continue
        probe, finetuning = (
            spread([100 * result[f"{name}_miou"] for result in own])
            for name in ("probe", "finetuning")
        )
        cosine = "" if row.loss is None else f"{statistics.fmean(r['cosine'] for r in own):.3f}"
        seconds = statistics.median(result["seconds"] for result in own)
        lines.append(
            f"| {row.name} | {len(own)} | {cosine} | {probe} | {finetuning} | {seconds:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Compute what is missing, print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--pictures", type=Path, required=True, help="folder of train and val")
    parser.add_argument("--output", type=Path, default=Path("runs/representation"))
    parser.add_argument("--scale", choices=SCALES, default="small")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[row.name for row in ROWS], metavar="ROW")
    parser.add_argument("--teacher", default="tf_efficientnet_lite0.package")
    parser.add_argument("--stride", type=int, default=16)
    parser.add_argument("--classes", default="camvid11")
    parser.add_argument(
        "--jobs",
        type=int,
        default=1 if torch.cuda.is_available() else len(os.sched_getaffinity(0)),
        help="rows at the same time, each on its share of the cores",
    )
    options = parser.parse_args()
    unknown = set(options.only) - {row.name for row in ROWS}
    if unknown:
        parser.error(f"no row {sorted(unknown)}; there are {[row.name for row in ROWS]}")
    options.output.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    setting = Setting(
        SCALES[options.scale],
        options.teacher,
        options.stride,
        options.classes,
        options.output,
        threads=max(1, len(os.sched_getaffinity(0)) // options.jobs),
        workers=4 if torch.cuda.is_available() else 0,
    )
    teacher = build_teacher(options.teacher, stride=options.stride)
    classes = read_classes(options.classes)
    for name, views, seed in (("train", setting.scale.views, 1000), ("val", 1, 5000)):
        path = options.output / f"{name}.npz"
        if not path.is_file():
            folder = options.pictures / name
            write_films(path, make_films(folder, classes, setting.scale, views, teacher, seed))
    wanted = [
        (row, seed) for seed in range(options.seeds) for row in ROWS if row.name in options.only
    ]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=spawn) as pool:
        futures = [pool.submit(compute, row, seed, setting) for row, seed in wanted]
        try:
            results = [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    print(table(results))
    print(f"{time.perf_counter() - start:.0f} s in this run")


if __name__ == "__main__":
    main()
