"""Comparison of students by input and loss, and with the shipped students.

    PYTHONPATH=. python benchmarks/representation.py --pictures CAMVID --output runs/representation

CAMVID has folders ``train`` and ``val``, each with ``images`` and ``labels`` of the same names
(uint8 class ids as in config/labels/camvid11.yaml). The simulator films every picture; the camera
pauses in three quarters of the clips. The teacher's features are those of the frames without colour
and exposure (`teacher.normalize_frames`). Each row of the table is a student: one that is distilled
here, with its own input or loss; one with ImageNet weights only; or a checkpoint (``--students``).
All rows have the same films, seeds and steps. They are evaluated on ``val``:

- cosine: cosine similarity to the teacher's features on active and on all tokens, with the
  teacher's mean removed from both;
- probe: mIoU of a linear head on the frozen student's features, over all windows, those in motion,
  and those up to and beyond 0.5 s after the last motion;
- zero-label: the same for a head that was trained only on the teacher's features of frames;
- fine-tuning (``--finetune``): mIoU after training student and head together.

``--students`` takes exported files (``.onnx``) too, to compare the probe of a student in 8 bits
with that of its checkpoint. They get no cosine and no zero-label.

Films (about 4 MB per window) and results of rows are stored in the output folder and not computed
again. ``--only`` selects rows, ``--scale tiny`` tests the script.

It needs no ROS. The teacher's weights are in a Python package. A GPU is used if there is one.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from scaleevent_ros.distill.configuration import EventOptions
from scaleevent_ros.distill.distillation import dilate_mask
from scaleevent_ros.distill.losses import build_loss
from scaleevent_ros.events import (
    EventBatch,
    activity_mask,
    leaky_integrals,
    normalize_tensor,
    voxel_grid,
)
from scaleevent_ros.events.leaky import LEAKY_DECAYS
from scaleevent_ros.events.normalization import LEAKY_FLOOR, normalize_leaky_into
from scaleevent_ros.models import Student, build_student, build_teacher, load_student
from scaleevent_ros.models.feature_statistics import FeatureStatistics, StatisticsCounter
from scaleevent_ros.runtime.onnx_backend import OnnxBackend
from scaleevent_ros.sources.pictures import read_photograph
from scaleevent_ros.sources.stills import StillOptions, simulate_still
from scaleevent_ros.tasks.classes import read_classes
from scaleevent_ros.tasks.labelled_pictures import find_labelled

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from scaleevent_ros.tasks.classes import ClassList

BINS, WINDOW_NS = 5, 50_000_000
DECAYS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
SPAN_NS = 25_000_000
"""Length of the time spans that are classified as motion or stillness."""

ACTIVITY = EventOptions().activity_threshold  # events in 16x16 pixels
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
GROUPS = ("all", "moving", "stopped < 0.5 s", "stopped longer")
CLASSES = 11


@dataclass(frozen=True)
class Row:
    """A student.

    Attributes:
        name: Name in the table and of the file of its results.
        decays: Decays of the leaky integrals in s, some of `DECAYS`.
        split: Integrate the two polarities in separate channels.
        normalization: Normalization of the integrals. ``each``: as `normalize_leaky_into`;
            ``together``: one scale for all channels; ``unlimited``: ``each`` without limit and
            floor; ``root``: the signed square root of ``each``.
        loss: Distillation loss; None for ImageNet weights only.
        weights: Weights of the loss's terms; the loss's defaults if empty.
        everywhere: Use all tokens in a masked loss.
        standardized: Use the teacher's features standardized by channel as the target.
        checkpoint: Path of a student or an exported file that is evaluated instead of training one;
            empty for none.
    """

    name: str
    decays: tuple[float, ...] = LEAKY_DECAYS
    split: bool = False
    normalization: str = "each"
    loss: str | None = "patch"
    weights: tuple[tuple[str, float], ...] = ()
    everywhere: bool = False
    standardized: bool = True
    checkpoint: str = ""


LIGHT = (("feature", 1.0), ("intra", 1.0), ("cross", 0.4))  # a tenth of the paper's structure
ROWS = (
    Row("no distillation", loss=None),
    Row("patch"),
    Row("patch, not standardized", standardized=False),
    Row("patch_mask", loss="patch_mask"),
    Row("superpixel", loss="superpixel"),
    Row("structure_intra", loss="structure_intra"),
    Row("structure", loss="structure"),
    Row("structure_released", loss="structure_released"),
    Row("structure_active", loss="structure_active"),
    Row("structure_active, all tokens", loss="structure_active", everywhere=True),
    Row("structure_active, all tokens, 1 / 1 / 0.4", loss="structure_active", weights=LIGHT,
        everywhere=True),
    Row("input: voxel alone", ()),
    *(Row(f"input: leaky {' '.join(f'{one:g}' for one in decays)}", decays) for decays in
      ((0.1,), (0.5,), (2.0,), (0.1, 2.0), (0.5, 2.0), (0.25, 1.0, 4.0), (0.1, 0.5, 2.0, 4.0))),
    Row("input: leaky by polarity", split=True),
    *(Row(f"input: leaky, {how}", normalization=how) for how in ("together", "unlimited", "root")),
)  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """Amount of computation.

    Attributes:
        size: Width and height of the event sensor.
        stride: Stride of the students' features.
        neck: Channels of the students' feature pyramid.
        frames: Resolution of frames relative to the event sensor.
        pictures: Largest number of pictures of each part.
        steps: Number of distillation steps.
        batch: Number of windows in a step.
        head_steps: Number of steps of training a head, and of fine-tuning.
    """

    size: tuple[int, int] = (320, 240)
    stride: int = 8
    neck: int = 192
    frames: int = 2
    pictures: int = 1000
    steps: int = 300
    batch: int = 8
    head_steps: int = 400


SCALES = {
    "tiny": Scale((64, 48), 8, 16, 2, 3, 2, 2, 4),
    "coarse": Scale((160, 120)),
    "small": Scale(),
    "large": Scale((640, 480), 8, 192, 2, 1000, 3000, 16, 1000),
}


# ---- films -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Films:
    """N windows of events, with labels and teacher features of the frame at their end.

    Attributes:
        voxel: Voxel grids, not normalized, float16 [N, bins, H, W].
        leaky: Integrals of darker and of brighter events, not normalized, float16
            [N, 2, decays, H, W].
        labels: Class ids, uint8 [N, H, W].
        active: Active tokens, bool [N, h, w].
        teacher: Teacher features, float16 [N, D, h, w].
        still_s: Time since the last motion at the window's end, float32 [N].
    """

    voxel: NDArray[np.float16]
    leaky: NDArray[np.float16]
    labels: NDArray[np.uint8]
    active: NDArray[np.bool_]
    teacher: NDArray[np.float16]
    still_s: NDArray[np.float32]


def film(
    paths: tuple[Path, Path, int], classes: ClassList, scale: Scale
) -> tuple[NDArray[Any], ...]:
    """Film one picture, given its path, that of its labels, and a seed.

    Returns:
        For each window: voxel grid, leaky integrals, labels, active tokens, frame, and time since
        the last motion; see `Films`.
    """
    picture, labels, seed = paths
    options = StillOptions(
        frames=3,
        frame_rate=1.25,
        margin=WINDOW_NS * 1e-9,
        lead=0.4,
        strength=1.5,
        pause_share=0.75,
        size=scale.size,
        frame_scale=scale.frames,
    )
    truth = classes.to_truth(read_photograph(labels))
    clip = simulate_still(read_photograph(picture), truth, options=options, seed=seed)
    by_polarity = [one_polarity(clip.events, polarity) for polarity in (0, 1)]
    threshold = max(1, round(ACTIVITY * (scale.stride / 16) ** 2))
    voxels, integrals, active, still = [], [], [], []
    for t_end in clip.stamps.tolist():
        window = clip.events.between(t_end - WINDOW_NS, t_end)
        voxels.append(voxel_grid(window, t_end - WINDOW_NS, t_end, BINS))
        active.append(activity_mask(window, scale.stride, threshold))
        integrals.append(
            [
                np.abs(leaky_integrals(events, t_end, part))
                for events in by_polarity
                for part in (DECAYS[:3], DECAYS[3:])
            ]
        )
        still.append(still_seconds(clip.events, t_end))
    width, height = scale.size
    shape = (len(still), 2, len(DECAYS), height, width)
    assert clip.labels is not None
    return (
        np.stack(voxels).astype(np.float16),
        np.array(integrals).reshape(shape).astype(np.float16),
        clip.labels,
        np.stack(active),
        clip.frames,
        np.array(still, np.float32),
    )


def one_polarity(events: EventBatch, polarity: int) -> EventBatch:
    """Return the events of one polarity."""
    kept = events.p == polarity
    x, y, t, p = (part[kept] for part in (events.x, events.y, events.t, events.p))
    return EventBatch(x, y, t, p, events.width, events.height)


def still_seconds(events: EventBatch, t_end: int) -> float:
    """Return the time in s from the last motion to ``t_end``, for events whose time starts at 0."""
    starts = np.arange(0, t_end - SPAN_NS, SPAN_NS)
    counts = np.diff(np.searchsorted(events.t, np.append(starts, starts[-1] + SPAN_NS)))
    moving = np.flatnonzero(counts > 0.1 * np.percentile(counts, 90))
    last = starts[moving[-1]] + SPAN_NS if len(moving) else 0
    return max(t_end - last - SPAN_NS, 0) * 1e-9


def make_films(folder: Path, out: Path, scale: Scale, teacher_name: str, first_seed: int) -> None:
    """Film the pictures of a folder, compute the teacher's features, and write them to a file."""
    classes = read_classes("camvid11")
    found = find_labelled(folder / "images", folder / "labels")[: scale.pictures]
    jobs = [(*one, first_seed + i) for i, one in enumerate(found)]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        made = list(pool.map(partial(film, classes=classes, scale=scale), jobs, chunksize=4))
    voxel, leaky, labels, active, frames, still = (
        np.concatenate(each) for each in zip(*made, strict=True)
    )
    teacher = build_teacher(teacher_name, scale=scale.frames, normalize_frames=True).to(DEVICE)
    size = scale.size[::-1]
    grid = (size[0] // scale.stride, size[1] // scale.stride)
    features = [
        teacher(torch.from_numpy(part).permute(0, 3, 1, 2).to(DEVICE), grid, size).half().cpu()
        for part in np.array_split(frames, -(-len(frames) // 4))
    ]
    temporary = out.with_suffix(".part.npz")
    np.savez(temporary, voxel=voxel, leaky=leaky, labels=labels, active=active,
             teacher=torch.cat(features).numpy(), still_s=still)  # fmt: skip
    temporary.replace(out)


def read_films(path: Path) -> Films:
    """Read a file of `make_films`."""
    with np.load(path, allow_pickle=False) as found:
        return Films(**{key: found[key] for key in found.files})


def build_input(films: Films, index: int, row: Row) -> Tensor:
    """Build a row's normalized event tensor of a window, float32 [channels, H, W]."""
    voxel = normalize_tensor(films.voxel[index].astype(np.float32), "percentile")
    chosen = [DECAYS.index(decay) for decay in row.decays]
    off, on = films.leaky[index].astype(np.float32)
    leaky = np.concatenate([off[chosen], on[chosen]]) if row.split else (on - off)[chosen]
    return torch.from_numpy(np.concatenate([voxel, normalize_leaky(leaky, row.normalization)]))


def normalize_leaky(leaky: NDArray[np.float32], how: str) -> NDArray[np.float32]:
    """Normalize leaky integrals; see `Row.normalization`."""
    result = np.empty_like(leaky)
    if how == "together":
        active = np.abs(leaky)[np.abs(leaky) > LEAKY_FLOOR]
        result[...] = leaky / np.float32(np.percentile(active, 99) if len(active) else 1)
        return result
    if how == "unlimited":
        return np.stack([normalize_tensor(plane[None], "percentile")[0] for plane in leaky])
    normalize_leaky_into(leaky, result)
    if how == "root":
        result = np.copysign(np.sqrt(np.abs(result)), result)
    return result


class ExportedStudent(nn.Module):
    """An exported student on the CPU, as a module for windows that are normalized already.

    Attributes:
        width: Channels D of the features.
    """

    def __init__(self, path: str, size: tuple[int, int]) -> None:
        super().__init__()
        backend = OnnxBackend(Path(path), size)
        self.width = backend.info.width
        self._backend = backend

    def forward(self, events: Tensor) -> Tensor:
        """Compute the features [B, D, h, w] of windows [B, C, H, W]."""
        one = np.ones(1 + len(self._backend.info.header.leaky), np.float32)
        found = [
            self._backend.session.run(["features"], {"events": each, "scale": one})[0]
            for each in events.cpu().numpy()
        ]
        return torch.from_numpy(np.stack(found))


# ---- learning ----------------------------------------------------------------------------------


class Material(NamedTuple):
    """Data that all rows share."""

    train: Films
    val: Films
    statistics: FeatureStatistics
    teacher_head: nn.Module
    scale: Scale


def batches(count: int, steps: int, size: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Draw the windows of each step, in random order, each once before any is repeated."""
    rng = np.random.default_rng(seed)
    order = np.concatenate(
        [rng.permutation(count) for _ in range(-(-steps * size // count))]
    )[: steps * size]  # fmt: skip
    yield from order.reshape(steps, size)


def descend(value: Tensor, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Run one optimizer step for a loss, with gradient clipping."""
    optimizer.zero_grad()
    torch.autograd.backward(value)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def schedule(optimizer: torch.optim.Optimizer, rates: list[float], steps: int) -> Any:
    """Return a learning rate schedule: warm-up over a sixth of the steps, then cosine to zero."""
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rates, total_steps=steps + 1, pct_start=1 / 6
    )


def make_student(row: Row, material: Material, seed: int) -> Student | ExportedStudent:
    """Train the student of a row, or load it."""
    if row.checkpoint.endswith(".onnx"):
        return ExportedStudent(row.checkpoint, material.scale.size[::-1])
    if row.checkpoint:
        return load_student(row.checkpoint).eval().to(DEVICE)
    torch.manual_seed(seed)
    films, scale, statistics = material.train, material.scale, material.statistics
    channels = BINS + len(row.decays) * (2 if row.split else 1)
    student = build_student(
        "tf_efficientnet_lite0.package", channels, stride=scale.stride, neck=scale.neck
    )
    width = films.teacher.shape[1]
    student.projection = nn.Conv2d(student.width, width, 1)
    student.header = replace(
        student.header,
        teacher="vit_small_patch14_dinov2.package",
        teacher_options={"scale": scale.frames, "normalize_frames": True},
        projection=width,
        standardized=row.standardized,
        teacher_mean=statistics.mean.tolist(),
        teacher_std=statistics.std.tolist(),
    )
    student.to(DEVICE)
    if row.loss is None:
        return student.eval()
    student.train()
    loss = build_loss(row.loss, **dict(row.weights))
    optimizer = torch.optim.AdamW(student.parameters(), 3e-3, weight_decay=1e-2)
    rates = schedule(optimizer, [3e-3], scale.steps)
    rng = np.random.default_rng(seed)
    for chosen in batches(len(films.voxel), scale.steps, scale.batch, seed):
        events = torch.stack([build_input(films, i, row) for i in chosen])
        wanted = torch.from_numpy(films.teacher[chosen]).float()
        mask = dilate_mask(torch.from_numpy(films.active[chosen]), 1)
        if row.standardized:
            wanted = statistics.standardize(wanted)
        if rng.random() < 0.5:
            events, wanted, mask = events.flip(-1), wanted.flip(-1), mask.flip(-1)
        if row.everywhere:
            mask = torch.ones_like(mask)
        predicted = student(events.to(DEVICE), project=True).flatten(2).mT
        value = loss(predicted, wanted.to(DEVICE).flatten(2).mT, mask.flatten(1)).total
        descend(value, student, optimizer)
        rates.step()
    return student.eval()


def enlarge(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    """Interpolate logits to a height and width in pixels."""
    return functional.interpolate(logits, size, mode="bilinear", align_corners=False)


def segmentation_loss(logits: Tensor, labels: NDArray[np.uint8]) -> Tensor:
    """Compute the cross-entropy of logits [B, C, h, w] and class ids [B, H, W]."""
    truth = torch.from_numpy(labels.astype(np.int64)).to(logits.device)
    return functional.cross_entropy(enlarge(logits, labels.shape[1:]), truth, ignore_index=255)


def new_head(width: int) -> nn.Module:
    """Build a linear head."""
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm2d(width), nn.Conv2d(width, CLASSES, 1)).to(DEVICE)


def fit_head(features: Tensor, labels: NDArray[np.uint8], scale: Scale) -> nn.Module:
    """Train a linear head on fixed features [N, D, h, w]."""
    head = new_head(features.shape[1])
    optimizer = torch.optim.AdamW(head.parameters(), 1e-2)
    rates = schedule(optimizer, [1e-2], scale.head_steps)
    for chosen in batches(len(features), scale.head_steps, scale.batch, 0):
        logits = head(features[chosen].float().to(DEVICE))
        descend(segmentation_loss(logits, labels[chosen]), head, optimizer)
        rates.step()
    return head.eval()


def finetune(student: Student, row: Row, material: Material, seed: int) -> nn.Module:
    """Train a student together with a linear head, which has the probe's initial weights."""
    films, scale = material.train, material.scale
    model = nn.Sequential(student, new_head(student.width)).train()
    rates = [1e-3, 1e-2]
    groups = [{"params": list(part.parameters())} for part in model]
    optimizer = torch.optim.AdamW(groups, weight_decay=1e-4)
    plan = schedule(optimizer, rates, scale.head_steps)
    rng = np.random.default_rng(seed)
    for chosen in batches(len(films.voxel), scale.head_steps, scale.batch, seed):
        events = torch.stack([build_input(films, i, row) for i in chosen])
        labels = films.labels[chosen]
        if rng.random() < 0.5:
            events, labels = events.flip(-1), np.ascontiguousarray(labels[..., ::-1])
        descend(segmentation_loss(model(events.to(DEVICE)), labels), model, optimizer)
        plan.step()
    return model.eval()


# ---- evaluation --------------------------------------------------------------------------------


@torch.inference_mode()
def features_of(model: nn.Module, films: Films, row: Row) -> Tensor:
    """Compute a model's output for all windows, float16 [N, D, h, w]."""
    return torch.cat(
        [
            model(build_input(films, i, row)[None].to(DEVICE)).half().cpu()
            for i in range(len(films.voxel))
        ]
    )


@torch.inference_mode()
def miou(head: nn.Module, features: Tensor, films: Films) -> dict[str, float]:
    """Compute a head's mIoU in percent for each group of windows."""
    still = films.still_s
    members = (still >= 0, still < 0.05, (still >= 0.05) & (still < 0.5), still >= 0.5)
    confusion = np.zeros((len(GROUPS), CLASSES, CLASSES))
    for index in range(len(features)):
        truth = films.labels[index]
        logits = head(features[index : index + 1].float().to(DEVICE))
        found = enlarge(logits, truth.shape)[0].argmax(0).cpu().numpy()
        known = truth != 255
        counts = np.bincount(truth[known] * CLASSES + found[known], minlength=CLASSES**2)
        for group, chosen in enumerate(members):
            confusion[group] += counts.reshape(CLASSES, CLASSES) * chosen[index]
    scores = {}
    for name, matrix in zip(GROUPS, confusion, strict=True):
        scores[name] = mean_iou(matrix)
    return scores


def mean_iou(confusion: NDArray[np.float64]) -> float:
    """Compute the mean IoU in percent over the classes that occur; NaN if there are none."""
    union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    shares = confusion.diagonal()[union > 0] / union[union > 0]
    return float(100 * shares.mean()) if len(shares) else math.nan


def cosines(predicted: Tensor, material: Material) -> dict[str, float]:
    """Compute the mean cosine similarity to the teacher's features, on active and all tokens.

    The teacher's mean is removed from both.
    """
    films, center = material.val, material.statistics.center
    found = functional.cosine_similarity(
        center(predicted.float()), center(torch.from_numpy(films.teacher).float())
    )
    active = torch.from_numpy(films.active)
    return {"active": float(found[active].mean()), "all": float(found.mean())}


def compute(row: Row, seed: int, material: Material, *, finetuned: bool) -> dict[str, Any]:
    """Train and evaluate the student of a row with a seed."""
    begin = time.perf_counter()
    train, val, scale = material.train, material.val, material.scale
    student = make_student(row, material, seed)
    result: dict[str, Any] = {"row": row.name, "seed": seed, "trained": time.perf_counter() - begin}
    if row.loss is not None and isinstance(student, Student):
        project = nn.Sequential(student, student.teacher_projection())
        predicted = features_of(project, val, row)
        result["cosine"] = cosines(predicted, material)
        result["zero-label"] = miou(material.teacher_head, predicted, val)
    probe = fit_head(features_of(student, train, row), train.labels, scale)
    result["probe"] = miou(probe, features_of(student, val, row), val)
    if finetuned and isinstance(student, Student):
        model = finetune(student, row, material, seed)
        result["fine-tuning"] = miou(nn.Identity(), features_of(model, val, row), val)
    return {**result, "seconds": time.perf_counter() - begin}


def spread(values: Sequence[float]) -> str:
    """Format the mean and the standard deviation over seeds."""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{deviation}"


def print_table(results: list[dict[str, Any]], teacher: dict[str, float]) -> None:
    """Print the table of rows, with means over seeds and mIoU in percent."""
    print(f"\nmIoU over windows: {' / '.join(GROUPS)}; ± over seeds\n")
    print("| row | seeds | cosine active / all | probe | zero-label | fine-tuning |")
    print("|---|---|---|---|---|---|")
    print(
        f"| teacher on frames | | | {' / '.join(f'{teacher[each]:.1f}' for each in GROUPS)} | | |"
    )
    for name in dict.fromkeys(result["row"] for result in results):
        found = [result for result in results if result["row"] == name]
        cells = [name, str(len(found))]
        for kind, keys in (("cosine", ("active", "all")), ("probe", GROUPS),
                           ("zero-label", GROUPS), ("fine-tuning", GROUPS[:1])):  # fmt: skip
            if kind not in found[0]:
                cells.append("")
            elif kind == "cosine":
                means = [np.mean([each[kind][key] for each in found]) for key in keys]
                cells.append(" / ".join(f"{mean:.3f}" for mean in means))
            else:
                cells.append(" / ".join(spread([one[kind][key] for one in found]) for key in keys))
        print(f"| {' | '.join(cells)} |")


def main() -> None:
    """Film, compute what is missing, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--teacher", default="vit_small_patch14_dinov2.package")
    parser.add_argument(
        "--students", nargs="*", default=[], help="checkpoints and exported files to evaluate"
    )
    parser.add_argument("--scale", choices=SCALES, default="small")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="names of rows; if empty, none")
    parser.add_argument("--finetune", action="store_true")
    arguments = parser.parse_args()
    wanted = [row for row in ROWS if arguments.only is None or row.name in arguments.only]
    wanted += [Row(f"{Path(path).name} (trained elsewhere)", checkpoint=path)
               for path in arguments.students]  # fmt: skip
    scale = SCALES[arguments.scale]
    arguments.output.mkdir(parents=True, exist_ok=True)
    for part, seed in (("train", 1000), ("val", 5000)):
        path = arguments.output / f"{part}.npz"
        if not path.is_file():
            make_films(arguments.pictures / part, path, scale, arguments.teacher, seed)
    train, val = (read_films(arguments.output / f"{part}.npz") for part in ("train", "val"))
    counter = StatisticsCounter()
    for features in train.teacher:
        counter.add(torch.from_numpy(features).flatten(1).T)
    found = counter.statistics()
    assert found is not None
    teacher_head = fit_head(torch.from_numpy(train.teacher), train.labels, scale)
    material = Material(train, val, found, teacher_head, scale)
    results = []
    for row in wanted:
        for seed in range(1 if row.checkpoint else arguments.seeds):
            done = arguments.output / f"{row.name}, seed {seed}.json".replace("/", "-")
            if not done.is_file() or row.checkpoint:
                result = compute(row, seed, material, finetuned=arguments.finetune)
                done.write_text(json.dumps(result, indent=1))
            results.append(json.loads(done.read_text()))
            print(results[-1], flush=True)
    print_table(results, miou(teacher_head, torch.from_numpy(val.teacher), val))


if __name__ == "__main__":
    main()
