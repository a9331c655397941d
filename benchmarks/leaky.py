"""Comparison of leaky integrals: decays, number, polarity and normalization.

    PYTHONPATH=. python benchmarks/leaky.py --pictures CAMVID --output runs/leaky

CAMVID holds ``train`` and ``val``, each with ``images`` and ``labels`` of the same names (uint8
class ids as in config/labels/camvid11.yaml). The simulator films every picture; the camera pauses
in three quarters of the clips. A teacher sees the frames; a small student (EfficientNet-Lite0 with
ImageNet weights) learns the teacher's standardized features from event tensors, for a few hundred
steps, on all tokens. Each row of the table is another input. All rows have the same films, seeds
and steps. Judged on ``val``, by mIoU over all windows, those in motion, and those up to and beyond
0.5 s after the last motion: a linear head on the student's features (probe), and a head that was
fitted to the teacher's features alone (zero-label).

Films (about 3 MB a window) and rows that are done are kept in the output folder and not computed
again. ``--only`` chooses rows, ``--tiny`` tries the script.

Needs torch, timm and OpenCV; no ROS, no rosbags. The default teacher is a Python package.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from scaleevent_ros.distill.losses import build_loss
from scaleevent_ros.events import EventBatch, leaky_integrals, normalize_tensor, voxel_grid
from scaleevent_ros.events.leaky import LEAKY_DECAYS
from scaleevent_ros.events.normalization import LEAKY_FLOOR, normalize_leaky_into
from scaleevent_ros.models import Student, build_student, build_teacher
from scaleevent_ros.models.feature_statistics import StatisticsCounter
from scaleevent_ros.sources.pictures import read_photograph
from scaleevent_ros.sources.stills import StillOptions, simulate_still
from scaleevent_ros.tasks.classes import read_classes
from scaleevent_ros.tasks.labelled_stills import find_labelled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from scaleevent_ros.tasks.classes import ClassList

BINS, STRIDE, WINDOW_NS = 5, 16, 50_000_000
DECAYS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
SPAN_NS = 25_000_000
"""Spans of this length hold motion or not."""

GROUPS = ("all", "moving", "stopped < 0.5 s", "stopped longer")


@dataclass(frozen=True)
class Row:
    """An input: the voxel grid, and leaky integrals with decays in s.

    Attributes:
        decays: Some of `DECAYS`.
        split: Integrate the two polarities apart, in channels of their own.
        normalization: ``each``: as `normalize_leaky_into`; ``together``: one scale for all
            channels; ``unlimited``: ``each`` without limit and floor; ``root``: the square root of
            ``each``, with the sign.
    """

    decays: tuple[float, ...] = ()
    split: bool = False
    normalization: str = "each"

    @property
    def name(self) -> str:
        """Name of the row and of its file."""
        kind = " by polarity" if self.split else ""
        how = "" if self.normalization == "each" else f", {self.normalization}"
        listed = " ".join(f"{decay:g}" for decay in self.decays)
        return f"voxel + leaky {listed}{kind}{how}" if self.decays else "voxel"


ROWS = (
    Row(),
    Row(LEAKY_DECAYS),
    Row((0.1,)), Row((0.5,)), Row((2.0,)),
    Row((0.1, 2.0)), Row((0.5, 2.0)), Row((0.25, 1.0, 4.0)), Row((0.1, 0.5, 2.0, 4.0)),
    Row(LEAKY_DECAYS, split=True),
    Row(LEAKY_DECAYS, normalization="together"),
    Row(LEAKY_DECAYS, normalization="unlimited"),
    Row(LEAKY_DECAYS, normalization="root"),
)  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """Amount of computation."""

    width: int = 320
    height: int = 240
    pictures: int = 1000
    steps: int = 300
    batch: int = 8
    probe_steps: int = 400


TINY = Scale(64, 48, 4, 2, 2, 5)


# ---- films -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Films:
    """Windows of events with what the frame at their end showed; N of them.

    Attributes:
        voxel: Voxel grids, not normalized, float16 [N, bins, H, W].
        leaky: Integrals of darker and of brighter events, not normalized, float16
            [N, 2, decays, H, W].
        labels: Class ids, uint8 [N, H, W].
        teacher: Teacher features, float16 [N, D, h, w].
        still_s: Time since the last motion at the window's end, float32 [N].
    """

    voxel: NDArray[np.float16]
    leaky: NDArray[np.float16]
    labels: NDArray[np.uint8]
    teacher: NDArray[np.float16]
    still_s: NDArray[np.float32]


def film(
    paths: tuple[Path, Path, int], classes: ClassList, scale: Scale
) -> tuple[NDArray[Any], ...]:
    """Film one picture: voxel grids, integrals, labels, frames, seconds since motion."""
    picture, labels, seed = paths
    options = StillOptions(
        frames=3,
        frame_rate=1.25,
        margin=WINDOW_NS * 1e-9,
        lead=0.4,
        strength=1.5,
        pause_share=0.75,
        size=(scale.width, scale.height),
    )
    truth = classes.to_truth(read_photograph(labels))
    clip = simulate_still(read_photograph(picture), truth, options=options, seed=seed)
    events = clip.events
    polarities = []
    for polarity in (0, 1):
        kept = events.p == polarity
        polarities.append(
            EventBatch(
                events.x[kept],
                events.y[kept],
                events.t[kept],
                events.p[kept],
                events.width,
                events.height,
            )
        )
    voxels, integrals, still = [], [], []
    for t_end in clip.stamps.tolist():
        voxels.append(voxel_grid(events, t_end - WINDOW_NS, t_end, BINS))
        integrals.append(
            [
                np.abs(leaky_integrals(batch, t_end, part))
                for batch in polarities
                for part in (DECAYS[:3], DECAYS[3:])
            ]
        )
        starts = np.arange(0, t_end - SPAN_NS, SPAN_NS)
        counts = np.diff(np.searchsorted(events.t, np.append(starts, starts[-1] + SPAN_NS)))
        moving = np.flatnonzero(counts > 0.1 * np.percentile(counts, 90))
        last = starts[moving[-1]] + SPAN_NS if len(moving) else 0
        still.append(max(t_end - last - SPAN_NS, 0) * 1e-9)
    shape = (len(still), 2, len(DECAYS), scale.height, scale.width)
    assert clip.labels is not None
    return (
        np.stack(voxels).astype(np.float16),
        np.array(integrals).reshape(shape).astype(np.float16),
        clip.labels,
        clip.frames,
        np.array(still, np.float32),
    )


def make_films(folder: Path, out: Path, scale: Scale, teacher_name: str, first_seed: int) -> None:
    """Film the pictures of a folder, compute the teacher's features, and write both."""
    classes = read_classes(Path("config/labels/camvid11.yaml"))
    found = find_labelled(folder / "images", folder / "labels")[: scale.pictures]
    jobs = [(*one, first_seed + i) for i, one in enumerate(found)]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        made = list(pool.map(partial(film, classes=classes, scale=scale), jobs, chunksize=4))
    voxel, leaky, labels, frames, still = (np.concatenate(each) for each in zip(*made, strict=True))
    teacher = build_teacher(teacher_name)
    grid, size = (scale.height // STRIDE, scale.width // STRIDE), (scale.height, scale.width)
    features = [
        teacher(torch.from_numpy(part).permute(0, 3, 1, 2), grid, size).half()
        for part in np.array_split(frames, -(-len(frames) // 16))
    ]
    temporary = out.with_suffix(".part.npz")
    np.savez(temporary, voxel=voxel, leaky=leaky, labels=labels,
             teacher=torch.cat(features).numpy(), still_s=still)  # fmt: skip
    temporary.replace(out)


def read_films(path: Path) -> Films:
    """Read what `make_films` wrote."""
    with np.load(path, allow_pickle=False) as found:
        return Films(**{key: found[key] for key in found.files})


def build_input(films: Films, index: int, row: Row) -> NDArray[np.float32]:
    """Build the tensor of a window, float32 [channels, H, W]."""
    voxel = normalize_tensor(films.voxel[index].astype(np.float32), "percentile")
    chosen = [DECAYS.index(decay) for decay in row.decays]
    off, on = films.leaky[index].astype(np.float32)
    leaky = np.concatenate([off[chosen], on[chosen]]) if row.split else (on - off)[chosen]
    return np.concatenate([voxel, normalize_leaky(leaky, row.normalization)])


def normalize_leaky(leaky: NDArray[np.float32], how: str) -> NDArray[np.float32]:
    """Normalize integrals as a row asks."""
    result = np.empty_like(leaky)
    if how == "each":
        normalize_leaky_into(leaky, result)
    elif how == "together":
        active = np.abs(leaky)[np.abs(leaky) > LEAKY_FLOOR]
        result = leaky / np.float32(np.percentile(active, 99) if len(active) else 1)
    elif how == "unlimited":
        result = np.stack([normalize_tensor(plane[None], "percentile")[0] for plane in leaky])
    else:
        normalize_leaky_into(leaky, result)
        result = np.sign(result) * np.sqrt(np.abs(result))
    return result


# ---- rows --------------------------------------------------------------------------------------


def batches(count: int, steps: int, size: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Draw the windows of each step: all once before any comes again."""
    rng = np.random.default_rng(seed)
    order = np.concatenate(
        [rng.permutation(count) for _ in range(-(-steps * size // count))]
    )[: steps * size]  # fmt: skip
    yield from order.reshape(steps, size)


def distil(row: Row, films: Films, target: Tensor, scale: Scale, seed: int) -> Student:
    """Train a student to predict the teacher's standardized features on all tokens."""
    torch.manual_seed(seed)
    channels = BINS + len(row.decays) * (2 if row.split else 1)
    student = build_student("tf_efficientnet_lite0.package", channels, stride=STRIDE)
    student.projection = nn.Conv2d(student.width, target.shape[1], 1)
    student.train()
    loss = build_loss("patch")
    optimizer = torch.optim.AdamW(student.parameters(), 3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 3e-3, total_steps=scale.steps + 1, pct_start=1 / 6
    )
    rng = np.random.default_rng(seed)
    for chosen in batches(len(films.voxel), scale.steps, scale.batch, seed):
        events = torch.from_numpy(np.stack([build_input(films, i, row) for i in chosen]))
        wanted = target[chosen].float()
        if rng.random() < 0.5:
            events, wanted = events.flip(-1), wanted.flip(-1)
        predicted = student(events, project=True).flatten(2).mT
        mask = torch.ones(predicted.shape[:2], dtype=torch.bool)
        value = loss(predicted, wanted.flatten(2).mT, mask).total
        optimizer.zero_grad()
        torch.autograd.backward(value)
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return student.eval()


@torch.inference_mode()
def features_of(student: Student, films: Films, row: Row, *, project: bool) -> Tensor:
    """Compute a student's features of all windows, float16 [N, D, h, w]."""
    return torch.cat(
        [
            student(torch.from_numpy(build_input(films, i, row))[None], project=project).half()
            for i in range(len(films.voxel))
        ]
    )


def fit_head(features: Tensor, labels: NDArray[np.uint8], scale: Scale) -> nn.Module:
    """Fit a linear head on frozen features, its logits interpolated to pixels."""
    torch.manual_seed(0)
    head = nn.Sequential(nn.BatchNorm2d(features.shape[1]), nn.Conv2d(features.shape[1], 11, 1))
    optimizer = torch.optim.AdamW(head.parameters(), 1e-2)
    for chosen in batches(len(features), scale.probe_steps, scale.batch, 0):
        logits = enlarge(head(features[chosen].float()), labels.shape[1:])
        truth = torch.from_numpy(labels[chosen].astype(np.int64))
        value = functional.cross_entropy(logits, truth, ignore_index=255)
        optimizer.zero_grad()
        torch.autograd.backward(value)
        optimizer.step()
    return head.eval()


def enlarge(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    """Interpolate logits to pixels."""
    return functional.interpolate(logits, size, mode="bilinear", align_corners=False)


@torch.inference_mode()
def miou(head: nn.Module, features: Tensor, films: Films) -> dict[str, float]:
    """Evaluate a head: mIoU in percent by group of windows."""
    still = films.still_s
    groups = dict(zip(GROUPS, (still >= 0, still < 0.05, (still >= 0.05) & (still < 0.5),
                               still >= 0.5), strict=True))  # fmt: skip
    confusion = {name: np.zeros((11, 11)) for name in GROUPS}
    for index in range(len(features)):
        truth = films.labels[index]
        found = enlarge(head(features[index : index + 1].float()), truth.shape)[0].argmax(0).numpy()
        known = truth != 255
        counts = np.bincount(truth[known] * 11 + found[known], minlength=121).reshape(11, 11)
        for name, members in groups.items():
            confusion[name] += counts * members[index]
    scores = {}
    for name, matrix in confusion.items():
        union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
        shares = matrix.diagonal()[union > 0] / union[union > 0]
        scores[name] = float(100 * shares.mean()) if len(shares) else math.nan
    return scores


def compute(row: Row, seed: int, train: Films, val: Films, scale: Scale) -> dict[str, Any]:
    """Compute a row for a seed."""
    begin = time.perf_counter()
    counter = StatisticsCounter()
    counter.add(torch.from_numpy(train.teacher).movedim(1, -1).flatten(0, -2))
    statistics = counter.statistics()
    assert statistics is not None
    target, wanted = (
        statistics.standardize(torch.from_numpy(films.teacher).float()).half()
        for films in (train, val)
    )
    teacher_head = fit_head(target, train.labels, scale)
    student = distil(row, train, target, scale, seed)
    projected = features_of(student, val, row, project=True)
    probe = fit_head(features_of(student, train, row, project=False), train.labels, scale)
    cosine = functional.cosine_similarity(projected.float(), wanted.float()).mean()
    return {
        "row": row.name,
        "seed": seed,
        "cosine": float(cosine),
        "probe": miou(probe, features_of(student, val, row, project=False), val),
        "zero-label": miou(teacher_head, projected, val),
        "seconds": time.perf_counter() - begin,
    }


def print_table(results: list[dict[str, Any]]) -> None:
    """Print means over seeds."""
    print(f"\n| input | seeds | cosine | probe: {' / '.join(GROUPS)} | zero-label |")
    print("|---|---|---|---|---|")
    for name in dict.fromkeys(result["row"] for result in results):
        found = [result for result in results if result["row"] == name]
        cells = [
            " / ".join(f"{np.mean([each[kind][group] for each in found]):.1f}" for group in GROUPS)
            for kind in ("probe", "zero-label")
        ]
        cosine = np.mean([each["cosine"] for each in found])
        print(f"| {name} | {len(found)} | {cosine:.3f} | {' | '.join(cells)} |")


def main() -> None:
    """Film, compute what is missing, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--teacher", default="vit_small_patch14_dinov2.package")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="numbers of rows")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    scale = TINY if arguments.tiny else Scale()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for part, seed in (("train", 1000), ("val", 5000)):
        path = arguments.output / f"{part}.npz"
        if not path.is_file():
            make_films(arguments.pictures / part, path, scale, arguments.teacher, seed)
    train, val = (read_films(arguments.output / f"{part}.npz") for part in ("train", "val"))
    results = []
    for number, row in enumerate(ROWS):
        if arguments.only and str(number) not in arguments.only:
            continue
        for seed in range(arguments.seeds):
            done = arguments.output / f"{row.name}, seed {seed}.json"
            if not done.is_file():
                done.write_text(json.dumps(compute(row, seed, train, val, scale), indent=1))
            results.append(json.loads(done.read_text()))
            print(results[-1], flush=True)
    print_table(results)


if __name__ == "__main__":
    main()
