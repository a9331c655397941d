"""Teachers: frozen, normalized their own way, at any scale, on any grid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import interpolate

from scaleevent_ros.models import CheckpointError, ModelError, Teacher, build_teacher
from scaleevent_ros.models.backbone import build_network
from scaleevent_ros.models.teacher import normalized_frames

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

OPTIONS = {"depth": 2, "embed_dim": 64, "num_heads": 2}
NAME = "vit_small_patch16_dinov3.lvd1689m"


def random_teacher(name: str = NAME, **more: Any) -> Teacher:
    torch.manual_seed(0)
    return build_teacher(name, pretrained=False, options=OPTIONS, **more)


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        (NAME, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("vit_base_patch16_siglip_224.webli", (0.5,) * 3, (0.5,) * 3),
        (
            "vit_base_patch16_clip_224.openai",
            (0.48145466, 0.4578275, 0.40821073),
            (0.26862954, 0.26130258, 0.27577711),
        ),
    ],
)
def test_each_normalizes_its_own_way(
    name: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    teacher = random_teacher(name)
    frames = torch.rand(2, 3, 32, 64)
    normalized = (frames - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    with torch.no_grad():
        expected = teacher.backbone(normalized)
    torch.testing.assert_close(teacher(frames, (2, 4)), expected)


def test_bytes_and_fractions_are_the_same_picture() -> None:
    teacher = random_teacher()
    frames = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(teacher(frames, (2, 2)), teacher(frames.float() / 255, (2, 2)))


def test_normalized_frames_by_hand() -> None:
    """201 pixels from 0.2 to 0.4: the percentiles are 0.202 and 0.399."""
    ramp = torch.linspace(0.2, 0.4, 201)
    frame = torch.stack([ramp] * 3)[None, :, None]
    (result,) = normalized_frames(frame)
    expected = ((ramp - 0.202) / (0.399 - 0.202)).clamp(0, 1)
    torch.testing.assert_close(result, expected.expand(3, 1, -1), atol=1e-5, rtol=0)
    red = torch.zeros(1, 3, 1, 201)
    red[0, 0] = ramp * 0.6 / 0.299  # six tenths of the luminance
    torch.testing.assert_close(normalized_frames(red)[0], result, atol=1e-4, rtol=0)
    flat = normalized_frames(torch.full((1, 3, 4, 4), 0.5))
    assert flat.eq(0).all()
    noise = normalized_frames(0.5 + 0.01 * torch.rand(1, 3, 8, 8))
    assert noise.max() < 0.1 + 1e-5  # the gain is limited to 10


def test_a_teacher_of_normalized_frames_ignores_colour_and_exposure() -> None:
    plain, normalizing = random_teacher(), random_teacher(normalize_frames=True)
    frames = torch.rand(2, 3, 32, 64)
    frames[1] *= 0.5  # each frame is stretched by itself
    grey = (0.299 * frames[:, :1] + 0.587 * frames[:, 1:2] + 0.114 * frames[:, 2:]).expand_as(
        frames
    )
    found = normalizing(frames, (2, 4))
    torch.testing.assert_close(found, plain(normalized_frames(frames), (2, 4)))
    torch.testing.assert_close(found, normalizing(grey, (2, 4)), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(found, normalizing(0.6 * grey, (2, 4)), atol=1e-4, rtol=1e-3)
    assert not torch.allclose(found, plain(frames, (2, 4)), atol=0.1)


def test_it_stays_frozen_whatever_the_trainer_does() -> None:
    teacher = random_teacher()
    torch.nn.Sequential(teacher).train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    features = teacher(torch.rand(1, 3, 32, 32), (2, 2))
    assert not features.requires_grad
    student = torch.zeros_like(features).requires_grad_()
    # An inference tensor could not be saved for this backward pass.
    torch.autograd.backward((student * features).sum())


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_a_finer_teacher_gives_the_students_grid(scale: int) -> None:
    teacher = random_teacher(scale=scale)
    seen: list[torch.Size] = []
    teacher.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-2:]))
    frames = torch.rand(1, 3, 32, 48)
    features = teacher(frames, (2, 3))
    assert seen == [(32 * scale, 48 * scale)]
    assert features.shape == (1, 64, 2, 3)
    if scale > 1:
        native = teacher(frames, (2 * scale, 3 * scale))
        expected = interpolate(native, (2, 3), mode="bilinear", antialias=True)
        torch.testing.assert_close(features, expected)


def test_larger_frames_keep_their_detail() -> None:
    teacher = random_teacher(scale=2)
    frames = torch.rand(1, 3, 64, 96)
    torch.testing.assert_close(
        teacher(frames, (2, 3), size=(32, 48)), random_teacher()(frames, (2, 3))
    )


def test_no_part_of_a_frame_is_lost_to_other_patch_sizes() -> None:
    """480 by 640 is not a multiple of 14: the frame is resized to 476 by 644, not padded."""
    teacher = random_teacher("vit_small_patch14_dinov2.lvd142m")
    seen: list[torch.Size] = []
    teacher.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-2:]))
    features = teacher(torch.rand(1, 3, 480, 640), (30, 40))
    assert seen == [(476, 644)]
    assert features.shape == (1, 64, 30, 40)


def test_cells_see_the_same_place_where_a_student_pads() -> None:
    """A DAVIS346 has 260 by 346 pixels, 17 by 22 cells of 16: 12 rows and 6 columns are padded."""
    teacher = random_teacher()
    seen: list[Tensor] = []
    teacher.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    frames = torch.rand(1, 3, 260, 346)
    assert teacher(frames, (17, 22)).shape == (1, 64, 17, 22)
    shown = seen[0] * teacher.std + teacher.mean
    torch.testing.assert_close(shown[..., :260, :346], frames)
    torch.testing.assert_close(shown[..., 260:, :346], frames[..., -1:, :].expand(-1, -1, 12, -1))
    finer = torch.rand(1, 3, 520, 692)
    assert teacher(finer, (17, 22), size=(260, 346)).shape == (1, 64, 17, 22)
    assert seen[1].shape == (1, 3, 272, 352)


@pytest.mark.parametrize("grid", [(17, 23), (3, 4)])
def test_a_grid_that_no_student_has(grid: tuple[int, int]) -> None:
    with pytest.raises(ModelError, match="no one stride leads from an input of 260x346"):
        random_teacher()(torch.rand(1, 3, 260, 346), grid)


def test_weights_from_a_local_file(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = build_network("vit_small_patch16_dinov3", OPTIONS, num_classes=0)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    torch.save(network.state_dict(), tmp_path / "model.pth")
    frames = torch.rand(1, 3, 32, 32)
    found = [
        build_teacher(NAME, tmp_path / file, options=OPTIONS)(frames, (2, 2))
        for file in ("model.safetensors", "model.pth")
    ]
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], random_teacher()(frames, (2, 2)))


def test_a_file_of_another_model(tmp_path: Path) -> None:
    network = build_network("vit_small_patch16_dinov3", OPTIONS | {"depth": 1}, num_classes=0)
    save_file(network.state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"other.safetensors does not fit .*blocks\.1\."):
        build_teacher(NAME, tmp_path / "other.safetensors", options=OPTIONS)


def test_wrong_scale_and_name() -> None:
    with pytest.raises(ModelError, match="scale is 1, 2 or 4, not 3"):
        random_teacher(scale=3)
    with pytest.raises(ModelError, match="knows no model 'vit_enormous'"):
        random_teacher("vit_enormous")
    with pytest.raises(ModelError, match="no package carries weights of vit_tiny_patch16_224"):
        build_teacher("vit_tiny_patch16_224.package")
    with pytest.raises(ModelError, match="timm knows no weights of convnext_atto_rms"):
        build_teacher("convnext_atto_rms")
