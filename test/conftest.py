"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scaleevent_ros.cache import user_cache
from scaleevent_ros.errors import ScaleEventError

REPOSITORY = Path(__file__).resolve().parent.parent

# Processes that tests start with a cache of their own need not compile all kernels anew.
os.environ.setdefault("NUMBA_CACHE_DIR", str(user_cache() / "scaleevent_ros" / "kernels"))

# The workers of pytest-xdist share the cores, where PyTorch would use all of them in each.
if _workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _workers)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests of GPUs where there is none."""
    if item.get_closest_marker("gpu"):
        torch = pytest.importorskip("torch")
        if not torch.cuda.is_available():
            pytest.skip("there is no GPU")


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the root of the working copy."""
    return REPOSITORY


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Return the folder of real recordings, or skip the test that wants it."""
    default = REPOSITORY.parent / "shared" / "data"
    folder = Path(os.environ.get("SCALEEVENT_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no recordings in {folder}; set SCALEEVENT_TEST_DATA to their folder")
    return folder


@pytest.fixture
def exports_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let engines export checkpoints in this process, which has imported PyTorch already.

    `test_without_torch.py` tests the export in a process of its own.
    """
    _export_here(monkeypatch)


@pytest.fixture
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep exported files out of the user's cache, as `exports_here`; the tests share theirs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    _export_here(monkeypatch)


def _export_here(monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from scaleevent_ros.cli import app
    from scaleevent_ros.runtime import exported_cache
    from scaleevent_ros.runtime.errors import EngineError

    def run_cli(*arguments: str) -> None:
        try:
            CliRunner().invoke(app, arguments, catch_exceptions=False)
        except ScaleEventError as error:
            raise EngineError(str(error)) from error

    monkeypatch.setattr(exported_cache, "run_cli", run_cli)
