"""The losses against their equations written out in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_references import WEIGHTS, reference
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from scaleevent_ros.distill import LOSS_NAMES, DistillError, DistillLoss, build_loss

if TYPE_CHECKING:
    from collections.abc import Iterator

BATCH, TOKENS = 3, 15


def make(
    width: int = 7, tokens: int = TOKENS, seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Create students that resemble teachers, as after some training, and superpixels."""
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(BATCH, tokens, width, generator=generator) + 0.4
    student = teacher + torch.randn(BATCH, tokens, width, generator=generator)
    regions = torch.randint(-1, 4, (BATCH, tokens), generator=generator)
    return student.to(dtype).requires_grad_(), teacher.to(dtype), regions


def masks() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    nothing = torch.zeros(BATCH, TOKENS, dtype=torch.bool)
    one = nothing.clone()
    one[:, 4] = True
    two = one.clone()
    two[:, 11] = True
    unequal = torch.rand(BATCH, TOKENS, generator=generator) < torch.tensor([[0.9], [0.2], [0.0]])
    return {
        "full": ~nothing,
        "40 %": torch.rand(BATCH, TOKENS, generator=generator) < 0.4,
        "one token": one,
        "two tokens": two,
        "unequal": unequal,
        "empty": nothing,
    }


def build(name: str) -> DistillLoss:
    return build_loss("superpixel", objective="l1") if name == "superpixel_l1" else build_loss(name)


def run(loss: DistillLoss, student: Tensor, *arguments: Any, **more: Any) -> tuple[Any, Tensor]:
    terms = loss(student, *arguments, **more)
    (gradient,) = torch.autograd.grad(terms.total, student)
    return terms, gradient


@pytest.mark.parametrize("width", [7, 24], ids=["more tokens than channels", "fewer"])
@pytest.mark.parametrize("name", list(WEIGHTS))
@pytest.mark.parametrize("mask", masks().values(), ids=masks().keys())
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-12)], ids=["fp32", "fp64"]
)
def test_values_and_gradients(
    name: str, mask: Tensor, width: int, dtype: torch.dtype, tolerance: float
) -> None:
    student, teacher, regions = make(width, dtype=dtype)
    more = {"regions": regions} if name.startswith("superpixel") else {}
    expected, expected_gradient = reference(name, student, teacher, mask, **more)
    terms, gradient = run(build(name), student, teacher, mask, **more)
    assert [term.item() for term in terms] == pytest.approx(expected, rel=tolerance, abs=tolerance)
    torch.testing.assert_close(
        gradient, expected_gradient.to(dtype), rtol=tolerance * 10, atol=tolerance
    )


@pytest.mark.parametrize("name", [name for name in LOSS_NAMES if name != "patch"])
def test_empty_mask_gives_exactly_nothing(name: str) -> None:
    student, teacher, _ = make()
    terms, gradient = run(build(name), student, teacher, torch.zeros(BATCH, TOKENS))
    assert [term.item() for term in terms] == [0, 0, 0, 0]
    assert not gradient.any()


@pytest.mark.parametrize("name", [name for name in LOSS_NAMES if name != "patch"])
def test_inactive_tokens_do_not_matter(name: str) -> None:
    student, teacher, regions = make()
    mask = masks()["40 %"]
    hidden = student.detach().clone()
    hidden[~mask] = torch.nan
    covered_teacher = teacher.clone()
    covered_teacher[~mask] = torch.inf
    terms, gradient = run(build(name), student, teacher, mask, regions=regions)
    again, again_gradient = run(
        build(name), hidden.requires_grad_(), covered_teacher, mask, regions=regions
    )
    assert again == terms
    assert torch.equal(again_gradient, gradient)
    assert not gradient[~mask].any()


@pytest.mark.parametrize("active", ["one token", "empty"])
def test_patch_looks_at_covered_tokens_alone(active: str) -> None:
    student, teacher, _ = make()
    mask, covered = masks()[active], masks()["40 %"]
    terms, gradient = run(build_loss("patch"), student, teacher, mask, covered=covered)
    expected, expected_gradient = run(build_loss("patch_mask"), student, teacher, covered)
    assert terms == expected
    assert torch.equal(gradient, expected_gradient)


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_gradient_of_a_batch_is_the_mean_over_its_images(name: str) -> None:
    """Processes and accumulated steps must agree with one process and one step."""
    student, teacher, regions = make()
    mask = masks()["unequal"]
    terms, gradient = run(build(name), student, teacher, mask, regions=regions)
    parts = []
    for b in range(BATCH):
        image = student[b : b + 1].detach().requires_grad_()
        one = slice(b, b + 1)
        parts.append(run(build(name), image, teacher[one], mask[one], regions=regions[one]))
    torch.testing.assert_close(torch.stack([part[0].total for part in parts]).mean(), terms.total)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]) / BATCH, gradient)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LOSS_NAMES)
