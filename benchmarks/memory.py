"""Comparison of ways to remember: leaky integrals at the input, and memories of features.

    PYTHONPATH=. python benchmarks/memory.py --pictures CAMVID --output runs/memory

CAMVID is as in `benchmarks/representation.py`. The simulated camera moves over each picture, and
stops. In half of the clips an object (a car or a person, cut out of another picture by its label)
then crosses the view and leaves. Windows of 50 ms follow one another. Rows of the table:

- per window: voxel grids alone;
- leaky: voxel grids and leaky integrals;
- hold: features of the last window in which a patch was active, of either student;
- memory: features of the student's gated recurrent memory, trained on either student, whose own
  weights are fixed.

Each row is evaluated on the pictures of ``val``, on windows in motion and at times after the stop:

- cosine: cosine similarity to the teacher's features on all tokens, with the teacher's mean
  removed from both;
- probe: mIoU of a linear head on the row's features;
- zero-label: the same for a head that was trained only on the teacher's features of frames;
- ghosts: of the patches that an object covered, the share whose features are nearer to the
  teacher's of the background than to the teacher's of the object, before the object came, and in
  the n-th window after it left.

Clips are stored in the output folder, and the results of each seed. ``--scale tiny`` tests the
script. It needs no ROS. The teacher's weights are in a Python package.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.perception import Timed, take_turns
from benchmarks.representation import (
    BINS,
    CLASSES,
    WINDOW_NS,
    batches,
    descend,
    enlarge,
    fit_head,
    mean_iou,
    schedule,
)
from benchmarks.representation import Scale as HeadScale
from scaleevent_ros.distill.configuration import EventOptions
from scaleevent_ros.distill.losses import build_loss
from scaleevent_ros.events import (
    EventBatch,
    activity_mask,
    leaky_integrals,
    normalize_tensor,
    voxel_grid,
)
from scaleevent_ros.events.leaky import LEAKY_DECAYS, LeakyState
from scaleevent_ros.events.normalization import normalize_leaky_into
from scaleevent_ros.models import Student, build_student, build_teacher, save_student
from scaleevent_ros.models.feature_statistics import FeatureStatistics, StatisticsCounter
from scaleevent_ros.models.memory import GatedMemory
from scaleevent_ros.runtime import Engine
from scaleevent_ros.runtime.trial_windows import synthetic_windows
from scaleevent_ros.sources.camera_motion import random_motion, see, see_labels
from scaleevent_ros.sources.moving_objects import MovingObject
from scaleevent_ros.sources.pictures import read_photograph
from scaleevent_ros.sources.pixel_model import PixelModel
from scaleevent_ros.sources.simulator import EventSimulator, log_intensity
from scaleevent_ros.sources.stills import UNLABELED, cover
from scaleevent_ros.tasks.classes import read_classes
from scaleevent_ros.tasks.labelled_pictures import find_labelled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

STRIDE, NECK, FRAME_SCALE = 8, 192, 2
WINDOW_S = WINDOW_NS * 1e-9
STOP = 16
"""Window in which the camera stops; it needs four more to come to rest."""

REST = STOP + 4
AFTER = {"moving": (8, 12, 16), "stop": (REST,), "+ 0.1 s": (REST + 2,), "+ 0.5 s": (REST + 10,),
         "+ 2 s": (REST + 40,)}  # fmt: skip
"""Windows that are evaluated in clips without objects, by their group."""

WINDOWS = REST + 41
CROSSING = (REST + 4, REST + 24)
"""Windows in which an object is in view, in clips with objects."""

WITH_OBJECT = tuple(range(CROSSING[0] + 5, CROSSING[1] - 4, 5))
JUDGED_OBJECT = (12, REST, *WITH_OBJECT, CROSSING[1] + 3, WINDOWS - 1)
GHOST_WINDOWS = (1, 2, 3, 6, 12)
ACTIVITY = max(1, round(EventOptions().activity_threshold * (STRIDE / 16) ** 2))
TOKEN_COVERED = 0.9
"""Share of a patch's pixels from which an object covers it."""

