"""Whole evaluations of tiny checkpoints: their scores, their files, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch
from labelled_pictures import write_labelled
from made_evaluations import made_evaluation
from tiny_student import tiny_checkpoint
from typer.testing import CliRunner

from scaleevent_ros import files
from scaleevent_ros.cli import app
from scaleevent_ros.distill.configuration import (
    EventOptions,
    OptimizerOptions,
    StudentOptions,
    TrainerOptions,
    plain,
)
from scaleevent_ros.errors import ScaleEventError
from scaleevent_ros.events.windows import WindowOptions
from scaleevent_ros.models import load_student, save_student
from scaleevent_ros.tasks import build_head, describe_head, load_heads
from scaleevent_ros.tasks.errors import TaskError
from scaleevent_ros.tasks.evaluation import EvaluationOptions, Request, evaluate, parse_request
from scaleevent_ros.tasks.evaluation_measure import Example, events_of, known_pixels
from scaleevent_ros.tasks.evaluation_results import read_evaluation, write_evaluation
from scaleevent_ros.tasks.finetune import Finetuning, finetune
from scaleevent_ros.tasks.labelled_data import LabelledData
from scaleevent_ros.visuals.predictions import draw_example

if TYPE_CHECKING:
    from numpy.typing import NDArray

REPOSITORY = Path(__file__).resolve().parents[2]
VIT = {"embed_dim": 24, "depth": 1, "num_heads": 2, "patch_size": 8}
BATCH = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> LabelledData:
    folder = write_labelled(tmp_path_factory.mktemp("labelled") / "all", 6)
    return LabelledData(
        pictures=str(folder / "pictures"),
        labels=str(folder / "labels"),
        validation_pictures=str(folder / "pictures"),
        validation_labels=str(folder / "labels"),
        classes=str(folder / "classes.yaml"),
        width=64, height=48, workers=0, strength=2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(data: LabelledData, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Train two heads that differ by their seeds, and return the folders of the runs."""
    folders = []
    for seed in (0, 1):
        folders.append(tmp_path_factory.mktemp("run"))
        trainer = TrainerOptions(
            output=str(folders[-1]), seed=seed, epochs=2, batch_size=BATCH, validate_every=1,
            log_every=100, loggers=[], accelerator="cpu",
        )  # fmt: skip
        student = StudentOptions("vit_tiny_patch16_224", "random", options=VIT)
        optimizer = OptimizerOptions(learning_rate=1e-2)
        finetune(Finetuning(data=data, student=student, optimizer=optimizer, trainer=trainer))
    return folders


def asked(data: LabelledData, output: Path, *paths: Path, **options: Any) -> Request:
    """Run an evaluation on the CPU."""
    given = {"device": "cpu", "batch_size": BATCH, "pictures": 2, **options}
    return Request(paths, (), EvaluationOptions(data, output=str(output), **given))


def test_scores_are_those_of_the_run_s_best_validation(
    data: LabelledData, runs: list[Path], tmp_path: Path
) -> None:
    best = runs[0] / "best.safetensors"
    table = evaluate(asked(data, tmp_path, best), draw_example)
    one = read_evaluation(tmp_path / "evaluation.json")
    lines = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text().splitlines()]
    (line,) = [x for x in lines if x["kind"] == "validation" and x["step"] == one.step]
    assert line["miou"] == max(x["miou"] for x in lines if x["kind"] == "validation" and x["step"])
    said = {name: value for name, value in line.items() if name not in {"kind", "step", "time"}}
    assert said == {name: one.scores[name] for name in said}
    assert set(one.scores) - set(said) == {"events/iou/smooth", "events/iou/rough"}
    assert f"{one.scores['miou']:.4f}" in table.splitlines()[1]


def test_everything_is_written_that_is_needed_to_judge_again(
    data: LabelledData, runs: list[Path], tmp_path: Path
) -> None:
    best = runs[1] / "best.safetensors"
    evaluate(asked(data, tmp_path / "new", best, pictures=3), draw_example)
    one = read_evaluation(tmp_path / "new" / "evaluation.json")
    assert one.checkpoint == str(best)
    assert one.sha256 == hashlib.sha256(best.read_bytes()).hexdigest()
    assert (one.seed, one.task, one.classes) == (1, "segmentation", ["smooth", "rough"])
    assert one.head["kind"] == "segmentation_linear"
    assert one.events == plain(EventOptions())
    assert one.data == plain(data)
    assert (one.split, one.windows, one.device, one.precision) == (
        "validation", 6, "cpu", "fp32",
    )  # fmt: skip
    assert one.ms_per_window > 0
    text = (tmp_path / "new" / "evaluation.md").read_text()
    assert f"| miou ↑ | {one.scores['miou']:.4f} |" in text
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "evaluation.json", "evaluation.md", "pictures",
    ]  # fmt: skip
    names = sorted(path.name for path in (tmp_path / "new" / "pictures").iterdir())
    assert names == ["0000.png", "0002.png", "0005.png"]
    assert all(f"(pictures/{name})" in text for name in names)
    picture = cv2.imread(str(tmp_path / "new" / "pictures" / "0005.png"))
    assert picture is not None
    assert picture.shape[1] == 4 * 320 + 3 * 6


