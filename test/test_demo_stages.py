"""Stages of the demo: done once, done again when stale, gone on with after Ctrl-C."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tools.demo.processes import CommandError, run, started
from tools.demo.stages import Stage, StageError, finished, perform


class Actions:
    """Actions that note what they found in their folder, and what they are told to do."""

    def __init__(self) -> None:
        self.found: list[list[str]] = []
        self.error: BaseException | None = None

    def __call__(self, folder: Path) -> str:
        self.found.append(sorted(path.name for path in folder.iterdir()))
        (folder / "left").touch()
        if self.error:
            raise self.error
        return "well"


def stages(
    first: Actions, second: Actions, *, word: str = "", goes_on: bool = False
) -> list[Stage]:
    return [
        Stage("1-first", "the first", (word,), first, goes_on),
        Stage("2-second", "the second", (), second),
    ]


def test_a_stage_is_done_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = Actions(), Actions()
    assert perform(stages(first, second), tmp_path) == 0
    assert perform(stages(first, second), tmp_path) == 0
    assert len(first.found) == len(second.found) == 1
    said = capsys.readouterr().out
    assert said.count("done before") == 2
    assert [(mark["name"], mark["said"]) for mark in finished(tmp_path)] == [
        ("1-first", "well"),
        ("2-second", "well"),
    ]


def test_what_a_stage_is_made_from_counts_for_all_that_follow(tmp_path: Path) -> None:
    first, second = Actions(), Actions()
    perform(stages(first, second), tmp_path)
    perform(stages(first, second, word="changed"), tmp_path)
    assert first.found == second.found == [["stage.json"]] * 2  # in folders made anew


@pytest.mark.parametrize("goes_on", [False, True])
def test_an_interrupted_stage_goes_on_or_begins_again(tmp_path: Path, goes_on: bool) -> None:
    first, second = Actions(), Actions()
    first.error = KeyboardInterrupt()
    assert perform(stages(first, second, goes_on=goes_on), tmp_path) == 130
    assert not second.found
    first.error = None
    assert perform(stages(first, second, goes_on=goes_on), tmp_path) == 0
    assert first.found[1] == (["left", "stage.json"] if goes_on else ["stage.json"])


@pytest.mark.parametrize(
    "error", [StageError("too dark"), CommandError("too dark"), OSError(28, "too dark")]
)
def test_a_failure_is_told_with_the_way_on(
    tmp_path: Path, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    first = Actions()
    first.error = error
    assert perform(stages(first, Actions()), tmp_path) == 1
    said = capsys.readouterr().err
    assert "stage 1-first failed" in said
    assert "too dark" in said
    assert "run the same command again" in said


def test_a_command_that_fails_shows_the_end_of_its_log(tmp_path: Path) -> None:
    script = "print('once', flush=True); raise SystemExit('twice')"
    with pytest.raises(CommandError, match=r"ended with 1(.|\n)*once(.|\n)*twice"):
        run(tmp_path / "script.log", Path(sys.executable).name, "-c", script)


def test_a_command_ends_with_its_block(tmp_path: Path) -> None:
    log = tmp_path / "script.log"
    # Where tests run in the background, interrupts are ignored until a program says otherwise.
    listen = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    script = f"import signal, time; {listen}; print('ready', flush=True); time.sleep(60)"
    with started(log, Path(sys.executable).name, "-c", script) as command:
        command.wait_for("ready", 30)
    with pytest.raises(CommandError, match="ended with"):
        command.wait(1)
    assert "KeyboardInterrupt" in log.read_text()