CUTOUT_CLASSES = ("car", "pedestrian")


@dataclass(frozen=True)
class Scale:
    """Amount of computation.

    Attributes:
        size: Width and height of the event sensor.
        train: Number of clips to train on.
        val: Number of clips to evaluate.
        steps: Number of distillation steps.
        batch: Number of windows in a step.
        memory_steps: Number of steps of training a memory.
        memory_batch: Number of clips in such a step.
        head_steps: Number of steps of training a head.
    """

    size: tuple[int, int] = (160, 120)
    train: int = 160
    val: int = 80
    steps: int = 400
    batch: int = 16
    memory_steps: int = 200
    memory_batch: int = 4
    head_steps: int = 400

    @property
    def heads(self) -> HeadScale:
        """Scale of training heads as in `benchmarks/representation.py`."""
        return HeadScale(batch=self.batch, head_steps=self.head_steps)


SCALES = {"tiny": Scale((64, 48), 4, 4, 2, 2, 2, 2, 4), "small": Scale()}


# ---- clips -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clip:
    """Events of a clip, with labels and teacher features at the ends of some windows.

    Attributes:
        events: Events; times start at 0.
        judged: Indices of the windows with labels and teacher features, int64 [J].
        labels: Class ids, uint8 [J, H, W].
        teacher: Teacher features of the frames, float16 [J, D, h, w].
        hidden: Share of each patch that an object covers at each window's end, float16 [W, h, w].
    """

    events: EventBatch
    judged: NDArray[np.int64]
    labels: NDArray[np.uint8]
    teacher: Tensor
    hidden: NDArray[np.float16]


def cut_out(
    picture: NDArray[np.uint8], truth: NDArray[np.uint8], classes: Sequence[int]
) -> NDArray[np.uint8] | None:
    """Cut the largest object of some classes out of a picture, uint8 [h, w, 4]; None if none."""
    mask = np.isin(truth, classes).astype(np.uint8)
    count, parts, facts, _ = cv2.connectedComponentsWithStats(mask)
    if count < 2:
        return None
    largest = 1 + int(facts[1:, cv2.CC_STAT_AREA].argmax())
    x, y, w, h, area = (int(value) for value in facts[largest])
    if area < 0.003 * mask.size:
        return None
    alpha = 255 * (parts[y : y + h, x : x + w] == largest).astype(np.uint8)
    return np.dstack([picture[y : y + h, x : x + w], alpha])


def crossing_object(
    cutout: NDArray[np.uint8], size: tuple[int, int], rng: np.random.Generator
) -> MovingObject:
    """Let an object cross the view during `CROSSING`."""
    width, height = size
    scale = height * rng.uniform(0.4, 0.7) / cutout.shape[0]
    scale = min(scale, 0.5 * width / cutout.shape[1])
    shape = (max(2, round(cutout.shape[1] * scale)), max(2, round(cutout.shape[0] * scale)))
    begin, end = (window * WINDOW_S for window in CROSSING)
    speed = (width + shape[0]) / (end - begin)
    y = height * rng.uniform(0.4, 0.7)
    if rng.random() < 0.5:
        speed, first = -speed, width + shape[0] / 2
    else:
        first = -shape[0] / 2
    start = np.array([first - speed * begin, y])
    return MovingObject(cutout, shape, start, np.array([speed, 0.0]), np.zeros(2), 1.0)


