from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from scaleevent_ros.models import (
    ModelError,
    build_student,
    build_teacher,
    load_student,
    save_student,
)
from scaleevent_ros.models.feature_statistics import FeatureStatistics, StatisticsCounter

if TYPE_CHECKING:
    from pathlib import Path

    from scaleevent_ros.models import Teacher

VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2}
NAME = "vit_tiny_patch16_224"


@pytest.fixture
def teacher() -> Teacher:
    torch.manual_seed(0)
    return build_teacher(NAME, pretrained=False, options=VIT)


@pytest.fixture
def statistics() -> FeatureStatistics:
    torch.manual_seed(1)
    return FeatureStatistics(torch.randn(32), torch.rand(32) + 0.1)


def test_parts_count_as_the_whole_does() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(500, 7) * torch.arange(7) + 1000
    counter = StatisticsCounter()
    assert counter.statistics() is None
    for part in (tokens[:1], tokens[1:200], tokens[200:]):
        counter.add(part)
    found = counter.statistics()
    assert found is not None
    torch.testing.assert_close(found.mean, tokens.mean(0))
    expected = tokens.double().std(0, correction=0).float()
    expected[0] = 1  # a channel that never changes must not be divided by
    torch.testing.assert_close(found.std, expected)
    maps = tokens.T.reshape(1, 7, 20, 25)
    standardized = found.standardize(maps)[:, 1:]
    torch.testing.assert_close(standardized.mean((0, 2, 3)), torch.zeros(6), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        standardized.std((0, 2, 3), correction=0), torch.ones(6), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("init", ["teacher", "random"])
def test_published_features_are_in_the_teachers_own_space(
    teacher: Teacher, statistics: FeatureStatistics, init: str, tmp_path: Path
) -> None:
    """Features trained as (Q - mean) / std are published as Q."""
    options = VIT if init == "teacher" else {**VIT, "embed_dim": 48}
    student = build_student(NAME, 5, init, teacher=teacher, options=options)
    student.set_target(statistics, standardized=True)
    save_student(tmp_path / "student.safetensors", student)
    student = load_student(tmp_path / "student.safetensors")
    events = torch.randn(2, 5, 32, 48)
    with torch.no_grad():
        trained = student(events, project=True)
        published = student.teacher_projection()(student(events))
    expected = trained * statistics.std[:, None, None] + statistics.mean[:, None, None]
    torch.testing.assert_close(published, expected, atol=1e-4, rtol=1e-4)
    if init == "teacher":  # it starts from what the teacher computes
        with torch.no_grad():
            torch.testing.assert_close(published, student(events), atol=1e-4, rtol=1e-4)


def test_going_on_without_standardization_keeps_what_was_learned(
    teacher: Teacher, statistics: FeatureStatistics, tmp_path: Path
) -> None:
    first = build_student(NAME, 5, "random", teacher=teacher, options={**VIT, "embed_dim": 48})
    first.set_target(statistics, standardized=True)
    save_student(tmp_path / "student.safetensors", first)
    path = tmp_path / "student.safetensors"
    again = build_student(NAME, 5, path, teacher=teacher)
    again.set_target(statistics, standardized=False)
    assert not again.header.standardized
    events = torch.randn(1, 5, 32, 32)
    with torch.no_grad():
        expected = first.eval().teacher_projection()(first(events))
        torch.testing.assert_close(again.eval()(events, project=True), expected)


def test_a_student_without_a_teacher_has_no_teachers_space() -> None:
    student = build_student(NAME, 5, "random", options=VIT)
    with pytest.raises(ModelError, match="had no teacher"):
        student.teacher_projection()
