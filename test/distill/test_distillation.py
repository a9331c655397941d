from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from device_waits import META, DeviceWaits

from scaleevent_ros.data.dataset import Batch
from scaleevent_ros.distill.distillation import Distillation, Panel, dilate_mask, draw_kept
from scaleevent_ros.distill.losses import DEFAULT_LOSS, LOSS_NAMES, build_loss
from scaleevent_ros.models import build_student, build_teacher, load_student, tokens
from scaleevent_ros.models.active_tokens import ActiveTokens
from scaleevent_ros.models.feature_statistics import FeatureStatistics

if TYPE_CHECKING:
    from pathlib import Path

    from scaleevent_ros.models import Student

VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2}


@pytest.fixture
def batch() -> Batch:
    torch.manual_seed(1)
    covered = torch.ones(3, 3, 4, dtype=torch.bool)
    covered[:, 0] = False
    return Batch(
        torch.randn(3, 5, 48, 64),
        torch.randint(256, (3, 3, 48, 64), dtype=torch.uint8),
        torch.rand(3, 3, 4) < 0.6,
        covered,
        torch.empty(0),
        torch.zeros(3, 3, dtype=torch.int64),
    )


@pytest.fixture
def objective() -> Distillation:
    torch.manual_seed(0)
    teacher = build_teacher("vit_tiny_patch16_224", pretrained=False, options=VIT)
    student = build_student("vit_tiny_patch16_224", 5, "random", teacher=teacher, options=VIT)
    shown: list[Panel] = []

    def draw(panel: Panel) -> np.ndarray:
        shown.append(panel)
        return np.zeros((2, 2, 3), np.uint8)

    objective = Distillation(student, teacher, build_loss(), draw=draw)
    objective.shown = shown  # type: ignore[attr-defined]
    return objective


def test_the_loss_looks_at_active_tokens_that_a_frame_covers(
    objective: Distillation, batch: Batch
) -> None:
    compared = objective.compare(objective.model, batch)
    mask = (batch.active & batch.covered).flatten(1)
    expected = build_loss()(tokens(compared.student), tokens(compared.teacher), mask)
    losses = {
        name: value.detach() for name, value in objective.losses(objective.model, batch).items()
    }
    assert float(losses["total"]) == pytest.approx(float(expected.total.detach()))
    assert float(losses["active"]) == pytest.approx(float(mask.float().mean()))
    uncovered = batch._replace(active=batch.active | ~batch.covered)
    again = objective.losses(objective.model, uncovered)["total"].detach()
    assert float(again) == pytest.approx(float(expected.total.detach()))


def test_dilation_adds_the_neighbours_of_active_tokens() -> None:
    active = torch.zeros(2, 4, 6, dtype=torch.bool)
    active[0, 1, 0] = active[1, 3, 5] = True
    grown = torch.zeros_like(active)
    grown[0, 0:3, 0:2] = grown[1, 2:4, 4:6] = True
    assert torch.equal(dilate_mask(active, 1), grown)
    assert torch.equal(dilate_mask(active, 0), active)
    assert bool(dilate_mask(active, 5)[0].all())


def test_the_loss_looks_around_active_tokens_where_a_frame_covers(
    objective: Distillation, batch: Batch
) -> None:
    lonely = torch.zeros_like(batch.active)
    lonely[:, 1, 1] = True
    batch = batch._replace(active=lonely)
    teacher = objective._teacher
    wider = Distillation(objective._student, teacher, build_loss(), dilation=1)
    compared = wider.compare(wider.model, batch)
    around = torch.zeros_like(lonely)
    around[:, 0:3, 0:3] = True
    mask = (around & batch.covered).flatten(1)
    expected = build_loss()(tokens(compared.student), tokens(compared.teacher), mask)
    assert float(compared.terms.total) == pytest.approx(float(expected.total.detach()))
    narrow = objective.compare(objective.model, batch).terms.total
    assert float(narrow) != pytest.approx(float(expected.total.detach()))


