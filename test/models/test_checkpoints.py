"""Checkpoints: headers that are checked, files that are whole or not there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from scaleevent_ros.events.windows import WindowOptions
from scaleevent_ros.models import (
    CheckpointError,
    Header,
    build_student,
    checkpoints,
    load_student,
    read_checkpoint,
    read_header,
    save_student,
    write_checkpoint,
)

if TYPE_CHECKING:
    from pathlib import Path

TENSORS = {"weight": torch.arange(6.0).view(2, 3), "count": torch.tensor(3)}
HEADER = Header(
    architecture="vit_small_patch16_dinov3",
    bins=5,
    architecture_options={"depth": 2, "norm": None, "sizes": [1, 2]},
    stride=16,
    projection=384,
    representation="time_surface",
    normalization="none",
    leaky=[0.1, 2.0],
    window=WindowOptions("motion", 40.0),
    teacher="vit_large_patch16_dinov3.lvd1689m",
    classes=["road", "sky"],
    heads={"segmentation": {"kind": "linear"}},
    git_revision="abc",
    extra={"step": 7},
)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, {**TENSORS, "turned": TENSORS["weight"].T}, HEADER)
    header, tensors = read_checkpoint(path)
    assert header == HEADER == read_header(path)
    assert torch.equal(tensors["turned"], TENSORS["weight"].T)
    assert set(tensors) == {"weight", "count", "turned"}


def test_others_may_read_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "student.safetensors"
    write_checkpoint(path, TENSORS, HEADER)
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, TENSORS, HEADER)
    before = path.read_bytes()

    def half(tensors: object, target: Path, metadata: object) -> None:
        del tensors, metadata
        target.write_bytes(before[:40])
        msg = "no space left on device"
        raise OSError(msg)

    monkeypatch.setattr("scaleevent_ros.models.weights.save_file", half)
    with pytest.raises(CheckpointError, match=r"a.safetensors cannot be written: no space left"):
        write_checkpoint(path, TENSORS, HEADER)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "not of version 1"),
        ({"bins": "five"}, "'bins' is 'five', not of type"),
        ({"bins": True}, "'bins' is True"),
        ({"stride": 1.5}, "'stride' is 1.5"),
        ({"classes": "road"}, "'classes' is 'road'"),
        ({"classes": ["road", 3]}, "'classes' is"),
        ({"leaky": [0.1, "1"]}, "'leaky' is"),
        ({"colour": "blue"}, "holds 'colour', which this release does not know"),
        ({"architecture": None}, "'architecture' is None"),
    ],
)
def test_headers_are_checked(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = tmp_path / "a.safetensors"
    content = {"version": 1, "architecture": "vit_tiny_patch16_224", "bins": 3, **change}
    save_file(TENSORS, path, metadata={"scaleevent": json.dumps(content)})
    with pytest.raises(CheckpointError, match=words):
        read_header(path)


def test_a_header_needs_its_architecture(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(TENSORS, path, metadata={"scaleevent": json.dumps({"version": 1, "bins": 3})})
    with pytest.raises(CheckpointError, match="does not give 'architecture'"):
        read_header(path)
    save_file(TENSORS, path, metadata={"scaleevent": "{"})
    with pytest.raises(CheckpointError, match="not JSON"):
        read_header(path)


def test_what_json_cannot_say_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for value in (float("nan"), {1, 2}, tmp_path):
        with pytest.raises(CheckpointError, match="cannot be written as JSON"):
            write_checkpoint(tmp_path / "a", TENSORS, Header("vit", 3, extra={"value": value}))
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_not_ours(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        read_header(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="damaged or not a safetensors file"):
        read_header(tmp_path)
    save_file(TENSORS, tmp_path / "plain.safetensors")
    with pytest.raises(CheckpointError, match="without the header"):
        read_header(tmp_path / "plain.safetensors")


def test_damage_is_named(tmp_path: Path) -> None:
    student = build_student("vit_tiny_patch16_224", 3, "random", options={"depth": 1})
    path = tmp_path / "student.safetensors"
    save_student(path, student)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        load_student(path)
    tensors = {name: value.clone() for name, value in student.state_dict().items()}
    for damage, words in (
        ({"backbone.model.cls_token": torch.ones(1, 1, 5)}, r"cls_token is \(1, 1, 5\), the model"),
        ({"stranger": torch.ones(1)}, "has stranger, which the model does not know"),
        ({"backbone.model.norm.bias": torch.full((192,), torch.inf)}, "norm.bias holds values"),
    ):
        write_checkpoint(path, tensors | damage, student.header)
        with pytest.raises(CheckpointError, match=words):
            load_student(path)
    del tensors["backbone.model.norm.weight"]
    write_checkpoint(path, tensors, student.header)
    with pytest.raises(CheckpointError, match=r"has no backbone.model.norm.weight"):
        load_student(path)


def test_the_code_names_its_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert checkpoints.git_revision()
    monkeypatch.setattr(checkpoints, "__file__", str(tmp_path / "installed.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert checkpoints.git_revision() == "unknown"
