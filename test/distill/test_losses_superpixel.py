"""Superpixels: averages over regions, the contrast between them, and groups of tokens."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from scaleevent_ros.distill.losses import build_loss
from scaleevent_ros.distill.losses_superpixel import cluster_tokens, contrast, pool_regions


def test_pooling_averages_each_region() -> None:
    features = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]])
    pooled, filled = pool_regions(features, torch.tensor([2, 0, 2]), 3)
    assert pooled.tolist() == [[3.0, 4.0], [0.0, 0.0], [3.0, 5.5]]
    assert filled.tolist() == [True, False, True]
    pooled, filled = pool_regions(features, torch.tensor([0, -1, 0]), 1)
    assert pooled.tolist() == [[3.0, 5.5]]
    assert filled.tolist() == [True]


def test_contrast_is_least_where_regions_find_themselves() -> None:
    teacher, every = torch.eye(4), torch.ones(4) > 0
    matched = contrast(teacher, teacher, every, 0.07)
    shuffled = contrast(teacher.roll(1, 0), teacher, every, 0.07)
    assert matched < 1e-4
    assert float(shuffled) == pytest.approx(1 / 0.07, rel=1e-4)


def test_empty_regions_change_neither_the_contrast_nor_its_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(5, 6, generator=generator).requires_grad_()
    teacher = torch.randn(5, 6, generator=generator)
    filled = torch.tensor([True, False, True, True, False])
    found = contrast(student, teacher, filled, 0.07)
    expected = contrast(student[filled], teacher[filled], torch.ones(3) > 0, 0.07)
    gradients = [torch.autograd.grad(value, student)[0] for value in (found, expected)]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*gradients)
    nothing = contrast(student, teacher, filled & False, 0.07)
    assert nothing == 0
    assert torch.autograd.grad(nothing, student)[0].abs().max() == 0


def test_clusters_find_separate_groups() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 3, (90,), generator=generator)
    truth[:3] = torch.arange(3)
    centres = torch.eye(3, 8)
    tokens = centres[truth] + 0.02 * torch.randn(90, 8, generator=generator)
    groups = cluster_tokens(tokens, 12)
    for group in set(groups.tolist()):
        assert len(set(truth[groups == group].tolist())) == 1
    assert torch.equal(groups, cluster_tokens(tokens, 12))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_fewer_tokens_than_groups(count: int) -> None:
    groups = cluster_tokens(normalize(torch.randn(count, 4)), 10)
    assert groups.shape == (count,)
    assert groups.dtype == torch.int64


def test_without_regions_the_teacher_tokens_are_grouped() -> None:
    generator = torch.Generator().manual_seed(3)
    teacher = torch.randn(1, 50, 6, generator=generator)
    student = torch.randn(1, 50, 6, generator=generator)
    mask = torch.rand(1, 50, generator=generator) < 0.7
    groups = torch.full((1, 50), -1)
    groups[mask] = cluster_tokens(teacher[mask], 9)
    loss = build_loss("superpixel", count=9)
    assert loss(student, teacher, mask).total == loss(student, teacher, mask, regions=groups).total