def constant_head(path: Path) -> Path:
    """Write a checkpoint whose head says that every pixel is smooth."""
    student = load_student(tiny_checkpoint(path.with_name("student.safetensors")))
    described = describe_head("segmentation_linear", student.width, student.stride, classes=2)
    head = build_head(**described)
    with torch.no_grad():
        head.classify.weight.zero_()  # type: ignore[union-attr, operator]
        head.classify.bias.copy_(torch.tensor([1.0, 0.0]))  # type: ignore[union-attr, operator]
    student.header = replace(
        student.header, classes=["smooth", "rough"], heads={"segmentation": described}
    )
    save_student(path, student, {"segmentation": head})
    return path


def quarters(folder: Path, left: int, middle: int, right: int, count: int = 3) -> LabelledData:
    """Write pictures whose quarters have these ids, the middle ones the same, before no camera."""
    for name in ("pictures", "labels"):
        (folder / name).mkdir(parents=True)
    row = np.repeat(np.array([left, middle, middle, right], np.uint8), 16)
    labels = np.tile(row, (48, 1))
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 255, (48, 64, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / "pictures" / f"{number}.png"), noise)
        cv2.imwrite(str(folder / "labels" / f"{number}.png"), labels)
    (folder / "classes.yaml").write_text(
        "classes: [{id: 0, name: smooth, color: [0, 0, 255]},"
        " {id: 1, name: rough, color: [255, 0, 0]}]\nignored: [255]\n"
    )
    pictures, labelled = str(folder / "pictures"), str(folder / "labels")
    return LabelledData(
        pictures=pictures, labels=labelled, validation_pictures=pictures,
        validation_labels=labelled, classes=str(folder / "classes.yaml"),
        width=64, height=48, workers=0, strength=0,
    )  # fmt: skip


def test_a_result_that_is_known_by_hand(tmp_path: Path) -> None:
    # A quarter is smooth, two are rough, one is void: all told as smooth. IoU of smooth: 1 of the
    # 3 known quarters; of rough 0.
    still = quarters(tmp_path / "still", 0, 1, 255)
    path = constant_head(tmp_path / "constant.safetensors")
    seen: list[Example] = []

    def keep(example: Example) -> NDArray[np.uint8]:
        seen.append(example)
        return draw_example(example)

    evaluate(asked(still, tmp_path / "out", path, batch_size=2, pictures=9), keep)
    scores = read_evaluation(tmp_path / "out" / "evaluation.json").scores
    assert {name: scores[name] for name in ("miou", "accuracy", "iou/smooth", "iou/rough")} == {
        "miou": pytest.approx(1 / 6),
        "accuracy": pytest.approx(1 / 3),
        "iou/smooth": pytest.approx(1 / 3),
        "iou/rough": 0,
    }
    assert len(seen) == 3
    assert (seen[0].prediction == 0).all()
    assert seen[0].truth[20, ::16].tolist() == [0, 1, 1, 255]
    assert seen[0].known[20, ::16].tolist() == [True, True, True, False]


def test_the_batch_size_changes_nothing(
    data: LabelledData, runs: list[Path], tmp_path: Path
) -> None:
    found = []
    for size in (1, 6):
        output = tmp_path / str(size)
        evaluate(asked(data, output, runs[0] / "best.safetensors", batch_size=size), draw_example)
        found.append(read_evaluation(output / "evaluation.json"))
    assert found[0].truth == found[1].truth
    assert found[0].scores == pytest.approx(found[1].scores, abs=1e-3)


def test_flow_is_judged_on_its_two_windows(data: LabelledData, tmp_path: Path) -> None:
    path = tiny_checkpoint(tmp_path / "tiny.safetensors", heads=True)
    flowing = replace(data, kind="stills_flow")
    seen: list[Example] = []

    def keep(example: Example) -> NDArray[np.uint8]:
        seen.append(example)
        return draw_example(example)

    evaluate(asked(flowing, tmp_path / "out", path, pictures=1), keep)
    one = read_evaluation(tmp_path / "out" / "evaluation.json")
    assert (one.task, one.classes) == ("flow", [])
    assert one.scores["epe"] > 0
    assert one.scores["events/epe"] > 0
    assert [a.shape for a in (seen[0].tensor, seen[0].prediction, seen[0].truth)] == [
        (5, 48, 64), (2, 48, 64), (2, 48, 64),
    ]  # fmt: skip


