"""The sums over affinity residuals: exactness, blocks, memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from scaleevent_ros.distill import losses_affinity
from scaleevent_ros.distill.losses import build_loss
from scaleevent_ros.distill.losses_affinity import blocked_residuals, squared_residuals


def unit_tokens(count: int, width: int, noise: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count + width)
    teacher = torch.randn(count, width, generator=generator, dtype=torch.float64) + 0.3
    student = teacher + noise * torch.randn(count, width, generator=generator, dtype=torch.float64)
    return normalize(student, dim=-1), normalize(teacher, dim=-1)


@pytest.mark.parametrize("count", [10, 79, 80, 300], ids=lambda n: f"{n} tokens")
@pytest.mark.parametrize("noise", [1.0, 1e-2, 1e-4])
def test_squares_are_exact_in_both_forms_even_near_the_teacher(count: int, noise: float) -> None:
    """Width 64: below 80 tokens by pairs, from 80 on by D x D matrices. Nothing may cancel."""
    student, teacher = unit_tokens(count, 64, noise)
    intra = student @ student.T - teacher @ teacher.T
    cross = student @ teacher.T - teacher @ teacher.T
    single = student.float().requires_grad_()
    sums = squared_residuals(single, teacher.float())
    # The tokens themselves are rounded to float32: 6e-8 of noise on them.
    tolerance = 1e-5 + 3e-7 / noise
    for found, residual in zip(sums, (intra, cross), strict=True):
        assert found.item() == pytest.approx(float(residual.square().sum()), rel=tolerance)
    (gradient,) = torch.autograd.grad(3 * sums[0] + 2 * sums[1], single)
    expected = 12 * intra @ student + 4 * cross @ teacher
    error = (gradient.double() - expected).norm() / expected.norm()
    assert error < tolerance


def test_squares_pass_gradcheck_in_both_forms() -> None:
    for count in (5, 14):
        student, teacher = unit_tokens(count, 8, 1.0)
        assert torch.autograd.gradcheck(squared_residuals, (student.requires_grad_(), teacher))


@pytest.mark.parametrize("penalty", ["absolute", "released"])
@pytest.mark.parametrize("elements", [1, 50, 1 << 21], ids=["one row", "odd blocks", "one block"])
def test_blocks_change_nothing(
    penalty: losses_affinity.Penalty, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, teacher = unit_tokens(23, 5, 1.0)
    whole = student.clone().requires_grad_()
    expected = blocked_residuals(whole, teacher, penalty)
    (expected_gradient,) = torch.autograd.grad(expected[0] + 5 * expected[1], whole)
    monkeypatch.setattr(losses_affinity, "_BLOCK_ELEMENTS", elements)
    split = student.clone().requires_grad_()
    found = blocked_residuals(split, teacher, penalty)
    (gradient,) = torch.autograd.grad(found[0] + 5 * found[1], split)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("name", ["structure", "structure_released", "structure_active"])
def test_no_large_matrix_is_kept_for_the_backward_pass(name: str) -> None:
    tokens, width = 600, 24
    student = torch.randn(1, tokens, width, requires_grad=True)
    mask = torch.arange(tokens)[None] % 5 < 2
    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        total = build_loss(name)(student, torch.randn(1, tokens, width), mask).total
    torch.autograd.backward(total)
    active = int(mask.sum())
    assert kept
    assert max(kept) <= max(active * width, width * width)


def test_no_gradient_is_computed_where_none_is_wanted() -> None:
    student, teacher = unit_tokens(9, 4, 1.0)
    for sums in (
        squared_residuals(student, teacher),
        blocked_residuals(student, teacher, "absolute"),
    ):
        assert not any(value.requires_grad for value in sums)
