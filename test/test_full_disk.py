"""Commands on a full disk, which a limit of the size of files stands for."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import h5py
import pytest
from recording_events import photographs, recorded_events

from scaleevent_ros.models import resolve_model
from scaleevent_ros.sources.convert import ConvertOptions, convert

if TYPE_CHECKING:
    from pathlib import Path

KIB = 512  # more than a compiled kernel, which numba may store meanwhile


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a recording of 200,000 events and 30 frames."""
    path = tmp_path_factory.mktemp("full") / "source.h5"
    events = recorded_events(64, 48, 200_000, length_s=4.0)
    with h5py.File(path, "w") as file:
        file["events/xs"], file["events/ys"] = events.x, events.y
        file["events/ts"], file["events/ps"] = events.t / 1e9, events.p.astype(bool)
        file.attrs["sensor_resolution"] = (48, 64)
        for index, frame in enumerate(photographs(30, 48, 64, colour=True)):
            file[f"images/image{index:09d}"] = frame
            file[f"images/image{index:09d}"].attrs["timestamp"] = 1.05 + index / 10
    convert(path, path.with_name("bag"), ConvertOptions())
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ["convert", "{source}", "{out}"],
        ["recover", "{bag}", "--output", "{out}"],
        ["shard", "{bag}", "{out}"],
        ["attach", "{model}", "{model}", "{out}.safetensors"],
        *(
            ["export-events", "{bag}", f"{{out}}.{suffix}"]
            for suffix in ("raw", "h5", "csv", "npy")
        ),
    ],
)
def test_a_full_disk_is_one_line(source: Path, tmp_path: Path, arguments: list[str]) -> None:
    places = {
        "source": source,
        "bag": source.with_name("bag"),
        "model": resolve_model("lite"),
        "out": tmp_path / "out",
    }
    command = [sys.executable, "-m", "scaleevent_ros.cli"]
    command += [argument.format(**places) for argument in arguments]
    limited = ["bash", "-c", f'ulimit -f {KIB}; exec "$@"', "-", *command]
    done = subprocess.run(limited, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("scaleevent: ")
    assert "File too large" in line or "no space is left" in line
    assert str(tmp_path / "out") in line
