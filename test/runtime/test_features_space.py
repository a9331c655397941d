"""Features in the teacher's space, and heads that were fitted there, by every backend."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from scaleevent_ros.models import build_student, build_teacher, save_student
from scaleevent_ros.models.feature_statistics import FeatureStatistics
from scaleevent_ros.runtime import Engine, EngineError
from scaleevent_ros.runtime.arrays import to_host
from scaleevent_ros.runtime.export import ExportOptions, export
from scaleevent_ros.tasks import build_head, describe_head

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2}
NAME = "vit_tiny_patch16_224"
SIZE = (50, 70)

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """Write a student with a head of each kind, and compute what it must give."""
    torch.manual_seed(0)
    teacher = build_teacher(NAME, pretrained=False, options=VIT)
    wider = {**VIT, "embed_dim": 48}
    student = build_student(NAME, 5, "random", teacher=teacher, options=wider).eval()
    statistics = FeatureStatistics(5 * torch.randn(32), torch.rand(32) + 0.5)
    student.set_target(statistics, standardized=True)
    kinds = {
        "segmentation": ("segmentation_linear", 32, {"classes": 3, "features": "teacher"}),
        "depth": ("depth_dpt", 48, {"maximum": 80.0, "channels": 8}),
    }
    described = {
        task: describe_head(kind, width, 16, **options)  # type: ignore[arg-type]
        for task, (kind, width, options) in kinds.items()
    }
    segmentation = build_head("segmentation_linear", 32, 16, classes=3).eval()
    depth = build_head("depth_dpt", 48, 16, maximum=80.0, channels=8).eval()
    student.header = replace(
        student.header, normalization="none", classes=["a", "b", "c"], heads=described
    )
    path = tmp_path_factory.mktemp("student") / "student.safetensors"
    save_student(path, student, {"segmentation": segmentation, "depth": depth})
    window = torch.randn(5, *SIZE)
    with torch.no_grad():
        features = student(window[None])
        trained = student(window[None], project=True)
        published = trained * statistics.std[:, None, None] + statistics.mean[:, None, None]
        truth = {
            "window": window,
            "student": features[0],
            "teacher": published[0],
            "segmentation": segmentation(published, SIZE)[0].argmax(0),
            "depth": depth(features, SIZE)[0, 0],
        }
    return path, truth


@pytest.mark.parametrize("backend", ["eager", "onnx"])
@pytest.mark.parametrize("space", ["student", "teacher"])
def test_features_are_in_the_space_asked_for_and_heads_get_theirs(
    written: tuple[Path, dict[str, Tensor]], backend: str, space: str
) -> None:
    path, truth = written
    engine = Engine(path, "cpu", backend=backend, size=SIZE, features_space=space)
    outputs = engine(truth["window"])
    assert outputs.features is not None
    assert outputs.depth is not None
    assert outputs.segmentation is not None
    assert (engine.features_space, engine.width) == (space, len(truth[space]))
    np.testing.assert_allclose(to_host(outputs.features), truth[space], atol=1e-3, rtol=1e-3)
    np.testing.assert_allclose(to_host(outputs.depth), truth["depth"], atol=1e-2, rtol=1e-3)
    assert (to_host(outputs.segmentation) == truth["segmentation"].numpy()).mean() > 0.999


def test_a_file_is_of_one_space(written: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> None:
    path, truth = written
    exported = tmp_path / "student.onnx"
    export(path, exported, ExportOptions(SIZE, features_space="teacher"))
    with pytest.raises(EngineError, match="exported with features_space teacher, not student"):
        Engine(exported, "cpu")
    found = Engine(exported, "cpu", features_space="teacher")(truth["window"]).features
    assert found is not None
    np.testing.assert_allclose(to_host(found), truth["teacher"], atol=1e-3, rtol=1e-3)


def test_spaces_that_there_are_not(written: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="features_space is 'frames', it must be one of"):
        Engine(written[0], "cpu", backend="eager", size=SIZE, features_space="frames")
    student = build_student(NAME, 5, "random", options=VIT)
    save_student(tmp_path / "alone.safetensors", student)
    with pytest.raises(EngineError, match="had no teacher"):
        Engine(
            tmp_path / "alone.safetensors",
            "cpu",
            backend="eager",
            size=SIZE,
            features_space="teacher",
        )