def test_two_groups_are_judged_and_compared_in_one_command(
    data: LabelledData, runs: list[Path], tmp_path: Path
) -> None:
    best, last = ([str(run / f"{name}.safetensors") for run in runs] for name in ("best", "last"))
    common = ["--device", "cpu", "--batch_size", "4", "--pictures", "1"]
    one = parse_request([best[0], *common, "--output", str(tmp_path / "one")])
    evaluate(one, draw_example)
    judged = str(tmp_path / "one" / "evaluation.json")
    output = str(tmp_path / "both")
    both = parse_request([judged, best[1], *common, "--output", output, "--against", *last])
    assert both.options.data == data == one.options.data  # which the runs recorded
    table = evaluate(both, draw_example)
    assert sorted(path.name for path in (tmp_path / "both").iterdir()) == [
        "A2", "B1", "B2", "comparison.json", "comparison.md",
    ]  # fmt: skip
    found = json.loads((tmp_path / "both" / "comparison.json").read_text())
    assert found["compared"]["A1"]["checkpoint"] == best[0]
    assert found["paired"] is True
    scores = [
        [
            read_evaluation(tmp_path / folder / "evaluation.json").scores["miou"]
            for folder in folders
        ]
        for folders in (("one", "both/A2"), ("both/B1", "both/B2"))
    ]
    assert found["scores"]["miou"]["A"]["values"] == scores[0]
    mean = sum(scores[0]) / 2 - sum(scores[1]) / 2
    assert found["scores"]["miou"]["difference"]["mean"] == pytest.approx(mean)
    assert f"{mean:+.4f}" in table
    assert f"B2  {last[1]}  seed 1" in table
    assert "| miou ↑ |" in (tmp_path / "both" / "comparison.md").read_text()


def test_what_was_judged_before_is_only_shown_again(
    data: LabelledData, runs: list[Path], tmp_path: Path
) -> None:
    first = evaluate(asked(data, tmp_path / "a", runs[0] / "best.safetensors"), draw_example)
    again = asked(data, tmp_path / "b", tmp_path / "a" / "evaluation.json")
    assert evaluate(again, draw_example) == first
    assert not (tmp_path / "b").exists()


def test_where_the_truth_is_known() -> None:
    nan, inf = float("nan"), float("inf")
    ids = torch.tensor([[[0, 1, 255]]])
    assert known_pixels("segmentation", ids).tolist() == [[[True, True, False]]]
    metres = torch.tensor([[[[0.0, 2.0, nan, inf, -1.0]]]])
    assert known_pixels("depth", metres).tolist() == [[[False, True, False, False, False]]]
    pixels = torch.tensor([[[[0.0, nan, 1.0]], [[0.0, 1.0, nan]]]])
    assert known_pixels("flow", pixels).tolist() == [[[True, False, False]]]


def refusal(request: Request) -> str:
    with pytest.raises(ScaleEventError) as caught:
        evaluate(request, draw_example)
    said = str(caught.value)
    assert "\n" not in said
    return said


