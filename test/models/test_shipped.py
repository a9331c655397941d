"""Names of shipped students, and what is said where a file is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scaleevent_ros.models import SHIPPED, CheckpointError, resolve_model, shipped
from scaleevent_ros.runtime import Engine

if TYPE_CHECKING:
    from pathlib import Path


def test_names_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "_FOLDER", tmp_path / "weights")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lite").touch()  # a file called like a shipped student is not taken for it
    for name in SHIPPED:
        with pytest.raises(CheckpointError, match=rf"weights/{name}.safetensors is missing"):
            resolve_model(name)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "lite.safetensors").touch()
    assert resolve_model("lite") == tmp_path / "weights" / "lite.safetensors"
    assert resolve_model("./lite").samefile(tmp_path / "lite")


@pytest.mark.parametrize(("model", "message"), [("", "no model is given"), ("lit", "'lit'")])
def test_what_is_not_there_is_named(model: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        resolve_model(model)
    with pytest.raises(CheckpointError, match="lite, small"):
        Engine(model, "cpu", size=(64, 64))
