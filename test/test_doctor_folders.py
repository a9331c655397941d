"""The doctor names the folder that cannot be written, and what to set."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

import pytest

from scaleevent_ros.doctor import Verdict, check_caches

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def no_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "ROS_LOG_DIR", "ROS_HOME"):
        monkeypatch.delenv(name, raising=False)


def test_folders_of_this_user_are_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (cache,) = check_caches()
    assert (cache.part, cache.verdict, cache.found) == ("cache", Verdict.OK, f"{tmp_path}/.cache")


def test_a_home_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.touch()  # no folder can be made in a file, not even by root
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cache, logs = check_caches()
    assert cache.verdict is Verdict.WARNING
    assert str(home / ".cache") in cache.found
    assert "scaleevent-" in cache.found
    assert "XDG_CACHE_HOME" in cache.fix
    assert logs.verdict is Verdict.WARNING
    assert str(home / ".ros" / "log") in logs.found
    assert "ROS_LOG_DIR" in logs.fix


def test_a_machine_without_any_folder_is_told_what_it_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "blocked"
    blocked.touch()
    monkeypatch.setenv("HOME", str(blocked))
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked / "none"))
    monkeypatch.setattr(tempfile, "tempdir", str(blocked))
    assert "every start compiles" in check_caches()[0].found
