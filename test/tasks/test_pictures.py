"""Heads fitted on a teacher's features of pictures, run on its students without any event."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
from labelled_pictures import write_labelled
from safetensors.torch import save_file

from scaleevent_ros.data.sampler import SampleSpec
from scaleevent_ros.distill.configuration import (
    EventOptions,
    OptimizerOptions,
    StudentOptions,
    TrainerOptions,
)
from scaleevent_ros.distill.errors import ConfigurationError
from scaleevent_ros.models import build_student, load_student, load_teacher, save_student
from scaleevent_ros.models.backbone import build_network
from scaleevent_ros.models.feature_statistics import FeatureStatistics
from scaleevent_ros.models.teacher import build_teacher
from scaleevent_ros.sources.pictures import read_raster
from scaleevent_ros.tasks import load_heads
from scaleevent_ros.tasks.classes import read_classes
from scaleevent_ros.tasks.downstream import Downstream
from scaleevent_ros.tasks.errors import TaskError
from scaleevent_ros.tasks.evaluation import evaluate, parse_request
from scaleevent_ros.tasks.evaluation_results import read_evaluation
from scaleevent_ros.tasks.finetune import Finetuning, HeadOptions, finetune
from scaleevent_ros.tasks.heads import attach_heads
from scaleevent_ros.tasks.labelled_data import LabelledData, build_held_out
from scaleevent_ros.visuals.predictions import draw_example

if TYPE_CHECKING:
    from pathlib import Path

    from scaleevent_ros.models import Teacher

VIT = {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8}
NAME = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_labelled(tmp_path_factory.mktemp("labelled") / "all", 12)
    torch.manual_seed(0)
    network = build_network(NAME, VIT, num_classes=0)
    save_file(network.state_dict(), folder / "teacher.safetensors")
    return folder


@pytest.fixture(scope="module")
def data(folder: Path) -> LabelledData:
    return LabelledData(
        source="frames",
        pictures=str(folder / "pictures"),
        labels=str(folder / "labels"),
        validation_pictures=str(folder / "pictures"),
        validation_labels=str(folder / "labels"),
        classes=str(folder / "classes.yaml"),
        width=64, height=48, workers=0, validation_fraction=0.5,
    )  # fmt: skip


def write_student(folder: Path, path: Path, width: int | None = None) -> tuple[Path, Teacher]:
    """Write a student of the teacher: one that is the teacher itself, or one of another width."""
    options = {"checkpoint": str(folder / "teacher.safetensors"), "options": VIT, "scale": 2}
    teacher = build_teacher(NAME, **options)  # type: ignore[arg-type]
    torch.manual_seed(1)
    init = "teacher" if width is None else "random"
    wanted = VIT if width is None else {**VIT, "embed_dim": width}
    student = build_student(NAME, 3, init, teacher=teacher, options=wanted)
    # Statistics as of any training set: the head must not depend on them.
    student.set_target(FeatureStatistics(torch.randn(24), torch.rand(24) + 0.5), standardized=True)
    header = replace(student.header, teacher_options=options)
    student.header = EventOptions(bins=3, normalization="none").describe(header)
    save_student(path, student)
    return path, teacher


def configured(
    data: LabelledData, init: Path, output: Path, head: HeadOptions | None = None
) -> Finetuning:
    return Finetuning(
        data=data,
        head=head or HeadOptions(),
        student=StudentOptions(init=str(init)),
        optimizer=OptimizerOptions(learning_rate=1e-2, clip=1.0),
        trainer=TrainerOptions(
            epochs=8, batch_size=4, validate_every=100, log_every=4,
            accelerator="cpu", output=str(output),
        ),
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(
    folder: Path, data: LabelledData, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Fit a head on pictures for a student that is its teacher; the student and the result."""
    output = tmp_path_factory.mktemp("run")
    student, _ = write_student(folder, output / "student.safetensors")
    configuration = replace(configured(data, student, output / "run"), cache=str(output / "cache"))
    outcome = finetune(configuration)
    assert outcome.metrics["miou"] > 0.6
    assert len(list((output / "cache").rglob("*.safetensors"))) == 12
    return student, output / "run" / "last.safetensors"


def test_the_head_learns_on_the_teacher_and_the_student_stays(run: tuple[Path, Path]) -> None:
    before, after = (load_student(path) for path in run)
    for name, value in before.state_dict().items():
        assert torch.equal(after.state_dict()[name], value)
    assert after.header.space_of("segmentation") == "teacher"
    assert after.header.heads["segmentation"]["width"] == 24
    assert after.header.classes == ["smooth", "rough"]


