"""A student of active tokens gives the same on every backend, whatever the share of tokens."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest
import torch
from tiny_checkpoints import ARCHITECTURES, BACKENDS, BINS, DINOV3, HEADS, write_student

from scaleevent_ros.events import EventBatch, normalize_tensor
from scaleevent_ros.models import build_student, load_student, save_student
from scaleevent_ros.models.active_tokens import ActiveTokens
from scaleevent_ros.runtime import Engine, EngineError
from scaleevent_ros.runtime.export import ExportOptions, export
from scaleevent_ros.runtime.exported_cache import cached_onnx
from scaleevent_ros.runtime.onnx_backend import OnnxBackend
from scaleevent_ros.runtime.parity import TOLERANCES, difference
from scaleevent_ros.runtime.trial_windows import TRIAL_SHARES, window_tensor
from scaleevent_ros.runtime.tuning import tune
from scaleevent_ros.tasks import build_head, describe_head, load_heads
from scaleevent_ros.tasks.downstream import Downstream

if TYPE_CHECKING:
    from pathlib import Path

SIZE = (90, 122)  # neither is a multiple of the stride
GRID = (6, 8)
CHOICE = ActiveTokens(anchors=0.05, dilation=1, pixels=8)
LEVELS = (0.0, 0.1, 0.3, 0.6, 1.0)

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module", params=[DINOV3, "vit_tiny_patch16_224"])
def checkpoint(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """Write a student of active tokens with all heads; with rotary positions, and with added."""
    return write_active(tmp_path_factory.mktemp("student") / "active.safetensors", request.param)


def write_active(path: Path, architecture: str = DINOV3, *, memory: bool = False) -> Path:
    write_student(path, architecture, tasks=tuple(HEADS))
    student, heads = load_student(path), load_heads(path)
    torch.manual_seed(1)
    for key, parameter in student.named_parameters():
        if "gamma" in key:  # timm starts DINOv3's blocks at almost nothing
            parameter.detach().fill_(0.3)
    if memory:
        student.set_memory(1.5)
        assert student.memory is not None
        for parameter in student.memory.parameters():
            parameter.detach().add_(torch.randn_like(parameter) * 0.05)
    student.header = replace(student.header, tokens=asdict(CHOICE))
    save_student(path, student, heads)
    return path


def window(level: float, seed: int = 0) -> np.ndarray:
    """Draw events in the upper part of the grid."""
    random = np.random.default_rng(seed)
    values = random.normal(0, 3, (BINS, *SIZE)) * (random.random((BINS, *SIZE)) < 0.1)
    values[:, round(level * SIZE[0]) :] = 0
    return values.astype(np.float32)


def inputs(events: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(normalize_tensor(events, "percentile"))[None]


@pytest.mark.parametrize(("device", "backend"), BACKENDS)
def test_backends_agree_at_every_activity(checkpoint: Path, device: str, backend: str) -> None:
    student, heads = load_student(checkpoint), load_heads(checkpoint)
    engine = Engine(checkpoint, device, "fp32", backend, size=SIZE)
    tolerance = TOLERANCES["fp32"]
    shares, previous = [], None
    for level in (*LEVELS, *LEVELS[::-1]):
        events = window(level)
        outputs = engine(events)
        kept = student.choose_tokens(inputs(events))
        assert kept is not None
        with torch.inference_mode():
            features = student(inputs(events), kept=kept)
            classes = heads["segmentation"](features, SIZE)[0].argmax(0)
            depth = heads["depth"](features, SIZE)[0, 0]
        assert outputs.computed is not None
        np.testing.assert_array_equal(np.flatnonzero(outputs.computed), kept[0])
        assert outputs.features is not None
        assert outputs.segmentation is not None
        assert outputs.depth is not None
        assert difference("features", outputs.features, features[0]) < tolerance.relative
        assert difference("segmentation", outputs.segmentation, classes) < tolerance.pixels
        assert difference("depth", outputs.depth, depth) < tolerance.relative
        assert not np.asarray(outputs.features)[:, ~outputs.computed].any()
        if previous is not None:
            with torch.inference_mode():
                flow = heads["flow"](previous, features, SIZE)[0]
            assert outputs.flow is not None
            assert difference("flow", outputs.flow, flow) < tolerance.relative
        previous = features
        shares.append(float(outputs.computed.mean()))
    assert shares[: len(LEVELS)] == sorted(shares[: len(LEVELS)])
    assert len(set(shares)) >= 4
    assert shares[len(LEVELS) - 1] == 1


def test_a_window_where_everything_moves_is_as_without_the_choice(
    checkpoint: Path, tmp_path: Path
) -> None:
    student, heads = load_student(checkpoint), load_heads(checkpoint)
    student.header = replace(student.header, tokens=None)
    save_student(tmp_path / "all.safetensors", student, heads)
    engines = [Engine(each, "cpu", "fp32", "eager", size=SIZE)
               for each in (checkpoint, tmp_path / "all.safetensors")]  # fmt: skip
    for level, same in ((1.0, True), (0.2, False)):
        active, whole = (engine(window(level)).features for engine in engines)
        assert active is not None
        assert whole is not None
        assert (difference("features", active, whole) < 1e-5) == same
    assert engines[1](window(0.2)).computed is None


@pytest.mark.parametrize("backend", ["eager", "onnx"])
def test_a_memory_keeps_what_is_not_computed(tmp_path: Path, backend: str) -> None:
    path = write_active(tmp_path / "gated.safetensors", memory=True)
    student = load_student(path)
    engine = Engine(path, "cpu", "fp32", backend, size=SIZE)
    windows = [window(level, seed) for seed, level in enumerate((0.4, 0.1, 0.0, 0.3, 0.1))]
    events = torch.stack([inputs(each)[0] for each in windows])
    chosen = [student.choose_tokens(each[None]) for each in events]
    elapsed_s = torch.tensor([[0.05] * len(windows)])
    memory = student.memory
    assert memory is not None
    state = memory.empty(torch.zeros(1, student.width, *GRID))
    known = np.zeros(GRID, bool)
    for index, each in enumerate(windows):
        outputs = engine(each, None, 0.05)
        kept = chosen[index]
        assert kept is not None
        with torch.inference_mode():
            mask = torch.zeros(1, 1, GRID[0] * GRID[1], dtype=torch.bool)
            mask[0, 0, kept[0]] = True
            state = memory(
                student(events[index : index + 1], kept=kept),
                events[index : index + 1],
                state,
                elapsed_s[:, 0],
                torch.unflatten(mask, 2, GRID),
            )
        features = np.asarray(outputs.features)
        assert difference("features", features, state[0, :-1]) < TOLERANCES["fp32"].relative
        assert outputs.computed is not None
        known |= outputs.computed
        assert features[:, known].any(0).all()  # the memory's, where nothing was computed now
        assert not features[:, ~known].any()
    assert 0.5 < known.mean() < 1


def test_events_run_end_to_end_from_an_exported_file(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "active.onnx"
    done = export(checkpoint, path, ExportOptions(SIZE))
    assert done.windows == len(TRIAL_SHARES)
    assert done.differences["features"] <= TOLERANCES["fp32"].relative
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (tokens,) = (each for each in session.get_inputs() if each.name == "tokens")
    assert tokens.type == "tensor(int32)"
    assert [type(side) for side in tokens.shape] == [str]  # any number
    engine = Engine(path, "cpu", "fp32", "onnx")
    # A point moves through the second row of patches.
    t = np.arange(4000) * 5_000
    x, y = 40 + t * 40 // 20_000_000, 16 + np.arange(4000) % 16
    batch = EventBatch(
        x.astype(np.uint16), y.astype(np.uint16), t, np.ones(4000, np.uint8), SIZE[1], SIZE[0]
    )
    outputs = engine(window_tensor(engine.header, batch, 20_000_000))
    assert outputs.computed is not None
    assert outputs.computed[:3, 1:6].all()
    assert 0.3 < outputs.computed.mean() < 0.8
    assert np.asarray(outputs.features)[:, outputs.computed].any(0).all()
    # Without a choice a backend computes all.
    everything = OnnxBackend(path, None).run(window(0.1), ["features"])["features"]
    assert np.asarray(everything).any(0).all()


def test_the_backends_are_measured_with_a_part_of_the_tokens(checkpoint: Path) -> None:
    assert not tune(cached_onnx(checkpoint, SIZE, "fp32"), None, "fp32")[0].refused


def test_a_file_of_any_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "student.safetensors"
    write_student(path)
    student = load_student(path)
    student.header = replace(student.header, tokens=asdict(CHOICE))
    save_student(path, student)
    with pytest.raises(EngineError, match="active tokens is exported for a fixed size only"):
        export(path, tmp_path / "any.onnx", ExportOptions(SIZE, dynamic=True))


@pytest.mark.parametrize("memory", [False, True])
def test_heads_learn_on_what_the_engine_gives_them(tmp_path: Path, memory: bool) -> None:
    path = write_active(tmp_path / "student.safetensors", memory=memory)
    head = load_heads(path)["depth"]
    trained = Downstream(load_student(path), head, frozen=True).eval()
    engine = Engine(path, "cpu", "fp32", "eager", size=SIZE)
    windows = [window(0.1, 0), window(0.1, 1)]  # of a batch, the largest number is computed
    for each in windows if memory else windows[1:]:
        outputs = engine(each)
    assert outputs.depth is not None
    events = torch.stack([inputs(each)[0] for each in windows])[None]
    with torch.inference_mode():
        depth = trained(events if memory else events[:, 1])[0, 0]
    assert difference("depth", outputs.depth, depth) < TOLERANCES["fp32"].relative


def test_heads_whose_queries_attend_to_all_tokens_get_all(tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = {"classes": 4, "queries": 6, "blocks": 1}
    engines: list[Engine] = []
    for tokens in (None, asdict(CHOICE)):
        torch.manual_seed(0)
        student = build_student(DINOV3, BINS, "random", options=ARCHITECTURES[DINOV3])
        head = build_head("segmentation_eomt", student.width, student.stride, **options)
        described = describe_head("segmentation_eomt", student.width, student.stride, **options)
        student.header = replace(
            student.header, normalization="percentile", heads={"segmentation": described},
            classes=["a", "b", "c", "d"], tokens=tokens,
        )  # fmt: skip
        path = tmp_path / f"{len(engines)}.safetensors"
        save_student(path, student, {"segmentation": head})
        engines.append(Engine(path, "cpu", "fp32", "eager", size=SIZE))
    plain, active = (engine(window(0.2)) for engine in engines)
    assert active.computed is None
    np.testing.assert_array_equal(np.asarray(active.features), np.asarray(plain.features))
    np.testing.assert_array_equal(np.asarray(active.segmentation), np.asarray(plain.segmentation))
