"""Kernels are cached, and compiled anew when anything that they are made of changes."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from scaleevent_ros.events import compile as compilation
from pathlib import Path
compilation.PACKAGE = Path(sys.argv[1])
compilation.kernel_cache.cache_clear()
from constants_of_test import FACTOR
from kernel_of_test import times
print(times(1), sum(times.stats.cache_hits.values()))
"""


def call(sources: Path, cache: Path) -> list[str]:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", PROGRAM, str(sources)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_kernel_follows_a_constant_of_another_file(tmp_path: Path) -> None:
    sources, cache = tmp_path / "sources", tmp_path / "cache"
    sources.mkdir()
    (sources / "kernel_of_test.py").write_text(
        "from constants_of_test import FACTOR\n"
        "from scaleevent_ros.events.compile import kernel\n\n\n"
        "@kernel\ndef times(value):\n    return value * FACTOR\n"
    )
    constants = sources / "constants_of_test.py"
    constants.write_text("FACTOR = 3\n")
    assert call(sources, cache) == ["3", "0"]
    assert call(sources, cache) == ["3", "1"]
    constants.write_text("FACTOR = 50\n")
    assert call(sources, cache) == ["50", "0"]


def test_a_cache_folder_that_cannot_be_made_only_costs_time(tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "constants_of_test.py").write_text("FACTOR = 7\n")
    (sources / "kernel_of_test.py").write_text(
        "from scaleevent_ros.events.compile import kernel\n\n\n"
        "@kernel\ndef times(value):\n    return value * 7\n"
    )
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert call(sources, blocked)[0] == "7"
