"""Backends of GPUs: what can be checked of them on a machine without one, and on one with."""

from __future__ import annotations

import contextlib
import enum
import logging
import sys
import threading
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

import onnxruntime
import pytest
import torch
from tiny_checkpoints import SIZE, sparse_window, write_student

from scaleevent_ros.runtime import Engine, EngineError, torch_backend
from scaleevent_ros.runtime.arrays import Device
from scaleevent_ros.runtime.exported_file import ExportedInfo
from scaleevent_ros.runtime.network import load_network
from scaleevent_ros.runtime.onnx_backend import open_session
from scaleevent_ros.runtime.placement import check_backend
from scaleevent_ros.runtime.tensorrt_backend import write_engine
from scaleevent_ros.runtime.torch_backend import TorchBackend, make_torch_backend

if TYPE_CHECKING:
    from pathlib import Path

CPU = torch.device("cpu")


@pytest.mark.parametrize(("asked", "given"), [("cudagraph", "eager"), ("compile", "compile")])
def test_a_network_that_cannot_be_captured_runs_without_graphs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    asked: str,
    given: str,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        msg = "operation not permitted when stream is capturing\nmore lines"
        raise RuntimeError(msg)

    def on_cpu(network: Any, device: Any, dtype: Any, *, compiled: bool) -> TorchBackend:
        made.append((device, compiled))
        return TorchBackend(network, CPU, dtype)

    made: list[tuple[torch.device, bool]] = []
    monkeypatch.setattr(torch_backend, "GraphBackend", refuse)
    monkeypatch.setattr(torch_backend, "TorchBackend", on_cpu)
    network = load_network(write_student(tmp_path / "student.safetensors"), SIZE)
    cuda = torch.device("cuda", 1)
    with caplog.at_level(logging.WARNING):
        name, backend = make_torch_backend(network, cuda, torch.float32, asked)
    assert name == given
    assert made == [(cuda, asked == "compile")]
    assert "cannot be captured as a CUDA graph" in caplog.text
    assert "not permitted when stream is capturing" in caplog.text
    assert "features" in backend.run(torch.from_numpy(sparse_window(0)), ["features"])


def test_a_full_gpu_is_not_taken_for_a_network_that_cannot_be_captured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch_backend, "GraphBackend", refuse)
    network = load_network(write_student(tmp_path / "student.safetensors"), SIZE)
    with pytest.raises(torch.OutOfMemoryError):
        make_torch_backend(network, torch.device("cuda"), torch.float32, "cudagraph")


@pytest.mark.gpu
def test_other_threads_may_pin_memory_during_a_capture(tmp_path: Path) -> None:
    path = write_student(tmp_path / "student.safetensors")
    stop = threading.Event()

    def pin() -> None:
        size = 1 << 20
        while not stop.is_set():
            torch.empty(size, pin_memory=True)
            size += 4096  # never one that the allocator has kept

    thread = threading.Thread(target=pin)
    thread.start()
    try:
        for _ in range(5):
            assert Engine(path, "cuda", "fp32", "cudagraph", size=SIZE).backend == "cudagraph"
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("loaded", [False, True])
def test_onnx_runtime_is_asked_which_provider_its_session_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, loaded: bool
) -> None:
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    asked: list[Any] = []

    class Session:
        """A session of a release with CUDA, whose libraries load or not."""

        def __init__(self, _: str, __: object, *, providers: list[Any]) -> None:
            asked.extend(providers)

        def get_providers(self) -> list[str]:
            return providers if loaded else providers[1:]

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    path = tmp_path / "student.onnx"
    path.touch()
    gpu = Device("cuda", 1)
    check_backend("onnx", gpu)  # the provider is listed
    options = {"device_id": 1}
    if loaded:
        assert isinstance(open_session(path, gpu, options), Session)
    else:
        with pytest.raises(EngineError, match="cannot use the GPU: install onnxruntime-gpu"):
            open_session(path, gpu, options)
    assert asked == [("CUDAExecutionProvider", options), "CPUExecutionProvider"]
    assert isinstance(open_session(path, Device("cpu"), {}), Session)


class _Profile(list[tuple[Any, ...]]):
    def set_shape(self, *shapes: object) -> None:
        self.append(("shapes", *shapes))


