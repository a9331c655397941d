"""Dense features of the families of networks that teach and learn here."""

from __future__ import annotations

import copy
from typing import Any, cast

import pytest
import torch

from scaleevent_ros.models import Backbone, ModelError, tokens
from scaleevent_ros.models.backbone import build_network

SHALLOW = {"depth": 2}
SMALL = {"depth": 2, "embed_dim": 64, "num_heads": 2}
# name, timm's options, wanted stride, found width and stride
FAMILIES: list[tuple[str, dict[str, Any], int | None, int, int]] = [
    ("vit_small_patch16_dinov3", SMALL, None, 64, 16),
    ("vit_base_patch16_dinov3_qkvb.eupe_lvd1689m", SMALL, None, 64, 16),
    ("convnext_tiny.dinov3_lvd1689m", {"depths": (1,) * 4, "dims": (8, 16, 24, 32)}, None, 32, 32),
    ("convnext_tiny", {"depths": (1,) * 4, "dims": (8, 16, 24, 32)}, 16, 24, 16),
    ("vit_small_patch14_dinov2", SMALL, None, 64, 14),
    ("vit_base_patch16_clip_224", SMALL, None, 64, 16),
    ("vit_base_patch16_siglip_224", SMALL, None, 64, 16),
    ("samvit_base_patch16", SMALL | {"global_attn_indexes": (1,)}, None, 256, 16),
    ("vit_base_patch16_224.mae", SMALL, None, 64, 16),
    ("eva02_tiny_patch14_224", SHALLOW, None, 192, 14),
    ("tf_efficientnet_lite0", {}, None, 320, 32),
    ("tf_efficientnet_lite0", {}, 16, 112, 16),
]


@pytest.mark.parametrize(("name", "options", "wanted", "width", "stride"), FAMILIES)
def test_families(
    name: str, options: dict[str, Any], wanted: int | None, width: int, stride: int
) -> None:
    torch.manual_seed(0)
    backbone = Backbone(build_network(name, options, num_classes=0), wanted)
    features = backbone(torch.randn(2, 3, 2 * stride + 3, 3 * stride))
    assert (backbone.width, backbone.stride) == (width, stride)
    assert features.shape == (2, width, 3, 3)
    # A final norm has ended them: of unit scale over the channels of each position.
    assert features.mean(1).abs().max() < 0.05
    assert features.var(1).mean().item() == pytest.approx(1, abs=0.1)
    torch.autograd.backward(features.square().sum())
    unused = [key for key, value in backbone.named_parameters() if value.grad is None]
    assert unused == []  # or DDP would wait for them forever


