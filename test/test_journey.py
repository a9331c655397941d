"""The journey from photographs to a robot's topics, small: the demo with its quick settings."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="publishing on topics needs rclpy")

from labelled_pictures import write_labelled

from scaleevent_ros.bags import BagReader
from scaleevent_ros.bags.images import image_array
from scaleevent_ros.bags.messages import parse_image, parse_message
from scaleevent_ros.models import load_student

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

# About a minute and a half on two idle cores, all of it in the first test; patient with busy ones.
pytestmark = pytest.mark.timeout(1200)

REPOSITORY = Path(__file__).resolve().parent.parent
NODE = "/scaleevent_perception"
STAGES = (
    "1-photographs",
    "2-shipped",
    "3-simulated",
    "4-recorded",
    "5-checked",
    "6-pretrained",
    "7-finetuned",
    "8-perceived",
    "9-reported",
)


def demo(output: Path, data: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.demo", "--quick"]
    command += ["--output", str(output), "--data", str(data)]
    search = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        text=True,
        timeout=1100,
        check=False,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled pictures where the demo looks for CamVid's, and no recordings."""
    folder = tmp_path_factory.mktemp("data")
    for split, count in (("train", 4), ("val", 2)):
        written = write_labelled(folder / "written" / split, count, (128, 96))
        (folder / "camvid" / split).mkdir(parents=True)
        shutil.move(written / "pictures", folder / "camvid" / split / "images")
        (folder / "camvid" / split / "labels").mkdir()
        for path in (written / "labels").iterdir():
            ids = np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
            ids[ids == 255] = 11  # CamVid's void
            cv2.imwrite(str(folder / "camvid" / split / "labels" / path.name), ids)
    return folder


@pytest.fixture(scope="module")
def journey(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run the demo once; return its folder and its output."""
    output = tmp_path_factory.mktemp("journey") / "output"
    done = demo(output, data)
    assert done.returncode == 0, done.stdout + done.stderr
    return output, done.stdout


def messages(reader: BagReader, topic: str) -> Iterator[Any]:
    for message in reader.messages([topic]):
        yield parse_message(message.data, reader.topics[topic].msgtype)


def images(reader: BagReader, topic: str) -> list[NDArray[Any]]:
    return [image_array(parse_image(message.data)) for message in reader.messages([topic])]


def test_every_stage_says_what_it_does_and_how_long_it_takes(journey: tuple[Path, str]) -> None:
    output, said = journey
    lines = said.strip().splitlines()
    assert [line.split("]")[0].strip("[") for line in lines if line.startswith("[")] == [*STAGES]
    assert sum(line.startswith("    took ") for line in lines) == len(STAGES)
    assert lines[-1] == str(output / "9-reported" / "report.html")


def test_the_shipped_student_is_looked_at_first(journey: tuple[Path, str]) -> None:
    output, said = journey
    page = (output / "2-shipped" / "report.html").read_text()
    assert said.index("2-shipped/report.html") < said.index("3-simulated")
    for word in ("lite: ", "192 channels", "principal components", "segmentation", "sky"):
        assert word in page, word
    assert page.count("data:image/") >= 4


def test_what_was_published_is_what_was_recorded(journey: tuple[Path, str]) -> None:
    output, _ = journey
    sent = BagReader(output / "3-simulated" / "photographs")
    kept = BagReader(output / "4-recorded" / "photographs")
    for topic, info in sent.topics.items():
        assert kept.topics[topic].count == info.count, topic
    payloads = [
        b"".join(bytes(packet.payload) for _, packet in bag.events()) for bag in (sent, kept)
    ]
    assert payloads[0] == payloads[1]


def test_the_student_of_the_run_has_a_head(journey: tuple[Path, str]) -> None:
    output, _ = journey
    student = load_student(output / "7-finetuned" / "run" / "best.safetensors")
    assert str(student.header.teacher).startswith("tf_efficientnet_lite0")
    assert "segmentation" in student.header.heads
    assert student.header.bins == 5 + len(student.header.leaky) == 8


def test_what_the_node_published_was_recorded(journey: tuple[Path, str]) -> None:
    output, _ = journey
    events = BagReader(output / "4-recorded" / "photographs")
    seen = BagReader(output / "8-perceived" / "photographs")
    assert seen.topics["/event_camera/events"].count == events.topics["/event_camera/events"].count
    features = images(seen, f"{NODE}/features")
    assert len(features) >= 5
    width = load_student(output / "7-finetuned" / "run" / "best.safetensors").width
    assert {each.shape for each in features} == {(6, 8, width)}
    assert all(np.isfinite(each).all() and each.std() > 0 for each in features)
    classes = images(seen, f"{NODE}/segmentation")
    assert {each.shape for each in classes} == {(96, 128)}
    assert max(int(each.max()) for each in classes) < 11
    names = [each.class_name for each in next(messages(seen, f"{NODE}/label_info")).class_map]
    assert names[:2] == ["sky", "building"]
    stamps = [stamp for stamp, _ in seen.images(f"{NODE}/features")]
    assert stamps == sorted(set(stamps))
    times = [message.data for message in messages(seen, f"{NODE}/debug/inference_ms")]
    assert len(times) >= len(features)
    assert min(times) > 0


def test_one_page_shows_all_of_it(journey: tuple[Path, str]) -> None:
    output, _ = journey
    page = (output / "9-reported" / "report.html").read_text()
    assert "src='http" not in page
    assert page.count("<svg") >= 3  # losses of two runs, and the recording over time
    for word in (
        "events", "frame", "features pca", "similarity", "segmentation color", "sky",
        "teacher and student", "training loss", "window age", "windows skipped", *STAGES[:-1],
    ):  # fmt: skip
        assert word in page, word
    assert page.count("data:image/") > 20


def test_a_second_run_does_nothing_again(journey: tuple[Path, str], data: Path) -> None:
    output, _ = journey
    marks = {name: (output / name / "stage.json").read_bytes() for name in STAGES}
    done = demo(output, data)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done before") == len(STAGES)
    assert done.stdout.strip().splitlines()[-1] == str(output / "9-reported" / "report.html")
    assert marks == {name: (output / name / "stage.json").read_bytes() for name in STAGES}


def test_a_stage_that_fails_says_which_and_the_next_run_goes_on(
    journey: tuple[Path, str], data: Path
) -> None:
    output, _ = journey
    bag = output / "4-recorded" / "photographs"
    bag.rename(bag.with_name("hidden"))
    mark = output / "5-checked" / "stage.json"
    mark.write_text(json.dumps({"made_from": json.loads(mark.read_text())["made_from"]}))
    failed = demo(output, data)
    assert failed.returncode == 1
    assert "stage 5-checked failed: photographs ended with 2" in failed.stderr
    assert f"there is no bag at {bag}" in failed.stderr
    bag.with_name("hidden").rename(bag)
    assert demo(output, data).returncode == 0
