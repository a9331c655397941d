"""Dense features of the families of networks that teach and learn here."""

from __future__ import annotations

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
