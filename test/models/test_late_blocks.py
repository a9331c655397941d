"""The last blocks of a ViT on their own, against the whole network and timm's own prefix tokens."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch

from scaleevent_ros.models import ModelError, Student, build_student
from scaleevent_ros.models.late_blocks import LateBlocks

TINY = {"embed_dim": 24, "depth": 3, "num_heads": 2}
PLAIN = "vit_tiny_patch16_224"
ROTARY = "vit_tiny_patch16_dinov3_qkvb"
MIXED = "vit_small_patch16_rope_mixed_224"
AVERAGED = "vit_medium_patch16_gap_240"  # its norm sits in the head, and it has no class token


def tiny(name: str) -> Student:
    """Build a student whose blocks do much, also where timm starts them at almost nothing."""
    student = build_student(name, 3, "random", options=TINY)
    for key, parameter in student.named_parameters():
        if "gamma" in key:
            parameter.detach().fill_(1)
    return student


@pytest.mark.parametrize("name", [PLAIN, ROTARY, MIXED, AVERAGED, "vit_small_patch14_reg4_dinov2"])
@pytest.mark.parametrize("count", [1, 2])
def test_both_parts_together_are_the_backbone(name: str, count: int) -> None:
    student = tiny(name).eval()
    events = torch.randn(2, 3, 45, 50)
    features = student(events)
    late = LateBlocks(student.backbone, count)
    found = late.features(late.tokens(events), (features.shape[2], features.shape[3]))
    assert torch.equal(found, features)


@pytest.mark.parametrize("name", [PLAIN, ROTARY, MIXED, AVERAGED])
def test_appended_tokens_are_what_further_prefix_tokens_would_be(name: str) -> None:
    """Prefix tokens have no position in timm; with as many more of them, its blocks must agree."""
    student = tiny(name).eval()
    late = LateBlocks(student.backbone, 2)
    tokens = late.tokens(torch.randn(2, 3, 32, 48))
    queries = torch.randn(2, 4, 24)
    found = torch.cat([tokens, queries], dim=1)
    for number, position in enumerate(late.positions((2, 3), 4)):
        found = late.run(number, found, position)

    model = cast("Any", student.backbone.model)
    expected = torch.cat([queries, tokens], dim=1)
    for index, block in list(enumerate(model.blocks))[1:]:
        if hasattr(model, "rope") and model.rope is not None:
            block.attn.num_prefix_tokens += 4
            rope = model.rope.get_embed(shape=(2, 3))
            expected = block(expected, rope=rope[index] if rope.ndim == 4 else rope)
        else:
            expected = block(expected)
    torch.testing.assert_close(found.roll(4, dims=1), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [PLAIN, ROTARY])
def test_a_mask_keeps_tokens_from_seeing_others(name: str) -> None:
    torch.manual_seed(0)
    late = LateBlocks(tiny(name).eval().backbone, 1)
    tokens = torch.randn(1, late.prefix + 6, 24)
    count = tokens.shape[1]
    mask = torch.ones(1, 1, count, count, dtype=torch.bool)
    mask[0, 0, -1, late.prefix : -1] = False
    (position,) = late.positions((2, 3))
    changed = tokens.clone()
    changed[0, late.prefix] = torch.randn(24)
    with torch.no_grad():
        before, after = (late.run(0, t, position, mask) for t in (tokens, changed))
    torch.testing.assert_close(before[0, -1], after[0, -1])
    assert float((before[0, -2] - after[0, -2]).abs().max()) > 1e-4


def test_checkpointing_gives_the_same_gradient() -> None:
    student = tiny(ROTARY)
    events = torch.randn(1, 3, 32, 48)
    late = LateBlocks(student.backbone, 2)
    weight = cast("Any", student.backbone.model).blocks[1].mlp.fc1.weight
    gradients = []
    for enable in (False, True):
        student.backbone.set_grad_checkpointing(enable)
        loss = late.features(late.tokens(events), (2, 3)).square().mean()
        gradients.append(torch.autograd.grad(loss, weight)[0])
    torch.testing.assert_close(*gradients)


def test_networks_without_such_blocks_are_refused() -> None:
    with pytest.raises(ModelError, match="EfficientNet is no plain ViT"):
        LateBlocks(build_student("tf_efficientnet_lite0", 3, "random").backbone, 1)
    student = tiny(PLAIN)
    with pytest.raises(ModelError, match="of its 3 blocks, the last 1 to 2"):
        LateBlocks(student.backbone, 3)
