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

from scaleevent_ros.bags import BagReader, BagWriter
from scaleevent_ros.bags.messages import EVENT_PACKET, EventPacketView, serialize_event_packet
from scaleevent_ros.cli import app
from scaleevent_ros.errors import ScaleEventError
from scaleevent_ros.events import EventBatch, encode_evt2
from scaleevent_ros.models import shipped
from scaleevent_ros.runtime.export import ExportOptions, export
from scaleevent_ros.visuals.report import write_film_strip

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a student that is exported once for all tests, which is why they share its name."""
    return tiny_checkpoint(tmp_path_factory.mktemp("model") / "lite.safetensors", heads=True)


def test_a_film_strip_of_a_recording(model: Path, test_data: Path, tmp_path: Path) -> None:
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


def test_the_event_topic_of_a_bag_with_two_is_named(tmp_path: Path) -> None:
    sizes = {"/left/events": (64, 48), "/right/events": (96, 32)}
    with BagWriter(tmp_path / "bag") as writer:
        for name in sizes:
            writer.add_topic(name, EVENT_PACKET)
        for seq in range(40):
            for number, (name, (width, height)) in enumerate(sizes.items()):
                random = np.random.default_rng((seq, number))
                t = seq * 10_000_000 + np.sort(random.integers(0, 10_000, 200)) * 1000
                x, y = (random.integers(0, side, 200).astype("u2") for side in (width, height))
                events = EventBatch(x, y, t, (x % 2).astype("u1"), width, height)
                cdr = serialize_event_packet(
                    EventPacketView(
                        seq * 10_000_000, "", height, width, seq, 0, "evt2", False,
                        encode_evt2(events),
                    )
                )  # fmt: skip
                writer.write(name, 10**18 + seq * 10_000_000 + number, cdr)
    model = tmp_path / "any_size.onnx"
    student = tiny_checkpoint(tmp_path / "tiny.safetensors")
    export(student, model, ExportOptions((48, 64), dynamic=True))
    page = tmp_path / "page.html"
    command = ["report", str(tmp_path / "bag"), "--model", str(model), "--out", str(page)]
    command += ["--windows", "1", "--device", "cpu"]
    for name, (width, height) in sizes.items():
        result = CliRunner().invoke(app, [*command, "--events-topic", name])
        assert result.exit_code == 0, result.output
        encoded = re.findall(r"src='data:image/png;base64,([^']*)'", page.read_text())
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(encoded[0]), np.uint8), -1)
        assert picture is not None
        assert picture.shape[:2] == (320 * height // width, 320)
    error = CliRunner().invoke(app, command).exception
    assert isinstance(error, ScaleEventError)
    assert "2 event topics, name one: /left/events, /right/events" in str(error)


def test_the_student_is_the_shipped_one_by_default(
    model: Path, test_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "_FOLDER", model.parent)
    page = tmp_path / "page.html"
    bag = str(test_data / "bags" / "evt3_640x480")
    command = ["report", bag, "--out", str(page), "--windows", "1", "--device", "cpu"]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert "lite: vit_tiny_patch16_224" in page.read_text()


def test_a_page_that_cannot_be_written(model: Path, test_data: Path, tmp_path: Path) -> None:
    reader = BagReader(test_data / "bags" / "evt3_640x480")
    (tmp_path / "file").touch()
    with pytest.raises(ScaleEventError, match="cannot write the report"):
        write_film_strip(reader, model, tmp_path / "file" / "page.html", windows=1, device="cpu")
