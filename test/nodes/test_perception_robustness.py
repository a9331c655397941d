"""The perception node under what happens to it: slow engines, defects, clocks, several cameras."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from running_perception import (
    DEFAULTS,
    MODULE,
    NODE,
    PACKET_NS,
    REMAPS,
    Camera,
    camera_for,
    change,
    said,
    set_parameter,
    stamp_ns,
    start,
    state,
    values,
)
from sensor_msgs.msg import Image
from tiny_student import tiny_checkpoint

from scaleevent_ros.events import warm_up

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ros_processes import Graph, NodeProcess

ANSWER_S = 0.5
OTHER = {"height": 96, "width": 200}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    warm_up()  # what is compiled here is cached for the nodes
    return tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny.safetensors")


def start_slowly(graph: Graph, model: Path, repository: Path, **environment: str) -> NodeProcess:
    path = os.pathsep.join([str(repository / "test" / "support"), graph.environment["PYTHONPATH"]])
    return graph.start(
        "slow_engine",
        parameters={**DEFAULTS, "model": str(model)},
        remaps=REMAPS,
        environment={"PYTHONPATH": path, **environment},
    )


def fastest(call: Callable[[], object]) -> float:
    """Return the least time of three calls, s: the machine may be busy with other things."""
    times = []
    for _ in range(3):
        begin = time.monotonic()
        call()
        times.append(time.monotonic() - begin)
    return min(times)


def test_the_node_answers_while_an_engine_is_built(
    graph: Graph, model: Path, repository: Path
) -> None:
    node = start_slowly(graph, model, repository, SLOW_ENGINE_S="300")
    diagnostics = graph.collect(DiagnosticArray, "/diagnostics")
    graph.spin_until(lambda: said(diagnostics, "building the engine for 160x128"), "the building")
    assert state(graph) == "configuring"
    assert fastest(lambda: state(graph)) < ANSWER_S
    assert fastest(lambda: set_parameter(graph, "rate", 20.0)) < ANSWER_S
    assert set_parameter(graph, "rate", 10.0) == (True, "")
    assert "while the node is configuring" in set_parameter(graph, "model", "other")[1]
    assert not change(graph, Transition.TRANSITION_ACTIVATE)
    assert fastest(lambda: change(graph, Transition.TRANSITION_ACTIVATE)) < ANSWER_S
    begin = time.monotonic()
    assert node.interrupt() == 0
    assert time.monotonic() - begin < 5 * ANSWER_S  # most of it by the middleware, to leave
    assert "Traceback" not in node.output


def test_a_camera_that_changes_restarts_and_pauses_while_an_engine_is_built(
    graph: Graph, model: Path, repository: Path
) -> None:
    node = start_slowly(graph, model, repository, SLOW_ENGINE_S="3")
    activity = graph.collect(Image, f"{NODE}/activity")
    diagnostics = graph.collect(DiagnosticArray, "/diagnostics")
    camera = camera_for(graph)
    camera.play_until(lambda: activity, "the first result")
    camera.play_until(lambda: said(diagnostics, "the geometry changes"), "the change", **OTHER)
    camera.seq = 0  # the driver starts again ...
    camera.play(20, **OTHER)
    graph.spin_for(1.2)  # ... and is silent for a while
    camera.play_until(lambda: activity[-1].width == 13, "results of the other geometry", **OTHER)
    # It changes back, and the node is deactivated before the engine is there.
    diagnostics.clear()
    camera.play_until(lambda: said(diagnostics, "200x96 to 160x128"), "the change back")
    assert change(graph, Transition.TRANSITION_DEACTIVATE)
    activity.clear()
    graph.spin_until(lambda: node.output.count("for 160x128 on cpu") == 2, "the engine")
    graph.spin_for(0.3)
    assert state(graph) == "inactive"
    assert change(graph, Transition.TRANSITION_ACTIVATE)
    camera.play_until(lambda: activity and activity[-1].width == 10, "results")
    assert node.interrupt() == 0
    assert "Traceback" not in node.output


def test_a_defect_while_configuring_is_reported(
    graph: Graph, model: Path, repository: Path
) -> None:
    node = start_slowly(graph, model, repository, BROKEN_ENGINE="1")
    node.wait_for_output("cannot configure: AttributeError: an injected defect")
    diagnostics = graph.collect(DiagnosticArray, "/diagnostics")
    graph.spin_until(lambda: said(diagnostics, "AttributeError: an injected defect"), "the error")
    (status,) = diagnostics[-1].status
    assert (status.name, status.level) == (NODE, DiagnosticStatus.ERROR)
    assert state(graph) == "unconfigured"
    assert change(graph, Transition.TRANSITION_CONFIGURE)
    diagnostics.clear()
    graph.spin_until(lambda: diagnostics, "diagnostics")
    assert diagnostics[-1].status[0].level == DiagnosticStatus.OK
    assert node.terminate() == 0


def test_stamps_follow_a_recording_in_a_loop(graph: Graph, model: Path) -> None:
    """No timer of the node may depend on a clock that is not published."""
    node = start(graph, model, trigger="count", count=2000, use_sim_time=True)
    activity = graph.collect(Image, f"{NODE}/activity")
    diagnostics = graph.collect(DiagnosticArray, "/diagnostics")
    camera = camera_for(graph)
    camera.play_until(lambda: activity, "the first result")
    begin_ns = camera.start_ns + camera.seq * PACKET_NS
    first = camera.seq
    for _ in range(3):
        camera.seq = first
        activity.clear()
        camera.play(200)
        graph.spin_for(0.3)
        stamps = [stamp_ns(message) for message in activity]
        # What was still to be published when the loop began again is of the loop before.
        while stamps and stamps[0] > begin_ns + 300 * 10**6:
            stamps.pop(0)
        assert len(set(stamps)) > 10
        assert stamps == sorted(stamps)
        assert begin_ns <= stamps[0] < stamps[-1] <= begin_ns + 1001 * 10**6
    reports = [status.message for each in diagnostics for status in each.status]
    assert sum("a new epoch begins" in message for message in reports) == 2
    assert node.interrupt() == 0


def test_cameras_are_found_and_named(graph: Graph, model: Path) -> None:
    node = graph.start(MODULE, parameters={**DEFAULTS, "model": str(model), "trigger": "packet"})
    activity = graph.collect(Image, f"{NODE}/activity")
    diagnostics = graph.collect(DiagnosticArray, "/diagnostics")
    node.wait_for_output(
        "no event packet on /event_camera/events for 3 s; topics of EventPacket: none"
    )
    assert graph.node.count_subscribers("/event_camera/events") == 1
    other, camera = Camera(graph, "/b/events"), Camera(graph, "/a/events")
    graph.wait_for_subscriber(camera.output)
    graph.spin_for(0.3)
    assert "several topics of event packets: /a/events, /b/events; using /a/events" in node.output
    camera.play_until(lambda: activity, "results")
    assert other.output.get_subscription_count() == 0
    camera.play_until(lambda: values(diagnostics)["events_topic"] == "/a/events", "the topic")
    camera.play_until(lambda: diagnostics[-1].status[0].hardware_id == "camera", "the camera")
    # A second driver publishes on the same topic: one warning that names them, and no flood.
    second = Camera(graph, "/a/events")
    second.seq = 10_000
    graph.wait_for_subscriber(second.output)
    begin = time.monotonic()
    while time.monotonic() < begin + 4:
        camera.play(1)
        second.play(1)
    graph.spin_until(
        lambda: "/a/events has 2 publishers (/test); one is expected" in node.output, "the warning"
    )
    seconds = time.monotonic() - begin
    assert 1 <= node.output.count("seq steps back") <= seconds + 2
    assert node.output.count("has 2 publishers") == 1
    assert node.interrupt() == 0


def test_what_readers_cannot_read_is_refused(graph: Graph, tmp_path: Path) -> None:
    # A cv_bridge that was compiled against another numpy raises when it is imported.
    broken = tmp_path / "cv_bridge"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('numpy.core.multiarray')")
    wide = tiny_checkpoint(tmp_path / "wide.safetensors", width=576)
    path = os.pathsep.join([str(tmp_path), graph.environment["PYTHONPATH"]])
    node = graph.start(
        MODULE,
        parameters={**DEFAULTS, "model": str(wide), "width": 640, "height": 480},
        environment={"PYTHONPATH": path},
    )
    node.wait_for_output("would have 576 channels")
    assert "set features_channels to 512 or less" in node.output
    graph.spin_until(lambda: state(graph) == "unconfigured", "the refusal")
    assert set_parameter(graph, "features_channels", 512)[0]
    assert set_parameter(graph, "features_resolution", "pixel")[0]
    assert not change(graph, Transition.TRANSITION_CONFIGURE)
    # 512 channels of 4 bytes for 640x480 pixels are 629 MB; 52 channels are 63.9 MB.
    assert "would have 629 MB" in node.output
    assert "set features_resolution to patch, or features_channels to 52 or less" in node.output
    assert set_parameter(graph, "features_channels", 52)[0]
    assert change(graph, Transition.TRANSITION_CONFIGURE)
    done, reason = set_parameter(graph, "features_channels", 53)
    assert not done
    assert "features_channels to 52 or less" in reason
    assert node.interrupt() == 0


def test_a_student_that_does_not_ship_is_named(graph: Graph) -> None:
    node = graph.start(MODULE, parameters={"model": "litte"})
    node.wait_for_output(
        "cannot configure: there is no model 'litte': neither a file, nor one of lite, small"
    )
    assert state(graph) == "unconfigured"
    assert node.terminate() == 0