def test_checkpoints_that_do_not_fit_the_data_are_refused(
    data: LabelledData, runs: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    bare = tiny_checkpoint(tmp_path / "bare.safetensors")
    full = tiny_checkpoint(tmp_path / "full.safetensors", heads=True)
    best = runs[0] / "best.safetensors"
    assert "bare.safetensors has no head: `scaleevent finetune`" in refusal(asked(data, out, bare))
    flowing = replace(data, kind="stills_flow")
    assert "has a head for segmentation, the data are for flow" in refusal(
        asked(flowing, out, best)
    )
    assert "full.safetensors has the classes road, car, tree" in refusal(asked(data, out, full))
    assert "no checkpoint at" in refusal(asked(data, out, tmp_path / "none.safetensors"))
    student, heads = load_student(best), load_heads(best)
    student.header = replace(student.header, normalization="mean_std", extra={})
    other = tmp_path / "other.safetensors"
    save_student(other, student, heads)
    assert "A2 is of another kind than A1, its events is" in refusal(asked(data, out, best, other))
    student.header = replace(student.header, window=None)
    save_student(other, student, heads)
    assert "the header lacks the length of a window" in refusal(asked(data, out, other))
    student.header = replace(student.header, window=WindowOptions(), normalization=None)
    save_student(other, student, heads)
    assert "the header lacks the normalization of events" in refusal(asked(data, out, other))
    assert not out.exists()


def test_data_and_folders_that_are_not_right_are_refused(
    data: LabelledData, runs: list[Path], tmp_path: Path
) -> None:
    best = runs[0] / "best.safetensors"
    gone = replace(data, validation_pictures=str(tmp_path / "gone"))
    assert "gone" in refusal(asked(gone, tmp_path / "out", best))
    empty = tmp_path / "empty"
    empty.mkdir()
    unlabelled = replace(data, validation_labels=str(empty))
    assert "has no labels of its name" in refusal(asked(unlabelled, tmp_path / "out", best))
    void = quarters(tmp_path / "void", 255, 255, 255, count=1)
    assert "has no pixel with ground truth" in refusal(asked(void, tmp_path / "out", best))
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    assert "full is not empty: give another folder" in refusal(asked(data, full, best))
    assert "cannot be created" in refusal(asked(data, full / "notes.txt" / "below", best))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named(
    data: LabelledData, runs: list[Path], tmp_path: Path
) -> None:
    said = refusal(asked(data, tmp_path / "out", runs[0] / "best.safetensors", device="cuda"))
    assert "finds no GPU" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("representation", "bins", "channels"),
    [("voxel", 3, 3), ("stacked_histogram", 5, 10), ("histogram", 2, 2), ("time_surface", 2, 2)],
)
def test_events_are_those_that_the_header_says(
    representation: str, bins: int, channels: int, tmp_path: Path
) -> None:
    header = load_student(tiny_checkpoint(tmp_path / "tiny.safetensors")).header
    header = replace(header, representation=representation, bins=channels)
    events = events_of(tmp_path, header)
    assert (events.bins, events.channels) == (bins, channels)
    assert (events.normalization, events.window.length_ms) == ("mean_std", 50)
    window = {"mode": "motion", "length_ms": 30.0, "shortest_ms": 3.0}
    run = {"head": {}, "events": {"window": window}}
    header = replace(header, window=None, extra={"run": run})
    assert events_of(tmp_path, header).window.mode == "motion"


def test_wrong_arguments_are_named_in_one_line(runs: list[Path], tmp_path: Path) -> None:
    best = str(runs[0] / "best.safetensors")
    bare = str(tiny_checkpoint(tmp_path / "bare.safetensors"))
    for words, said in [
        ([], "checkpoints"),
        ([best, "--data.fraction", "2"], "data.fraction is 2"),
        ([best, "--data.colour", "red"], "data.colour"),
        ([best, "--device", "tpu"], "device"),
        ([best, "--batch_size", "0"], "batch_size is 0, it must be from 1 to 65536"),
        ([best, "--against"], "against"),
        ([bare], "data.pictures is not given"),
        ([str(tmp_path / "none.json")], "No such file"),
    ]:
        with pytest.raises(ScaleEventError, match=said) as caught:
            parse_request(words)
        assert "\n" not in str(caught.value)


def test_what_is_written_stays_when_the_disk_is_full(
    data: LabelledData, runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = runs[0] / "best.safetensors"
    out = tmp_path / "out"
    monkeypatch.setattr(files, "token_hex", lambda _: "0")

    def fill_the_disk(example: Example) -> NDArray[np.uint8]:
        if (out / "A1" / "evaluation.md").exists() and not (out / "A2").exists():
            (out / "A2").mkdir()
            (out / "A2" / f".{os.getpid()}-0.evaluation.json").symlink_to("/dev/full")
        return draw_example(example)

    with pytest.raises(TaskError) as caught:
        evaluate(asked(data, out, best, best), fill_the_disk)
    assert str(caught.value) == (
        f"{out}/A2/evaluation.json cannot be written: No space left on device; files "
        "written before it are kept"
    )
    assert read_evaluation(out / "A1" / "evaluation.json").checkpoint == str(best)
    assert sorted(path.name for path in (out / "A2").rglob("*")) == [
        "0000.png", "0005.png", "pictures",
    ]  # fmt: skip


def test_the_program_shows_a_table_and_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    write_evaluation(tmp_path, made_evaluation())
    given = ["--data.classes", "x", "--data.pictures", "x", "--data.labels", "x"]
    given += ["--data.validation_pictures", "x", "--data.validation_labels", "x"]
    command = [sys.executable, str(REPOSITORY / "training" / "evaluate.py")]
    done = subprocess.run(
        [*command, str(tmp_path / "evaluation.json"), *given],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split() == ["miou", "↑", "0.5000", "0.7500"]
    missing = str(tmp_path / "none.safetensors")
    failed = CliRunner().invoke(app, ["evaluate", missing, *given])
    assert failed.exit_code == 2
    assert failed.stderr == f"evaluate: no checkpoint at {missing}\n"
