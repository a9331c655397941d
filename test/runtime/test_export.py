"""Exported files: what they hold, how they run, and when they are not written."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from command_line import scaleevent
from random_events import random_batch
from tiny_checkpoints import (
    ARCHITECTURES,
    BINS,
    CONVOLUTIONAL,
    DINOV3,
    HEADS,
    SIZE,
    sparse_window,
    write_student,
)

from scaleevent_ros.events import InputSpec, normalize_tensor
from scaleevent_ros.events.windows import WindowOptions
from scaleevent_ros.models import build_student, load_student, save_student
from scaleevent_ros.runtime import Engine, EngineError
from scaleevent_ros.runtime import export as exporting
from scaleevent_ros.runtime.arrays import CPU
from scaleevent_ros.runtime.export import ExportOptions, export
from scaleevent_ros.runtime.exported import parse_size
from scaleevent_ros.runtime.exported_cache import cached_onnx
from scaleevent_ros.runtime.network import Network, load_network
from scaleevent_ros.runtime.onnx_backend import OnnxBackend
from scaleevent_ros.runtime.onnx_file import read_info
from scaleevent_ros.runtime.parity import TOLERANCES, difference
from scaleevent_ros.tasks import load_heads


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_student(tmp_path_factory.mktemp("student") / "student.safetensors")


def test_a_file_of_one_size_has_positions_as_constants_and_runs_alone(
    checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "student.onnx"
    done = export(checkpoint, path, ExportOptions(SIZE))
    assert done.differences["features"] <= TOLERANCES["fp32"].relative
    kinds = Counter(node.op_type for node in onnx.load(path).graph.node)
    assert not {"If", "Tile", "Sin", "Cos", "Loop", "Resize"} & set(kinds)
    assert str(Path(__file__).parents[2]).encode() not in path.read_bytes()
    # By ONNX Runtime alone, as someone without this package would.
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    events = sparse_window(0)
    scale = np.percentile(np.abs(events[events != 0]), 99, method="inverted_cdf", keepdims=True)
    (features,) = session.run(["features"], {"events": events, "scale": scale})
    window = normalize_tensor(events, "percentile")
    with torch.inference_mode():
        truth = load_student(checkpoint)(torch.from_numpy(window)[None])[0]
    assert difference("features", torch.from_numpy(features), truth) <= 1e-4
    # By the engine, without the checkpoint.
    engine = Engine(path, "cpu", backend="onnx")
    assert (engine.backend, engine.precision, engine.size) == ("onnx", "fp32", SIZE)
    assert engine.header == load_student(checkpoint).header
    found = engine(events).features
    assert found is not None
    np.testing.assert_array_equal(found, features)


@pytest.mark.parametrize("architecture", [DINOV3, CONVOLUTIONAL])
def test_a_file_of_any_size_runs_at_several(tmp_path: Path, architecture: str) -> None:
    student = write_student(
        tmp_path / "student.safetensors", architecture, ("segmentation", "depth"), "none"
    )
    path = tmp_path / "student.onnx"
    export(student, path, ExportOptions((50, 70), dynamic=True))
    # By ONNX Runtime alone, as someone without this package would.
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for size in ((48, 64), (80, 111), (260, 346)):
        window = sparse_window(1, size)
        found = Engine(path, "cpu", backend="onnx", size=size)(window)
        truth = Engine(student, "cpu", backend="eager", size=size)(window)
        alone = session.run(["features", "segmentation", "depth"], {"events": window})
        for name, array in zip(("features", "segmentation", "depth"), alone, strict=True):
            limit = 1e-3 if name == "segmentation" else 1e-4
            assert getattr(found, name).shape == array.shape == getattr(truth, name).shape
            assert difference(name, getattr(found, name), getattr(truth, name)) <= limit
            assert difference(name, torch.from_numpy(array), getattr(truth, name)) <= limit
    with pytest.raises(EngineError, match="give the sensor"):
        Engine(path, "cpu")


def test_a_student_with_a_neck_runs_the_same_everywhere(tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = ARCHITECTURES[CONVOLUTIONAL]
    student = build_student(CONVOLUTIONAL, 5, "random", stride=8, neck=32, options=options)
    student.header = replace(student.header, normalization="percentile", window=WindowOptions())
    path = tmp_path / "student.safetensors"
    save_student(path, student)
    size = (68, 100)  # of no stage a multiple
    exported = tmp_path / "student.onnx"
    done = export(path, exported, ExportOptions(size))
    assert done.differences["features"] <= TOLERANCES["fp32"].relative
    assert_same_features(exported, path, size)
    # Sizes that the stride of 8, and the coarsest one of 32, divide or not.
    export(path, exported, ExportOptions(size, dynamic=True))
    for size in ((64, 96), (40, 72), (260, 346)):
        assert_same_features(exported, path, size)


def assert_same_features(exported: Path, checkpoint: Path, size: tuple[int, int]) -> None:
    window = sparse_window(2, size)
    found, truth = (
        Engine(file, "cpu", backend=backend, size=size)(window).features
        for file, backend in ((exported, "onnx"), (checkpoint, "eager"))
    )
    assert found is not None
    assert truth is not None
    assert found.shape == (32, -(-size[0] // 8), -(-size[1] // 8))
    assert difference("features", found, truth) <= 1e-4


@pytest.mark.parametrize("normalization", ["percentile", "mean_std"])
def test_leaky_integrals_are_normalized_by_themselves(normalization: str, tmp_path: Path) -> None:
    """Compute by each runtime, and by PyTorch, as training does."""
    leaky = (0.05, 2.0)
    student = write_student(
        tmp_path / "student.safetensors", normalization=normalization, leaky=leaky
    )
    done = export(student, tmp_path / "student.onnx", ExportOptions(SIZE))
    assert done.differences["features"] <= TOLERANCES["fp32"].relative
    batch = random_batch(np.random.default_rng(0), 20_000, SIZE[1], SIZE[0], 0, 3 * 10**9)
    spec = InputSpec("voxel", BINS, normalization, leaky)
    tensor = spec.build(batch, 3 * 10**9 - 20_000_000, 3 * 10**9)
    with torch.inference_mode():
        truth = load_student(student)(torch.from_numpy(spec.normalize(tensor))[None])[0]
    for path, backend in ((student, "eager"), (tmp_path / "student.onnx", "onnx")):
        found = Engine(path, "cpu", backend=backend, size=SIZE)(tensor).features
        assert found is not None
        assert difference("features", found, truth) <= 1e-4


def test_half_precision_is_within_its_tolerance(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "student.onnx"
    export(checkpoint, path, ExportOptions(SIZE, "fp16"))
    assert read_info(path).precision == "fp16"
    window = sparse_window(2)
    found = Engine(path, "cpu", backend="onnx")(window).features
    truth = Engine(checkpoint, "cpu", backend="eager", size=SIZE)(window).features
    assert found is not None
    assert truth is not None
    assert 1e-5 < difference("features", found, truth) <= TOLERANCES["fp16"].relative
    with pytest.raises(EngineError, match="exported as fp16, not fp32"):
        Engine(path, "cpu", "fp32")


def test_a_file_that_differs_is_not_written_and_the_old_one_stays(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "student.onnx"
    path.write_bytes(b"old")

    def load_wrong(path: Path, size: tuple[int, int], **options: Any) -> Network:
        network = load_network(path, size, **options)
        loaded.append(network)
        if len(loaded) == 1:  # the one that is exported, not the one to compare with
            for parameter in network.parameters():
                parameter.mul_(1.01)
        return network

    loaded: list[Network] = []
    monkeypatch.setattr(exporting, "load_network", load_wrong)
    with pytest.raises(EngineError, match="not written, as it differs from PyTorch: features"):
        export(checkpoint, path, ExportOptions(SIZE))
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["student.onnx"]


@pytest.mark.parametrize(
    ("task", "number"),
    [
        *product(["features", "segmentation", "depth", "flow"], [float("nan"), float("inf")]),
        # A class that always wins, and the largest depth, are the same in 16 bits.
        *product(["features", "flow"], [1e30]),
    ],
)
def test_an_output_that_is_not_finite_is_refused(tmp_path: Path, task: str, number: float) -> None:
    path = write_student(tmp_path / "student.safetensors", tasks=tuple(HEADS))
    student, heads = load_student(path), load_heads(path)
    module = student if task == "features" else heads[task]
    last = list(module.parameters())[-1]
    last.detach().view(-1)[0] = number
    save_student(path, student, heads)
    precision = "fp16" if number == 1e30 else "fp32"  # finite, and too large for 16 bits
    with pytest.raises(EngineError, match=r"finite|differs from PyTorch"):
        export(path, tmp_path / "student.onnx", ExportOptions(SIZE, precision))
    assert not (tmp_path / "student.onnx").exists()
    if precision == "fp32":
        with pytest.raises(EngineError, match="not finite"):
            Engine(path, "cpu", backend="eager", size=SIZE)


@pytest.fixture(scope="module")
def exported_tasks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Write a student with every head, and export it."""
    folder = tmp_path_factory.mktemp("tasks")
    student = write_student(folder / "student.safetensors", tasks=tuple(HEADS))
    export(student, folder / "student.onnx", ExportOptions(SIZE))
    return student, folder / "student.onnx"


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("output", ["features", "depth", "flow"])
@pytest.mark.parametrize("kind", ["onnx", "engine"])
def test_a_file_whose_outputs_are_not_finite_is_not_written(
    exported_tasks: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    output: str,
    wrong: float,
) -> None:
    student, exported = exported_tasks

    def write(_: object, path: Path, *__: object, **___: object) -> None:
        shutil.copy(exported, path)

    def open_wrong(*_: object) -> OnnxBackend:
        """Stand in for TensorRT too, which needs a GPU."""
        return OnnxBackend(exported, SIZE)

    def call(self: OnnxBackend, feeds: Any, names: list[str]) -> list[np.ndarray]:
        outputs = original(self, feeds, names)
        if output in names:
            outputs[names.index(output)].flat[-1] = wrong
        return outputs

    original = OnnxBackend.call
    monkeypatch.setattr(exporting, "write_onnx", write)
    monkeypatch.setattr(exporting, "_build_engine", write)
    monkeypatch.setattr(exporting, "open_exported", open_wrong)
    monkeypatch.setattr(exporting, "choose_device", lambda _: CPU)
    monkeypatch.setattr(exporting, "check_backend", lambda *_: None)
    path = tmp_path / f"student.{kind}"
    assert set(export(student, path, ExportOptions(SIZE)).differences) == {"features", *HEADS}
    path.unlink()
    monkeypatch.setattr(OnnxBackend, "call", call)
    with pytest.raises(EngineError, match=f"differs from PyTorch: {output} differs by inf"):
        export(student, path, ExportOptions(SIZE))
    assert not path.exists()


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("side", ["found", "reference", "both"])
def test_numbers_that_are_not_finite_are_infinitely_far_apart(wrong: float, side: str) -> None:
    found, reference = torch.ones(2, 3, 4), torch.ones(2, 3, 4)
    for name, tensor in {"found": found, "reference": reference}.items():
        if side in {name, "both"}:
            tensor[1, 2, 3] = wrong
    assert difference("features", found, reference) == float("inf")


