"""The recorder as a process, real publishers over real DDS, and every message counted."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from event_camera_msgs.msg import EventPacket
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from ros_processes import NodeProcess
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Imu
from std_srvs.srv import Trigger

from scaleevent_ros.bags import BagReader
from scaleevent_ros.bags.messages import (
    EventPacketView,
    ImageView,
    parse_event_packet,
    serialize_event_packet,
    serialize_image,
)

if TYPE_CHECKING:
    from pathlib import Path

    from ros_processes import Graph

MODULE = "scaleevent_ros.nodes.recorder"
NODE = "/scaleevent_recorder"
BEST_EFFORT = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
RELIABLE = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)


def packet(seq: int, *, width: int = 640, size: int = 1000) -> bytes:
    return serialize_event_packet(
        EventPacketView(
            time.time_ns(), "events", 480, width, seq, 10**9 + seq * 10**6, "libcaer", False,
            bytes(size),
        )
    )  # fmt: skip


def image(number: int) -> bytes:
    return serialize_image(
        ImageView(time.time_ns(), str(number), 480, 640, "mono8", False, 640, bytes(480 * 640))
    )


def start(graph: Graph, folder: Path, **parameters: object) -> NodeProcess:
    return graph.start(
        MODULE, parameters={"output_folder": str(folder), "name": "bag", **parameters}
    )


def settle(graph: Graph, *publishers: Any) -> None:
    """Wait until publishers and subscriptions have found each other, on both sides."""
    for publisher in publishers:
        graph.wait_for_subscriber(publisher)
    graph.spin_for(0.3)


def stored(bag: Path, topic: str) -> list[bytes]:
    return [bytes(message.data) for message in BagReader(bag).messages([topic])]


def stored_seqs(bag: Path, topic: str = "/events") -> list[int]:
    return [parse_event_packet(data).seq for data in stored(bag, topic)]


def latest_values(statuses: list[DiagnosticStatus]) -> dict[str, str]:
    return {item.key: item.value for item in statuses[-1].values} if statuses else {}


def test_records_every_type_as_it_was_published(graph: Graph, tmp_path: Path) -> None:
    events = graph.publisher(EventPacket, "/events", BEST_EFFORT)
    images = graph.publisher(Image, "/image", RELIABLE)
    compressed = graph.publisher(CompressedImage, "/image/compressed", BEST_EFFORT)
    info = graph.publisher(CameraInfo, "/camera_info", LATCHED)
    imu = graph.publisher(Imu, "/imu", BEST_EFFORT)
    graph.publisher(DiagnosticStatus, "/other", RELIABLE).publish(DiagnosticStatus())
    info.publish(CameraInfo(width=640, height=480))
    recorder = start(graph, tmp_path)
    settle(graph, events, images, compressed, info, imu)
    sent: dict[str, list[bytes]] = {name: [] for name in ("/events", "/image", "/imu")}
    for number in range(20):
        for topic, publisher, message in (
            ("/events", events, packet(number)),
            ("/image", images, image(number)),
            ("/imu", imu, serialize_message(Imu(orientation_covariance=[float(number)] * 9))),
        ):
            publisher.publish(message)
            sent[topic].append(message)
    compressed.publish(CompressedImage(format="jpeg", data=b"abc"))
    graph.spin_for(0.3)
    assert recorder.interrupt() == 0
    bag = tmp_path / "bag"
    reader = BagReader(bag)
    assert not reader.damage
    assert {name: info.count for name, info in reader.topics.items()} == {
        "/events": 20, "/image": 20, "/imu": 20, "/image/compressed": 1, "/camera_info": 1,
    }  # fmt: skip
    for topic, messages in sent.items():
        assert stored(bag, topic) == messages
    qos = {name: info.qos for name, info in reader.topics.items()}
    assert qos["/events"] is not None
    assert qos["/events"].reliability == "best_effort"
    assert qos["/camera_info"] is not None
    assert qos["/camera_info"].durability == "transient_local"
    assert "closed" in recorder.output


def test_topics_by_name_may_appear_late_vanish_return_and_change(
    graph: Graph, tmp_path: Path
) -> None:
    other = graph.publisher(EventPacket, "/other", RELIABLE)
    recorder = start(graph, tmp_path, topics=["/events"])
    statuses = graph.collect(DiagnosticStatus, f"{NODE}/status")
    graph.spin_until(lambda: statuses and "waits for /events" in statuses[-1].message, "waiting")
    # It appears late …
    events = graph.publisher(EventPacket, "/events", RELIABLE)
    settle(graph, events)
    for seq in range(10):
        events.publish(packet(seq))
    graph.spin_until(lambda: latest_values(statuses).get("/events messages") == "10", "10 messages")
    # … vanishes …
    graph.node.destroy_publisher(events)
    topics = graph.collect(DiagnosticArray, "/diagnostics")
    graph.spin_until(
        lambda: any(
            status.message == "the publisher is gone"
            for array in topics[-1:]
            for status in array.status
        ),
        "the report that the publisher vanished",
    )
    # … and returns with a weaker QoS, which the old subscription could not receive, and another
    # geometry.
    events = graph.publisher(EventPacket, "/events", BEST_EFFORT)
    settle(graph, events)
    for seq in range(10):
        events.publish(packet(seq, width=1280))
    other.publish(packet(0))
    graph.spin_until(lambda: latest_values(statuses).get("/events messages") == "20", "20 messages")
    assert latest_values(statuses)["/events geometry"] == "1280x480"
    assert recorder.terminate() == 0
    assert list(BagReader(tmp_path / "bag").topics) == ["/events"]
    assert stored_seqs(tmp_path / "bag") == [*range(10), *range(10)]
    assert "(640, 480) to (1280, 480)" in recorder.output


def test_excluded_topics_are_left_out(graph: Graph, tmp_path: Path) -> None:
    image_topic = graph.publisher(Image, "/image", RELIABLE)
    overlay = graph.publisher(Image, "/perception/overlay", RELIABLE)
    recorder = start(graph, tmp_path, exclude="/perception/")
    settle(graph, image_topic)
    assert overlay.get_subscription_count() == 0
    assert recorder.interrupt() == 0
    assert list(BagReader(tmp_path / "bag").topics) == ["/image"]


def test_services_split_stop_and_start(graph: Graph, tmp_path: Path) -> None:
    events = graph.publisher(EventPacket, "/events", BEST_EFFORT)
    info = graph.publisher(CameraInfo, "/camera_info", LATCHED)
    info.publish(CameraInfo(width=640))
    recorder = start(graph, tmp_path)
    settle(graph, events, info)

    def call(name: str) -> Any:
        return graph.call(Trigger, f"{NODE}/{name}")

    def publish(first: int) -> None:
        for seq in range(first, first + 10):
            events.publish(packet(seq))
        graph.spin_for(0.3)

    publish(0)
    assert call("split").success
    publish(10)
    assert not call("start").success
    stopped = call("stop")
    assert stopped.success
    assert "21 messages" in stopped.message
    publish(20)
    assert not call("stop").success
    assert not call("split").success
    started = call("start")
    assert started.success
    assert str(tmp_path / "bag_2") in started.message
    publish(30)
    assert recorder.interrupt() == 0
    assert len(list((tmp_path / "bag").glob("*.mcap"))) == 2
    assert stored_seqs(tmp_path / "bag") == [*range(20)]
    assert stored_seqs(tmp_path / "bag_2") == [*range(30, 40)]
    # What was latched before the second bag was opened is in it too.
    for bag in ("bag", "bag_2"):
        assert len(stored(tmp_path / bag, "/camera_info")) == 1


def test_files_rotate_by_size(graph: Graph, tmp_path: Path) -> None:
    events = graph.publisher(EventPacket, "/events", RELIABLE)
    recorder = start(graph, tmp_path, max_file_size=1, compression="lz4", distribution="humble")
    settle(graph, events)
    rng = os.urandom(100_000)
    for seq in range(40):
        view = parse_event_packet(packet(seq))
        events.publish(serialize_event_packet(view._replace(payload=rng)))
    graph.spin_for(0.5)
    assert recorder.interrupt() == 0
    assert len(list((tmp_path / "bag").glob("*.mcap"))) >= 4
    assert stored_seqs(tmp_path / "bag") == [*range(40)]


def test_the_lifecycle_waits_where_told_to(graph: Graph, tmp_path: Path) -> None:
    events = graph.publisher(EventPacket, "/events", BEST_EFFORT)
    recorder = start(graph, tmp_path, autostart=False)

    def state() -> str:
        return str(graph.call(GetState, f"{NODE}/get_state").current_state.label)

    def change(transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return bool(graph.call(ChangeState, f"{NODE}/change_state", request).success)

    assert state() == "unconfigured"
    assert change(Transition.TRANSITION_CONFIGURE)
    assert state() == "inactive"
    assert not list(tmp_path.iterdir())
    assert change(Transition.TRANSITION_ACTIVATE)
    settle(graph, events)
    events.publish(packet(0))
    graph.spin_for(0.3)
    assert change(Transition.TRANSITION_DEACTIVATE)
    assert state() == "inactive"
    assert stored_seqs(tmp_path / "bag") == [0]
    # The service takes the way through the transitions by itself.
    assert change(Transition.TRANSITION_CLEANUP)
    assert graph.call(Trigger, f"{NODE}/start").success
    assert state() == "active"
    assert (tmp_path / "bag_2").is_dir()
    assert change(Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert recorder.wait() == 0


def test_status_and_diagnostics(graph: Graph, tmp_path: Path) -> None:
    events = graph.publisher(EventPacket, "/events", BEST_EFFORT)
    recorder = start(graph, tmp_path)
    settle(graph, events)
    statuses = graph.collect(DiagnosticStatus, f"{NODE}/status")
    arrays = graph.collect(DiagnosticArray, "/diagnostics")
    seq = 0
    for seq in range(250):
        if not 100 <= seq < 107:
            events.publish(packet(seq))
        graph.spin_for(0.01)
    graph.spin_until(lambda: latest_values(statuses).get("/events messages") == "243", "243")
    level = statuses[-1].level
    assert level == DiagnosticStatus.WARN
    assert "7 missing by seq" in statuses[-1].message
    assert statuses[-1].hardware_id == "events"  # the frame of the packets, not the topic
    values = latest_values(statuses)
    assert values["state"] == "active"
    assert values["lost_by_seq"] == values["/events lost_by_seq"] == "7"
    assert float(values["free_space_mb"]) > 0
    topic = next(status for status in arrays[-1].status if status.name.endswith(": /events"))
    assert topic.hardware_id == "events"
    figures = {item.key: item.value for item in topic.values}
    assert figures["type"] == "event_camera_msgs/msg/EventPacket"
    assert (figures["reliability"], figures["publishers"]) == ("best_effort", "1")
    assert figures["dropped_by_queue"] == figures["queue_depth"] == "0"
    rates = [
        {item.key: item.value for item in status.values}
        for array in arrays
        for status in array.status
        if status.name.endswith(": /events")
    ]
    busiest = max(rates, key=lambda rate: float(rate["rate_hz"]))
    # 1000 bytes of events in each message; the header adds to the bandwidth.
    assert float(busiest["bandwidth_mb_s"]) > float(busiest["rate_hz"]) * 1000e-6
    assert recorder.interrupt() == 0


def test_kill_in_the_middle_loses_at_most_a_second(graph: Graph, tmp_path: Path) -> None:
    events = graph.publisher(EventPacket, "/events", BEST_EFFORT)
    images = graph.publisher(Image, "/image", BEST_EFFORT)
    recorder = start(graph, tmp_path)
    settle(graph, events, images)
    sent_at: dict[str, list[float]] = {"/events": [], "/image": []}
    begin = time.monotonic()
    for number in range(200):
        events.publish(packet(number, size=20_000))
        sent_at["/events"].append(time.monotonic())
        if number % 5 == 0:
            images.publish(image(number // 5))
            sent_at["/image"].append(time.monotonic())
        graph.spin_for(max(0.0, begin + (number + 1) / 100 - time.monotonic()))
    recorder.kill()
    killed_at = time.monotonic()
    seqs = stored_seqs(tmp_path / "bag")
    numbers = [int(image.frame_id) for _, image in BagReader(tmp_path / "bag").images()]
    for topic, found in (("/events", seqs), ("/image", numbers)):
        older = sum(sent < killed_at - 1.0 for sent in sent_at[topic])
        assert older >= len(sent_at[topic]) // 3
        assert found == [*range(len(found))]
        assert len(found) >= older
    # The next start minds nothing.
    again = start(graph, tmp_path)
    again.wait_for_output("bag_2")
    assert again.interrupt() == 0


def test_stops_when_little_space_is_left(graph: Graph, tmp_path: Path) -> None:
    events = graph.publisher(EventPacket, "/events", RELIABLE)
    least = shutil.disk_usage(tmp_path).free / 1e6 - 400
    recorder = start(graph, tmp_path, min_free_space=least)
    settle(graph, events)
    events.publish(packet(0))
    graph.spin_for(0.3)
    statuses = graph.collect(DiagnosticStatus, f"{NODE}/status")
    filler = tmp_path / "filler"
    try:
        with filler.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, 800_000_000)
        graph.spin_until(
            lambda: statuses and "min_free_space" in statuses[-1].message, "the stop", 10
        )
        assert statuses[-1].level == DiagnosticStatus.ERROR
        assert not BagReader(tmp_path / "bag").damage
        assert stored_seqs(tmp_path / "bag") == [0]
        refused = graph.call(Trigger, f"{NODE}/start")
        assert not refused.success
        assert "free disk space" in refused.message
    finally:
        filler.unlink()
    assert graph.call(Trigger, f"{NODE}/start").success
    assert recorder.interrupt() == 0


def test_a_disk_that_refuses_ends_the_recording_and_not_the_node(
    graph: Graph, tmp_path: Path
) -> None:
    images = graph.publisher(Image, "/image", RELIABLE)
    recorder = start(graph, tmp_path)
    settle(graph, images)
    # From now on, no file of that process may grow beyond 2 MB.
    limit = 2_000_000
    resource.prlimit(recorder.process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    statuses = graph.collect(DiagnosticStatus, f"{NODE}/status")
    for number in range(10):
        images.publish(image(number))
    graph.spin_until(
        lambda: statuses and statuses[-1].level == DiagnosticStatus.ERROR, "the error", 10
    )
    assert "/bag" in statuses[-1].message
    assert "4 dropped" in statuses[-1].message
    numbers = [int(image.frame_id) for _, image in BagReader(tmp_path / "bag").images()]
    assert numbers == [*range(6)]
    assert graph.call(Trigger, f"{NODE}/start").success
    images.publish(image(10))
    graph.spin_for(0.3)
    assert recorder.interrupt() == 0
    assert len(stored(tmp_path / "bag_2", "/image")) == 1


def test_it_does_without_numba() -> None:
    # 80 MB at its import, and more when it compiles.
    program = f"import sys, {MODULE}; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_two_cameras_on_a_topic_flood_no_log_and_sighup_closes_the_bag(
    graph: Graph, tmp_path: Path
) -> None:
    events = graph.publisher(EventPacket, "/events", RELIABLE)
    # Tests that were started by nohup ignore it, and so would what they start.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    recorder = start(graph, tmp_path)
    signal.signal(signal.SIGHUP, before)
    settle(graph, events)
    begin = time.monotonic()
    for seq in range(300):
        events.publish(packet(seq, width=640 if seq % 2 else 320))
        graph.spin_for(0.01)
    seconds = time.monotonic() - begin
    assert 1 <= recorder.output.count("changes from") <= seconds + 1
    recorder.process.send_signal(signal.SIGHUP)
    assert recorder.wait() == 0
    assert not BagReader(tmp_path / "bag").damage
    assert stored_seqs(tmp_path / "bag") == [*range(300)]


def test_ends_by_sigint_where_a_shell_has_it_ignored(graph: Graph, tmp_path: Path) -> None:
    events = graph.publisher(EventPacket, "/events", RELIABLE)
    command = f"{sys.executable} -m {MODULE} --ros-args -p output_folder:={tmp_path} -p name:=bag"
    shell = NodeProcess(
        ["sh", "-c", f"{command} & echo $! > {tmp_path}/pid; wait $!"],
        graph.environment,
        tmp_path / "log",
    )
    settle(graph, events)
    events.publish(packet(0))
    graph.spin_for(0.3)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGINT)
    assert shell.wait() == 0
    assert "Traceback" not in shell.output
    assert not BagReader(tmp_path / "bag").damage
    assert stored_seqs(tmp_path / "bag") == [0]


def test_outputs_of_perception_are_left_out(graph: Graph, tmp_path: Path) -> None:
    # A perception node by another name, in a namespace; and a camera with a topic of such a name.
    eye = Node("eye", namespace="/robot1", context=graph.node.context)
    outputs = [eye.create_publisher(Image, f"~/{name}", 10) for name in ("features_pca", "overlay")]
    camera = graph.publisher(Image, "/camera/overlay", RELIABLE)
    recorder = start(graph, tmp_path)
    settle(graph, camera)
    assert not any(output.get_subscription_count() for output in outputs)
    recorder.wait_for_output("/robot1/eye/overlay is not recorded: it is an output of")
    assert recorder.interrupt() == 0
    named = start(graph, tmp_path, topics=["/robot1/eye/overlay"])
    settle(graph, outputs[1])
    assert named.interrupt() == 0
    eye.destroy_node()


def test_simulated_time_is_waited_for(graph: Graph, tmp_path: Path) -> None:
    info = graph.publisher(CameraInfo, "/camera_info", LATCHED)
    info.publish(CameraInfo(width=640))
    events = graph.publisher(EventPacket, "/events", RELIABLE)
    recorder = start(graph, tmp_path, use_sim_time=True)
    statuses = graph.collect(DiagnosticStatus, f"{NODE}/status")
    settle(graph, events, info)
    events.publish(packet(0))
    graph.spin_until(lambda: statuses and "waits for /clock" in statuses[-1].message, "waiting")
    clock = graph.publisher(Clock, "/clock", 10)
    graph.wait_for_subscriber(clock)
    for _ in range(10):
        clock.publish(Clock(clock=Time(sec=1000)))
        graph.spin_for(0.1)
    events.publish(packet(1))
    graph.spin_for(0.3)
    assert recorder.interrupt() == 0
    assert [
        (message.topic, message.record_time_ns)
        for message in BagReader(tmp_path / "bag").messages()
    ] == [("/camera_info", 1000 * 10**9), ("/events", 1000 * 10**9)]


@pytest.mark.parametrize("home", ["", "/dev/null"])
def test_a_home_that_cannot_be_written_to_is_no_error(
    graph: Graph, tmp_path: Path, home: str
) -> None:
    recorder = graph.start(
        MODULE,
        parameters={"output_folder": str(tmp_path), "name": "bag"},
        environment={"HOME": home},
    )
    recorder.wait_for_output("recording to")
    assert recorder.interrupt() == 0
    assert recorder.output.count("cannot write log files") == 1
    assert "Traceback" not in recorder.output


def test_ends_after_its_duration(graph: Graph, tmp_path: Path) -> None:
    recorder = start(graph, tmp_path, duration=1)
    assert recorder.wait() == 0
    assert BagReader(tmp_path / "bag").topics == {}
    assert "no message was received" in recorder.output


def test_says_at_the_end_which_topics_never_appeared(graph: Graph, tmp_path: Path) -> None:
    recorder = start(graph, tmp_path, duration=1, topics=["/wrong"])
    assert recorder.wait() == 0
    assert "never appeared: /wrong" in recorder.output


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"compression": "rar"}, "parameter 'compression' is 'rar', not one of none, "),
        ({"qos_depth": 0}, "parameter 'qos_depth' is 0, outside its limits: At least 1"),
        ({"topics": ["/a b"]}, "parameter 'topics': Invalid topic name"),
        ({"exclude": "("}, "parameter 'exclude' is not a regular expression"),
        ({"name": "a/b"}, "parameter 'name' gives 'a/b'"),
        ({"min_free_space": 1e12}, "less than min_free_space"),
        ({"output_folder": "/dev/null/bags"}, "output_folder /dev/null/bags cannot be created"),
    ],
)
def test_a_wrong_parameter_is_one_clear_line(
    graph: Graph, tmp_path: Path, parameters: dict[str, object], said: str
) -> None:
    recorder = graph.start(MODULE, parameters={"output_folder": str(tmp_path), **parameters})
    assert recorder.wait() == 1
    assert said in recorder.output
    assert "Traceback" not in recorder.output
    assert not list(tmp_path.iterdir())
