"""A student with memory gives the same over a sequence of windows on every backend."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest
import torch
from tiny_checkpoints import BACKENDS, CONVOLUTIONAL, HEADS, SIZE, sparse_window, write_student

from scaleevent_ros.events import normalize_tensor
from scaleevent_ros.models import load_student, save_student
from scaleevent_ros.runtime import Engine, EngineError
from scaleevent_ros.runtime.arrays import to_host
from scaleevent_ros.runtime.export import ExportOptions, export
from scaleevent_ros.runtime.parity import TOLERANCES, difference
from scaleevent_ros.tasks import load_heads

if TYPE_CHECKING:
    from pathlib import Path

WINDOWS = 24
GAP_S = 1.5
ELAPSED = [0.05 * (1 + index % 4) for index in range(WINDOWS)]


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a student with a stirred memory and the heads of all tasks."""
    path = tmp_path_factory.mktemp("student") / "gated.safetensors"
    write_student(path, tasks=tuple(HEADS))
    student, heads = load_student(path), load_heads(path)
    student.set_memory(GAP_S)
    assert student.memory is not None
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in student.memory.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    save_student(path, student, heads)
    return path


@pytest.fixture(scope="module")
def windows() -> list[np.ndarray]:
    """Events in the left half, in the right half, or nowhere, by turns."""
    made = []
    for index in range(WINDOWS):
        window = sparse_window(index)
        middle = SIZE[1] // 2
        if index % 3 != 1:
            window[..., middle:] = 0
        if index % 3 != 0:
            window[..., :middle] = 0
        made.append(window)
    return made


def reference(checkpoint: Path, windows: list[np.ndarray], elapsed_s: list[float]) -> np.ndarray:
    """Features by the student's own forward over the whole sequence, [T, D, h, w]."""
    events = np.stack([normalize_tensor(window, "percentile") for window in windows])
    with torch.inference_mode():
        both = load_student(checkpoint)(
            torch.from_numpy(events)[None], elapsed_s=torch.tensor([elapsed_s])
        )
    return np.asarray(both[1, 0])


@pytest.mark.parametrize(("device", "backend"), BACKENDS)
def test_backends_agree_over_a_sequence(
    checkpoint: Path, windows: list[np.ndarray], device: str, backend: str
) -> None:
    expected = reference(checkpoint, windows, ELAPSED)
    heads = load_heads(checkpoint)
    engine = Engine(checkpoint, device, "fp32", backend, size=SIZE)
    assert engine.longest_gap_s == GAP_S
    tolerance = TOLERANCES["fp32"]
    for index, (window, elapsed_s) in enumerate(zip(windows, ELAPSED, strict=True)):
        outputs = engine(window, None, elapsed_s)
        assert outputs.features is not None
        assert outputs.segmentation is not None
        assert difference("features", outputs.features, expected[index]) < tolerance.relative
        with torch.inference_mode():
            scores = heads["segmentation"](torch.from_numpy(expected[index])[None], SIZE)
        classes = scores[0].argmax(0).numpy()
        assert difference("segmentation", outputs.segmentation, classes) < tolerance.pixels
        assert (outputs.flow is None) == (index == 0)
    # It does remember, and `reset` makes it forget.
    alone = reference(checkpoint, windows[-1:], [0.05])
    assert difference("features", alone[0], expected[-1]) > 0.1
    engine.reset()
    forgotten = engine(windows[-1], ["features"], 0.05).features
    assert forgotten is not None
    assert difference("features", forgotten, alone[0]) < tolerance.relative


@pytest.mark.parametrize("backend", ["eager", "onnx"])
def test_longer_gaps_than_in_training_empty_the_memory(
    checkpoint: Path, windows: list[np.ndarray], backend: str
) -> None:
    engine = Engine(checkpoint, "cpu", "fp32", backend, size=SIZE)
    for elapsed_s, kept in ((GAP_S, True), (GAP_S + 0.01, False)):
        engine.reset()
        for window in windows[:3]:
            engine(window, ["features"], 0.05)
        found = engine(windows[3], ["features"], elapsed_s).features
        known = [0.05, 0.05, 0.05, elapsed_s if kept else float("inf")]
        expected = reference(checkpoint, windows[:4], known)[-1]
        assert found is not None
        assert difference("features", found, expected) < TOLERANCES["fp32"].relative


