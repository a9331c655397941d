"""Students in 8 bits: small, close to float32 on windows that they were not calibrated on."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
from tiny_checkpoints import write_student

from scaleevent_ros.models import build_student, load_student, save_student
from scaleevent_ros.models.active_tokens import ActiveTokens
from scaleevent_ros.models.shipped import resolve_model
from scaleevent_ros.runtime import Engine, EngineError
from scaleevent_ros.runtime import export as exporting
from scaleevent_ros.runtime.export import ExportOptions, export
from scaleevent_ros.runtime.trial_windows import recorded_windows

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("onnxruntime.quantization", reason="ONNX Runtime has no quantizer")

SIZE = (260, 346)


@pytest.fixture(scope="module")
def bag(test_data: Path) -> Path:
    return test_data / "bags" / "libcaer_cmp_346x260"


@pytest.fixture(scope="module")
def quantized(bag: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quantized") / "lite.onnx"
    export(resolve_model("lite"), path, ExportOptions(precision="int8", dynamic=True, bag=bag))
    return path


def test_the_loss_on_other_windows_is_small_and_stands_in_the_file(
    quantized: Path, bag: Path
) -> None:
    """Compare by ONNX Runtime with the file that ships in float32."""
    float32 = resolve_model("lite").with_suffix(".onnx")
    assert quantized.stat().st_size < 0.4 * float32.stat().st_size
    sessions = [onnxruntime.InferenceSession(path) for path in (float32, quantized)]
    header = json.loads(sessions[1].get_modelmeta().custom_metadata_map["scaleevent"])
    assert header["precision"] == "int8"
    assert header["losses"].keys() == {"features", "segmentation", "depth"}
    assert header["losses"]["features"] < 0.01
    student = load_student(resolve_model("lite")).header
    cosines, same = [], []
    for window in recorded_windows(student, bag, SIZE, 32)[1::2]:
        feeds = {"events": window, "scale": student.input.scales(window).astype(np.float32)}
        (one, classes), (other, other_classes) = (
            session.run(["features", "segmentation"], feeds) for session in sessions
        )
        lengths = np.linalg.norm(one, axis=0) * np.linalg.norm(other, axis=0)
        cosines.append(((one * other).sum(0) / lengths).mean())
        same.append((classes == other_classes).mean())
    assert 1 - np.mean(cosines) == pytest.approx(header["losses"]["features"], abs=1e-4)
    assert 1 - np.mean(same) == pytest.approx(header["losses"]["segmentation"], abs=1e-3)


def test_heads_and_the_first_layer_stay_in_float(quantized: Path) -> None:
    graph = onnx.load(quantized).graph
    kinds = Counter(value.data_type for value in graph.initializer)
    assert kinds[onnx.TensorProto.INT8] > 40
    makers = {output: node for node in graph.node for output in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    of_weights = [makers.get(node.input[1]) for node in convolutions]
    kinds_of_weights = [node.op_type if node else "float" for node in of_weights]
    assert kinds_of_weights[0] == "float"
    assert kinds_of_weights[-1] == "float"
    assert kinds_of_weights.count("DequantizeLinear") > 40


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_every_backend_runs_it(quantized: Path, bag: Path, backend: str) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is not installed")
    engine = Engine(quantized, "cpu", backend=backend, size=SIZE)
    assert (engine.backend, engine.precision) == (backend, "int8")
    exact = Engine(resolve_model("lite"), "cpu", backend="eager", size=SIZE)
    (window,) = recorded_windows(engine.header, bag, SIZE, 1)
    one, other = (each(window).features for each in (engine, exact))
    assert one is not None
    assert other is not None
    lengths = np.linalg.norm(one, axis=0) * np.linalg.norm(other, axis=0)
    assert ((one * other).sum(0) / lengths).mean() > 0.99


@pytest.mark.parametrize("tokens", [None, ActiveTokens(0.05, 1, 8)])
def test_products_of_vits_are_quantized(
    bag: Path, tmp_path: Path, tokens: ActiveTokens | None
) -> None:
    path = tmp_path / "vit8.onnx"
    checkpoint = write_student(tmp_path / "vit.safetensors", "vit_tiny_patch16_224")
    student = load_student(checkpoint)
    student.header = replace(student.header, tokens=None if tokens is None else asdict(tokens))
    save_student(checkpoint, student)
    done = export(checkpoint, path, ExportOptions(SIZE, "int8", bag=bag))
    assert 1e-6 < done.differences["features"] < 0.01
    graph = onnx.load(path).graph
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["MatMulInteger"] >= 4 * 2  # in each of two blocks
    assert Engine(path, "cpu", backend="onnx").precision == "int8"


def test_a_loss_above_the_limit_is_refused_and_the_old_file_kept(
    quantized: Path, bag: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "CALIBRATION_WINDOWS", 4)
    before = quantized.read_bytes()
    options = ExportOptions(precision="int8", bag=bag, max_loss=1e-6)
    with pytest.raises(EngineError, match=r"8 bits cost features 0\.0.*, more than 1e-06"):
        export(resolve_model("lite"), quantized, options)
    assert quantized.read_bytes() == before


def test_what_cannot_be_quantized_is_named(bag: Path, tmp_path: Path) -> None:
    path = tmp_path / "student.onnx"
    lite = resolve_model("lite")
    with pytest.raises(EngineError, match=r"int8 needs a file named \.onnx, and a bag"):
        export(lite, path, ExportOptions(SIZE, "int8"))
    student = build_student("tf_efficientnet_lite0", 5, "random", stride=16)
    student.set_memory(1.0)
    save_student(tmp_path / "memory.safetensors", student)
    with pytest.raises(EngineError, match="int8 is not for students with a memory"):
        export(tmp_path / "memory.safetensors", path, ExportOptions(SIZE, "int8", bag=bag))
    with pytest.raises(EngineError, match="int8 is made by `scaleevent export"):
        Engine(lite, "cpu", "int8", size=SIZE)
    assert not path.exists()
