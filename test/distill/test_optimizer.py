from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
import torch

from scaleevent_ros.distill.configuration import OptimizerOptions, ParameterGroup
from scaleevent_ros.distill.errors import ConfigurationError
from scaleevent_ros.distill.optimizer import (
    build_optimizer,
    freeze_parameters,
    set_rate,
    set_training,
)
from scaleevent_ros.models import Student, build_student

if TYPE_CHECKING:
    from torch import nn

VIT = {"embed_dim": 32, "depth": 3, "num_heads": 2}


@pytest.fixture
def student() -> Student:
    return build_student("vit_tiny_patch16_224", 5, "random", options=VIT)


def rates(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, tuple[float, float]]:
    by_id = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    return {name: by_id[id(p)] for name, p in model.named_parameters() if id(p) in by_id}


def test_every_parameter_learns_at_one_rate_by_default(student: Student) -> None:
    found = rates(build_optimizer(student, OptimizerOptions(learning_rate=0.1), 8), student)
    assert found.keys() == dict(student.named_parameters()).keys()
    assert {rate for rate, _ in found.values()} == {0.1}


def test_vectors_are_decayed_only_if_asked(student: Student) -> None:
    options = OptimizerOptions(weight_decay=0.5)
    some = rates(build_optimizer(student, options, 8), student)
    for name, parameter in student.named_parameters():
        assert some[name][1] == (0.5 if parameter.ndim > 1 else 0.0)
    everything = rates(
        build_optimizer(student, OptimizerOptions(weight_decay=0.5, decay_all=True), 8), student
    )
    assert {decay for _, decay in everything.values()} == {0.5}


def test_layers_further_from_the_output_learn_more_slowly(student: Student) -> None:
    options = OptimizerOptions(learning_rate=1.0, layer_decay=0.5)
    found = rates(build_optimizer(student, options, 8), student)
    blocks = [found[f"backbone.model.blocks.{i}.attn.qkv.weight"][0] for i in range(3)]
    assert blocks[1] == 2 * blocks[0]
    assert blocks[2] == 2 * blocks[1]
    assert found["backbone.model.patch_embed.proj.weight"][0] == blocks[0] / 2
    assert found["backbone.model.norm.weight"][0] == 1.0


def test_convnexts_have_layers_too() -> None:
    convnext = build_student("convnext_atto", 5, "random")
    options = OptimizerOptions(learning_rate=1.0, layer_decay=0.5)
    found = rates(build_optimizer(convnext, options, 8), convnext)
    slowest = min(rate for rate, _ in found.values())
    assert found["backbone.model.stem.0.weight"][0] == slowest < 0.5**3


def test_the_rate_grows_with_the_batch_if_asked(student: Student) -> None:
    options = OptimizerOptions(learning_rate=0.1, reference_batch_size=256)
    found = rates(build_optimizer(student, options, 1024), student)
    assert {rate for rate, _ in found.values()} == {0.4}


def test_groups_multiply_and_freeze(student: Student) -> None:
    groups = [ParameterGroup("patch_embed", 0.5), ParameterGroup(r"blocks\.0\.", 0)]
    options = OptimizerOptions(learning_rate=1.0, groups=groups)
    freeze_parameters(student, options)
    optimizer = build_optimizer(student, options, 8)
    found = rates(optimizer, student)
    assert found["backbone.model.patch_embed.proj.weight"][0] == 0.5
    assert not any(".blocks.0." in name for name in found)
    assert found["backbone.model.blocks.1.norm1.weight"][0] == 1.0
    set_rate(optimizer, 0.1)
    assert rates(optimizer, student)["backbone.model.patch_embed.proj.weight"][0] == 0.05


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ([ParameterGroup("nothing_like_it", 1)], "no parameter matches 'nothing_like_it'"),
        ([ParameterGroup("(", 1)], "not a regular expression"),
        ([ParameterGroup("", 0)], "freeze all parameters"),
    ],
)
def test_groups_that_cannot_be(student: Student, groups: list[ParameterGroup], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        freeze_parameters(student, OptimizerOptions(groups=groups))


def test_frozen_parts_stay_in_evaluation_mode() -> None:
    """Their batch statistics must not move, and the parts that learn must train."""
    student = build_student("efficientnet_lite0", 5, "random", stride=16)
    student.set_memory(1.0)
    freeze_parameters(student, OptimizerOptions(groups=[ParameterGroup(r"^backbone\.", 0)]))
    before = {name: value.clone() for name, value in student.backbone.named_buffers()}
    set_training(student)
    student(torch.randn(2, 5, 64, 64))
    assert any("running_mean" in name for name in before)
    for name, value in student.backbone.named_buffers():
        assert torch.equal(value, before[name]), name
    assert student.training
    assert all(module.training for module in cast("nn.Module", student.memory).modules())
