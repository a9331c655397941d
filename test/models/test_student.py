"""Students: any bins, three beginnings, a projection, and files."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from scaleevent_ros.events.windows import WindowOptions
from scaleevent_ros.models import (
    CheckpointError,
    ModelError,
    Student,
    Teacher,
    build_student,
    build_teacher,
    load_student,
    read_checkpoint,
    save_student,
)
from scaleevent_ros.models.backbone import build_network

if TYPE_CHECKING:
    from pathlib import Path

NAME = "vit_small_patch16_dinov3"
OPTIONS = {"depth": 2, "embed_dim": 64, "num_heads": 2}


@pytest.fixture
def teacher() -> Teacher:
    torch.manual_seed(3)
    return build_teacher(NAME, pretrained=False, options=OPTIONS)


def random_student(bins: int = 5, **more: Any) -> Student:
    torch.manual_seed(4)
    return build_student(NAME, bins, "random", options=OPTIONS, **more)


@pytest.mark.parametrize("bins", [1, 2, 3, 5, 10])
@pytest.mark.parametrize("name", [NAME, "convnext_atto", "vit_tiny_patch16_224"])
def test_any_number_of_bins(name: str, bins: int) -> None:
    options = {"depths": (1, 1, 1, 1)} if "convnext" in name else {"depth": 1}
    student = build_student(name, bins, "random", options=options)
    features = student(torch.randn(2, bins, 60, 90))
    rows, columns = -(-60 // student.stride), -(-90 // student.stride)
    assert features.shape == (2, student.width, rows, columns)
    assert student.header.bins == bins


@pytest.mark.parametrize("bins", [1, 2, 5])
def test_a_grey_picture_in_every_bin_gives_the_teachers_tokens(teacher: Teacher, bins: int) -> None:
    student = build_student(NAME, bins, "teacher", teacher=teacher, options=OPTIONS).eval()
    grey = torch.randn(1, 1, 32, 48)
    with torch.no_grad():
        expected = teacher.backbone(grey.expand(1, 3, 32, 48))
        found = student(grey.expand(1, bins, 32, 48))
    torch.testing.assert_close(found, expected)


def test_three_bins_take_the_places_of_the_colours(teacher: Teacher) -> None:
    student = build_student(NAME, 3, "teacher", teacher=teacher).eval()
    picture = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        assert torch.equal(student(picture), teacher.backbone(picture))


def test_a_student_from_its_teacher_learns_and_leaves_the_teacher_alone(teacher: Teacher) -> None:
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = build_student(NAME, 5, teacher=teacher)
    assert student.training
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    torch.autograd.backward(student(torch.randn(1, 5, 32, 32), project=True).square().sum())
    assert all(p.grad is not None for p in student.parameters())
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_another_network_cannot_start_from_the_teacher(teacher: Teacher) -> None:
    with pytest.raises(ModelError, match="a student convnext_atto cannot start from the teacher"):
        build_student("convnext_atto", 5, teacher=teacher)
    with pytest.raises(ModelError, match="the student's options"):
        build_student(NAME, 5, teacher=teacher, options={"depth": 3})
    with pytest.raises(ModelError, match="has its stride, 16"):
        build_student(NAME, 5, teacher=teacher, stride=8)
    with pytest.raises(ModelError, match="at least one bin"):
        build_student(NAME, 0, teacher=teacher)


def test_image_weights_from_a_file(tmp_path: Path) -> None:
    network = build_network(NAME, OPTIONS, num_classes=0)
    save_file(network.state_dict(), tmp_path / "image.safetensors")
    student = build_student(NAME, 2, tmp_path / "image.safetensors", options=OPTIONS)
    found = student.state_dict()["backbone.model.patch_embed.proj.weight"]
    weight = network.state_dict()["patch_embed.proj.weight"]
    torch.testing.assert_close(found, weight.sum(1, keepdim=True).expand(-1, 2, -1, -1) / 2)


def test_projection_where_widths_differ(teacher: Teacher) -> None:
    student = build_student(
        "vit_tiny_patch16_224", 3, "random", teacher=teacher, options={"depth": 1}
    )
    events = torch.randn(2, 3, 32, 48)
    assert student(events).shape == (2, 192, 2, 3)
    assert student(events, project=True).shape == (2, 64, 2, 3)
    assert student.header.projection == 64
    same = random_student(teacher=teacher)
    assert same.header.projection is None
    assert isinstance(same.projection, nn.Identity)
    assert same.header.teacher == NAME


def test_round_trip(tmp_path: Path, teacher: Teacher) -> None:
    student = build_student(
        "vit_tiny_patch16_224", 4, "random", teacher=teacher, options={"depth": 1}
    ).eval()
    student.header = replace(
        student.header,
        normalization="standard",
        window=WindowOptions(length_ms=50),
        extra={"step": 12, "loss": "structure_active"},
    )
    save_student(tmp_path / "deep" / "student.safetensors", student)
    again = load_student(tmp_path / "deep" / "student.safetensors")
    assert replace(again.header, git_revision="") == replace(student.header, git_revision="")
    assert again.header.git_revision
    assert not again.training
    events = torch.randn(1, 4, 40, 40)
    with torch.no_grad():
        assert torch.equal(again(events, project=True), student(events, project=True))


def test_heads_travel_with_the_student(tmp_path: Path) -> None:
    student = random_student()
    head = nn.Conv2d(64, 3, 1)
    path = tmp_path / "tasks.safetensors"
    with pytest.raises(CheckpointError, match="does not describe the head 'segmentation'"):
        save_student(path, student, {"segmentation": head})
    student.header = replace(
        student.header, heads={"segmentation": {"kind": "linear"}}, classes=["a", "b", "c"]
    )
    save_student(path, student, {"segmentation": head})
    header, tensors = read_checkpoint(path)
    assert header.classes == ["a", "b", "c"]
    assert torch.equal(tensors["heads.segmentation.weight"], head.weight)
    assert load_student(path).header == header


def test_going_on_from_our_checkpoint(tmp_path: Path, teacher: Teacher) -> None:
    student = random_student(bins=3)
    student.header = replace(student.header, window=WindowOptions(length_ms=20))
    path = tmp_path / "student.safetensors"
    save_student(path, student)
    same = build_student(NAME, 3, path, teacher=teacher)
    assert all(module.training for module in same.modules())
    events = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(same.eval()(events), student.eval()(events))
    assert same.header.window == WindowOptions(length_ms=20)
    assert build_student(NAME, 6, path).header.bins == 6
    with pytest.raises(CheckpointError, match=f"holds a {NAME}, not a convnext_atto"):
        build_student("convnext_atto", 3, path)


def test_a_projection_goes_on_only_to_the_same_width(tmp_path: Path, teacher: Teacher) -> None:
    narrow = build_student(
        "vit_tiny_patch16_224", 3, "random", teacher=teacher, options={"depth": 1}
    )
    save_student(tmp_path / "narrow.safetensors", narrow)
    same = build_student(
        "vit_tiny_patch16_224", 3, tmp_path / "narrow.safetensors", teacher=teacher
    )
    assert torch.equal(
        same.state_dict()["projection.weight"], narrow.state_dict()["projection.weight"]
    )
    alone = build_student("vit_tiny_patch16_224", 3, tmp_path / "narrow.safetensors")
    assert alone.header.projection is None


@pytest.mark.parametrize("name", [NAME, "vit_tiny_patch16_224", "convnext_atto"])
def test_it_exports_as_one_graph(name: str) -> None:
    """Control flow follows shapes alone; DINOv3's RoPE fixes the image's size, not the batch."""
    options = {"depths": (1, 1, 1, 1)} if "convnext" in name else {"depth": 1}
    student = build_student(name, 5, "random", options=options).eval()
    events, other = torch.randn(2, 5, 60, 90), torch.randn(1, 5, 60, 90)
    batch = torch.export.Dim("batch", min=1, max=8)
    with torch.no_grad():
        exported = torch.export.export(student, (events,), dynamic_shapes=({0: batch},)).module()
        torch.testing.assert_close(exported(other), student(other))
