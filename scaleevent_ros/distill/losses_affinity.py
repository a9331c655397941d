"""Distances between the affinities of a student's tokens and a teacher's, in little memory.

With unit tokens K (student) and Q (teacher), ``[n, D]``, the residuals are

    intra = K K^T - Q Q^T        cross = K Q^T - Q Q^T        (both [n, n])

and the functions here return the sum of a penalty over each. No autograd graph holds an n x n
matrix: gradients are written out by hand.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch.autograd.function import Function, once_differentiable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

Penalty = Literal["absolute", "released"]

# Elements in a block of rows of an affinity matrix: 8 MB in float32.
_BLOCK_ELEMENTS = 1 << 21
# The released code drops pairs whose teacher similarity is at most this.
_RELEASED_THRESHOLD = 0.1


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Compute products of float32 matrices in float32, independent of autocast and TF32.

    A backward pass must enter it again: it runs after the forward pass's context has ended.
    """
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def product(left: Tensor, right: Tensor) -> Tensor:
    """Multiply two matrices, forward and backward under `exact_products`."""
    return cast("Tensor", _Product.apply(left, right))  # type: ignore[no-untyped-call]


class _Product(Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor) -> Tensor:
        ctx.save_for_backward(left, right)
        with exact_products(left.device):
            return left @ right

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        left, right = ctx.saved_tensors
        with exact_products(left.device):
            return gradients[0] @ right.T, left.T @ gradients[0]


def squared_residuals(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the squares of both residuals, exactly, without an n x n matrix where n is large.

    With Delta = K - Q, ``intra = K Delta^T + Delta Q^T`` and ``cross = Delta Q^T``. Their squared
    norms need only the D x D matrices G = Q^T Q, P = Delta^T Q and M = Delta^T Delta:

        |intra|^2 = 2 <P, P^T> + 4 <P, M> + <M, M> + 2 <G, M>        |cross|^2 = <G, M>

    in O(n D^2). Written in Delta, nothing cancels when the student comes close to the teacher, as
    it would in |K^T K|^2 - 2 |K^T Q|^2 + |Q^T Q|^2. Where n is smaller than about D, the n x n
    matrices are the smaller ones and are used instead.

    Args:
        student: Unit tokens, ``[n, D]``, float32 or float64.
        teacher: The same of the teacher; gets no gradient.

    Returns:
        The two sums, scalars.
    """
    return cast("tuple[Tensor, Tensor]", _Squared.apply(student, teacher))  # type: ignore[no-untyped-call]


class _Squared(Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        delta = student - teacher
        count, width = student.shape
        # Products of two matrices: four of n x n x D in one form, five of n x D x D in the other.
        ctx.pairwise = 4 * count < 5 * width
        if ctx.pairwise:
            cross = delta @ teacher.T
            intra = torch.addmm(cross, student, delta.T)
            ctx.save_for_backward(student, teacher, intra, cross)
            return intra.square().sum(), cross.square().sum()
        gram = teacher.T @ teacher
        mixed = delta.T @ teacher
        moved = delta.T @ delta
        ctx.save_for_backward(student, delta, gram, mixed, moved)
        cross_sum = (gram * moved).sum()
        intra_sum = (
            2 * (mixed * mixed.T).sum()
            + 4 * (mixed * moved).sum()
            + moved.square().sum()
            + 2 * cross_sum
        )
        return intra_sum, cross_sum

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        by_intra, by_cross = gradients
        with exact_products(by_intra.device):
            if ctx.pairwise:
                student, teacher, intra, cross = ctx.saved_tensors
                gradient = (4 * by_intra * intra) @ student
                return gradient.addmm_(2 * by_cross * cross, teacher), None
            student, delta, gram, mixed, moved = ctx.saved_tensors
            gradient = student @ (4 * by_intra * (mixed + moved))
            by_delta = 4 * by_intra * (gram + mixed.T) + 2 * by_cross * gram
            return gradient.addmm_(delta, by_delta), None


def blocked_residuals(
    student: Tensor,
    teacher: Tensor,
    penalty: Penalty,
    *,
    intra: bool = True,
    cross: bool = True,
) -> tuple[Tensor, Tensor]:
    """Sum a penalty over both residuals, a block of rows at a time.

    The gradients are computed in the same pass, so that each block is computed once and freed.

    Args:
        student: Unit tokens, ``[n, D]``, float32 or float64.
        teacher: The same of the teacher; gets no gradient.
        penalty: ``absolute``: ``|r|``. ``released``: ``(max(s, 0) - t)^2`` where the teacher's
            similarity t is above 0.1, zero elsewhere, with no gradient where the student's s is
            negative.
        intra: Compute the first sum; zero if not.
        cross: Compute the second sum; zero if not.

    Returns:
        The two sums, scalars.
    """
    return cast(
        "tuple[Tensor, Tensor]",
        _Blocked.apply(student, teacher, penalty, intra, cross),  # type: ignore[no-untyped-call]
    )


class _Blocked(Function):
    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, penalty: Penalty, intra: bool, cross: bool
    ) -> tuple[Tensor, Tensor]:
        sums = [student.new_zeros(()), student.new_zeros(())]
        # The intra residual is symmetric: each pair counts for both of its tokens.
        jobs = [
            (i, keys, factor)
            for i, (wanted, keys, factor) in enumerate(
                ((intra, student, 2.0), (cross, teacher, 1.0))
            )
            if wanted
        ]
        slopes: list[Tensor | None] = [None, None]
        if ctx.needs_input_grad[0]:
            for i, _, _ in jobs:
                slopes[i] = torch.empty_like(student)
        count = len(student)
        rows = max(1, _BLOCK_ELEMENTS // max(1, count))
        for start in range(0, count, rows):
            block = slice(start, start + rows)
            target = teacher[block] @ teacher.T
            for i, keys, factor in jobs:
                value, slope = _penalize(student[block] @ keys.T, target, penalty)
                if keys is student:
                    # A token's similarity to itself is 1 for both: any residual is rounding.
                    slope.diagonal(start).zero_()
                sums[i] += value
                written = slopes[i]
                if written is not None:
                    torch.mm(slope, keys, out=written[block]).mul_(factor)
        ctx.save_for_backward(*slopes)
        return sums[0], sums[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        total: Tensor | None = None
        for gradient, slope in zip(gradients, ctx.saved_tensors, strict=True):
            if slope is not None:
                total = gradient * slope if total is None else total.addcmul_(gradient, slope)
        return total, None, None, None, None


def _penalize(similarity: Tensor, target: Tensor, penalty: Penalty) -> tuple[Tensor, Tensor]:
    """Return the sum of the penalty over a block, and its derivative by the similarity."""
    if penalty == "absolute":
        residual = similarity.sub_(target)
        return residual.abs().sum(), residual.sign_()
    kept = target > _RELEASED_THRESHOLD
    residual = (similarity.clamp_min(0) - target).mul_(kept)
    return residual.square().sum(), residual.mul_(similarity >= 0).mul_(2)
