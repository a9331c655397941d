"""Similarity of a student's features of real events to its teacher's features of real frames.

    scaleevent convert davis346_frames_events.aedat4 BAG
    python benchmarks/real_recordings.py BAG... --students lite --pictures OUT

For each bag of events and frames from the same lens, the table has the cosine similarity of
student and teacher over active tokens and over all, with the mean over the image removed from both.
Each student is compared with the same network before training. With ``--normalize-frames`` the
teacher sees frames without colour and exposure: a teacher's features of a dark frame are poor.
``--pictures`` writes a panel for each pair: frame, events, and the principal components of both
features.

Needs the student's teacher; no ROS.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from scaleevent_ros.data.dataset import PairDataset, SampleOptions
from scaleevent_ros.data.indexed_bag import BagOptions
from scaleevent_ros.data.recordings import open_recordings
from scaleevent_ros.data.sampler import SampleSpec
from scaleevent_ros.distill.distillation import Panel
from scaleevent_ros.models import Student, build_student, load_student, load_teacher
from scaleevent_ros.models.shipped import resolve_model
from scaleevent_ros.visuals.panels import draw_panel

if TYPE_CHECKING:
    from torch import Tensor

HISTORY_NS = 6_000_000_000


def untrained(student: Student) -> Student:
    """Build a student as before training: with ImageNet weights and a random projection."""
    header = student.header
    torch.manual_seed(0)
    fresh = build_student(
        f"{header.architecture}.package",
        header.input.channels,
        stride=header.stride,
        neck=header.neck,
        options=header.architecture_options,
    )
    fresh.projection = nn.Conv2d(fresh.width, len(header.teacher_mean), 1)
    fresh.header = header
    return fresh.eval()


def centered(features: Tensor, covered: Tensor) -> Tensor:
    """Remove the mean over covered cells from features [D, h, w]."""
    return features - features[:, covered].mean(1)[:, None, None]


def main() -> None:
    """Print the table, and draw panels if requested."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("bags", nargs="+")
    parser.add_argument("--students", nargs="+", default=["lite"])
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--normalize-frames", action="store_true")
    parser.add_argument("--most", type=int, default=20, help="maximum number of pairs of a bag")
    arguments = parser.parse_args()
    print("| bag | student | pairs | cosine, active / all | untrained, active / all |")
    print("|---|---|---|---|---|")
    for name in arguments.students:
        student = load_student(resolve_model(name)).eval()
        teacher, header = load_teacher(student.header), student.header
        teacher.normalize_frames |= arguments.normalize_frames
        models = {"trained": student, "untrained": untrained(student)}
        for bag in arguments.bags:
            assert header.window is not None
            (source,) = open_recordings(
                bag, BagOptions(), header.window, header.input.leaky, HISTORY_NS
            )
            blank = source.read(0).events
            options = SampleOptions(
                width=blank.width,
                height=blank.height,
                stride=student.stride,
                frame_scale=teacher.scale,
                input=header.input,
                window=header.window,
                history_ns=HISTORY_NS,
            )
            pairs = PairDataset([source], options)
            chosen = np.unique(np.linspace(0, len(pairs) - 1, arguments.most).round().astype(int))
            found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in models}
            for number in chosen.tolist():
                sample = pairs[SampleSpec(0, 0, number)]
                grid = (sample.active.shape[0], sample.active.shape[1])
                size = (blank.height, blank.width)
                truth = centered(teacher(sample.frame[None], grid, size)[0], sample.covered)
                active = sample.active & sample.covered
                for kind, model in models.items():
                    with torch.inference_mode():
                        own = model.teacher_projection()(model(sample.events[None]))[0]
                    own = centered(own, sample.covered)
                    cosine = functional.cosine_similarity(own, truth, dim=0)
                    if active.any():
                        found[kind].append(
                            (float(cosine[active].mean()), float(cosine[sample.covered].mean()))
                        )
                    if arguments.pictures is not None and kind == "trained":
                        panel = Panel(sample.events, sample.frame, truth, own, active)
                        arguments.pictures.mkdir(parents=True, exist_ok=True)
                        target = arguments.pictures / f"{Path(bag).name}-{number:03}.png"
                        Image.fromarray(draw_panel(panel)).save(target)
            cells = [
                " / ".join(f"{mean:.2f}" for mean in np.mean(values, axis=0))
                for values in found.values()
            ]
            print(
                f"| {Path(bag).name} | {name} | {len(chosen)} | {' | '.join(cells)} |", flush=True
            )


if __name__ == "__main__":
    main()
