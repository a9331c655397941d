"""`scaleevent info | check | recover`, as a user runs them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import yaml
from bag_files import example_messages, write_bag
from command_line import scaleevent
from moving_scene import Rig, write_scene

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("commands") / "scene"
    write_scene(path, Rig())
    return path


def test_info_of_a_real_bag(test_data: Path) -> None:
    done = scaleevent("info", test_data / "bags/evt3_640x480", "--json", "--count")
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert content["topics"]["/event_camera/events"]["count"] == 517
    assert content["duration_s"] == pytest.approx(2.076, abs=1e-3)
    events = content["event_topics"]["/event_camera/events"]
    assert (events["events"], events["off"], events["on"]) == (343_474, 218_291, 125_183)
    assert (events["triggers"], events["lost_packets"]) == ({"6": 4157}, 0)


def test_info_draws_pictures(test_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    done = scaleevent("info", test_data / "bags/evt3_640x480", "--pictures", folder)
    assert done.returncode == 0, done.stderr
    names = {path.name for path in folder.iterdir()}
    for moment in (25, 50, 75):
        picture = cv2.imread(str(folder / f"event_camera_events_{moment}_events.png"))
        assert picture is not None
        assert picture.shape == (480, 640, 3)
        assert picture.std() > 1
        assert f"event_camera_events_{moment}_voxel.png" in names


def test_info_of_a_bag_without_storage_identifier(test_data: Path) -> None:
    done = scaleevent("info", test_data / "bags/libcaer_cmp_346x260", "--count")
    assert done.returncode == 0, done.stderr
    assert "libcaer_cmp 346x260" in done.stdout
    assert "571,266 events" in done.stdout


def test_check_writes_a_report_and_says_by_its_exit_code_what_it_found(
    scene: Path, tmp_path: Path
) -> None:
    done = scaleevent("check", scene, "--html", tmp_path / "report.html")
    assert done.returncode == 0, done.stderr
    assert "usable pairs" in done.stdout
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert json.loads((tmp_path / "report.json").read_text())["ok"] is True


def test_check_fails_on_a_bag_that_cannot_be_used(test_data: Path) -> None:
    done = scaleevent("check", test_data / "bags/evt3_640x480", "--json")
    assert done.returncode == 1, done.stderr
    assert "no image topic" in json.loads(done.stdout)["problems"][0]


def test_recover_restores_a_torn_bag(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", example_messages())
    file = bag / "bag.mcap"
    file.write_bytes(file.read_bytes()[:-3000])
    done = scaleevent("recover", bag)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("bag_recovered")
    assert "bag.mcap: " in done.stdout
    assert scaleevent("info", tmp_path / "bag_recovered").returncode == 0
    assert scaleevent("recover", bag).returncode == 2


def test_humble_reads_what_simulate_and_recover_write(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "scene.png"), np.random.default_rng(0).integers(0, 255, (60, 80, 3)))
    film = ("--still", "--frames", 2, "--size", "64x48", "--no-flow")
    done = scaleevent("simulate", tmp_path / "scene.png", tmp_path / "bag", *film, "--humble")
    assert done.returncode == 0, done.stderr
    for extra in ((), ("--humble",)):
        done = scaleevent("recover", tmp_path / "bag", "--output", tmp_path / f"{extra}", *extra)
        assert done.returncode == 0, done.stderr
        (metadata,) = yaml.safe_load((tmp_path / f"{extra}" / "metadata.yaml").read_text()).values()
        assert metadata["version"] == 8
        assert metadata["custom_data"]["clock_method"] == "sensor_time"


@pytest.mark.parametrize("command", ["info", "check", "recover"])
def test_what_is_no_bag_is_one_line_and_exit_code_2(command: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    done = scaleevent(command, tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("scaleevent: ")
    assert done.stderr.count("\n") == 1
    assert "is not a bag" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
