"""Kernels are cached, and compiled anew when anything that they are made of changes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from package_of_test.kernels import times
from package_of_test.others import plus
print(times(1), sum(times.stats.cache_hits.values()))
print(plus(1), sum(plus.stats.cache_hits.values()))
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "sources" / "package_of_test"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    head = "from scaleevent_ros.events.compile import kernel\n"
    (folder / "constants.py").write_text("FACTOR = 3\n")
    (folder / "kernels.py").write_text(
        f"{head}from package_of_test.constants import FACTOR\n\n\n"
        "@kernel\ndef times(value):\n    return value * FACTOR\n"
    )
    (folder / "others.py").write_text(
        f"{head}\n\n@kernel\ndef plus(value):\n    return value + 1\n"
    )
    return folder


def call(package: Path, **environment: str) -> list[str]:
    """Import the kernels in a fresh process: each one's result, and its hits of the cache."""
    command = [sys.executable, "-c", PROGRAM, str(package.parent)]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_kernels_follow_a_constant_of_another_file_and_others_stay_compiled(
    package: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    assert call(package, NUMBA_CACHE_DIR=str(cache)) == ["3 0", "2 0"]
    assert call(package, NUMBA_CACHE_DIR=str(cache)) == ["3 1", "2 1"]
    (package / "constants.py").write_text("FACTOR = 50\n")
    assert call(package, NUMBA_CACHE_DIR=str(cache)) == ["50 0", "2 1"]
    # The folder of the earlier state is gone.
    assert len(list(cache.glob("kernels-*"))) == len(list(cache.glob("others-*"))) == 1


def test_folders_that_were_not_used_for_long_are_removed(package: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    old, recent = cache / "0123456789abcdef", cache / "fedcba9876543210"
    for folder in (old, recent):
        folder.mkdir(parents=True)
    long_ago = time.time() - 40 * 86_400
    os.utime(old, (long_ago, long_ago))
    call(package, NUMBA_CACHE_DIR=str(cache))
    assert not old.exists()
    assert recent.exists()


def test_a_cache_folder_that_cannot_be_made_only_costs_time(package: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    spare = tmp_path / "temporary"
    spare.mkdir()
    places = {"NUMBA_CACHE_DIR": str(blocked), "TMPDIR": str(spare)}
    assert call(package, **places) == ["3 0", "2 0"]
    # A private folder takes its place.
    assert call(package, **places) == ["3 1", "2 1"]
    (private,) = spare.iterdir()
    assert private.stat().st_mode & 0o777 == 0o700
    # One that others may write to is not trusted: what lies there would be run.
    private.chmod(0o777)
    assert call(package, **places) == ["3 0", "2 0"]


@pytest.mark.parametrize("home", [{"HOME": "/proc"}, {}], ids=["read-only home", "no home"])
def test_everything_imports_and_decodes_where_no_folder_can_be_written(
    home: dict[str, str],
) -> None:
    program = (
        "import os, pwd, sys, tempfile\n"
        "tempfile.tempdir = '/proc'\n"  # cannot be written, not even by root
        "if 'HOME' not in os.environ:\n"  # as a container's user who is in no password file
        "    pwd.getpwuid = {}.__getitem__\n"
        "import numpy as np\n"
        "import scaleevent_ros.bags, scaleevent_ros.sources\n"
        "from scaleevent_ros.events import EventBatch, encode_evt2, make_decoder\n"
        "batch = EventBatch(*(np.ones(4, k) for k in ('u2', 'u2', 'i8', 'u1')), 8, 8)\n"
        "decoded = make_decoder('evt2', 8, 8).decode(encode_evt2(batch))\n"
        "assert len(decoded) == 4\n"
    )
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in {"HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR"}
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=kept | home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
