from __future__ import annotations

import json
import math
import os
import signal
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import tiny_run
import torch
from safetensors.torch import load_file
from tiny_run import TinyRun, build_trainer, final_weights, launch, run_here
from torch.amp.grad_scaler import GradScaler

from scaleevent_ros.distill import stop_request
from scaleevent_ros.distill.errors import RunStopped, TrainingError
from scaleevent_ros.distill.stop_request import stop_requests
from scaleevent_ros.models import load_student

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

STEPS = 15


def entries(output: Path, kind: str) -> list[dict[str, float]]:
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["kind"] == kind]


@pytest.fixture(autouse=True)
def hears_interrupts() -> Iterator[None]:
    """Listen to interrupts where tests run in the background too, and they are ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run") / "uninterrupted"
    run_here(TinyRun(output))
    return output


@pytest.fixture(scope="module")
def by_one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without random numbers in the model, which differ from process to process."""
    output = tmp_path_factory.mktemp("run") / "one"
    run_here(TinyRun(output, drop=0.0))
    return output


def largest_difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def test_a_run_learns_and_leaves_what_it_should(uninterrupted: Path) -> None:
    steps = entries(uninterrupted, "train")
    assert [entry["step"] for entry in steps] == list(range(1, STEPS + 1))
    assert steps[-1]["total"] < 0.9 * steps[0]["total"]
    first, last = entries(uninterrupted, "validation")
    assert (first["step"], last["step"]) == (0, STEPS)
    assert last["cosine_active"] > first["cosine_active"] + 0.05
    assert {"cosine_all", "affinity_correlation", "feature", "intra", "cross"} <= last.keys()
    assert {"rate", "pairs_per_s", "active", "data_wait", "gradient"} <= steps[0].keys()
    kept = sorted(path.name for path in (uninterrupted / "checkpoints").iterdir())
    assert kept == ["step-00000012", "step-00000015"]
    student = load_student(uninterrupted / "best.safetensors")
    assert student.header.extra["step"] == STEPS


@pytest.mark.parametrize("kill_at", ["step 2", "step 6", "step 14", "save 8"])
def test_a_killed_and_resumed_run_ends_with_the_same_bits(
    uninterrupted: Path, tmp_path: Path, kill_at: str
) -> None:
    output = tmp_path / "killed"
    assert launch(TinyRun(output, {"resume": True}, kill_at=kill_at)) == [-9]
    run_here(TinyRun(output, {"resume": True}))
    expected, found = final_weights(uninterrupted), final_weights(output)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert [entry["step"] for entry in entries(output, "train")] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("signal_at", ["SIGINT 6", "SIGTERM 9"])
def test_a_run_that_is_asked_to_stop_saves_first_and_goes_on_with_the_same_bits(
    uninterrupted: Path, tmp_path: Path, signal_at: str
) -> None:
    name, _, step = signal_at.partition(" ")
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    done = int(step) + 1  # the step that was under way is finished
    with pytest.raises(RunStopped, match=f"{name} after step {done}, .*resume true") as stopped:
        run_here(TinyRun(tmp_path, kill_at=signal_at))
    assert stopped.value.exit_code == 128 + signal.Signals[name]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert (tmp_path / "checkpoints" / f"step-{done:08d}").is_dir()
    run_here(TinyRun(tmp_path, {"resume": True}))
    expected, found = final_weights(uninterrupted), final_weights(tmp_path)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert [entry["step"] for entry in entries(tmp_path, "train")] == list(range(1, STEPS + 1))


def fork_servers_and_theirs() -> set[int]:
    """Find the processes that fork servers of this test process are or have started.

    Another worker of pytest-xdist has fork servers of its own.
    """
    name = b"PYTEST_XDIST_WORKER="
    own = name + os.environ.get(name.decode()[:-1], "").encode()
    found = set()
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has just ended
            variables = command.with_name("environ").read_bytes().split(b"\0")
            worker = next((one for one in variables if one.startswith(name)), name)
            if b"multiprocessing.forkserver" in command.read_bytes() and worker == own:
                found.add(int(command.parent.name))
    return found


def test_workers_end_with_a_run_that_is_killed(tmp_path: Path) -> None:
    """Workers come from a fork server, which lives as long as its workers do."""
    whole = TinyRun(tmp_path / "whole", {"epochs": 1})
    assert launch(whole, workers="forkserver") == [0]
    before = fork_servers_and_theirs()
    killed = TinyRun(tmp_path / "killed", kill_at="step 2")
    assert launch(killed, workers="forkserver") == [-9]
    deadline = time.monotonic() + 30
    while left := fork_servers_and_theirs() - before:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def test_all_processes_stop_where_one_is_asked_to(by_one_process: Path, tmp_path: Path) -> None:
    run = TinyRun(tmp_path, {"resume": True}, drop=0.0)
    assert launch(replace(run, kill_at="SIGTERM 6"), world=2) == [1, 1]  # of an uncaught error
    # One step later than alone: processes agree while the device computes the next step.
    assert (tmp_path / "checkpoints" / "step-00000008").is_dir()
    assert launch(run, world=2) == [0, 0]
    assert largest_difference(final_weights(by_one_process), final_weights(tmp_path)) < 1e-5


