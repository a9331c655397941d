from __future__ import annotations

import numpy as np
import pytest
import torch

from scaleevent_ros.distill.validation import affinity_correlation_sums, cosine_sums


def test_cosines_against_numpy() -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 3, 20, 8))
    mask = rng.random((3, 20)) < 0.4
    lengths = np.linalg.norm(student, axis=-1) * np.linalg.norm(teacher, axis=-1)
    cosine = (student * teacher).sum(-1) / lengths
    total, count = cosine_sums(*map(torch.from_numpy, (student, teacher, mask))).tolist()
    assert count == mask.sum()
    assert total == pytest.approx(cosine[mask].sum(), abs=1e-5)


def test_affinities_against_numpy() -> None:
    rng = np.random.default_rng(1)
    student, teacher = rng.normal(size=(2, 2, 15, 6))
    mask = rng.random((2, 15)) < 0.7
    expected = 0.0
    for b in range(2):
        pairs = []
        for tokens in (student[b][mask[b]], teacher[b][mask[b]]):
            unit = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
            pairs.append([unit[i] @ unit[j] for i in range(len(unit)) for j in range(i)])
        expected += np.corrcoef(np.array(pairs))[0, 1]
    found = affinity_correlation_sums(*map(torch.from_numpy, (student, teacher, mask)))
    assert found.tolist() == pytest.approx([expected, 2])


def test_affinities_do_not_see_a_rotation_of_the_features() -> None:
    torch.manual_seed(0)
    teacher = torch.randn(1, 30, 8)
    rotation, _ = torch.linalg.qr(torch.randn(8, 8))
    mask = torch.ones(1, 30, dtype=torch.bool)
    assert affinity_correlation_sums(teacher @ rotation, teacher, mask)[0] == pytest.approx(1.0)
    assert cosine_sums(teacher @ rotation, teacher, mask)[0] / 30 < 0.5


def test_images_without_tokens_count_nowhere() -> None:
    tokens = torch.randn(2, 5, 4)
    mask = torch.zeros(2, 5, dtype=torch.bool)
    assert cosine_sums(tokens, tokens, mask).tolist() == [0, 0]
    assert affinity_correlation_sums(tokens, tokens, mask).tolist() == [0, 0]


def test_many_tokens_are_judged_by_some() -> None:
    torch.manual_seed(0)
    teacher = torch.randn(1, 3000, 8)
    student = teacher + torch.randn(1, 3000, 8)
    mask = torch.ones(1, 3000, dtype=torch.bool)
    some = affinity_correlation_sums(student, teacher, mask)[0]
    fewer = affinity_correlation_sums(student[:, :1000], teacher[:, :1000], mask[:, :1000])[0]
    assert some == pytest.approx(float(fewer), abs=0.05)