def test_the_mask_dilates_over_training(objective: Distillation, batch: Batch) -> None:
    lonely = torch.zeros_like(batch.active)
    lonely[:, 1, 0] = True
    batch = batch._replace(active=lonely, covered=torch.ones_like(lonely))
    growing = Distillation(
        objective._student, objective._teacher, build_loss(), dilation=0, final_dilation=3
    )
    for progress, columns in ((0.0, 1), (0.3, 2), (0.7, 3), (1.0, 4)):
        growing.start_step(progress)
        compared = growing.compare(growing.model, batch)
        mask = dilate_mask(lonely, columns - 1).flatten(1)
        expected = build_loss()(tokens(compared.student), tokens(compared.teacher), mask)
        assert float(compared.terms.total) == pytest.approx(float(expected.total.detach()))


def test_patch_dropout_trains_on_kept_tokens_alone(objective: Distillation, batch: Batch) -> None:
    batch = batch._replace(active=torch.ones_like(batch.active))
    dropping = Distillation(
        objective._student, objective._teacher, build_loss("patch"), patch_dropout=0.5
    )

    def loss() -> tuple[float, torch.Tensor]:
        dropping.model.zero_grad()
        total = dropping.losses(dropping.model, batch)["total"]
        total.backward()  # type: ignore[no-untyped-call]
        gradients = [each.grad for each in dropping.model.parameters() if each.grad is not None]
        return float(total.detach()), torch.cat([each.flatten() for each in gradients])

    torch.manual_seed(5)
    found, gradient = loss()
    torch.manual_seed(5)
    kept = draw_kept(torch.zeros(3, 12, dtype=torch.bool), 6)
    student = tokens(objective._student(batch.events, project=True, kept=kept))
    teacher = tokens(objective.compare(objective.model, batch).teacher)
    covered = batch.covered.flatten(1)
    expected = torch.stack(
        [
            (student[image, kept[image]] - teacher[image, kept[image]])[covered[image, kept[image]]]
            .abs()
            .mean()
            for image in range(3)
        ]
    ).mean()
    assert found == pytest.approx(float(expected.detach()), rel=1e-5)
    torch.manual_seed(5)
    again, gradient_again = loss()
    assert again == found  # a resumed run draws what the stopped one would have drawn
    assert torch.equal(gradient_again, gradient)
    assert loss()[0] != found
    sums, _ = dropping.measure(dropping.model, batch, 0)
    assert float(sums["active"][1]) == batch.covered.sum()  # validation drops nothing