def test_low_precision_and_autocast_compute_in_float32(name: str, dtype: torch.dtype) -> None:
    student, teacher, regions = make(width=24)
    low, low_teacher = student.detach().to(dtype), teacher.to(dtype)
    mask = masks()["40 %"]
    expected, expected_gradient = run(
        build(name), low.float().requires_grad_(), low_teacher.float(), mask, regions=regions
    )
    with torch.autocast("cpu", dtype=dtype):
        terms, gradient = run(build(name), low.requires_grad_(), low_teacher, mask, regions=regions)
    assert terms == expected
    assert all(term.dtype == torch.float32 for term in terms)
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, expected_gradient.to(dtype))


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_zero_tokens_are_no_danger(name: str) -> None:
    """A dead student (all features zero) has no direction, and no loss may divide by its norm."""
    student, teacher, regions = make()
    dead = torch.zeros_like(student).requires_grad_()
    terms, gradient = run(build(name), dead, teacher, masks()["40 %"], regions=regions)
    assert torch.isfinite(terms.total)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_teacher_under_inference_mode_is_welcome_and_gets_no_gradient(name: str) -> None:
    student, teacher, regions = make()
    with torch.inference_mode():
        features = teacher * 1
    terms, _ = run(build(name), student, features, masks()["full"], regions=regions)
    wanting = teacher.clone().requires_grad_()
    same = build(name)(student, wanting, masks()["full"], regions=regions)
    assert same.total == terms.total
    (gradient,) = torch.autograd.grad(same.total, wanting, allow_unused=True)
    assert gradient is None


def test_weights_are_options() -> None:
    student, teacher, _ = make()
    mask = masks()["40 %"]
    usual = build_loss("structure_active")(student, teacher, mask)
    other = build_loss("structure_active", feature=2, intra=0, cross=3)(student, teacher, mask)
    assert other[1:] == usual[1:]
    torch.testing.assert_close(other.total, 2 * usual.feature + 3 * usual.cross)


def test_gradient_is_kept_where_the_released_code_clips() -> None:
    """Two tokens that the teacher finds alike and the student opposite: only ours pulls them."""
    teacher = torch.tensor([[[1.0, 0.1, 0.0], [1.0, -0.1, 0.0]]])
    student = torch.tensor([[[0.3, 1.0, 0.0], [0.3, -1.0, 0.0]]], requires_grad=True)
    mask = torch.ones(1, 2)
    only_intra = {"feature": 0.0, "intra": 1.0, "cross": 0.0}
    _, released = run(build_loss("structure_released", **only_intra), student, teacher, mask)
    _, active = run(build_loss("structure_active", **only_intra), student, teacher, mask)
    assert released.abs().max() < 1e-6
    # Down the gradient, the two tokens come closer: their second components shrink.
    assert active[0, 0, 1] > 1e-2
    assert active[0, 1, 1] < -1e-2


@pytest.mark.parametrize("name", ["structure", "structure_active"])
def test_size_does_not_follow_the_density_of_events(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(1, 2000, 16, generator=generator)
    student = teacher + torch.randn(1, 2000, 16, generator=generator)
    dense = build_loss(name)(student, teacher, torch.ones(1, 2000))
    sparse = build_loss(name)(student, teacher, torch.rand(1, 2000, generator=generator) < 0.2)
    assert sparse.total.item() == pytest.approx(dense.total.item(), rel=0.1)


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(sorted(WEIGHTS)),
    width=st.integers(1, 12),
    active=st.lists(st.booleans(), min_size=3 * BATCH, max_size=3 * BATCH),
    seed=st.integers(0, 1000),
)
def test_any_shape_and_mask(name: str, width: int, active: list[bool], seed: int) -> None:
    student, teacher, regions = make(width, tokens=3, seed=seed, dtype=torch.float64)
    mask = torch.tensor(active).view(BATCH, 3)
    more = {"regions": regions} if name.startswith("superpixel") else {}
    expected, expected_gradient = reference(name, student, teacher, mask, **more)
    terms, gradient = run(build(name), student, teacher, mask, **more)
    assert [term.item() for term in terms] == pytest.approx(expected, rel=1e-9, abs=1e-9)
    if width > 1:  # with one channel a cosine is a sign, and its gradient is noise on both sides
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "gram"}, "no loss 'gram'; there are patch, patch_mask"),
        ({"name": "patch", "intra": 3.0}, "patch has no option 'intra'; it has feature"),
        ({"name": "superpixel", "objective": "l2"}, "'contrastive' or 'l1', not 'l2'"),
        ({"name": "superpixel", "count": 0}, "count >= 1"),
        ({"name": "superpixel", "temperature": 0.0}, "temperature > 0"),
    ],
)
def test_wrong_names_and_options(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(DistillError, match=words):
        build_loss(**arguments)


def test_wrong_shapes() -> None:
    student, teacher, regions = make()
    mask = masks()["full"]
    loss = build_loss()
    with pytest.raises(DistillError, match="brings it to the teacher's width"):
        loss(student, teacher[..., :3], mask)
    with pytest.raises(DistillError, match="mask"):
        loss(student, teacher, mask[:, :4])
    with pytest.raises(DistillError, match="regions"):
        loss(student, teacher, mask, regions=regions[:1])
    with pytest.raises(DistillError, match="must both be"):
        loss(student[:0], teacher[:0], mask[:0])


class ProductsWithTf32(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects the products of matrices that are computed while TF32 is allowed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = 0
        self.rounded: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in {torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_}:
            self.seen += 1
            if torch.backends.cuda.matmul.allow_tf32:
                self.rounded.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def tf32() -> Iterator[None]:
    """Allow TF32, which a CPU does not have."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.usefixtures("tf32")
@pytest.mark.parametrize("name", [name for name in LOSS_NAMES if not name.startswith("patch")])
@pytest.mark.parametrize("tokens", [6, 40])
def test_products_are_never_rounded_to_tf32(name: str, tokens: int) -> None:
    student = torch.randn(2, tokens, 8, requires_grad=True)
    mask = torch.ones(2, tokens, dtype=torch.bool)
    with ProductsWithTf32() as products:
        loss = build_loss(name)(student, torch.randn(2, tokens, 8), mask).total
        loss.backward()  # type: ignore[no-untyped-call]
    assert products.seen >= 2
    assert products.rounded == []
    assert torch.backends.cuda.matmul.allow_tf32
