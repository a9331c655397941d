"""The GPU check runs the same code small on a CPU, and ends what takes too long."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from tools import gpu_check
from tools.gpu_check import Step, main, read_tables, run_step

if TYPE_CHECKING:
    from pathlib import Path


def test_steps_run_and_are_written_as_json_and_markdown(tmp_path: Path) -> None:
    assert main(["--output", str(tmp_path), "--minutes", "20", "--only", "events", "losses"]) == 0
    report = json.loads((tmp_path / "gpu_check.json").read_text())
    assert [(step["name"], step["outcome"]) for step in report["steps"]] == [
        ("events", "ok"),
        ("losses", "ok"),
    ]
    events, losses = report["steps"]
    assert {len(row) for row in events["tables"][0]} == {3}
    assert {row["loss"] for row in losses["tables"][0]} >= {"structure", "structure_active"}
    markdown = (tmp_path / "gpu_check.md").read_text()
    assert "| events | ok |" in markdown
    assert "| 640x480 |" in markdown


def test_each_step_exists(tmp_path: Path) -> None:
    for make in (gpu_check.gpu_steps, gpu_check.cpu_steps):
        steps = make(tmp_path, tmp_path)
        assert sum(step.share for step in steps) <= 1.001
        for step in steps:
            files = [word for word in step.command if word.startswith(("benchmarks/", "test/"))]
            assert files
            assert all((gpu_check.ROOT / file).exists() for file in files)


def test_a_step_ends_with_its_time_and_keeps_what_it_printed() -> None:
    code = (
        "import subprocess, sys, time\n"
        "print('| a | b |\\n|---|---|\\n| 1 | 2 |', flush=True)\n"
        "subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    )
    start = time.monotonic()
    result = run_step(Step("slow", ("-c", code), 1.0), 2.0)
    assert time.monotonic() - start < 20
    assert result.outcome == "out of time"
    assert result.tables == [[{"a": "1", "b": "2"}]]


def test_a_step_that_fails_says_why() -> None:
    result = run_step(Step("wrong", ("-c", "raise SystemExit('no driver')"), 1.0), 60.0)
    assert (result.outcome, result.tail.strip()) == ("failed", "no driver")


def test_tables_are_read_out_of_other_text() -> None:
    text = "x\n| a | b |\n|---|--:|\n| 1 | x y |\n| 2 | |\nmore\n| c |\n|---|\n| 3 |"
    assert read_tables(text) == [
        [{"a": "1", "b": "x y"}, {"a": "2", "b": ""}],
        [{"c": "3"}],
    ]