def test_active_tokens_are_trained_with_random_anchors(batch: Batch) -> None:
    torch.manual_seed(0)
    teacher = build_teacher("vit_tiny_patch16_224", pretrained=False, options=VIT)
    student = build_student("vit_tiny_patch16_224", 5, "random", teacher=teacher, options=VIT)
    choice = ActiveTokens(anchors=0.2, dilation=0, pixels=40)
    student.header = replace(student.header, tokens=asdict(choice))
    active = torch.zeros_like(batch.active)
    active[0, 1, :3] = active[1, 2, 1] = True
    batch = batch._replace(active=active)
    objective = Distillation(student, teacher, build_loss("patch"))
    seen: list[torch.Tensor] = []
    student.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs.get("kept")), with_kwargs=True
    )
    for _ in range(20):
        losses = objective.losses(student, batch)
    kept = torch.stack(seen)
    assert kept.shape == (20, 3, 6)  # the largest number of active tokens, and 2.4 anchors
    assert float(losses["computed"]) == pytest.approx(0.5)
    masks = torch.zeros(20, 3, 12, dtype=torch.bool).scatter(2, kept, value=True)
    assert bool(masks[:, active.flatten(1)].all())
    drawn = masks.any(0)
    assert bool((drawn & ~active.flatten(1)).any(1).all())
    assert not torch.equal(masks[0], masks[1])
    # The loss is that of computed tokens alone, with the features that the choice gives.
    features = tokens(student(batch.events, project=True, kept=kept[-1]))
    of_teacher = tokens(objective.compare(student, batch).teacher)
    mask = (active & batch.covered).flatten(1)
    covered = masks[-1] & batch.covered.flatten(1)
    expected = build_loss("patch")(features, of_teacher, mask, covered=covered).total
    assert float(losses["total"].detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    # Validation chooses as the runtime does, and compares with the computation of all tokens.
    batch.events[:, :, :, 32:] = 0
    seen.clear()
    with torch.no_grad():
        sums, _ = objective.measure(student.eval(), batch, 0)
        expected_kept = student.choose_tokens(batch.events)
        assert expected_kept is not None
        assert [each is None for each in seen] == [False, True]
        assert torch.equal(seen[0], expected_kept)
        part = tokens(student(batch.events, project=True, kept=expected_kept))
        cosines = torch.cosine_similarity(part, tokens(student(batch.events, project=True)), dim=-1)
    assert objective.summarize(sums)["cosine_full"] == pytest.approx(
        float(cosines[mask].mean()), abs=1e-5
    )


def test_kept_tokens_are_drawn_evenly() -> None:
    torch.manual_seed(0)
    active = torch.zeros(2000, 10, dtype=torch.bool)
    active[:, 3] = True
    kept = draw_kept(active, 7)
    assert kept.shape == (2000, 7)
    assert bool((kept.diff(dim=1) > 0).all())  # ascending, none twice
    share = torch.bincount(kept.flatten(), minlength=10) / 2000
    expected = torch.full((10,), 6 / 9)
    expected[3] = 1
    assert torch.allclose(share, expected, atol=0.05)


@pytest.mark.parametrize(
    ("name", "options", "architecture", "drop"),
    [
        *((name, {}, "vit_tiny_patch16_224", 0.0) for name in LOSS_NAMES),
        ("superpixel", {"objective": "l1"}, "vit_tiny_patch16_224", 0.5),
        (DEFAULT_LOSS, {}, "vit_tiny_patch16_dinov3_qkvb", 0.0),
        (DEFAULT_LOSS, {}, "vit_tiny_patch16_dinov3_qkvb", 0.5),
        (DEFAULT_LOSS, {}, "vit_tiny_patch16_dinov3_qkvb", "inactive"),
    ],
)
def test_a_step_does_not_wait_for_the_device(
    batch: Batch, name: str, options: dict[str, Any], architecture: str, drop: float | str
) -> None:
    """Masks stay on the CPU, so that their counts are known there; nothing else is read."""
    teacher = build_teacher(architecture, pretrained=False, options=VIT)
    student = build_student(architecture, 5, "random", teacher=teacher, options=VIT)
    if isinstance(drop, str):
        student.header = replace(student.header, tokens=asdict(ActiveTokens(0.1, 0, 16)))
    objective = Distillation(
        student,
        teacher,
        build_loss(name, **options),
        dilation=1,
        patch_dropout=0.0 if isinstance(drop, str) else drop,
        statistics=FeatureStatistics(torch.zeros(32), torch.ones(32)),
    )
    objective.model.to(META)
    objective.to(META)
    moved = batch.to(META)
    assert {each.device for each in (moved.events, moved.frames)} == {META}
    assert {each.device.type for each in (moved.active, moved.covered)} == {"cpu"}
    for _ in range(2):
        with DeviceWaits() as waits:
            objective.start_step(0.5)
            objective.losses(objective.model, moved)["total"].backward()  # type: ignore[no-untyped-call]
    assert waits.found == []  # of the second step: in the first, positions may be copied


def test_the_student_learns_and_the_teacher_stays(objective: Distillation, batch: Batch) -> None:
    teacher = objective._teacher
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    optimizer = torch.optim.AdamW(objective.model.parameters(), lr=1e-3)
    totals = []
    for _ in range(8):
        loss = objective.losses(objective.model.train(), batch)["total"]
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        totals.append(float(loss.detach()))
    assert totals[-1] < 0.8 * totals[0]
    assert not teacher.training
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


def test_activations_computed_again_give_the_same_gradients(
    objective: Distillation, batch: Batch
) -> None:
    gradients = []
    for enable in (False, True):
        cast("Student", objective.model).backbone.set_grad_checkpointing(enable)
        objective.model.train().zero_grad()
        objective.losses(objective.model, batch)["total"].backward()  # type: ignore[no-untyped-call]
        gradients.append(
            [
                parameter.grad.clone()
                for parameter in objective.model.parameters()
                if parameter.grad is not None
            ]
        )
    for kept, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, kept)