class _Recorder:
    """TensorRT's builder as far as `write_engine` uses it; it has no wheel for a plain CPU."""

    def __init__(self, *flags: str) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.module = ModuleType("tensorrt")
        self.accepted_timings = b"of this GPU"
        outer = self

        class Config:
            def clear_flag(self, flag: object) -> None:
                outer.calls.append(("clear", str(flag)))

            def set_flag(self, flag: object) -> None:
                outer.calls.append(("set", str(flag)))

            def create_timing_cache(self, content: bytes) -> bytes:
                return content

            def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
                assert not ignore_mismatch
                good = cache in {b"", outer.accepted_timings}
                outer.calls.append(("timings", cache, good))
                return good

            def add_optimization_profile(self, profile: list[tuple[Any, ...]]) -> None:
                outer.calls.extend(profile)

            def get_timing_cache(self) -> Any:
                class Cache:
                    def serialize(self) -> bytes:
                        return b"new timings"

                return Cache()

        class Builder:
            def __init__(self, _: object) -> None: ...

            create_optimization_profile = _Profile

            def create_builder_config(self) -> Config:
                return Config()

            def create_network(self, flags: int) -> int:
                outer.calls.append(("network", flags))
                return flags

            def build_serialized_network(self, *_: object) -> bytes:
                return b"plan"

        class Logger:
            WARNING = 1

            def __init__(self, _: int) -> None: ...

        class Parser:
            def __init__(self, *_: object) -> None: ...

            def parse_from_file(self, _: str) -> bool:
                return True

        content: dict[str, Any] = {
            "Builder": Builder, "Logger": Logger, "OnnxParser": Parser, "__version__": "0",
            "BuilderFlag": enum.Enum("BuilderFlag", ("TF32", "FP16")),
            "NetworkDefinitionCreationFlag": enum.IntEnum(
                "NetworkDefinitionCreationFlag", flags, start=0
            ),
        }  # fmt: skip
        for name, value in content.items():
            setattr(self.module, name, value)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("release", ["8.6", "10"])
def test_tensorrt_builds_in_the_precision_of_the_file_by_either_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: str, precision: str
) -> None:
    old = release == "8.6"
    recorder = _Recorder(*(("EXPLICIT_BATCH",) if old else ("EXPLICIT_BATCH", "STRONGLY_TYPED")))
    monkeypatch.setitem(sys.modules, "tensorrt", recorder.module)
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    info = ExportedInfo(
        load_network(write_student(tmp_path / "s.safetensors"), SIZE).info.header,
        precision, SIZE, 16, 32, ("features",),
    )  # fmt: skip
    timings = tmp_path / "cache" / "timings"
    for expected in (b"", b"new timings"):
        recorder.calls.clear()
        write_engine(tmp_path / "x.onnx", tmp_path / "x.engine", info, CPU, timings)
        assert ("clear", "BuilderFlag.TF32") in recorder.calls
        assert (("set", "BuilderFlag.FP16") in recorder.calls) == (old and precision == "fp16")
        assert ("network", 1 if old else 2) in recorder.calls
        assert recorder.calls[-1][:2] == ("timings", b"") or expected != b""
        assert timings.read_bytes() == b"new timings"
    # Timings that TensorRT refuses are left out, and replaced by those of this build.
    assert [call[1:] for call in recorder.calls if call[0] == "timings"] == [
        (b"new timings", False),
        (b"", True),
    ]
    assert (tmp_path / "x.engine").read_bytes().endswith(b"plan")


def test_tensorrt_builds_for_any_number_of_active_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = _Recorder("EXPLICIT_BATCH", "STRONGLY_TYPED")
    monkeypatch.setitem(sys.modules, "tensorrt", recorder.module)
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    header = load_network(write_student(tmp_path / "s.safetensors"), SIZE).info.header
    for tokens in (None, {"anchors": 0.1, "dilation": 1, "pixels": 8}):
        info = ExportedInfo(
            replace(header, tokens=tokens), "fp32", (480, 640), 16, 32, ("features",)
        )
        recorder.calls.clear()
        write_engine(tmp_path / "x.onnx", tmp_path / "x.engine", info, CPU)
        shapes = [call[1:] for call in recorder.calls if call[0] == "shapes"]
        assert shapes == ([] if tokens is None else [("tokens", (75,), (375,), (1200,))])