@pytest.mark.parametrize("backend", ["eager", "onnx"])
def test_a_call_without_outputs_changes_nothing(
    checkpoint: Path, windows: list[np.ndarray], backend: str
) -> None:
    engine = Engine(checkpoint, "cpu", "fp32", backend, size=SIZE)
    found = []
    for unwanted in ([], [windows[1]]):
        engine.reset()
        engine(windows[0], elapsed_s=0.05)
        for window in unwanted:
            assert engine(window, (), elapsed_s=0.05).features is None
        outputs = engine(windows[2], elapsed_s=0.05)
        assert outputs.features is not None
        assert outputs.flow is not None
        found.append((to_host(outputs.features), to_host(outputs.flow)))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_windows_are_a_length_apart_unless_told(
    checkpoint: Path, windows: list[np.ndarray]
) -> None:
    one, other = (Engine(checkpoint, "cpu", "fp32", "eager", size=SIZE) for _ in range(2))
    length_s = one.header.windows.length_ms * 1e-3
    for window in windows[:3]:
        found, expected = one(window).features, other(window, None, length_s).features
        assert found is not None
        assert expected is not None
        np.testing.assert_array_equal(to_host(found), to_host(expected))


def test_an_exported_file_has_its_state_as_input_and_output(
    checkpoint: Path, windows: list[np.ndarray], tmp_path: Path
) -> None:
    path = tmp_path / "gated.onnx"
    done = export(checkpoint, path, ExportOptions(SIZE))
    assert done.windows >= 20
    assert done.differences["features"] <= TOLERANCES["fp32"].relative
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    state = np.zeros(next(i.shape for i in session.get_inputs() if i.name == "memory"), np.float32)
    chosen = [window for window in windows[:4] if window.any()]
    expected = reference(checkpoint, chosen, [0.05] * len(chosen))
    for window, truth in zip(chosen, expected, strict=True):
        scale = np.percentile(np.abs(window[window != 0]), 99, method="inverted_cdf", keepdims=True)
        feeds = {
            "events": window, "scale": scale, "memory": state,
            "elapsed_s": np.array([0.05], np.float32),
            "previous_features": np.zeros_like(truth),
        }  # fmt: skip
        features, state = session.run(["features", "next_memory"], feeds)
        assert difference("features", features, truth) < TOLERANCES["fp32"].relative
        np.testing.assert_array_equal(state[:-1], features)


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
@pytest.mark.parametrize("size", [SIZE, (37, 100)])
def test_one_file_remembers_at_any_size(
    any_size: tuple[Path, Path], backend: str, size: tuple[int, int]
) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    checkpoint, path = any_size
    rng = np.random.default_rng(7)
    windows = [
        np.where(rng.random((5, *size)) < 0.2, rng.normal(size=(5, *size)), 0).astype(np.float32)
        for _ in range(WINDOWS)
    ]
    expected = reference(checkpoint, windows, ELAPSED)
    engine = Engine(path, "cpu", backend=backend, size=size)
    for index, (window, elapsed_s) in enumerate(zip(windows, ELAPSED, strict=True)):
        features = engine(window, None, elapsed_s).features
        assert features is not None
        assert difference("features", features, expected[index]) < TOLERANCES["fp32"].relative


@pytest.fixture(scope="module")
def any_size(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Write a convolutional student with memory, and its export for any size."""
    folder = tmp_path_factory.mktemp("any")
    checkpoint = write_student(folder / "plain.safetensors", CONVOLUTIONAL)
    student = load_student(checkpoint)
    student.set_memory(GAP_S)
    save_student(checkpoint, student)
    path = folder / "any.onnx"
    export(checkpoint, path, ExportOptions(SIZE, dynamic=True))
    return checkpoint, path


def test_rotary_positions_and_a_memory_are_exported_for_one_size_only(
    checkpoint: Path, tmp_path: Path
) -> None:
    student = load_student(checkpoint)
    student.header = replace(student.header, heads={}, classes=[])
    save_student(tmp_path / "plain.safetensors", student)
    with pytest.raises(EngineError, match="cannot be exported for any size"):
        export(
            tmp_path / "plain.safetensors", tmp_path / "any.onnx", ExportOptions(SIZE, dynamic=True)
        )
    assert not (tmp_path / "any.onnx").exists()