def test_the_comparison_runs_on_windows_of_a_recording(
    checkpoint: Path, tmp_path: Path, test_data: Path
) -> None:
    bag = test_data / "bags" / "libcaer_cmp_346x260"
    done = export(checkpoint, tmp_path / "student.onnx", ExportOptions(bag=bag))
    assert (done.size, done.windows, done.recorded) == ((260, 346), 3, True)
    with pytest.raises(EngineError, match="346x260, not 70x50"):
        export(checkpoint, tmp_path / "other.onnx", ExportOptions(SIZE, bag=bag))


@pytest.mark.usefixtures("exports_here")
def test_an_engine_finds_its_exported_file_again(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = cached_onnx(checkpoint, SIZE, "fp32")
    written = first.stat().st_ino
    assert cached_onnx(checkpoint, SIZE, "fp32") == first
    assert first.stat().st_ino == written
    copy = tmp_path / checkpoint.name
    copy.write_bytes(checkpoint.read_bytes())
    assert cached_onnx(copy, SIZE, "fp32") == first
    other = write_student(tmp_path / "b" / checkpoint.name, tasks=("segmentation",))
    assert cached_onnx(other, SIZE, "fp32") != first


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("student.pt", ExportOptions(SIZE), r"named \.onnx or \.engine"),
        ("student.onnx", ExportOptions(), "needs the sensor's size"),
        ("student.onnx", ExportOptions(SIZE, "bf16"), "fp32 or fp16"),
        ("student.onnx", ExportOptions(SIZE, "fp8"), "unknown precision"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    checkpoint: Path, tmp_path: Path, name: str, options: ExportOptions, words: str
) -> None:
    with pytest.raises(EngineError, match=words):
        export(checkpoint, tmp_path / name, options)
    assert not list(tmp_path.iterdir())


def test_flow_at_any_size_is_refused(tmp_path: Path) -> None:
    student = write_student(tmp_path / "student.safetensors", tasks=("flow",))
    with pytest.raises(EngineError, match="fixed size only"):
        export(student, tmp_path / "student.onnx", ExportOptions((48, 64), dynamic=True))


def test_a_foreign_onnx_file_is_refused(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Identity", ["events"], ["features"])
    kind = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "foreign",
        [kind("events", onnx.TensorProto.FLOAT, [5, 8, 8])],
        [kind("features", onnx.TensorProto.FLOAT, [5, 8, 8])],
    )
    path = tmp_path / "foreign.onnx"
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    model.ir_version = 10
    onnx.save(model, path)
    with pytest.raises(EngineError, match="has no header"):
        Engine(path, "cpu")


def test_a_size_is_read_as_width_by_height() -> None:
    assert parse_size("640x480") == (480, 640)
    with pytest.raises(EngineError, match="640x480"):
        parse_size("640,480")


def test_the_command_exports_and_says_how_far_off(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "student.onnx"
    done = scaleevent("export", checkpoint, path, "--size", "70x50")
    assert done.returncode == 0, done.stderr
    assert "3 synthetic windows of 70x50: features by" in done.stdout
    assert read_info(path).size == SIZE
    done = scaleevent("export", checkpoint, path)
    assert done.returncode == 2
    assert done.stderr.startswith("scaleevent: an export needs the sensor's size")