@pytest.mark.parametrize("stride", [4, 8])
def test_a_neck_carries_what_coarse_stages_know_to_a_fine_one(stride: int) -> None:
    torch.manual_seed(0)
    network = build_network("tf_efficientnet_lite0", {}, num_classes=0)
    backbone = Backbone(network, stride, neck=24).eval()
    assert (backbone.width, backbone.stride) == (24, stride)
    image = torch.randn(2, 3, 70, 100)
    features = backbone(image)
    assert features.shape == (2, 24, -(-70 // stride), -(-100 // stride))
    # Written out: 1x1 convolutions, from coarse to fine each added to the next, 3x3 at the end.
    padded = torch.nn.functional.pad(image, (0, 28, 0, 26))
    maps = cast("Any", network).forward_intermediates(padded, intermediates_only=True)
    neck = cast("Any", backbone.neck)
    maps = [each for each in maps if each.shape[-1] <= 128 // stride]
    merged = torch.zeros(())
    for level in reversed(range(len(maps))):
        (lateral,) = neck.inner_blocks[level]
        merged = lateral(maps[level]) + merged
        if level:
            merged = merged.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    (last,) = neck.layer_blocks[0]
    expected = last(merged)[..., : features.shape[-2], : features.shape[-1]]
    expected = (expected - expected.mean(1, keepdim=True)) / (
        expected.var(1, correction=0, keepdim=True) + 1e-6
    ).sqrt()
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)
    torch.autograd.backward(features.square().sum())
    unused = [key for key, value in backbone.named_parameters() if value.grad is None]
    assert unused == []  # or DDP would wait for them forever


@pytest.mark.parametrize(
    ("name", "options", "stride", "words"),
    [
        (
            "vit_small_patch14_dinov2",
            SMALL,
            14,
            "this one has stride 14 alone",
        ),
        ("tf_efficientnet_lite0", {}, 32, "a stride of 2, 4, 8, 16, not 32"),
        ("tf_efficientnet_lite0", {}, 5, "a stride of 2, 4, 8, 16, not 5"),
    ],
)
def test_networks_that_take_no_neck(
    name: str, options: dict[str, Any], stride: int, words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        Backbone(build_network(name, options, num_classes=0), stride, neck=16)


def test_features_are_timms_own() -> None:
    """The last patch tokens of `forward_features`, class and register tokens left out."""
    options = {"depth": 2, "embed_dim": 64, "num_heads": 2}
    network = build_network("vit_small_patch16_dinov3", options, num_classes=0).eval()
    image = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        expected = cast("Any", network).forward_features(image)[:, 5:]
        found = Backbone(network)(image)
    torch.testing.assert_close(tokens(found), expected)


def test_the_image_is_padded_with_zeros_at_the_right_and_the_bottom() -> None:
    torch.manual_seed(0)
    options = {"depth": 1, "embed_dim": 64, "num_heads": 2}
    backbone = Backbone(build_network("vit_small_patch16_dinov3", options)).eval()
    image = torch.randn(1, 3, 40, 50)
    padded = torch.zeros(1, 3, 48, 64)
    padded[..., :40, :50] = image
    with torch.no_grad():
        assert torch.equal(backbone(image), backbone(padded))


def test_tokens_run_row_by_row() -> None:
    features = torch.arange(12.0).view(1, 2, 2, 3)
    assert tokens(features)[0].tolist() == [[0, 6], [1, 7], [2, 8], [3, 9], [4, 10], [5, 11]]


def test_checkpointing_changes_memory_alone() -> None:
    options = {"depth": 2, "embed_dim": 64, "num_heads": 2}
    backbone = Backbone(build_network("vit_small_patch16_dinov3", options))
    image = torch.randn(1, 3, 32, 32)
    weight = cast("Any", backbone.model).blocks[0].mlp.fc1.weight
    gradients = []
    for enable in (False, True):
        backbone.set_grad_checkpointing(enable)
        gradients.append(torch.autograd.grad(backbone(image).square().sum(), weight)[0])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_unknown_names_options_and_strides() -> None:
    with pytest.raises(ModelError, match=r"no model 'vit_small_patch16_dino4'; similar names: vit"):
        build_network("vit_small_patch16_dino4")
    with pytest.raises(ModelError, match=r"no weights 'of_dreams' of vit_tiny.*, only vit_tiny"):
        build_network("vit_tiny_patch16_224.of_dreams")
    with pytest.raises(ModelError, match="cannot build convnext_atto with"):
        build_network("convnext_atto", {"colour": "blue"})
    with pytest.raises(ModelError, match="finest features, 4"):
        Backbone(build_network("convnext_atto"), stride=2)


@pytest.mark.parametrize(
    "name",
    [
        "vit_small_patch16_dinov3",
        "vit_small_patch14_dinov2",
        "vit_base_patch16_clip_224",
        "vit_base_patch16_224.mae",
        "eva02_tiny_patch14_224",
    ],
)
def test_dropped_tokens_are_as_if_nobody_attended_to_them(name: str) -> None:
    torch.manual_seed(0)
    options = SHALLOW if name.startswith("eva02") else SMALL
    backbone = Backbone(build_network(name, options, num_classes=0)).eval()
    assert backbone.can_drop_tokens
    for key, value in backbone.named_parameters():
        if "gamma" in key:  # layer scale, which keeps what blocks add small at first
            torch.nn.init.ones_(value)
    image = torch.randn(2, 3, 2 * backbone.stride + 3, 4 * backbone.stride)
    kept = torch.tensor([[0, 3, 4, 7, 11], [1, 2, 8, 9, 10]])
    keys = set(backbone.state_dict())
    features = tokens(backbone(image, kept))
    assert set(backbone.state_dict()) == keys

    # The whole computation, in which attention leaves out dropped tokens.
    model = cast("Any", backbone.model)
    prefix = model.num_prefix_tokens
    seen = torch.zeros(2, 1, 1, prefix + 12, dtype=torch.bool)
    seen[..., :prefix] = True
    seen[torch.arange(2)[:, None], 0, 0, prefix + kept] = True
    (whole,) = model.forward_intermediates(
        backbone.pad(image),
        indices=backbone._indices,
        norm=backbone._native_norm,
        intermediates_only=True,
        attn_mask=seen.expand(2, 1, prefix + 12, prefix + 12),
    )
    expected = tokens(backbone.norm(whole))
    computed = seen[:, 0, 0, prefix:]
    torch.testing.assert_close(features[computed], expected[computed], rtol=1e-4, atol=1e-5)
    assert not features[~computed].any()
    unmasked = tokens(backbone(image))
    assert (features - unmasked)[computed].abs().max() > 1e-3
    everything = tokens(backbone(image, torch.arange(12).expand(2, 12)))
    torch.testing.assert_close(everything, unmasked, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["samvit_base_patch16", "tf_efficientnet_lite0"])
def test_networks_that_are_no_plain_vit_drop_no_tokens(name: str) -> None:
    options = SMALL | {"global_attn_indexes": (1,)} if name.startswith("sam") else {}
    assert not Backbone(build_network(name, options, num_classes=0)).can_drop_tokens


def test_kept_positions_are_those_that_timm_computes() -> None:
    """For grids in turns, with other periods, in copies, and in training after inference."""
    torch.manual_seed(0)
    options = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    network = build_network("vit_tiny_patch16_dinov3_qkvb", options)
    backbone = Backbone(copy.deepcopy(network)).eval()

    def expected(image: torch.Tensor) -> torch.Tensor:
        (features,) = cast("Any", network.eval()).forward_intermediates(
            image, indices=[1], norm=True, intermediates_only=True
        )
        return cast("torch.Tensor", features)

    wide, high = torch.randn(1, 3, 32, 64), torch.randn(1, 3, 64, 32)
    with torch.inference_mode():
        for image in (wide, wide, high, wide):
            torch.testing.assert_close(backbone(image), expected(image))
    backbone(wide).sum().backward()
    for model in (network, backbone.model):
        cast("Any", model).rope.periods.mul_(1.5)
    copied = copy.deepcopy(backbone)
    for one in (backbone, copied, copied.double().float()):
        torch.testing.assert_close(one(wide), expected(wide))