def film(
    job: tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8] | None, int],
    size: tuple[int, int],
) -> tuple[EventBatch, NDArray[np.int64], NDArray[np.uint8], NDArray[np.uint8], NDArray[Any]]:
    """Film a picture, given the picture, its labels, a cut-out or None, and a seed.

    Returns:
        Events, judged windows, their labels, their frames, and the shares of hidden patches; see
        `Clip`.
    """
    picture, truth, cutout, seed = job
    rng = np.random.default_rng(seed)
    motion = random_motion(rng, size, strength=1.5)
    motion = replace(motion, pauses=np.array([[STOP * WINDOW_S, math.inf]]))
    item = None if cutout is None else crossing_object(cutout, size, rng)
    width, height = size
    fine = (width * FRAME_SCALE, height * FRAME_SCALE)
    finer = cover(picture, fine, cv2.INTER_AREA)
    light = cv2.cvtColor(cover(picture, size, cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    grey: NDArray[np.float32] = np.asarray(light, np.float32)
    truth = cover(truth, size, cv2.INTER_NEAREST_EXACT)
    pixels = PixelModel()
    simulator = EventSimulator(width, height, pixels, seed)
    up = np.array([[FRAME_SCALE, 0, (FRAME_SCALE - 1) / 2],
                   [0, FRAME_SCALE, (FRAME_SCALE - 1) / 2], [0, 0, 1]])  # fmt: skip
    events = []
    renders = 25  # per window: nothing moves by more than a pixel in 2 ms
    for step in range(WINDOWS * renders + 1):
        view: NDArray[np.float32] = see(grey, motion.homography(step * WINDOW_S / renders))
        if item is not None:
            item.draw(view, step * WINDOW_S / renders)
        events.append(
            simulator.push_log(log_intensity(view, pixels.toe), step * WINDOW_NS // renders)
        )
    judged = JUDGED_OBJECT if item else [one for group in AFTER.values() for one in group]
    labels, frames = [], []
    hidden = np.zeros((WINDOWS, height // STRIDE, width // STRIDE), np.float16)
    for window in range(WINDOWS):
        t = (window + 1) * WINDOW_S
        view = np.zeros((height, width), np.float32)
        mask = item.draw(view, t) if item else np.zeros((height, width), np.bool_)
        blocks = mask.reshape(height // STRIDE, STRIDE, width // STRIDE, STRIDE)
        hidden[window] = blocks.mean((1, 3))
        if window in judged:
            homography = motion.homography(t)
            seen = see_labels(truth, homography)
            seen[mask] = UNLABELED
            frame = see(finer, up @ homography @ np.linalg.inv(up)).astype(np.float32)
            if item:
                item.draw(frame, t, FRAME_SCALE)
            labels.append(seen)
            frames.append(np.clip(np.rint(frame), 0, 255).astype(np.uint8))
    return (EventBatch.concatenate(events), np.array(judged), np.stack(labels), np.stack(frames),
            hidden)  # fmt: skip


def make_clips(folder: Path, out: Path, scale: Scale, count: int, teacher: str, seed: int) -> None:
    """Film pictures of a folder, compute the teacher's features, and write a file for each clip."""
    classes = read_classes("camvid11")
    chosen = [classes.names.index(name) for name in CUTOUT_CLASSES]
    found = find_labelled(folder / "images", folder / "labels")
    order = np.random.default_rng(seed).permutation(len(found))[:count]
    pictures = [read_photograph(found[i][0]) for i in order]
    truths = [classes.to_truth(read_photograph(found[i][1])) for i in order]
    cutouts = [
        cutout
        for picture, truth in zip(pictures, truths, strict=True)
        if (cutout := cut_out(picture, truth, chosen)) is not None
    ]
    jobs = [
        (picture, truth, cutouts[i % len(cutouts)] if i % 2 else None, seed + i)
        for i, (picture, truth) in enumerate(zip(pictures, truths, strict=True))
    ]
    network = build_teacher(teacher, scale=FRAME_SCALE)
    size = (scale.size[1], scale.size[0])
    grid = (size[0] // STRIDE, size[1] // STRIDE)
    out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        made = pool.map(partial(film, size=scale.size), jobs)
        for index, (events, judged, labels, frames, hidden) in enumerate(made):
            features = network(torch.from_numpy(frames).permute(0, 3, 1, 2), grid, size)
            temporary = out / f"{index:04}.part.npz"
            np.savez(temporary, x=events.x, y=events.y, t=events.t, p=events.p, judged=judged,
                     labels=labels, teacher=features.half().numpy(), hidden=hidden)  # fmt: skip
            temporary.replace(out / f"{index:04}.npz")


def read_clips(folder: Path, size: tuple[int, int]) -> list[Clip]:
    """Read the files of `make_clips`."""
    clips = []
    for path in sorted(folder.glob("????.npz")):
        with np.load(path, allow_pickle=False) as found:
            events = EventBatch(found["x"], found["y"], found["t"], found["p"], *size)
            teacher = torch.from_numpy(found["teacher"])
            clips.append(Clip(events, found["judged"], found["labels"], teacher, found["hidden"]))
    return clips


@dataclass(frozen=True)
class Inputs:
    """Inputs of all windows of a clip.

    Attributes:
        tensor: Normalized voxel grids and leaky integrals, float32 [W, bins + decays, H, W].
        active: Active patches, bool [W, h, w].
    """

    tensor: Tensor
    active: Tensor


def build_inputs(clip: Clip) -> Inputs:
    """Build the inputs of all windows of a clip, one after another as a node does."""
    events = clip.events
    width, height = events.width, events.height
    tensor = np.empty((WINDOWS, BINS + len(LEAKY_DECAYS), height, width), np.float32)
    active = np.empty((WINDOWS, height // STRIDE, width // STRIDE), np.bool_)
    state = LeakyState(np.zeros((len(LEAKY_DECAYS), height, width), np.float32), 0)
    for index in range(WINDOWS):
        begin, end = index * WINDOW_NS, (index + 1) * WINDOW_NS
        window = events.between(begin, end)
        tensor[index, :BINS] = normalize_tensor(voxel_grid(window, begin, end, BINS), "percentile")
        state = LeakyState(leaky_integrals(window, end, LEAKY_DECAYS, state), end)
        normalize_leaky_into(state.values, tensor[index, BINS:])
        active[index] = activity_mask(window, STRIDE, ACTIVITY)
    return Inputs(torch.from_numpy(tensor), torch.from_numpy(active))


# ---- learning ----------------------------------------------------------------------------------


def train_student(clips: list[Clip], channels: int, scale: Scale, teach: FeatureStatistics,
                  seed: int) -> Student:  # fmt: skip
    """Distil a student on the judged windows, with the first channels of the input."""
    torch.manual_seed(seed)
    student = build_student("tf_efficientnet_lite0.package", channels, stride=STRIDE, neck=NECK)
    width = clips[0].teacher.shape[1]
    student.projection = nn.Conv2d(student.width, width, 1)
    student.header = replace(
        student.header,
        teacher="vit_small_patch14_dinov2.package",
        projection=width,
        standardized=True,
        teacher_mean=teach.mean.tolist(),
        teacher_std=teach.std.tolist(),
    )
    inputs = torch.cat([build_inputs(clip).tensor[clip.judged, :channels] for clip in clips])
    wanted = torch.cat([clip.teacher for clip in clips])
    student.train()
    loss = build_loss("patch")
    optimizer = torch.optim.AdamW(student.parameters(), 3e-3, weight_decay=1e-2)
    rates = schedule(optimizer, [3e-3], scale.steps)
    rng = np.random.default_rng(seed)
    for chosen in batches(len(inputs), scale.steps, scale.batch, seed):
        events, target = inputs[chosen], teach.standardize(wanted[chosen].float())
        if rng.random() < 0.5:
            events, target = events.flip(-1), target.flip(-1)
        predicted = student(events, project=True).flatten(2).mT
        everywhere = torch.ones(predicted.shape[:2], dtype=torch.bool)
        descend(loss(predicted, target.flatten(2).mT, everywhere).total, student, optimizer)
        rates.step()
    return student.eval()


@torch.inference_mode()
def window_features(student: Student, inputs: Inputs, channels: int) -> Tensor:
    """Compute the features of each window of a clip alone, float32 [W, D, h, w]."""
    return torch.cat([student(part[:, :channels]) for part in torch.split(inputs.tensor, 8)])


def hold(features: Tensor, inputs: Inputs) -> Tensor:
    """Keep the features of the last window in which a patch was active; see `window_features`."""
    held, known = features[0].clone(), torch.zeros_like(inputs.active[0])
    result = [held]
    for now, active in zip(features[1:], inputs.active[1:], strict=True):
        known = known | active
        held = torch.where(active | ~known, now, held)
        result.append(held)
    return torch.stack(result)


def remember(memory: GatedMemory, features: Tensor, tensor: Tensor) -> Tensor:
    """Run a memory over the windows of clips.

    Args:
        memory: The recurrent cell.
        features: Features of each window alone, [B, W, D, h, w].
        tensor: Inputs of the windows, [B, W, channels, H, W].

    Returns:
        Features in the memory after each window, [B, W, D, h, w].
    """
    state = memory.empty(features[:, 0])
    elapsed_s = torch.full((len(features),), WINDOW_S)
    remembered = []
    for index in range(features.shape[1]):
        state = memory(features[:, index], tensor[:, index], state, elapsed_s)
        remembered.append(memory.features(state))
    return torch.stack(remembered, 1)


def train_memory(
    student: Student, clips: list[Clip], features: list[Tensor], scale: Scale,
    teach: FeatureStatistics, seed: int,
) -> GatedMemory:  # fmt: skip
    """Train a memory on whole clips, with the student's weights fixed."""
    torch.manual_seed(seed)
    memory = GatedMemory(student.width, STRIDE, BINS)
    student.requires_grad_(False)
    loss = build_loss("patch")
    optimizer = torch.optim.AdamW(memory.parameters(), 2e-3, weight_decay=1e-2)
    rates = schedule(optimizer, [2e-3], scale.memory_steps)
    for chosen in batches(len(clips), scale.memory_steps, scale.memory_batch, seed):
        tensor = torch.stack([build_inputs(clips[i]).tensor[:, :BINS] for i in chosen])
        alone = torch.stack([features[i] for i in chosen]).float()
        remembered = remember(memory, alone, tensor)
        at = [clips[i].judged for i in chosen]
        found = torch.cat([each[index] for each, index in zip(remembered, at, strict=True)])
        target = teach.standardize(torch.cat([clips[i].teacher for i in chosen]).float())
        predicted = student.projection(found).flatten(2).mT
        everywhere = torch.ones(predicted.shape[:2], dtype=torch.bool)
        descend(loss(predicted, target.flatten(2).mT, everywhere).total, memory, optimizer)
        rates.step()
    return memory.eval()


# ---- evaluation --------------------------------------------------------------------------------


def is_stop(clip: Clip) -> bool:
    """Return whether a clip has no object."""
    return not clip.hidden.any()


@torch.inference_mode()
def miou(head: nn.Module, project: nn.Module, clips: list[Clip], features: list[Tensor]
         ) -> dict[str, float]:  # fmt: skip
    """Compute a head's mIoU in percent by group of windows, in clips without objects."""
    confusion = dict.fromkeys(AFTER, np.zeros((CLASSES, CLASSES)))
    for clip, found in zip(clips, features, strict=True):
        if not is_stop(clip):
            continue
        logits = head(project(found[clip.judged].float()))
        classes = enlarge(logits, clip.labels.shape[1:]).argmax(1).numpy()
        for window, truth, seen in zip(clip.judged, clip.labels, classes, strict=True):
            group = next(name for name, windows in AFTER.items() if window in windows)
            known = truth != UNLABELED
            counts = np.bincount(truth[known] * CLASSES + seen[known], minlength=CLASSES**2)
            confusion[group] = confusion[group] + counts.reshape(CLASSES, CLASSES)
    confusion["all"] = np.sum(list(confusion.values()), axis=0)
    return {name: mean_iou(matrix) for name, matrix in confusion.items()}


@torch.inference_mode()
def cosines(project: nn.Module, clips: list[Clip], features: list[Tensor],
            teach: FeatureStatistics) -> dict[str, float]:  # fmt: skip
    """Compute the mean centred cosine to the teacher on all tokens by group of windows."""
    found: dict[str, list[float]] = {name: [] for name in AFTER}
    for clip, each in zip(clips, features, strict=True):
        if not is_stop(clip):
            continue
        predicted = teach.center(project(each[clip.judged].float()))
        similar = functional.cosine_similarity(predicted, teach.center(clip.teacher.float()))
        for window, value in zip(clip.judged, similar.mean((1, 2)).tolist(), strict=True):
            found[next(name for name, windows in AFTER.items() if window in windows)].append(value)
    found["all"] = [value for values in found.values() for value in values]
    return {name: statistics.fmean(values) for name, values in found.items()}


@torch.inference_mode()
def ghosts(project: nn.Module, clips: list[Clip], features: list[Tensor],
           teach: FeatureStatistics) -> dict[str, float]:  # fmt: skip
    """Compute the share of patches with the background's features, in percent.

    ``before`` is that at rest before the object came; ``n`` that of the n-th window after it left.
    Patches where the teacher's features of object and background are alike are left out.
    """
    shares: dict[str, list[bool]] = {name: [] for name in ("before", *map(str, GHOST_WINDOWS))}
    for clip, each in zip(clips, features, strict=True):
        if is_stop(clip):
            continue
        taught = dict(zip(clip.judged.tolist(), teach.center(clip.teacher.float()), strict=True))
        background = taught[WINDOWS - 1]
        predicted = teach.center(project(each.float()))
        at_rest = functional.cosine_similarity(predicted[REST], background, 0)
        for covered in WITH_OBJECT:
            subject = taught[covered]
            apart = functional.cosine_similarity(subject, background, 0) < 0.5
            chosen = (clip.hidden[covered] >= TOKEN_COVERED) & apart.numpy()
            before = at_rest > functional.cosine_similarity(predicted[REST], subject, 0)
            for row, column in np.argwhere(chosen).tolist():
                free = np.flatnonzero(clip.hidden[covered:, row, column] == 0)
                if not len(free):
                    continue
                left = covered + int(free[0])
                shares["before"].append(bool(before[row, column]))
                there = background[:, row, column], subject[:, row, column]
                for n in GHOST_WINDOWS:
                    if left + n - 1 >= WINDOWS:
                        continue
                    now = predicted[left + n - 1, :, row, column]
                    nearer = [functional.cosine_similarity(now, one, 0) for one in there]
                    shares[str(n)].append(bool(nearer[0] > nearer[1]))
    return {name: 100 * float(np.mean(values)) if values else math.nan
            for name, values in shares.items()}  # fmt: skip


def compute(seed: int, train: list[Clip], val: list[Clip], scale: Scale) -> dict[str, Any]:
    """Train and evaluate all rows with a seed."""
    counter = StatisticsCounter()
    for clip in train:
        counter.add(clip.teacher.float().flatten(2).mT.flatten(0, 1))
    teach = counter.statistics()
    assert teach is not None
    labels = np.concatenate([clip.labels for clip in train])
    teacher_head = fit_head(torch.cat([clip.teacher for clip in train]), labels, scale.heads)
    result: dict[str, Any] = {}
    for name, channels in (("per window", BINS), ("leaky", BINS + len(LEAKY_DECAYS))):
        student = train_student(train, channels, scale, teach, seed)
        alone = [
            [window_features(student, each, channels).half() for each in map(build_inputs, clips)]
            for clips in (train, val)
        ]
        memory = train_memory(student, train, alone[0], scale, teach, seed)
        prefix = "" if name == "per window" else "leaky, "
        rows = {
            name: alone,
            f"{prefix}hold": [
                [hold(each, one) for each, one in zip(part, map(build_inputs, clips), strict=True)]
                for part, clips in zip(alone, (train, val), strict=True)
            ],
        }
        with torch.inference_mode():
            rows[f"{prefix}memory"] = [
                [
                    remember(memory, each[None].float(), one.tensor[None])[0].half()
                    for each, one in zip(part, map(build_inputs, clips), strict=True)
                ]
                for part, clips in zip(alone, (train, val), strict=True)
            ]
        project = student.teacher_projection()
        for row, (of_train, of_val) in rows.items():
            judged = torch.cat([each[c.judged] for each, c in zip(of_train, train, strict=True)])
            probe = fit_head(judged, labels, scale.heads)
            result[row] = {
                "cosine": cosines(project, val, of_val, teach),
                "probe": miou(probe, nn.Identity(), val, of_val),
                "zero-label": miou(teacher_head, project, val, of_val),
                "ghosts": ghosts(project, val, of_val, teach),
            }
            print(seed, row, json.dumps(result[row]), flush=True)
    return result


def print_tables(results: list[dict[str, Any]]) -> None:
    """Print a table for each measure, with mean and standard deviation over seeds."""
    for measure, digits in (("cosine", 3), ("probe", 1), ("zero-label", 1), ("ghosts", 0)):
        columns = list(results[0]["leaky"][measure])
        print(f"\n| {measure} | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
        for row in results[0]:
            cells = []
            for column in columns:
                values = [each[row][measure][column] for each in results]
                deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
                cells.append(f"{statistics.fmean(values):.{digits}f}{deviation}")
            print(f"| {row} | {' | '.join(cells)} |")


def print_cost(size: tuple[int, int], seconds: float) -> None:
    """Print the median time of a window with and without a recurrent memory, on this CPU."""
    with tempfile.TemporaryDirectory() as folder:
        calls = {}
        for name, gap_s in (("alone", None), ("with memory", 1.0)):
            student = build_student(
                "tf_efficientnet_lite0", BINS, "random", stride=STRIDE, neck=NECK
            )
            student.set_memory(gap_s)
            path = Path(folder, f"{name}.safetensors")
            save_student(path, student)
            engine = Engine(path, "cpu", backend="onnx", size=(size[1], size[0]))
            window = synthetic_windows(engine.header, (size[1], size[0]), 1)[0]
            call = partial(engine, elapsed_s=WINDOW_S if gap_s else None)
            calls[name] = Timed(call, window, np.empty_like(window))
        times = {name: np.median(found) for name, found in take_turns(calls, seconds).items()}
    width, height = (side // STRIDE for side in size)
    state = 4e-6 * (NECK + 1) * width * height
    print(f"\n{size[0]}x{size[1]}: {times['alone']:.1f} ms a window alone, "
          f"{times['with memory']:.1f} ms with a memory (a state of {state:.1f} MB)")  # fmt: skip


def main() -> None:
    """Film, compute what is missing, print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--teacher", default="vit_small_patch14_dinov2.package")
    parser.add_argument("--scale", choices=SCALES, default="small")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cost", type=float, default=10.0, help="seconds of timing; 0 for none")
    arguments = parser.parse_args()
    scale = SCALES[arguments.scale]
    parts = {"train": (scale.train, 1000), "val": (scale.val, 5000)}
    for part, (count, seed) in parts.items():
        folder = arguments.output / part
        if len(list(folder.glob("????.npz"))) < count:
            make_clips(arguments.pictures / part, folder, scale, count, arguments.teacher, seed)
    train, val = (read_clips(arguments.output / part, scale.size) for part in parts)
    results = []
    for seed in range(arguments.seeds):
        done = arguments.output / f"seed {seed}.json"
        if not done.is_file():
            done.write_text(json.dumps(compute(seed, train, val, scale), indent=1))
        results.append(json.loads(done.read_text()))
    print_tables(results)
    if arguments.cost:
        print_cost((640, 480), arguments.cost)


if __name__ == "__main__":
    main()
