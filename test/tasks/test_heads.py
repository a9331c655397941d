"""Heads by name: what they return, what a checkpoint keeps of them, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from scaleevent_ros.models import (
    CheckpointError,
    Student,
    build_student,
    read_checkpoint,
    save_student,
    write_checkpoint,
)
from scaleevent_ros.tasks import HEAD_KINDS, TaskError, build_head, describe_head, load_heads

if TYPE_CHECKING:
    from pathlib import Path

VIT = {"embed_dim": 32, "depth": 1, "num_heads": 2}
WIDTH, STRIDE = 32, 16
DESCRIBED: dict[str, dict[str, Any]] = {
    "segmentation": describe_head("segmentation_linear", WIDTH, STRIDE, classes=5),
    "depth": describe_head("depth_dpt", WIDTH, STRIDE, maximum=80.0, channels=8),
    "flow": describe_head("flow_correlation", WIDTH, STRIDE, channels=8, radius=2, iterations=2),
}


def student_with(heads: dict[str, dict[str, Any]], classes: tuple[str, ...] = ()) -> Student:
    student = build_student("vit_tiny_patch16_224", 3, "random", options=VIT)
    student.header = replace(student.header, heads=heads, classes=list(classes))
    return student


@pytest.mark.parametrize("kind", ["segmentation_linear", "segmentation_dpt"])
@pytest.mark.parametrize("size", [(48, 64), (45, 50), (33, 17)])
def test_segmentation_gives_logits_for_each_pixel(kind: str, size: tuple[int, int]) -> None:
    student = student_with({})
    head = build_head(kind, student.width, student.stride, classes=5)
    logits = head(student(torch.randn(2, 3, *size)), size)
    assert logits.shape == (2, 5, *size)
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


@pytest.mark.parametrize("stride", [8, 14, 32])
def test_heads_fit_students_of_any_stride(stride: int) -> None:
    features = torch.randn(1, 6, 3, 5)
    size = (3 * stride - 1, 5 * stride)
    assert build_head("segmentation_dpt", 6, stride, classes=2, channels=4)(
        features, size
    ).shape == (1, 2, *size)
    assert build_head("depth_dpt", 6, stride, maximum=1.0, channels=4)(features, size).shape == (
        1,
        1,
        *size,
    )


def test_a_smaller_input_sees_the_corner_of_the_padded_one() -> None:
    features = torch.randn(1, WIDTH, 3, 4)
    for kind in ("segmentation_linear", "segmentation_dpt"):
        head = build_head(kind, WIDTH, STRIDE, classes=3).eval()
        torch.testing.assert_close(
            head(features, (41, 50)), head(features, (48, 64))[..., :41, :50]
        )


def test_the_linear_head_is_linear_once_it_is_trained() -> None:
    head = build_head("segmentation_linear", 4, 2, classes=3)
    with torch.no_grad():
        head(torch.randn(8, 4, 5, 5) * 3 + 1, (10, 10))  # moves the running statistics
    head.eval()
    a, b, zero = torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)
    size = (4, 4)
    torch.testing.assert_close(
        head(a + b, size) - head(zero, size),
        head(a, size) + head(b, size) - 2 * head(zero, size),
        atol=1e-5,
        rtol=1e-4,
    )
    assert (head(a, size) - head(b, size)).abs().max() > 1e-2


def test_depth_lies_between_zero_and_its_maximum() -> None:
    head = build_head("depth_dpt", WIDTH, STRIDE, maximum=20.0, channels=8)
    depth = head(1000 * torch.randn(2, WIDTH, 2, 2), (32, 32))
    assert depth.min() >= 0
    assert depth.max() <= 20
    assert depth.max() > 10
    assert head.bfloat16()(torch.randn(1, WIDTH, 2, 2).bfloat16(), (32, 32)).dtype == torch.float32


def test_the_dpt_decoder_sees_beyond_a_cell() -> None:
    head = build_head("segmentation_dpt", 4, 4, classes=2, channels=8)
    features = torch.randn(1, 4, 6, 6, requires_grad=True)
    head(features, (24, 24))[0, 0, 1, 1].backward()
    assert features.grad is not None
    assert features.grad[0, :, 2, 2].abs().sum() > 0


def test_loaded_heads_compute_what_the_saved_ones_did(tmp_path: Path) -> None:
    path = tmp_path / "student.safetensors"
    student = student_with(DESCRIBED, tuple("abcde"))
    heads = {task: build_head(**description) for task, description in DESCRIBED.items()}
    features = torch.randn(2, WIDTH, 3, 4)
    heads["segmentation"](features, (48, 64))  # moves its running statistics
    save_student(path, student, heads)
    loaded = load_heads(path)
    assert set(loaded) == set(DESCRIBED)
    for task, head in heads.items():
        assert not loaded[task].training
        seen = (features.flip(0), features) if task == "flow" else (features,)
        assert torch.equal(loaded[task](*seen, (48, 60)), head.eval()(*seen, (48, 60)))


def test_a_checkpoint_without_heads_has_none(tmp_path: Path) -> None:
    path = tmp_path / "student.safetensors"
    save_student(path, student_with({}))
    assert load_heads(path) == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "segmentation_magic"}, "segmentation_linear"),
        ({"kind": ["segmentation_linear"]}, "there is no head"),
        ({"classes": 1}, "classes is 1"),
        ({"classes": True}, "classes True"),
        ({"stride": 0}, "stride is 0"),
        ({"depth": 3}, "'depth'"),
        ({"classes": 6}, "5 classes"),
        ({"kind": "depth_dpt", "classes": None}, "depth_dpt"),
        ({"width": 16}, "norm.weight"),
    ],
)
def test_a_wrong_description_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    path = tmp_path / "student.safetensors"
    student = student_with(DESCRIBED, tuple("abcde"))
    heads: dict[str, nn.Module] = {t: build_head(**d) for t, d in DESCRIBED.items()}
    save_student(path, student, heads)
    header, tensors = read_checkpoint(path)
    described = header.heads | {"segmentation": header.heads["segmentation"] | change}
    write_checkpoint(path, tensors, replace(header, heads=described))
    with pytest.raises((TaskError, CheckpointError), match=said):
        load_heads(path)


def test_a_head_under_another_task_or_without_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "student.safetensors"
    save_student(path, student_with({"flow": DESCRIBED["depth"]}))
    with pytest.raises(CheckpointError, match="depth"):
        load_heads(path)
    save_student(path, student_with({"depth": {"kind": "depth_dpt"}}))
    with pytest.raises(CheckpointError, match="width"):
        load_heads(path)
    save_student(path, student_with({"depth": DESCRIBED["depth"]}))
    with pytest.raises(CheckpointError, match="which the model needs"):
        load_heads(path)


def test_options_that_a_kind_needs_are_asked_for() -> None:
    for kind, option in (("segmentation_dpt", "classes"), ("depth_dpt", "maximum")):
        assert kind in HEAD_KINDS
        with pytest.raises(TaskError, match=option):
            build_head(kind, WIDTH, STRIDE)
    with pytest.raises(TaskError, match="even stride"):
        build_head("flow_correlation", WIDTH, 7)
    with pytest.raises(TaskError, match="maximum is nan"):
        build_head("depth_dpt", WIDTH, STRIDE, maximum=float("nan"))
