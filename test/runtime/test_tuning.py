"""The fastest runtime is measured once, remembered, and never a less exact one than asked for."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tiny_checkpoints import HEADS, SIZE, sparse_window, write_student
from typer.testing import CliRunner

pytest.importorskip("openvino", reason="OpenVINO is not installed")

from scaleevent_ros.cli import app
from scaleevent_ros.runtime import Engine, EngineError, tuning
from scaleevent_ros.runtime.arrays import CPU
from scaleevent_ros.runtime.export import ExportOptions, export
from scaleevent_ros.runtime.exported import open_exported
from scaleevent_ros.runtime.onnx_backend import OnnxBackend
from scaleevent_ros.runtime.openvino_backend import OpenVinoBackend, has_bf16
from scaleevent_ros.runtime.tuning import Measured, tune

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("exports_here")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    path = folder / "student.onnx"
    student = write_student(folder / "student.safetensors", tasks=tuple(HEADS))
    export(student, path, ExportOptions(SIZE))
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_candidates_are_measured_once_and_their_figures_kept(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tune(exported, None, again=True)
    assert {one.backend for one in found} == {"onnx", "openvino"}
    assert all(one.ms > 0 and not one.refused for one in found)
    assert found[0].ms <= found[1].ms
    (other,) = [one for one in found if one.backend == "openvino"]
    assert other.differences["features"] < 1e-4
    monkeypatch.setattr(tuning, "_measure", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(tuning, "run_cli", lambda *_: pytest.fail("measured again"))
    assert tune(exported, None) == found
    assert Engine(exported, "cpu").backend == found[0].backend


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("output", ["features", "depth", "flow"])
def test_a_candidate_with_a_number_that_is_not_finite_is_refused_however_fast(
    exported: Path, monkeypatch: pytest.MonkeyPatch, output: str, wrong: float
) -> None:
    original = OpenVinoBackend.call

    def call(self: OpenVinoBackend, feeds: Any, names: list[str]) -> list[np.ndarray]:
        outputs = original(self, feeds, names)
        if output in names:
            outputs[names.index(output)].flat[-1] = wrong
        return outputs

    monkeypatch.setattr(OpenVinoBackend, "call", call)
    monkeypatch.setattr(tuning, "SECONDS", 0.0)
    best, refused = tune(exported, None, again=True)
    assert best.backend == "onnx"
    assert f"{output} differs by inf" in refused.refused


def test_the_command_measures_a_student_and_prints_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "SECONDS", 0.0)
    student = write_student(tmp_path / "student.safetensors")
    command = ["tune", str(student), "--size", "70x50"]
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["candidates"]
    assert {one["backend"] for one in found} == {"onnx", "openvino"}
    assert all(one["ms"] > 0 and one["refused"] == "" for one in found)
    text = CliRunner().invoke(app, command).stdout
    assert re.search(r"^onnx: [\d.]+ ms a window$", text, re.MULTILINE)
    assert re.search(r"^openvino: [\d.]+ ms a window; differs by features", text, re.MULTILINE)
    error = CliRunner().invoke(app, command[:2]).exception
    assert "--size 640x480" in str(error)


def test_a_backend_that_cannot_run_has_no_time_in_json(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        msg = "no"
        raise EngineError(msg)

    monkeypatch.setattr(tuning, "SECONDS", 0.0)
    monkeypatch.setattr(OpenVinoBackend, "__init__", refuse)
    result = CliRunner().invoke(app, ["tune", str(exported), "--json"])
    found = json.loads(result.stdout, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    times = {one["backend"]: one["ms"] for one in found["candidates"]}
    assert times["openvino"] is None
    assert times["onnx"] > 0


def test_a_damaged_memory_is_measured_anew(exported: Path, tmp_path: Path) -> None:
    tune(exported, None, again=True)
    (kept,) = (tmp_path / "scaleevent" / "tuning").iterdir()
    kept.write_text("[{]")
    assert all(isinstance(one, Measured) for one in tune(exported, None))


@pytest.mark.skipif(not has_bf16(), reason="this CPU has no bf16")
def test_bf16_only_where_it_is_asked_for(exported: Path) -> None:
    window = sparse_window(0)
    exact = Engine(exported, "cpu", backend="onnx")(window).features
    engine = Engine(exported, "cpu")
    assert engine.precision == "fp32"
    asked = Engine(exported, "cpu", "bf16")
    assert (asked.backend, asked.precision) == ("openvino", "bf16")
    for found, low, high in ((engine, 0, 1e-5), (asked, 1e-4, 1e-1)):
        features = found(window).features
        assert exact is not None
        assert features is not None
        apart = np.linalg.norm(features - exact) / np.linalg.norm(exact)
        assert low <= apart <= high
    with pytest.raises(EngineError, match="exported as fp32, not bf16"):
        Engine(exported, "cpu", "bf16", "onnx")


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_soon_nothing_but_the_requested_outputs_is_computed(exported: Path, name: str) -> None:
    window = sparse_window(0)
    everything, part = (open_exported(exported, CPU, None, name) for _ in range(2))
    assert isinstance(part, (OnnxBackend, OpenVinoBackend))
    wanted = ["features", "segmentation"]
    assert set(wanted) < set(part.info.outputs)
    first = part.run(window, wanted)
    part.parts.wait()
    compiled = part.parts.get(wanted)
    if name == "onnx":
        assert {output.name for output in compiled.get_outputs()} == set(wanted)
    else:
        outputs = compiled.get_compiled_model().outputs
        assert len(outputs) == len(wanted)
        assert all(output.get_names() & set(wanted) for output in outputs)
    expected = everything.run(window, everything.info.outputs)
    for found in (first, part.run(window, wanted)):
        for output in wanted:
            np.testing.assert_array_equal(found[output], expected[output])


_FREED_ELSEWHERE = """
import signal, sys, threading
from pathlib import Path
from scaleevent_ros.runtime.openvino_backend import OpenVinoBackend
held = [OpenVinoBackend(Path(sys.argv[1]), None, None)]
thread = threading.Thread(target=held.clear)
thread.start()
thread.join()
signal.signal(signal.SIGCHLD, lambda *_: print("alive"))
signal.raise_signal(signal.SIGCHLD)
"""


def test_signals_come_after_another_thread_has_freed_a_network(exported: Path) -> None:
    command = [sys.executable, "-c", _FREED_ELSEWHERE, str(exported)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
