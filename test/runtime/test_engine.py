"""Windows in, outputs out, the same from every backend."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from tiny_checkpoints import (
    ARCHITECTURES,
    BINS,
    HEADS,
    SIZE,
    sparse_window,
    write_student,
)

from scaleevent_ros.events import normalize_tensor
from scaleevent_ros.models import CheckpointError, load_student
from scaleevent_ros.runtime import Engine, EngineError, Outputs
from scaleevent_ros.runtime.arrays import to_host
from scaleevent_ros.runtime.network import Network, load_network
from scaleevent_ros.runtime.openvino_backend import has_bf16
from scaleevent_ros.runtime.parity import TOLERANCES, difference
from scaleevent_ros.tasks import load_heads

if TYPE_CHECKING:
    from pathlib import Path

TASKS = tuple(HEADS)
gpu = pytest.mark.gpu
openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
OPENVINO = pytest.param("openvino", marks=openvino)
bf16 = pytest.mark.skipif(not has_bf16(), reason="this CPU has no bf16")


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def all_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_student(tmp_path_factory.mktemp("student") / "student.safetensors", tasks=TASKS)


@pytest.fixture(scope="module")
def expected(all_tasks: Path) -> list[Outputs]:
    """Outputs of the student and its heads for three windows in float32."""
    student, heads = load_student(all_tasks), load_heads(all_tasks)
    before: torch.Tensor | None = None
    outputs = []
    with torch.inference_mode():
        for seed in range(3):
            window = torch.from_numpy(normalize_tensor(sparse_window(seed), "percentile"))[None]
            features = student(window)
            logits = heads["segmentation"](features, SIZE)
            flow = None if before is None else heads["flow"](before, features, SIZE)[0]
            depth = heads["depth"](features, SIZE)[0, 0]
            outputs.append(Outputs(features[0], logits[0].argmax(0), depth, flow))
            before = features
    return outputs


def assert_close(found: Outputs, expected: Outputs, precision: str) -> None:
    tolerance = TOLERANCES[precision]
    for name in ("features", "depth", "flow", "segmentation"):
        value, truth = getattr(found, name), getattr(expected, name)
        assert (value is None) == (truth is None), name
        if truth is not None:
            assert value.shape == truth.shape, name
            limit = tolerance.pixels if name == "segmentation" else tolerance.relative
            assert difference(name, value, truth) <= limit, name


BACKENDS = [
    ("cpu", "fp32", "eager"),
    ("cpu", "bf16", "eager"),
    ("cpu", "fp32", "onnx"),
    pytest.param("cpu", "fp32", "openvino", marks=openvino),
    pytest.param("cpu", "bf16", "openvino", marks=bf16),
    pytest.param("cpu", "fp32", "compile", marks=pytest.mark.slow),
    *(
        pytest.param("cuda", precision, backend, marks=gpu)
        for backend in ("eager", "cudagraph", "compile")
        for precision in ("fp32", "fp16", "bf16")
    ),
]


@pytest.mark.parametrize(("device", "precision", "backend"), BACKENDS)
def test_every_backend_gives_what_the_student_and_its_heads_give(
    all_tasks: Path, expected: list[Outputs], device: str, precision: str, backend: str
) -> None:
    engine = Engine(all_tasks, device, precision, backend, size=SIZE)
    assert engine.outputs == ("features", *TASKS)
    found = [engine(sparse_window(seed)) for seed in range(3)]
    # Compared after the last call: outputs are the caller's, later calls leave them alone.
    for one, truth in zip(found, expected, strict=True):
        assert_close(one, truth, precision)
        assert one.segmentation is not None
        assert str(one.segmentation.dtype).removeprefix("torch.") == "uint8"
        assert isinstance(one.features, np.ndarray if device == "cpu" else torch.Tensor)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("backend", ["eager", "onnx", OPENVINO])
def test_students_of_each_kind_run_at_sizes_that_need_padding(
    tmp_path: Path, architecture: str, backend: str
) -> None:
    path = write_student(tmp_path / "student.safetensors", architecture, normalization="none")
    window = sparse_window(1)
    with torch.inference_mode():
        truth = load_student(path)(torch.from_numpy(window)[None])[0]
    engine = Engine(path, "cpu", backend=backend, size=SIZE)
    found = engine(window).features
    assert found is not None
    assert (engine.width, *engine.grid) == truth.shape
    assert difference("features", found, truth) <= TOLERANCES["fp32"].relative


@pytest.mark.parametrize("backend", ["eager", "onnx", OPENVINO])
def test_heads_that_nobody_wants_do_not_run(all_tasks: Path, backend: str) -> None:
    engine = Engine(all_tasks, "cpu", backend=backend, size=SIZE)
    outputs = engine(sparse_window(0), {"depth"})
    assert outputs.depth is not None
    assert outputs.features is outputs.segmentation is outputs.flow is None
    # The features of a window whose own flow nobody wanted still serve the next one's.
    assert engine(sparse_window(1), {"flow"}).flow is not None


def test_only_the_wanted_head_is_called(all_tasks: Path) -> None:
    from scaleevent_ros.runtime.torch_backend import TorchBackend

    network = load_network(all_tasks, SIZE)
    called = []
    for task, head in network.heads.items():
        head.register_forward_hook(lambda *_, task=task: called.append(task))
    backend = TorchBackend(network, torch.device("cpu"), torch.float32)
    with torch.inference_mode():
        backend.run(torch.from_numpy(sparse_window(0)), ["features", "depth"])
    assert called == ["depth"]


@pytest.mark.parametrize("backend", ["eager", "onnx", OPENVINO])
def test_flow_starts_anew_after_a_reset(all_tasks: Path, backend: str) -> None:
    engine = Engine(all_tasks, "cpu", backend=backend, size=SIZE)
    assert engine(sparse_window(0)).flow is None
    assert engine(sparse_window(1)).flow is not None
    engine.reset()
    assert engine(sparse_window(2)).flow is None


@pytest.mark.parametrize("backend", ["eager", "onnx", OPENVINO])
def test_a_tensor_and_an_array_are_the_same(all_tasks: Path, backend: str) -> None:
    engine = Engine(all_tasks, "cpu", backend=backend, size=SIZE)
    array = sparse_window(3)
    kept = array.copy()
    one, other = engine(array).features, engine(torch.from_numpy(array)).features
    assert one is not None
    assert other is not None
    assert np.array_equal(one, other)
    assert np.array_equal(array, kept)


def test_a_window_without_events_is_not_taken_for_the_one_before(all_tasks: Path) -> None:
    engine = Engine(all_tasks, "cpu", backend="onnx", size=SIZE)
    silence = np.zeros((BINS, *SIZE), np.float32)
    alone = engine(silence, {"features"}).features
    engine(sparse_window(0), {"features"})
    after = engine(silence, {"features"}).features
    assert alone is not None
    assert after is not None
    assert np.array_equal(alone, after)


def test_auto_on_a_machine_without_a_gpu_warns_and_takes_the_cpu(
    all_tasks: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with caplog.at_level(logging.WARNING):
        engine = Engine(all_tasks, size=SIZE)
    assert (engine.device.type, engine.precision) == ("cpu", "fp32")
    assert engine.backend in {"onnx", "openvino"}
    assert "NO GPU" in caplog.text


def test_a_header_without_normalization_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_student(tmp_path / "student.safetensors", normalization=None)
    with caplog.at_level(logging.WARNING):
        Engine(path, "cpu", backend="eager", size=SIZE)
    assert "does not say how to normalize" in caplog.text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"device": "cuda:x"}, "unknown device"),
        ({"precision": "int8"}, "int8 is made by `scaleevent export"),
        ({"backend": "jax"}, "unknown backend 'jax'"),
        ({"backend": "cudagraph"}, "needs a GPU"),
        ({"backend": "tensorrt"}, "needs a GPU"),
        ({"backend": "onnx", "precision": "bf16"}, "fp32 or fp16"),
        ({"size": (10, 70)}, "smaller than a feature"),
        ({"size": None}, "size="),
    ],
)
def test_what_cannot_be_is_refused(all_tasks: Path, options: dict[str, str], words: str) -> None:
    with pytest.raises(EngineError, match=words):
        Engine(all_tasks, **{"device": "cpu", "size": SIZE, **options})  # type: ignore[arg-type]


def test_cuda_without_a_gpu_is_an_error_that_names_the_mend(
    all_tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match=r"finds no GPU.*'cpu'"):
        Engine(all_tasks, "cuda", size=SIZE)


def test_a_missing_damaged_or_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no model '.*nothing\.safetensors'"):
        Engine(tmp_path / "nothing.safetensors", "cpu", backend="eager", size=SIZE)
    text = tmp_path / "text.safetensors"
    text.write_text("no weights")
    with pytest.raises(EngineError, match=r"text\.safetensors"):
        Engine(text, "cpu", backend="eager", size=SIZE)
    with pytest.raises(CheckpointError, match=r"no model '.*nothing\.onnx'"):
        Engine(tmp_path / "nothing.onnx", "cpu")
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(EngineError, match="cannot load"):
        Engine(tmp_path / "text.onnx", "cpu")


@pytest.mark.parametrize(
    "tensor",
    [
        np.zeros((BINS + 1, *SIZE), np.float32),
        np.zeros((BINS, SIZE[0], SIZE[1] + 1), np.float32),
        np.zeros((1, BINS, *SIZE), np.float32),
        np.zeros((BINS, *SIZE), np.float64),
    ],
)
def test_a_wrong_tensor_is_refused(all_tasks: Path, tensor: np.ndarray) -> None:
    engine = Engine(all_tasks, "cpu", backend="eager", size=SIZE)
    with pytest.raises(EngineError, match=r"\[5, 50, 70\]"):
        engine(tensor)


def test_an_output_that_the_checkpoint_lacks_is_refused(tmp_path: Path) -> None:
    path = write_student(tmp_path / "student.safetensors")
    engine = Engine(path, "cpu", backend="eager", size=SIZE)
    with pytest.raises(EngineError, match="has no 'depth'; it has: features"):
        engine(sparse_window(0), {"depth"})


def test_a_head_of_an_unknown_task_is_refused(all_tasks: Path) -> None:
    with pytest.raises(EngineError, match="unknown task 'gender'"):
        Network(load_student(all_tasks), {"gender": torch.nn.Identity()}, SIZE)


@gpu
def test_calls_on_different_streams_do_not_mix(all_tasks: Path) -> None:
    engine = Engine(all_tasks, "cuda", "fp32", "cudagraph", size=SIZE)
    windows = [torch.from_numpy(sparse_window(seed)).cuda() for seed in range(8)]
    alone = [engine(window, {"features"}).features for window in windows]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(2)]  # type: ignore[no-untyped-call]
    found = []
    for index, window in enumerate(windows):
        with torch.cuda.stream(streams[index % 2]):
            found.append(engine(window, {"features"}).features)
    torch.cuda.synchronize()
    for one, other in zip(found, alone, strict=True):
        assert one is not None
        assert other is not None
        assert np.array_equal(to_host(one), to_host(other))
