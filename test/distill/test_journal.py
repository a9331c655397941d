from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from scaleevent_ros.distill.journal import METRICS_NAME, Journal

if TYPE_CHECKING:
    from pathlib import Path


def write(folder: Path, start: int, steps: range, *, loggers: tuple[str, ...] = ()) -> None:
    journal = Journal(folder, steps=9, start=start, loggers=loggers)
    for step in steps:
        journal.training(step, {"total": 1.0 / step})
        journal.advance(step)
    journal.validation(steps[-1], {"cosine_active": 0.5}, [np.zeros((4, 4, 3), np.uint8)])
    journal.close()


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / METRICS_NAME).read_text().splitlines()]


def test_a_run_that_goes_on_logs_each_step_once(tmp_path: Path) -> None:
    write(tmp_path, 0, range(1, 6))
    with (tmp_path / METRICS_NAME).open("a") as file:
        file.write('{"kind": "train", "st')  # what a crash leaves
    write(tmp_path, 3, range(4, 8))
    assert [each["step"] for each in lines(tmp_path) if each["kind"] == "train"] == [*range(1, 8)]
    assert lines(tmp_path)[0]["total"] == 1.0
    assert lines(tmp_path)[-1] | {"time": 0} == {
        "kind": "validation", "step": 7, "time": 0, "cosine_active": 0.5,
    }  # fmt: skip


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run", steps=9, start=0, loggers=["tensorboard"], active=False)
    journal.training(1, {"total": 1.0})
    journal.validation(1, {}, [])
    journal.close()
    assert not (tmp_path / "run").exists()


def test_tensorboard_gets_scalars_and_pictures(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    write(tmp_path, 0, range(1, 4), loggers=("tensorboard",))
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"train/total", "validation/cosine_active"} <= set(tags["scalars"])
    assert tags["images"] == ["validation/0"]
    assert [event.step for event in events.Scalars("train/total")] == [1, 2, 3]
