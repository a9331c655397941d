"""The page of what a student sees: its pictures, its timing, and what is refused."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from tiny_student import CLASSES, tiny_checkpoint
from typer.testing import CliRunner

pytest.importorskip("rosbags", reason="bags need rosbags")

from scaleevent_ros.bags import BagReader
from scaleevent_ros.cli import app
from scaleevent_ros.errors import ScaleEventError
from scaleevent_ros.visuals.report import write_film_strip

if TYPE_CHECKING:
    from pathlib import Path


def test_a_film_strip_of_a_recording(test_data: Path, tmp_path: Path) -> None:
    model = tiny_checkpoint(tmp_path / "heads.safetensors", heads=True)
    page = tmp_path / "made" / "with it" / "page.html"
    bag = test_data / "bags" / "evt3_640x480"
    command = ["report", str(bag), "--model", str(model), "--out", str(page), "--windows", "3"]
    result = CliRunner().invoke(app, [*command, "--device", "cpu"])
    assert result.exit_code == 0, result.output
    text = page.read_text()
    encoded = re.findall(r"src='data:image/png;base64,([^']*)'", text)
    assert len(encoded) == 3 * 4
    assert "src='http" not in text
    assert all(name in text for name in (*CLASSES, "median", "similarity to the cross"))
    pictures = [
        cv2.imdecode(np.frombuffer(base64.b64decode(each), np.uint8), cv2.IMREAD_COLOR)
        for each in encoded
    ]
    assert all(picture is not None and picture.shape == (240, 320, 3) for picture in pictures)
    events, components = pictures[0], pictures[1]
    assert events is not None
    assert components is not None
    # Few pixels saw an event; the features have a colour everywhere.
    assert (events.min(axis=-1) == 255).mean() > 0.8
    assert len(np.unique(components.reshape(-1, 3), axis=0)) > 50
    seconds = [float(found) for found in re.findall(r"'when'>([\d.]+) s", text)]
    np.testing.assert_allclose(np.diff(seconds), np.diff(seconds)[0], atol=0.02)


def test_a_page_that_cannot_be_written(test_data: Path, tmp_path: Path) -> None:
    model = tiny_checkpoint(tmp_path / "tiny.safetensors")
    reader = BagReader(test_data / "bags" / "evt3_640x480")
    (tmp_path / "file").touch()
    with pytest.raises(ScaleEventError, match="cannot write the report"):
        write_film_strip(reader, model, tmp_path / "file" / "page.html", windows=1, device="cpu")
