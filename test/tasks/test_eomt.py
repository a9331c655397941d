"""The head of queries: its parts against loops, its masks, and what fits it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn import functional

from scaleevent_ros.models import Student, build_student
from scaleevent_ros.tasks import TaskError, build_head
from scaleevent_ros.tasks.downstream import Downstream
from scaleevent_ros.tasks.eomt import EomtSegmentation, late_blocks_for

if TYPE_CHECKING:
    from torch import Tensor

VIT = {"embed_dim": 24, "depth": 3, "num_heads": 2}
ARCHITECTURES = ["vit_tiny_patch16_224", "vit_tiny_patch16_dinov3_qkvb"]
SIZE = (45, 60)
GRID = (3, 4)


def tiny(name: str = ARCHITECTURES[1], **options: Any) -> tuple[Student, EomtSegmentation]:
    torch.manual_seed(0)
    student = build_student(name, 2, "random", options=VIT)
    head = build_head(
        "segmentation_eomt", student.width, student.stride,
        **{"classes": 3, "queries": 5, "blocks": 2, **options},
    )  # fmt: skip
    assert isinstance(head, EomtSegmentation)
    return student, head


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("frozen", [False, True])
def test_scores_for_each_pixel_and_gradients_for_all_that_learns(name: str, frozen: bool) -> None:
    model = Downstream(*tiny(name), frozen=frozen).train()
    events = torch.randn(2, 2, *SIZE)
    predictions = model(events)
    assert [masks.shape for masks, _ in predictions] == [(2, 5, 12, 16)] * 3
    assert [classes.shape for _, classes in predictions] == [(2, 5, 4)] * 3
    loss = sum(masks.square().mean() + classes.square().mean() for masks, classes in predictions)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.head.parameters())
    learned = {name for name, p in model.student.named_parameters() if p.grad is not None}
    assert learned == (set() if frozen else {name for name, _ in model.student.named_parameters()})
    assert model.eval()(events).shape == (2, 3, *SIZE)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_scores_combine_classes_and_masks(name: str) -> None:
    student, head = tiny(name)
    late = late_blocks_for(head.eval(), student.eval().backbone)
    tokens = late.tokens(torch.randn(1, 2, *SIZE))
    head.mask_share.zero_()
    *_, last = head.predictions(late, tokens, SIZE)
    likely = last.classes[0].softmax(-1)
    coarse = torch.zeros(1, 3, 12, 16)
    for query in range(5):
        for c in range(3):
            coarse[0, c] += likely[query, c] * last.masks[0, query].sigmoid()
    fine = functional.interpolate(coarse, (48, 64), mode="bilinear")[..., :45, :60]
    torch.testing.assert_close(head(late, tokens, SIZE), fine)


def test_a_mask_is_the_product_of_query_and_patches() -> None:
    student, head = tiny()
    late = late_blocks_for(head.eval(), student.eval().backbone)
    tokens = late.tokens(torch.randn(1, 2, *SIZE))
    first = head.predictions(late, tokens, SIZE)[0]
    joined = torch.cat([tokens, head.queries[None]], dim=1)
    normed = student.backbone.model.norm(joined)  # type: ignore[operator] # timm's
    fine = head.upscale(normed[:, late.prefix : -5].mT.reshape(1, 24, *GRID))
    for query in (0, 4):
        told = head.tell_mask(normed[0, -5 + query])
        torch.testing.assert_close(first.masks[0, query], (told[:, None, None] * fine[0]).sum(0))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_queries_look_at_their_masks(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    student, head = tiny(queries=40)
    late = late_blocks_for(head, student.backbone)
    seen: list[Tensor] = []
    run = late.run

    def record(number: int, tokens: Tensor, position: Tensor | None, mask: Tensor) -> Tensor:
        seen.append(mask)
        return run(number, tokens, position, mask)

    monkeypatch.setattr(late, "run", record)
    head.mask_share.fill_(share)
    found = head.predictions(late, late.tokens(torch.randn(3, 2, *SIZE)), SIZE)
    assert len(seen) == 2
    for prediction, mask in zip(found, seen, strict=False):
        prefix, rows = late.prefix, slice(-40, None)
        # The grid's cell is the mean of the four cells of the mask around its centre.
        cells = functional.avg_pool2d(prediction.masks[..., 1:-1, 1:-1], 2, 4) > 0
        masked = (mask[:, 0, rows, prefix:-40] == cells.flatten(2)).all(-1)
        free = mask[:, 0, rows].all(-1)
        assert (masked | free).all()
        assert float(free.float().mean()) == pytest.approx(1 - share, abs=0.15)
        mask[:, 0, rows, prefix:-40] = True
        assert mask.all()  # nothing else is hidden


def test_masks_go_first_in_the_first_block() -> None:
    _, head = tiny(blocks=4)
    wanted = {
        0: [1, 1, 1, 1],
        1 / 6: [1, 1, 1, 1],
        1 / 4: [0.5**0.9, 1, 1, 1],
        1 / 3: [0, 1, 1, 1],
        7 / 12: [0, 0, 0.5**0.9, 1],
        5 / 6: [0, 0, 0, 0],
        1: [0, 0, 0, 0],
    }
    for progress, shares in wanted.items():
        head.anneal(progress)
        torch.testing.assert_close(
            head.mask_share, torch.tensor(shares, dtype=torch.float32), atol=1e-5, rtol=0
        )
    assert "mask_share" not in head.state_dict()


@pytest.mark.parametrize(("stride", "cells"), [(8, 4), (14, 7), (16, 4), (32, 4)])
def test_masks_are_as_near_to_a_fourth_as_doubling_gets(stride: int, cells: int) -> None:
    head = EomtSegmentation(8, stride, 2)
    assert head.upscale(torch.zeros(1, 8, 1, 2)).shape[-2:] == (
        stride // cells,
        2 * stride // cells,
    )


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("tf_efficientnet_lite0", {}, "EfficientNet is no plain ViT.*segmentation_dpt fit any"),
        ("convnext_atto", {}, "ConvNeXt is no plain ViT"),
        ("vit_tiny_patch16_224", {**VIT, "depth": 2}, "of its 2 blocks, the last 1 to 1"),
    ],
)
def test_students_that_do_not_fit_are_refused(
    name: str, options: dict[str, Any], said: str
) -> None:
    student = build_student(name, 2, "random", options=options)
    head = build_head("segmentation_eomt", student.width, student.stride, classes=3, blocks=2)
    with pytest.raises(TaskError, match=said):
        Downstream(student, head, frozen=False)
