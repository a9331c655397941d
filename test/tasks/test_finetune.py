"""Whole downstream runs of a tiny ViT on textured rectangles."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelled_pictures import write_labelled
from safetensors.torch import load_file
from training_processes import launch_processes
from typer.testing import CliRunner

from scaleevent_ros.cli import app
from scaleevent_ros.distill.configuration import (
    EventOptions,
    OptimizerOptions,
    ParameterGroup,
    StudentOptions,
    TrainerOptions,
    parse_configuration,
)
from scaleevent_ros.distill.errors import ConfigurationError
from scaleevent_ros.distill.parallel import start_fabric
from scaleevent_ros.events.windows import WindowOptions
from scaleevent_ros.models import load_student, save_student
from scaleevent_ros.runtime import Engine
from scaleevent_ros.runtime.trial_windows import synthetic_windows
from scaleevent_ros.tasks import TaskError, build_head, load_heads
from scaleevent_ros.tasks.classes import read_classes
from scaleevent_ros.tasks.downstream import Downstream
from scaleevent_ros.tasks.eomt import EomtSegmentation
from scaleevent_ros.tasks.evaluation import EvaluationOptions
from scaleevent_ros.tasks.evaluation_measure import evaluate_checkpoint
from scaleevent_ros.tasks.finetune import (
    Finetuning,
    HeadOptions,
    build_downstream,
    choose_events,
    finetune,
)
from scaleevent_ros.tasks.labelled_data import LabelledData, build_loaders

REPOSITORY = Path(__file__).resolve().parents[2]
VIT = {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8}
HEADS = {
    "linear": HeadOptions(),
    "dpt": HeadOptions("segmentation_dpt", {"channels": 8}, frozen=False),
    "eomt": HeadOptions("segmentation_eomt", {"queries": 4, "blocks": 1}, frozen=False),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> LabelledData:
    folder = write_labelled(tmp_path_factory.mktemp("labelled") / "all", 10)
    return LabelledData(
        pictures=str(folder / "pictures"),
        labels=str(folder / "labels"),
        validation_pictures=str(folder / "pictures"),
        validation_labels=str(folder / "labels"),
        classes=str(folder / "classes.yaml"),
        width=64, height=48, workers=0, fraction=0.8, validation_fraction=0.5, strength=2,
    )  # fmt: skip


def configured(data: LabelledData, output: Path, **trainer: Any) -> Finetuning:
    defaults = {
        "epochs": 6, "batch_size": 4, "save_every": 4, "validate_every": 100, "log_every": 4,
        "loggers": [], "accelerator": "cpu", "output": str(output),
    }  # fmt: skip
    return Finetuning(
        data=data,
        student=StudentOptions("vit_tiny_patch16_224", "random", options=VIT),
        optimizer=OptimizerOptions(learning_rate=1e-2, clip=1.0),
        trainer=TrainerOptions(**{**defaults, **trainer}),
    )


def start(configuration: Finetuning) -> dict[str, torch.Tensor]:
    classes = read_classes(configuration.data.classes)
    return dict(build_downstream(configuration, classes).student.state_dict())


def test_a_linear_probe_learns_and_leaves_the_backbone_alone(
    data: LabelledData, tmp_path: Path
) -> None:
    configuration = configured(data, tmp_path)
    outcome = finetune(configuration)
    assert outcome.step == 12
    assert outcome.metrics["miou"] > 0.6
    assert set(outcome.metrics) == {
        "miou", "accuracy", "iou/smooth", "iou/rough", "events/miou", "events/accuracy",
    }  # fmt: skip
    path = tmp_path / "last.safetensors"
    student = load_student(path)
    assert student.header.classes == ["smooth", "rough"]
    for name, value in start(configuration).items():
        assert torch.equal(student.state_dict()[name], value), name
    head = load_heads(path)["segmentation"]
    assert head(student(torch.randn(1, 5, 48, 64)), (48, 64)).shape == (1, 2, 48, 64)


def test_only_a_frozen_backbone_keeps_its_batch_norms_as_they_are(
    data: LabelledData, tmp_path: Path
) -> None:
    for frozen in (True, False):
        run = replace(configured(data, tmp_path), head=HeadOptions(frozen=frozen))
        model = build_downstream(run, read_classes(data.classes)).train()
        assert model.head.training
        assert all(module.training != frozen for module in model.student.modules())
        assert not model.eval().head.training


def test_fine_tuning_moves_the_backbone_at_its_own_rate(data: LabelledData, tmp_path: Path) -> None:
    moved = []
    for multiplier in (0.1, 1.0):
        configuration = configured(data, tmp_path / str(multiplier), epochs=1)
        configuration = replace(
            configuration,
            head=HeadOptions("segmentation_dpt", {"channels": 8}, frozen=False),
            optimizer=OptimizerOptions(
                learning_rate=1e-3,
                groups=[ParameterGroup("^student", multiplier)],
                schedule="constant",
            ),
        )
        finetune(configuration)
        student = load_student(tmp_path / str(multiplier) / "last.safetensors")
        before, after = start(configuration), student.state_dict()
        key = "backbone.model.patch_embed.proj.weight"
        moved.append(float((after[key] - before[key]).abs().mean()))
    assert 0 < 5 * moved[0] < moved[1]


@pytest.mark.parametrize("head", ["linear", "eomt"])
def test_a_run_that_was_stopped_ends_like_one_that_was_not(
    data: LabelledData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    """The share of masked queries depends on the step; it continues unchanged."""

    def run(name: str, **trainer: Any) -> Finetuning:
        return replace(configured(data, tmp_path / name, **trainer), head=HEADS[head])

    finetune(run("whole"))
    from scaleevent_ros.distill.trainer import Trainer

    step = Trainer._train_step

    def stop(self: Trainer, *arguments: Any) -> Any:
        if self._step == 6:
            raise KeyboardInterrupt
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", stop)
        with pytest.raises(KeyboardInterrupt):
            finetune(run("parts"))
    outcome = finetune(run("parts", resume=True))
    assert outcome.step == 12
    assert finetune(run("parts", resume=True)) == outcome  # of a finished run, once more
    whole, parts = (load_file(tmp_path / n / "last.safetensors") for n in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_two_processes_learn_and_tell_what_one_does(data: LabelledData, tmp_path: Path) -> None:
    def run(name: str) -> Finetuning:
        return replace(configured(data, tmp_path / name, epochs=3), head=HEADS["dpt"])

    torch.set_num_threads(1)
    outcome = finetune(run("one"))
    assert launch_processes(finetune, run("two"), 2, ["lightning.fabric", finetune.__module__]) == [
        0,
        0,
    ]
    one, two = (load_file(tmp_path / n / "last.safetensors") for n in ("one", "two"))
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-5
    logs = [(tmp_path / n / "metrics.jsonl").read_text().splitlines() for n in ("one", "two")]
    first, second = (
        [entry for entry in map(json.loads, log) if entry["kind"] == "validation"] for log in logs
    )
    assert len(first) == len(second) == 2
    for entry, other in zip(first, second, strict=True):
        scores = [name for name in outcome.metrics if name in entry]
        assert len(scores) == 6
        assert [other[name] for name in scores] == pytest.approx(
            [entry[name] for name in scores], abs=2e-3
        )


def test_queries_and_masks_learn_to_name_pixels(
    data: LabelledData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress: list[float] = []
    anneal = EomtSegmentation.anneal

    def record(self: EomtSegmentation, share: float) -> None:
        progress.append(share)
        anneal(self, share)

    monkeypatch.setattr(EomtSegmentation, "anneal", record)
    run = replace(configured(data, tmp_path, epochs=20), head=HEADS["eomt"])
    outcome = finetune(run)
    assert progress == [step / 40 for step in range(40)]
    assert outcome.metrics["miou"] > 0.6
    log = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [entry for entry in log if entry["kind"] == "train"]
    assert {"total", "mask", "dice", "classes"} <= steps[0].keys()
    assert steps[-1]["total"] < 0.7 * steps[0]["total"]
    assert isinstance(load_heads(tmp_path / "best.safetensors")["segmentation"], EomtSegmentation)


def test_flow_is_learned_from_its_configuration(data: LabelledData, tmp_path: Path) -> None:
    run = replace(
        configured(data, tmp_path, epochs=1),
        data=replace(data, kind="stills_flow", labels="", validation_labels="", classes=""),
        head=HeadOptions("flow_correlation", {"channels": 8, "iterations": 2}, frozen=False),
    )
    outcome = finetune(run)
    assert {"epe", "3pe", "angular", "events/epe"} <= set(outcome.metrics)
    student = load_student(tmp_path / "last.safetensors")
    assert student.header.classes == []
    assert set(student.header.heads) == set(load_heads(tmp_path / "last.safetensors")) == {"flow"}


def test_a_head_on_a_memory_learns_from_sequences_and_runs_in_the_engine(
    data: LabelledData, tmp_path: Path
) -> None:
    data = replace(data, windows=3)
    configuration = configured(data, tmp_path / "plain", epochs=1)
    student = build_downstream(configuration, read_classes(data.classes)).student
    student.set_memory(1.0)
    assert student.memory is not None
    torch.nn.init.normal_(student.memory.correction.weight, std=0.1)
    torch.nn.init.normal_(student.memory.gate.weight, std=0.1)
    save_student(tmp_path / "start.safetensors", student)
    init = replace(configuration.student, init=str(tmp_path / "start.safetensors"))
    run = replace(configured(data, tmp_path / "run"), student=init)
    learned = finetune(run).metrics["miou"]
    assert learned > 0.5
    path = tmp_path / "run" / "last.safetensors"
    evaluation = evaluate_checkpoint(
        path, EvaluationOptions(data=data, pictures=1), start_fabric(run.trainer), lambda *_: None
    )
    assert evaluation.scores["miou"] == pytest.approx(learned, abs=1e-6)
    # The node's engine, fed one window after the other, gives what training's model gives.
    engine = Engine(path, "cpu", backend="eager", size=(48, 64))
    windows = synthetic_windows(engine.header, (48, 64), 3)
    classes = [engine(window).segmentation for window in windows][-1]
    head = load_heads(path)["segmentation"]
    model = Downstream(load_student(path), head, frozen=True).eval()
    normalized = np.stack([engine.header.input.normalize(window) for window in windows])
    with torch.no_grad():
        expected = model(torch.from_numpy(normalized)[None])[0].argmax(0)
        alone = model.head(model.student(torch.from_numpy(normalized[-1:])), (48, 64))[0].argmax(0)
    assert np.array_equal(np.asarray(classes), expected.numpy())
    assert not torch.equal(expected, alone)


def test_heads_that_fit_no_memory_are_named(data: LabelledData, tmp_path: Path) -> None:
    configuration = configured(data, tmp_path)
    student = build_downstream(configuration, read_classes(data.classes)).student
    student.set_memory(1.0)
    eomt = HEADS["eomt"]
    head = build_head(eomt.kind, student.width, student.stride, classes=2, **eomt.options)
    with pytest.raises(TaskError, match="EomtSegmentation does not fit students with a memory"):
        Downstream(student, head, frozen=False)


def test_the_seed_does_not_choose_what_is_judged(data: LabelledData, tmp_path: Path) -> None:
    metrics = []
    checkpoint = tmp_path / "student.safetensors"
    model = build_downstream(configured(data, tmp_path), read_classes(data.classes))
    save_student(checkpoint, model.student, {"segmentation": model.head})
    for seed in (1, 2):
        run = configured(data, tmp_path / str(seed), seed=seed, epochs=1)
        run = replace(run, student=StudentOptions(init=str(checkpoint)))
        first = build_downstream(run, read_classes(data.classes))
        assert all(
            torch.equal(value, first.student.state_dict()[name])
            for name, value in model.student.state_dict().items()
        )
        metrics.append(finetune(run).metrics["miou"])
    assert metrics[0] != metrics[1]  # heads start from the seed
    from scaleevent_ros.data.sampler import SampleSpec

    runs = [configured(data, tmp_path, seed=seed) for seed in (1, 2)]
    held_out = [
        build_loaders(
            run.data, choose_events(run), run.trainer, read_classes(data.classes)
        ).held_out
        for run in runs
    ]
    assert torch.equal(
        held_out[0][SampleSpec(0, 0, 0)].events, held_out[1][SampleSpec(0, 0, 0)].events
    )


def test_a_checkpoint_of_other_event_tensors_is_refused(data: LabelledData, tmp_path: Path) -> None:
    checkpoint = tmp_path / "student.safetensors"
    run = configured(data, tmp_path)
    model = build_downstream(run, read_classes(data.classes))
    save_student(checkpoint, model.student, {"segmentation": model.head})
    run = replace(run, student=StudentOptions(init=str(checkpoint)), events=EventOptions(bins=3))
    with pytest.raises(ConfigurationError, match=r"bins=5.*but events is.*bins=3"):
        build_downstream(run, read_classes(data.classes))


def test_a_run_takes_its_events_from_the_checkpoint(
    data: LabelledData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = tmp_path / "student.safetensors"
    window = WindowOptions("motion", 30.0, 3.0)
    run = replace(configured(data, tmp_path), events=EventOptions(leaky=[0.2, 1.0], window=window))
    save_student(checkpoint, build_downstream(run, read_classes(data.classes)).student)
    run = replace(run, student=StudentOptions(init=str(checkpoint)), events=None)
    assert choose_events(run) == EventOptions(leaky=[0.2, 1.0], window=window)
    header = build_downstream(run, read_classes(data.classes)).student.header
    assert (header.leaky, header.window, header.bins) == ([0.2, 1.0], window, 7)
    assert not caplog.records
    other = EventOptions(leaky=[0.2, 1.0])
    assert choose_events(replace(run, events=other)) == other
    assert "mode='motion'" in caplog.text
    assert "is used on" in caplog.text


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--data.fraction", "0"], "data.fraction is 0"),
        (["--data.classes", ""], "data.classes is not given"),
        (["--head.kind", "depth_dpt"], "is for depth, but data.kind stills is for segmentation"),
        (["--head.kind", "segmentation_magic"], "segmentation_linear"),
    ],
)
def test_a_wrong_configuration_is_named(wrong: list[str], said: str) -> None:
    names = ("pictures", "labels", "validation_pictures", "validation_labels", "classes")
    given = [word for name in names for word in (f"--data.{name}", "x")]
    with pytest.raises(ConfigurationError, match=said):
        parse_configuration(Finetuning, [*given, *wrong], "")


@pytest.mark.parametrize("name", ["camvid_linear_probe_cpu", "camvid_finetune_cpu"])
def test_our_configurations_can_be_read(name: str, data: LabelledData) -> None:
    places = [
        f"--data.{name}={getattr(data, name)}"
        for name in ("pictures", "labels", "validation_pictures", "validation_labels")
    ]
    path = REPOSITORY / "config" / "finetune" / f"{name}.yaml"
    read = parse_configuration(Finetuning, ["--config", str(path), *places], "")
    assert read_classes(read.data.classes).names
    assert read.head.frozen == ("probe" in name)


def test_the_program_runs_and_says_what_is_wrong_in_one_line(
    data: LabelledData, tmp_path: Path
) -> None:
    names = ("pictures", "labels", "validation_pictures", "validation_labels", "classes")
    given = [
        *(f"--data.{name}={getattr(data, name)}" for name in names),
        "--data.width=64", "--data.height=48", "--data.workers=0", "--data.fraction=0.4",
        "--student.name=vit_tiny_patch16_224", "--student.init=random",
        f"--student.options={json.dumps(VIT)}", "--trainer.epochs=1", "--trainer.batch_size=2",
        "--trainer.loggers=[]", f"--trainer.output={tmp_path}",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "training" / "finetune.py"), *given],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "best.safetensors").is_file()
    failed = CliRunner().invoke(app, ["finetune", *given, "--trainer.batch_size=99"])
    assert failed.exit_code == 2
    assert failed.stderr.splitlines()[-1].startswith("finetune: an epoch of 4 pairs does not fill")