def test_on_a_student_that_is_its_teacher_the_head_gives_what_it_gives_on_frames(
    run: tuple[Path, Path], data: LabelledData
) -> None:
    """A student of three bins with its teacher's weights computes its features of a frame."""
    student = load_student(run[1])
    teacher = load_teacher(student.header)
    head = load_heads(run[1])["segmentation"]
    samples = build_held_out(data, EventOptions(), read_classes(data.classes), 2)
    frames = torch.stack([samples[SampleSpec(0, 0, pair)].events for pair in range(3)])
    assert frames.shape == (3, 3, 96, 128)
    model = Downstream(student, head, frozen=True, on_teacher=True).eval()
    with torch.no_grad():
        expected = head(teacher(frames, (12, 16), (96, 128)), (96, 128))
        at_scale_1 = build_teacher(NAME, student.header.teacher_options["checkpoint"], options=VIT)
        expected = head(at_scale_1(frames, (12, 16)), (96, 128))
        found = model((frames / 255 - teacher.mean) / teacher.std)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_it_runs_on_every_student_of_that_teacher(
    run: tuple[Path, Path], folder: Path, data: LabelledData, tmp_path: Path
) -> None:
    other, _ = write_student(folder, tmp_path / "other.safetensors", width=48)
    attached = tmp_path / "attached.safetensors"
    assert attach_heads(other, run[1], attached) == ["segmentation"]
    assert torch.equal(
        load_heads(attached)["segmentation"].classify.weight,  # type: ignore[union-attr, arg-type]
        load_heads(run[1])["segmentation"].classify.weight,  # type: ignore[union-attr, arg-type]
    )
    judged = {}
    for source in ("events", "frames"):
        output = tmp_path / source
        more = [] if source == "events" else ["--data.source", source]
        request = parse_request(
            [str(attached), "--output", str(output), "--device", "cpu", *arguments(data), *more]
        )
        assert request.options.data.source == source
        evaluate(request, draw_example)
        judged[source] = read_evaluation(output / "evaluation.json").scores["miou"]
        assert len(list((output / "pictures").iterdir())) == 6
    # An untrained student sees nothing; the teacher sees as well as in the run.
    assert judged["frames"] > 0.6
    assert judged["events"] < judged["frames"]


def test_a_depth_head_learns_from_pictures_with_depth(
    run: tuple[Path, Path], folder: Path, data: LabelledData, tmp_path: Path
) -> None:
    (tmp_path / "depth").mkdir()
    for number in range(12):
        labels = read_raster(folder / "labels" / f"{number:02d}.png")
        millimetres = np.where(labels == 255, 65535, 1500 + 3000 * labels.astype(int)).astype(
            np.uint16
        )
        cv2.imwrite(str(tmp_path / "depth" / f"{number:02d}.png"), millimetres)
    depths = str(tmp_path / "depth")
    deep = replace(data, kind="stills_depth", labels=depths, validation_labels=depths, classes="")
    sample = build_held_out(deep, EventOptions(), None, 2)[SampleSpec(0, 0, 0)]
    assert sample.truth.shape == (1, 48, 64)
    assert set(sample.truth.flatten().tolist()) == {0, 1.5, 4.5}
    head = HeadOptions("depth_dpt", {"maximum": 10.0, "channels": 8})
    assert finetune(configured(deep, run[0], tmp_path / "run", head)).metrics["rmse"] < 2.5
    both = tmp_path / "both.safetensors"
    assert attach_heads(run[1], tmp_path / "run" / "last.safetensors", both) == ["depth"]
    header = load_student(both).header
    assert {header.space_of(task) for task in header.heads} == {"teacher"}
    assert header.heads.keys() == {"segmentation", "depth"}
    assert header.classes == ["smooth", "rough"]
    with pytest.raises(ConfigurationError, match="stills_depth has no events"):
        replace(deep, source="events")


def arguments(data: LabelledData) -> list[str]:
    names = (
        "pictures", "labels", "validation_pictures", "validation_labels", "classes", "width",
        "height", "workers", "validation_fraction",
    )  # fmt: skip
    return [word for name in names for word in (f"--data.{name}", str(getattr(data, name)))]


def test_heads_that_do_not_fit_are_refused(
    run: tuple[Path, Path], folder: Path, data: LabelledData, tmp_path: Path
) -> None:
    student, _ = write_student(folder, tmp_path / "student.safetensors", width=48)
    stranger = load_student(student)
    stranger.header = replace(stranger.header, teacher="vit_small_patch14_dinov2.package")
    save_student(tmp_path / "stranger.safetensors", stranger)
    out = tmp_path / "out.safetensors"
    with pytest.raises(
        TaskError, match="is for students of the teacher vit_tiny_patch16_224, not of vit_sm"
    ):
        attach_heads(tmp_path / "stranger.safetensors", run[1], out)
    with pytest.raises(TaskError, match="has no head"):
        attach_heads(student, student, out)
    on_events = replace(data, source="events", strength=2)
    finetune(replace(configured(on_events, student, tmp_path / "probe")))
    probe = tmp_path / "probe" / "last.safetensors"
    assert attach_heads(student, probe, out) == ["segmentation"]
    with pytest.raises(TaskError, match="trained on the features of another student"):
        attach_heads(run[0], probe, out)
    assert load_student(out).header.space_of("segmentation") == "student"


def test_what_frames_need_is_said_before_anything_is_loaded(
    data: LabelledData, run: tuple[Path, Path]
) -> None:
    with pytest.raises(ConfigurationError, match=r"student.init must be a checkpoint"):
        Finetuning(data=data, student=StudentOptions(NAME, "random"))
    with pytest.raises(ConfigurationError, match=r"head.frozen must be true"):
        Finetuning(
            data=data, student=StudentOptions(init=str(run[0])), head=HeadOptions(frozen=False)
        )
    with pytest.raises(ConfigurationError, match=r"data.source frames needs data.kind stills"):
        replace(data, kind="stills_flow")
