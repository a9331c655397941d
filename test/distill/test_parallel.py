from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch

from scaleevent_ros.distill.configuration import TrainerOptions
from scaleevent_ros.distill.parallel import (
    choose_precision,
    precision_of,
    start_fabric,
    synchronize_batch_norms,
)
from scaleevent_ros.models import build_student

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scaleevent_ros.distill.configuration import Precision


@pytest.fixture(autouse=True)
def keep_switches() -> Iterator[None]:
    matmul, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = cudnn


@pytest.mark.parametrize("training", [True, False])
def test_synchronized_batch_norms_compute_the_same_features(training: bool) -> None:
    """Outside of process groups they normalize as plain ones do, on a CPU as well."""
    torch.manual_seed(0)
    student = build_student("tf_efficientnet_lite0", 5, "random").train(training)
    events = torch.randn(2, 5, 64, 64)
    expected = student(events)
    gpus = cast("Any", SimpleNamespace(world_size=2, device=torch.device("cuda")))
    converted = synchronize_batch_norms(student, gpus)
    assert any(isinstance(each, torch.nn.SyncBatchNorm) for each in converted.modules())
    torch.testing.assert_close(converted(events), expected)


@pytest.mark.parametrize(
    ("precision", "rounded"),
    [("fp32", False), ("tf32", True), ("bf16", False), ("fp16", False)],
)
def test_tf32_is_on_only_if_asked_for(precision: Precision, rounded: bool) -> None:
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = not rounded
    fabric = start_fabric(TrainerOptions(accelerator="cpu", precision=precision))
    assert torch.backends.cuda.matmul.allow_tf32 is rounded
    assert torch.backends.cudnn.allow_tf32 is rounded
    assert precision_of(fabric) == precision
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    with fabric.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == kind


def test_auto_avoids_emulated_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return including_emulation  # as a T4 or V100 answers

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert choose_precision("auto", "cuda") == "fp16"
    assert choose_precision("auto", "cpu") == "fp32"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert choose_precision("auto", "cuda") == "bf16"