def test_an_interrupt_that_comes_again_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with stop_requests() as stop:
        assert stop() == 0
        signal.raise_signal(signal.SIGINT)
        assert stop() == signal.SIGINT
        # Passed on by a launcher, which got it too; and told by a batch system beside it.
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        monkeypatch.setattr(stop_request, "SAME_S", 0.0)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_requests() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop() == 0
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("options", [{}, {"accumulate": 2}])
def test_two_processes_and_accumulation_give_what_one_gives(
    by_one_process: Path, tmp_path: Path, options: dict[str, int]
) -> None:
    assert launch(TinyRun(tmp_path, options, drop=0.0), world=2) == [0, 0]
    assert largest_difference(final_weights(by_one_process), final_weights(tmp_path)) < 1e-5
    for kind in ("train", "validation"):
        expected, found = entries(by_one_process, kind), entries(tmp_path, kind)
        assert len(expected) == len(found)  # one process writes
        for name in ("total", "active"):
            assert [entry[name] for entry in found] == pytest.approx(
                [entry[name] for entry in expected], rel=1e-4
            )


def test_sharded_processes_that_were_killed_and_resumed_give_what_one_gives(
    by_one_process: Path, tmp_path: Path
) -> None:
    run = TinyRun(tmp_path, {"strategy": "fsdp", "resume": True}, drop=0.0)
    assert launch(replace(run, kill_at="step 9"), world=2) == [-9, -9]
    assert launch(run, world=2) == [0, 0]
    assert largest_difference(final_weights(by_one_process), final_weights(tmp_path)) < 1e-5


def test_sharded_processes_with_validations_between_saves_give_what_one_gives(
    tmp_path: Path,
) -> None:
    """Root parameters stay gathered after a forward pass without a backward pass."""
    options = {"epochs": 1, "validate_every": 2, "save_every": 100}
    for strategy, world in (("auto", 1), ("fsdp", 2)):
        run = TinyRun(tmp_path / strategy, {**options, "strategy": strategy}, drop=0.0)
        assert launch(run, world) == [0] * world
    for kind in ("train", "validation"):
        expected, found = (entries(tmp_path / name, kind) for name in ("auto", "fsdp"))
        assert [entry["total"] for entry in found] == pytest.approx(
            [entry["total"] for entry in expected], rel=1e-4
        )


def test_a_finished_run_gives_its_result_again(uninterrupted: Path) -> None:
    trainer = build_trainer(TinyRun(uninterrupted, {"resume": True}))
    outcome = trainer.run()
    assert outcome.step == STEPS
    last = entries(uninterrupted, "validation")[-1]
    assert outcome.metrics == {name: last[name] for name in outcome.metrics}
    assert outcome.metrics["cosine_active"] == outcome.best_score


def test_fp16_scales_the_loss_and_leaves_out_steps_that_overflow(tmp_path: Path) -> None:
    """On a CPU, where PyTorch has fp16 and its loss scaling too."""
    run = TinyRun(tmp_path, {"precision": "fp16", "epochs": 1}, drop=0.0)
    trainer = build_trainer(run)
    assert trainer._scaler.is_enabled()
    trainer._scaler = GradScaler("cpu", init_scale=2.0**60)  # whatever it is, too much
    trainer.run()
    steps = entries(tmp_path, "train")
    assert math.isinf(steps[0]["gradient"]) or math.isnan(steps[0]["gradient"])
    state = torch.load(tmp_path / "checkpoints/step-00000005/state.pt", weights_only=True)
    assert state["scaler"]["scale"] < 2.0**60
    weights = load_file(tmp_path / "last.safetensors").values()
    assert all(bool(torch.isfinite(weight).all()) for weight in weights)


@pytest.mark.parametrize("every", [1, 5])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_batch(
    tmp_path: Path, every: int
) -> None:
    run = TinyRun(tmp_path, {"save_every": every, "validate_every": every}, poison_at=5)
    with pytest.raises(TrainingError, match=r"step 6: the loss is not finite .*safetensors"):
        run_here(run)
    (saved,) = tmp_path.glob("not_finite_step6_*.safetensors")
    batch = load_file(saved)
    assert batch["events"].shape == (8, 5, 48, 64)
    assert batch["frames"].shape == (8, 3, 48, 64)
    # The last checkpoint is of before: the run can go on from it.
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir())[-1] == "step-00000005"
    saved_weights = load_file(tmp_path / "last.safetensors").values()
    assert all(bool(torch.isfinite(weight).all()) for weight in saved_weights)


def test_a_folder_with_a_run_is_not_overwritten(uninterrupted: Path) -> None:
    with pytest.raises(TrainingError, match=r"holds a run of 15 steps.*--trainer.resume true"):
        run_here(TinyRun(uninterrupted))


def test_a_checkpoint_of_another_model_is_refused(
    tmp_path: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkpoints").symlink_to(uninterrupted / "checkpoints")
    monkeypatch.setitem(tiny_run.VIT, "embed_dim", 64)
    with pytest.raises(TrainingError, match="of another model"):
        run_here(TinyRun(tmp_path, {"resume": True}))
