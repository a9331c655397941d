"""The middleware's settings: large best-effort messages arrive, and a node says if they cannot."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from tiny_student import tiny_checkpoint

from scaleevent_ros.bags import BagReader
from scaleevent_ros.bags.messages import ImageView, serialize_image
from scaleevent_ros.nodes.transport import (
    OLD_PROFILE_VARIABLE,
    PROFILE_VARIABLE,
    large_messages_profile,
    profile_environment,
    transport_warning,
)

if TYPE_CHECKING:
    from ros_processes import Graph

RECORDER = "scaleevent_ros.nodes.recorder"


def test_best_effort_messages_of_4_mb_arrive(graph: Graph, tmp_path: Path) -> None:
    qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    images = graph.publisher(Image, "/image", qos)
    recorder = graph.start(RECORDER, parameters={"output_folder": str(tmp_path), "name": "bag"})
    graph.wait_for_subscriber(images)
    graph.spin_for(0.5)
    view = ImageView(0, "", 1000, 4000, "mono8", False, 4000, bytes(4_000_000))
    for number in range(40):
        images.publish(serialize_image(view._replace(frame_id=str(number))))
        time.sleep(0.03)
    graph.spin_for(0.5)
    assert recorder.interrupt() == 0
    numbers = [int(image.frame_id) for _, image in BagReader(tmp_path / "bag").images()]
    assert numbers == [*range(40)]


@pytest.mark.parametrize("module", [RECORDER, "scaleevent_ros.nodes.perception"])
def test_a_node_gives_the_shared_memory_back(graph: Graph, tmp_path: Path, module: str) -> None:
    def segments(process: int | str) -> set[Path]:
        """List the shared memory that a process maps; nodes of other tests come and go."""
        lines = Path(f"/proc/{process}/maps").read_text().splitlines()
        names = {Path(line.split()[-1]) for line in lines if " /dev/shm/fastdds_" in line}
        return {name for name in names if "port" not in name.name}

    model = tiny_checkpoint(tmp_path / "tiny.safetensors")
    parameters = {"output_folder": str(tmp_path)} if module == RECORDER else {"model": str(model)}
    node = graph.start(module, parameters=parameters)
    graph.spin_until(lambda: len(graph.node.get_node_names()) > 1, "the node")
    theirs = segments(node.process.pid) - segments("self")
    assert theirs
    assert all(path.exists() for path in theirs)
    assert node.interrupt() == 0
    assert not any(path.exists() for path in theirs)


def test_a_node_without_a_profile_warns(graph: Graph, tmp_path: Path) -> None:
    recorder = graph.start(
        RECORDER,
        parameters={"output_folder": str(tmp_path), "duration": 0.1},
        environment={PROFILE_VARIABLE: "", OLD_PROFILE_VARIABLE: ""},
    )
    assert recorder.wait() == 0
    assert f"={large_messages_profile()} in every process" in recorder.output


@pytest.mark.parametrize(
    ("distribution", "variable"),
    [
        ("humble", OLD_PROFILE_VARIABLE),
        ("jazzy", OLD_PROFILE_VARIABLE),
        ("kilted", PROFILE_VARIABLE),
        ("", PROFILE_VARIABLE),
    ],
)
def test_each_distribution_gets_the_variable_that_it_reads(
    monkeypatch: pytest.MonkeyPatch, distribution: str, variable: str
) -> None:
    monkeypatch.delenv(PROFILE_VARIABLE, raising=False)
    monkeypatch.delenv(OLD_PROFILE_VARIABLE, raising=False)
    monkeypatch.setenv("ROS_DISTRO", distribution)
    assert profile_environment() == {variable: str(large_messages_profile())}
    assert large_messages_profile().is_file()


def test_a_profile_of_ones_own_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROFILE_VARIABLE, "/mine.xml")
    assert profile_environment() == {}
    assert transport_warning() is None
