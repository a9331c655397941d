"""A robot with an exported student needs no PyTorch; the export of a checkpoint leaves none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_checkpoints import SIZE, write_student

from scaleevent_ros.runtime.export import ExportOptions, export

SUPPORT = Path(__file__).resolve().parent.parent / "support"
REFUSE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "timm", "onnx", "onnxscript"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
"""


def run(program: str, *arguments: str, cache: Path) -> str:
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    environment["PYTHONPATH"] = os.pathsep.join([str(SUPPORT), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    return write_student(folder / "student.safetensors", tasks=("segmentation", "flow"))


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> Path:
    path = checkpoint.with_suffix(".onnx")
    export(checkpoint, path, ExportOptions(SIZE))
    return path


@pytest.mark.parametrize("backend", ["auto", "onnx", "openvino"])
def test_an_exported_student_runs_without_torch(
    exported: Path, tmp_path: Path, backend: str
) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is not installed")
    program = REFUSE + (
        "import numpy as np\n"
        "from scaleevent_ros.runtime import Engine\n"
        "engine = Engine(sys.argv[1], backend=sys.argv[2])\n"
        "window = np.random.default_rng(0).random((5, *engine.size), np.float32)\n"
        "first, second = engine(window), engine(window)\n"
        "assert first.flow is None and second.flow.shape == (2, *engine.size)\n"
        "assert second.segmentation.dtype == np.uint8\n"
    )
    run(program, str(exported), backend, cache=tmp_path)


def test_the_shipped_student_runs_without_torch(tmp_path: Path) -> None:
    program = REFUSE + (
        "import numpy as np\n"
        "from scaleevent_ros.runtime import Engine\n"
        "engine = Engine('lite', 'cpu', size=(260, 346))\n"
        "found = engine(np.zeros((8, 260, 346), np.float32))\n"
        "assert found.features.shape == (192, 33, 44)\n"
        "assert found.segmentation.shape == found.depth.shape == (260, 346)\n"
    )
    run(program, cache=tmp_path)


def test_a_report_and_the_nodes_need_no_torch(tmp_path: Path, test_data: Path) -> None:
    pytest.importorskip("rosbags", reason="bags need rosbags")
    student = write_student(tmp_path / "student.safetensors", tasks=("segmentation",))
    path = tmp_path / "student.onnx"
    export(student, path, ExportOptions((260, 346)))
    page = tmp_path / "page.html"
    command = ["scaleevent", "report", str(test_data / "bags" / "libcaer_cmp_346x260")]
    command += ["--model", str(path), "--out", str(page), "--windows", "2"]
    run(f"{REFUSE}\nsys.argv = {command}\nfrom scaleevent_ros.cli import main\nmain()\n",
        cache=tmp_path)  # fmt: skip
    assert "principal components" in page.read_text()
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    nodes = (
        "import scaleevent_ros.nodes.perception, scaleevent_ros.nodes.perception_pipeline\n"
        "import scaleevent_ros.nodes.recorder\n"
    )
    run(REFUSE + nodes, cache=tmp_path)


def test_a_checkpoint_is_exported_in_a_process_of_its_own(checkpoint: Path, tmp_path: Path) -> None:
    program = (
        "import sys, numpy as np\n"
        "from scaleevent_ros.runtime import Engine\n"
        "engine = Engine(sys.argv[1], 'cpu', size=(50, 70))\n"
        "assert engine(np.ones((5, 50, 70), np.float32)).features.shape == (32, 4, 5)\n"
        "print([name for name in ('torch', 'timm', 'onnx') if name in sys.modules])\n"
    )
    assert run(program, str(checkpoint), cache=tmp_path).strip() == "[]"
    assert list((tmp_path / "scaleevent" / "engines").glob("student-*.onnx"))
