from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from scaleevent_ros.distill.errors import TrainingError
from scaleevent_ros.distill.run_folder import RunFolder


def save(folder: RunFolder, step: int, best: int = 0) -> None:
    folder.begin(step)
    folder.save(step, {"x": torch.tensor(step)}, lambda path: write(path, step), best)


def write(path: Path, step: int) -> None:
    path.write_text(f"model {step}")


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, keep=2)
    for step, best in ((10, 10), (20, 20), (30, 20), (40, 20), (50, 20)):
        save(folder, step, best)
    assert folder.steps() == [20, 40, 50]
    assert (tmp_path / "last.safetensors").read_text() == "model 50"
    assert (tmp_path / "best.safetensors").read_text() == "model 20"
    state = folder.load_newest()
    assert state is not None
    assert (state["step"], int(state["x"])) == (50, 50)


def test_an_empty_folder_has_nothing_to_resume(tmp_path: Path) -> None:
    assert RunFolder(tmp_path, 1).load_newest() is None


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), RuntimeError("unexpected pos 704 vs 600")],
    ids=["of the system", "of torch"],
)
def test_what_was_cut_off_while_it_was_written_is_not_seen(
    tmp_path: Path, error: Exception
) -> None:
    folder = RunFolder(tmp_path, keep=3)
    save(folder, 10)

    def fail(path: Path) -> None:
        path.write_text("half")
        raise error

    folder.begin(20)
    with pytest.raises(TrainingError, match=r"step-00000020 cannot be written: is the disk full"):
        folder.save(20, {}, fail, 0)
    assert folder.steps() == [10]
    assert (tmp_path / "last.safetensors").read_text() == "model 10"
    save(folder, 20)  # the remains do not stand in the way
    assert folder.steps() == [10, 20]


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, keep=3)
    save(folder, 10)
    save(folder, 20)
    path = tmp_path / "checkpoints" / "step-00000020" / "state.pt"
    path.write_bytes(path.read_bytes()[:200])
    state = folder.load_newest()
    assert state is not None
    assert state["step"] == 10
    (tmp_path / "checkpoints" / "step-00000010" / "state.pt").write_bytes(b"")
    with pytest.raises(TrainingError, match="none of the 2 checkpoints"):
        folder.load_newest()


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


def test_nothing_in_a_checkpoint_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "checkpoints" / "step-00000001"
    folder.mkdir(parents=True)
    torch.save({"version": 1, "step": 1, "x": Evil()}, folder / "state.pt", pickle_module=pickle)
    with pytest.raises(TrainingError, match="none of the 1 checkpoints"):
        RunFolder(tmp_path, 1).load_newest()
    assert not Path("executed").exists()