@torch.no_grad()
def test_measures_of_a_batch_are_those_of_its_parts_and_ignore_padding(
    objective: Distillation, batch: Batch
) -> None:
    whole, _ = objective.measure(objective.model.eval(), batch, 0)
    parts = [
        objective.measure(objective.model, Batch(*(each[i : i + 1] for each in batch)), 0)[0]
        for i in range(3)
    ]
    padded = Batch(*(torch.cat([each, each[:1]]) for each in batch))
    padded.covered[3] = False
    with_padding, _ = objective.measure(objective.model, padded, 0)
    for name, sums in whole.items():
        expected = sums.tolist()
        assert torch.stack([part[name] for part in parts]).sum(dim=0).tolist() == pytest.approx(
            expected, rel=1e-4
        )
        assert with_padding[name].tolist() == pytest.approx(expected, rel=1e-4)
    assert objective.score({"cosine_active": 0.3}) == 0.3


@torch.no_grad()
def test_pictures_are_drawn_of_the_first_samples(objective: Distillation, batch: Batch) -> None:
    _, pictures = objective.measure(objective.model.eval(), batch, 2)
    shown: list[Panel] = objective.shown  # type: ignore[attr-defined]
    assert len(pictures) == len(shown) == 2
    assert shown[1].teacher.shape == shown[1].student.shape == (32, 3, 4)
    assert torch.equal(shown[1].frame, batch.frames[1])


def test_what_is_written_is_loaded_with_its_header(objective: Distillation, tmp_path: Path) -> None:
    tensors = dict(objective.model.state_dict())
    objective.write(tmp_path / "student.safetensors", tensors, {"step": 7})
    student = load_student(tmp_path / "student.safetensors")
    assert (student.header.extra["step"], student.header.bins) == (7, 5)
    assert student.header.git_revision != ""
    for name, value in student.state_dict().items():
        assert torch.equal(value, tensors[name])


@torch.no_grad()
def test_a_standardized_student_is_compared_with_the_standardized_teacher(batch: Batch) -> None:
    torch.manual_seed(0)
    teacher = build_teacher("vit_tiny_patch16_224", pretrained=False, options=VIT)
    statistics = FeatureStatistics(torch.randn(32), torch.rand(32) + 0.1)
    features = teacher(batch.frames, (3, 4), (48, 64))
    target = (features - statistics.mean[:, None, None]) / statistics.std[:, None, None]
    mask = (batch.active & batch.covered).flatten(1)
    for standardized in (False, True):
        student = build_student("vit_tiny_patch16_224", 5, "random", teacher=teacher, options=VIT)
        student.set_target(statistics, standardized=standardized)
        objective = Distillation(student, teacher, build_loss(), statistics=statistics)
        compared = objective.compare(objective.model.eval(), batch)
        projected = student(batch.events, project=True)
        expected = build_loss()(
            tokens(projected), tokens(target if standardized else features), mask
        )
        torch.testing.assert_close(compared.terms.total, expected.total)
        # Cosines are of features in the teacher's space without its mean, standardized or not.
        published = student.teacher_projection()(student(batch.events))
        learned, taught = (tokens(each) - statistics.mean for each in (published, features))
        cosine = torch.cosine_similarity(learned, taught, dim=-1)[mask]
        sums, _ = objective.measure(objective.model, batch, 0)
        assert float(sums["cosine_active"][0]) == pytest.approx(float(cosine.sum()), abs=1e-3)
