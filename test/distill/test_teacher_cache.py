from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from scaleevent_ros.distill.errors import TrainingError
from scaleevent_ros.distill.teacher_cache import CachedTeacher, FeatureFolder
from scaleevent_ros.models import build_teacher

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from scaleevent_ros.models import Teacher

GRID, SIZE = (3, 4), (48, 64)


class Counting:
    """A teacher that counts the frames it sees."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher
        self.seen = 0

    def __call__(self, frames: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
        self.seen += len(frames)
        features: Tensor = self.teacher(frames, grid, size)
        return features


@pytest.fixture
def teacher() -> Counting:
    torch.manual_seed(0)
    options = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    return Counting(build_teacher("vit_tiny_patch16_224", pretrained=False, options=options))


def test_each_frame_is_seen_once_and_remembered(tmp_path: Path, teacher: Counting) -> None:
    frames = torch.randint(256, (4, 3, *SIZE), dtype=torch.uint8)
    expected = teacher.teacher(frames, GRID, SIZE)
    cached = CachedTeacher(teacher, FeatureFolder(tmp_path, {"name": "tiny"}))
    for order in ([0, 1], [1, 2, 0], [3, 2, 1, 0]):
        found = cached(frames[order], GRID, SIZE)
        torch.testing.assert_close(found, expected[order], atol=2e-3, rtol=2e-3)
        assert found.dtype == torch.float32
    assert teacher.seen == 4
    again = CachedTeacher(teacher, FeatureFolder(tmp_path, {"name": "tiny"}))
    again(frames, GRID, SIZE)
    assert teacher.seen == 4 == cached.computed
    assert again.computed == 0


def test_another_teacher_frame_or_size_is_not_taken_for_it(
    tmp_path: Path, teacher: Counting
) -> None:
    frames = torch.randint(256, (1, 3, *SIZE), dtype=torch.uint8)
    cached = CachedTeacher(teacher, FeatureFolder(tmp_path, {"name": "tiny"}))
    cached(frames, GRID, SIZE)
    CachedTeacher(teacher, FeatureFolder(tmp_path, {"name": "other"}))(frames, GRID, SIZE)
    cached(frames, (6, 8), SIZE)
    frames[0, 0, 0, 0] += 1
    cached(frames, GRID, SIZE)
    assert teacher.seen == 4


def test_a_damaged_file_is_named(tmp_path: Path, teacher: Counting) -> None:
    frames = torch.zeros(1, 3, *SIZE, dtype=torch.uint8)
    cached = CachedTeacher(teacher, FeatureFolder(tmp_path, {"name": "tiny"}))
    cached(frames, GRID, SIZE)
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(b"cut")
    with pytest.raises(TrainingError, match=f"{file.name} is damaged"):
        cached(frames, GRID, SIZE)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cannot be written"):
        FeatureFolder(tmp_path / "file", {})
