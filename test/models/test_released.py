"""Meta's DINOv3 files and the paper's encoders against a forward pass from the definition."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import torch
from dinov3_references import convnext_features, random_convnext, random_vit, vit_features
from safetensors.torch import save_file

from scaleevent_ros.models import (
    CheckpointError,
    build_student,
    build_teacher,
    load_student,
    save_student,
)

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

TOLERANCE = 2e-3


def picture(channels: int = 3, height: int = 48, width: int = 80) -> Tensor:
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(5))


def assert_same(module: torch.nn.Module, tensors: dict[str, Tensor], channels: int = 3) -> None:
    image = picture(channels)
    with torch.no_grad():
        found = module(image)
    assert (found - vit_features(tensors, image)).abs().max() < TOLERANCE


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"gated": True},
        {"registers": 0},
        {"width": 96, "heads": 3, "depth": 2},
        {"base": 20.0},
        {"channels": 5},
    ],
    ids=str,
)
@pytest.mark.parametrize("prefix", ["", "module.event_encoder.", "event_encoder."])
def test_load_student_gives_the_published_features(
    tmp_path: Path, shape: dict[str, Any], prefix: str
) -> None:
    tensors = random_vit(**shape)
    path = tmp_path / "ViTS16_Event_Encoder_EP11.pth"
    torch.save({prefix + name: value for name, value in tensors.items()}, path)
    student = load_student(path)
    assert_same(student, tensors, shape.get("channels", 3))
    assert student.header.bins == shape.get("channels", 3)
    assert student.header.extra == {"source": path.name}
    assert not student.training


def test_it_survives_our_own_checkpoint_and_half_precision(tmp_path: Path) -> None:
    tensors = random_vit(base=37.0)  # not the periods that timm would compute
    torch.save(tensors, tmp_path / "meta.pth")
    student = load_student(tmp_path / "meta.pth")
    save_student(tmp_path / "ours.safetensors", student)
    again = load_student(tmp_path / "ours.safetensors")
    assert again.header.extra == student.header.extra
    assert_same(again, tensors)
    assert_same(again.half().float(), {name: value.half() for name, value in tensors.items()})
    periods = again.state_dict()["backbone.model.rope.periods"]
    assert torch.equal(periods, tensors["rope_embed.periods"])


def test_a_wrapped_file_and_safetensors(tmp_path: Path) -> None:
    tensors = random_vit()
    torch.save({"model": tensors, "epoch": 3}, tmp_path / "wrapped.pth")
    save_file(tensors, tmp_path / "plain.safetensors")
    for name in ("wrapped.pth", "plain.safetensors"):
        assert_same(load_student(tmp_path / name), tensors)


def test_a_file_without_biases(tmp_path: Path) -> None:
    tensors = random_vit()
    without = {name: value for name, value in tensors.items() if "qkv.bias" not in name}
    torch.save(without, tmp_path / "meta.pth")
    student = load_student(tmp_path / "meta.pth")
    assert student.header.architecture == "vit_small_patch16_dinov3"
    zeroed = {n: v * 0 if n.endswith("qkv.bias") else v for n, v in tensors.items()}
    assert_same(student, zeroed)


def test_known_sizes_get_their_names(tmp_path: Path) -> None:
    torch.save(random_vit(width=192, depth=12, heads=3), tmp_path / "tiny.pth")
    header = load_student(tmp_path / "tiny.pth").header
    assert header.architecture == "vit_tiny_patch16_dinov3_qkvb"
    assert header.architecture_options == {}


def test_convnext_gives_the_published_features(tmp_path: Path) -> None:
    tensors = random_convnext()
    torch.save(tensors, tmp_path / "convnext.pth")
    student = load_student(tmp_path / "convnext.pth")
    image = picture(3, 64, 96)
    with torch.no_grad():
        found = student(image)
    assert student.stride == 32
    assert (found - convnext_features(tensors, image)).abs().max() < TOLERANCE


def test_teacher_and_student_from_one_file(tmp_path: Path) -> None:
    """The plain name is enough: the variant with biases is chosen by the file."""
    tensors = random_vit()
    torch.save(tensors, tmp_path / "meta.pth")
    options = {"embed_dim": 64, "depth": 3, "num_heads": 2}
    name = "vit_small_patch16_dinov3.lvd1689m"
    teacher = build_teacher(name, tmp_path / "meta.pth", options=options)
    frames = torch.rand(2, 3, 48, 80)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalized = (frames - mean[:, None, None]) / std[:, None, None]
    expected = vit_features(tensors, normalized)
    assert (teacher(frames, (3, 5)) - expected).abs().max() < TOLERANCE
    for init in ("teacher", tmp_path / "meta.pth", tmp_path / "student.safetensors"):
        student = build_student(name, 3, init, teacher=teacher, options=options).eval()
        assert (student(normalized) - expected).abs().max() < TOLERANCE
        assert student.header.architecture == "vit_small_patch16_dinov3_qkvb"
        save_student(tmp_path / "student.safetensors", student)


def test_names_that_are_not_what_the_file_holds(tmp_path: Path) -> None:
    torch.save(random_vit(), tmp_path / "vit.pth")
    with pytest.raises(
        CheckpointError, match=r"vit.pth is a DINOv3 file whose network cannot be built"
    ):
        build_teacher("convnext_tiny", tmp_path / "vit.pth")
    with pytest.raises(CheckpointError, match=r"vit.pth: cls_token is \(1, 1, 64\), the model's"):
        build_teacher("vit_small_patch16_dinov3", tmp_path / "vit.pth")
    torch.save(random_vit(channels=5), tmp_path / "events.pth")
    options = {"embed_dim": 64, "depth": 3, "num_heads": 2}
    with pytest.raises(CheckpointError, match="takes 5 channels; a teacher sees red, green"):
        build_teacher("vit_small_patch16_dinov3", tmp_path / "events.pth", options=options)


def _without(name: str) -> Any:
    return lambda t: t.pop(name)


def _replace(name: str, value: Tensor) -> Any:
    return lambda t: t.update({name: value})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_without("rope_embed.periods"), "has no rope_embed.periods"),
        (_without("cls_token"), "has no cls_token"),
        (_without("blocks.1.norm2.bias"), r"has no blocks.1.norm2.bias"),
        (_without("blocks.0.mlp.fc1.weight"), r"has no blocks.0.mlp.fc1.weight"),
        (
            _replace("norm.weight", torch.ones(63)),
            r"norm.weight is \(63,\), the model's is \(64,\)",
        ),
        (_replace("blocks.2.surprise", torch.ones(1)), "has blocks.2.surprise, which the model"),
        (_replace("norm.bias", torch.full((64,), torch.nan)), "norm.bias holds values that are"),
        (_replace("rope_embed.periods", torch.ones(5)), "heads of 20, which do not divide 64"),
        (
            _replace("blocks.0.attn.qkv.bias_mask", torch.full((192,), torch.nan)),
            "blocks.0.attn.qkv.bias_mask is not a finite mask",
        ),
        (
            _replace("blocks.0.attn.qkv.bias_mask", torch.ones(192)),
            "blocks.0.attn.qkv.bias has a bias on the keys",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused_by_name(tmp_path: Path, damage: Any, words: str) -> None:
    tensors = random_vit()
    damage(tensors)
    torch.save(tensors, tmp_path / "wrong.pth")
    with pytest.raises(CheckpointError, match=words) as caught:
        load_student(tmp_path / "wrong.pth")
    assert "wrong.pth" in str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"meta{suffix}"
    if suffix == ".pth":
        torch.save(random_vit(), path)
    else:
        save_file(random_vit(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(CheckpointError, match="damaged"):
        load_student(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no file of weights at .*nowhere.pth"):
        load_student(tmp_path / "nowhere.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(CheckpointError, match="damaged or not a file of weights"):
        load_student(tmp_path / "text.pth")
    torch.save(torch.ones(3), tmp_path / "bare.pth")
    with pytest.raises(CheckpointError, match="holds Tensor, not a dictionary"):
        load_student(tmp_path / "bare.pth")
    torch.save({"fc.weight": torch.ones(3)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="neither a scaleevent checkpoint nor a DINOv3"):
        load_student(tmp_path / "other.pth")
    torch.save({"cls_token": torch.ones(3), "step": "ten"}, tmp_path / "mixed.pth")
    with pytest.raises(CheckpointError, match="step is str, not a tensor"):
        load_student(tmp_path / "mixed.pth")


class _Payload:
    """Pickle of an attacker: a call that runs when the file is read."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.target,)


def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path) -> None:
    target = tmp_path / "proof"
    torch.save({"cls_token": _Payload(str(target))}, tmp_path / "evil.pth")
    with pytest.raises(
        CheckpointError, match=r"evil.pth is damaged or not a file of weights"
    ) as seen:
        load_student(tmp_path / "evil.pth")
    assert not target.exists()
    assert "weights_only" not in str(seen.value)  # PyTorch would advise to switch it off
