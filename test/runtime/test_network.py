"""Students whose segmentation head takes tokens in place of features, by every backend."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from tiny_checkpoints import ARCHITECTURES, BINS, CONVOLUTIONAL, HEADS, SIZE, sparse_window

from scaleevent_ros.models import build_student, load_student, save_student
from scaleevent_ros.runtime import Engine, EngineError
from scaleevent_ros.runtime.export import ExportOptions, export
from scaleevent_ros.runtime.parity import TOLERANCES, difference
from scaleevent_ros.tasks import build_head, describe_head, load_heads
from scaleevent_ros.tasks.downstream import Downstream

if TYPE_CHECKING:
    from pathlib import Path

gpu = pytest.mark.gpu
VITS = [name for name in ARCHITECTURES if name.startswith("vit")]

pytestmark = pytest.mark.usefixtures("own_cache")


def write(path: Path, name: str, *more: str) -> Path:
    """Write a student with a head of queries, and other heads."""
    torch.manual_seed(0)
    student = build_student(name, BINS, "random", options=ARCHITECTURES[name])
    kinds = {"segmentation": ("segmentation_eomt", {"classes": 4, "queries": 6, "blocks": 1})}
    kinds |= {task: HEADS[task] for task in more}
    described = {
        task: describe_head(kind, student.width, student.stride, **options)
        for task, (kind, options) in kinds.items()
    }
    student.header = replace(
        student.header, normalization="none", classes=["a", "b", "c", "d"], heads=described
    )
    heads = {task: build_head(**description) for task, description in described.items()}
    for key, parameter in (*student.named_parameters(), *heads["segmentation"].named_parameters()):
        if "gamma" in key:  # timm starts DINOv3's blocks at almost nothing
            parameter.detach().fill_(0.3)
        elif key in {"tell_class.weight", "tell_mask.4.weight"}:
            # Decided, and yet smooth: sharp masks would magnify rounding.
            parameter.detach().mul_(8)
    save_student(path, student, heads)
    return path


@pytest.mark.parametrize("name", VITS)
@pytest.mark.parametrize(
    ("device", "precision", "backend"),
    [
        ("cpu", "fp32", "eager"),
        ("cpu", "bf16", "eager"),
        ("cpu", "fp32", "onnx"),
        pytest.param("cpu", "fp32", "compile", marks=pytest.mark.slow),
        pytest.param("cuda", "fp32", "cudagraph", marks=gpu),
        pytest.param("cuda", "fp16", "cudagraph", marks=gpu),
    ],
)
def test_each_output_is_what_the_student_and_its_heads_give(
    tmp_path: Path, name: str, device: str, precision: str, backend: str
) -> None:
    path = write(tmp_path / "student.safetensors", name, "depth")
    student, heads = load_student(path), load_heads(path)
    window = torch.from_numpy(sparse_window(0))
    with torch.inference_mode():
        features = student(window[None])
        expected = {
            "features": features[0],
            "depth": heads["depth"](features, SIZE)[0, 0],
            "segmentation": Downstream(student, heads["segmentation"], frozen=True)
            .eval()(window[None])[0]
            .argmax(0),
        }
    engine = Engine(path, device, precision, backend, size=SIZE)
    assert engine.outputs == ("features", "segmentation", "depth")
    tolerance = TOLERANCES[precision]
    for wanted in (None, {"segmentation"}, {"depth"}):
        found = engine(window, wanted)
        for output, truth in expected.items():
            value = getattr(found, output)
            assert (value is not None) == (wanted is None or output in wanted)
            if value is not None:
                limit = tolerance.pixels if output == "segmentation" else tolerance.relative
                assert value.shape == truth.shape
                assert difference(output, torch.as_tensor(value).cpu(), truth) <= limit, output
    assert len(expected["segmentation"].unique()) > 1


def test_an_export_takes_any_size(tmp_path: Path) -> None:
    path = write(tmp_path / "student.safetensors", VITS[0])
    exported = export(path, tmp_path / "any.onnx", ExportOptions((48, 64), dynamic=True))
    assert set(exported.differences) == {"features", "segmentation"}


def test_what_cannot_run_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "two.safetensors", VITS[0], "flow")
    with pytest.raises(EngineError, match="use a checkpoint for each"):
        Engine(path, "cpu", size=SIZE)
    path = write(tmp_path / "other.safetensors", CONVOLUTIONAL)
    with pytest.raises(EngineError, match="segmentation_linear and segmentation_dpt fit"):
        Engine(path, "cpu", size=SIZE)
