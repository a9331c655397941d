"""The perception node as a process, a replayed recording in, and what it publishes checked."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Point, PointStamped
from image_messages import image_pixels
from lifecycle_msgs.msg import Transition
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from running_perception import (
    BEST_EFFORT,
    HEIGHT,
    MODULE,
    NODE,
    PACKET_NS,
    WIDTH,
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
from std_msgs.msg import Float64
from tiny_student import CLASSES, tiny_checkpoint
from vision_msgs.msg import LabelInfo

from scaleevent_ros.bags import BagReader
from scaleevent_ros.bags.event_stream import EventStream
from scaleevent_ros.bags.messages import (
    parse_event_packet,
    serialize_event_packet,
)
from scaleevent_ros.events import (
    EventBatch,
    SensorClock,
    voxel_grid,
    warm_up,
)
from scaleevent_ros.models import load_student, save_student
from scaleevent_ros.nodes.transport import OLD_PROFILE_VARIABLE, PROFILE_VARIABLE
from scaleevent_ros.runtime import Engine
from scaleevent_ros.runtime.arrays import to_host

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ros_processes import Graph, NodeProcess

LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
IMAGES = {
    "features": "32FC32", "features_pca": "rgb8", "overlay": "rgb8", "similarity": "rgb8",
    "activity": "mono8", "age": "32FC1", "segmentation": "mono8", "segmentation_color": "rgb8",
    "depth": "32FC1", "flow": "32FC2",
}  # fmt: skip
DEBUG = [
    f"debug/{name}_ms" for name in ("decode", "transfer", "inference", "publish", "window_age")
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    warm_up()  # what is compiled here is cached for the nodes
    return tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def with_heads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Graph, NodeProcess]]:
    """Run a node that publishes every topic, for tests that leave it as it was."""
    from ros_processes import Graph

    path = tmp_path_factory.mktemp("model") / "heads.safetensors"
    with Graph() as graph:
        node = start(graph, tiny_checkpoint(path, heads=True), debug=True, activity_threshold=5)
        graph.spin_until(lambda: state(graph) == "active", "activation")
        yield graph, node
        assert node.terminate() == 0


def test_features_of_a_recording_are_the_engines(
    graph: Graph, model: Path, test_data: Path
) -> None:
    bag = test_data / "bags" / "evt3_640x480"
    node = start(graph, model, width=640, height=480, trigger="count", count=20_000)
    features = graph.collect(Image, f"{NODE}/features")
    node.wait_for_output("for 640x480 on cpu, fp32, eager")
    replay = graph.start(
        "scaleevent_ros.nodes.replay",
        parameters={"path": str(bag), "restamp": False, "delay": 2.0, "rate": 0.5},
        remaps={"/event_camera/events": "/events"},
    )
    graph.spin_until(lambda: replay.process.poll() is not None, "the end of the recording")
    graph.spin_for(0.3)
    assert node.interrupt() == 0
    assert len(features) >= 4
    stamps = [stamp_ns(message) for message in features]
    assert stamps == sorted(stamps)
    assert len(set(stamps)) == len(stamps)
    # Offline: all events at once, and the clock of the whole recording.
    packets = list(EventStream(BagReader(bag)).packets())
    clock = SensorClock()
    for packet in packets:
        if len(packet.events):
            clock.add(int(packet.events.t[0]), packet.stamp_ns)
    events = EventBatch.concatenate([packet.events for packet in packets])
    engine = Engine(model, "cpu", "fp32", "eager", size=(480, 640))
    slice_ns = 50_000_000 // 8
    ends = []
    for message, stamp in zip(features, stamps, strict=True):
        assert message.header.frame_id == packets[0].frame_id
        assert (message.height, message.width, message.encoding) == (30, 40, "32FC32")
        got = image_pixels(message).transpose(2, 0, 1)
        # Early on, the node knew the clock less well than we do: look at the windows around.
        nearest = round((clock.fit.sensor_ns + stamp - clock.fit.ros_ns) / slice_ns)
        errors = {}
        for index in range(nearest - 2, nearest + 3):
            end = index * slice_ns
            window = voxel_grid(events, end - 50_000_000, end, 5)
            offline = engine(window, ["features"]).features
            assert offline is not None
            errors[end] = float(np.abs(to_host(offline) - got).max())
        (same,) = [end for end, error in errors.items() if error == 0]
        ends.append(same)
    assert ends == sorted(set(ends))


def test_quality_of_service(with_heads: tuple[Graph, NodeProcess]) -> None:
    graph, _ = with_heads
    reliable, best_effort = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT
    volatile, latched = DurabilityPolicy.VOLATILE, DurabilityPolicy.TRANSIENT_LOCAL
    for topic in (*IMAGES, *DEBUG, "/diagnostics"):
        (info,) = graph.node.get_publishers_info_by_topic(full_name(topic))
        assert (info.qos_profile.reliability, info.qos_profile.durability) == (reliable, volatile)
    (info,) = graph.node.get_publishers_info_by_topic(f"{NODE}/label_info")
    assert (info.qos_profile.reliability, info.qos_profile.durability) == (reliable, latched)
    for topic, reliability in (
        ("/events", best_effort),
        ("/point", reliable),
        ("/click", reliable),
    ):
        (info,) = graph.node.get_subscriptions_info_by_topic(topic)
        assert (info.qos_profile.reliability, info.qos_profile.durability) == (
            reliability, volatile,
        )  # fmt: skip


def test_viewers_show_what_is_published(
    with_heads: tuple[Graph, NodeProcess], repository: Path
) -> None:
    graph, _ = with_heads
    types = {name: found for name, (found, *_) in graph.node.get_topic_names_and_types()}
    viewers = repository / "config" / "viewers"
    rviz = yaml.safe_load((viewers / "perception.rviz").read_text())
    shown = set()
    for display in rviz["Visualization Manager"]["Displays"]:
        topic = display["Topic"]["Value"]
        shown.add(topic)
        assert display["Class"] == "rviz_default_plugins/Image"
        assert types[topic] == "sensor_msgs/msg/Image"
        (info,) = graph.node.get_publishers_info_by_topic(topic)
        assert info.qos_profile.reliability == ReliabilityPolicy.RELIABLE
        assert display["Topic"]["Reliability Policy"] == "Reliable"
        assert display["Topic"]["Durability Policy"] == "Volatile"
    # RViz draws neither features nor flow.
    assert shown == {full_name(topic) for topic in set(IMAGES) - {"features", "flow"}}
    layout = json.loads((viewers / "perception.foxglove.json").read_text())
    panels = layout["configById"]
    shown = set()
    for panel, settings in panels.items():
        kind = panel.partition("!")[0]
        if kind == "Image":
            topics = {settings["imageMode"]["imageTopic"]: "sensor_msgs/msg/Image"}
        elif kind == "Publish":
            topics = {}  # the fixture moves this one to /point
            assert settings["topicName"] == f"{NODE}/point"
            assert settings["datatype"] == types["/point"]
            value = json.loads(settings["value"])
            assert value.keys() == PointStamped.get_fields_and_field_types().keys()
            assert value["point"].keys() == Point.get_fields_and_field_types().keys()
        elif kind == "DiagnosticStatusPanel":
            topics = {settings["topicToRender"]: "diagnostic_msgs/msg/DiagnosticArray"}
            assert settings["selectedName"] == NODE
        elif kind == "Plot":
            values = [path["value"] for path in settings["paths"]]
            topics = {value.removesuffix(".data"): "std_msgs/msg/Float64" for value in values}
        else:
            assert kind == "RawMessages"
            topic = settings["topicPath"].partition(".")[0]
            topics = {topic: types[topic]}
        for topic, msgtype in topics.items():
            assert types[topic] == msgtype
        shown |= topics.keys()
    assert shown == {full_name(topic) for topic in (*IMAGES, *DEBUG, "label_info", "/diagnostics")}
    assert sorted(leaves(layout["layout"])) == sorted(panels)


def leaves(part: str | dict[str, Any]) -> list[str]:
    """List the panels of a Foxglove layout."""
    if isinstance(part, str):
        return [part]
    return [*leaves(part["first"]), *leaves(part["second"])]


def full_name(topic: str) -> str:
    return topic if topic.startswith("/") else f"{NODE}/{topic}"


def test_every_topic_of_a_checkpoint_with_heads(with_heads: tuple[Graph, NodeProcess]) -> None:
    graph, _ = with_heads
    images = {topic: graph.collect(Image, f"{NODE}/{topic}") for topic in IMAGES}
    ages = graph.collect(Float64, f"{NODE}/debug/window_age_ms")
    point, click = graph.publisher(PointStamped, "/point"), graph.publisher(Point, "/click")
    camera = camera_for(graph)
    graph.wait_for_subscriber(point)
    graph.wait_for_subscriber(click)
    camera.play_until(
        lambda: all(len(messages) > 2 for messages in images.values()) and ages, "every topic"
    )
    labels = graph.collect(LabelInfo, f"{NODE}/label_info", LATCHED)
    graph.spin_until(lambda: labels, "the labels")
    assert [item.class_name for item in labels[0].class_map] == list(CLASSES)
    for topic, encoding in IMAGES.items():
        message = images[topic][-1]
        patches = topic in {"features", "activity", "age"}
        assert message.encoding == encoding
        assert (message.height, message.width) == ((8, 10) if patches else (HEIGHT, WIDTH))
        assert message.header.frame_id == "camera"
    # A window has one stamp, whatever is made of it.
    assert set.intersection(*({stamp_ns(each) for each in got} for got in images.values()))
    assert image_pixels(images["segmentation"][-1]).max() < len(CLASSES)
    assert image_pixels(images["activity"][-1]).max() == 255
    # A point moves the place that all others are compared with, and it is like itself.
    for output, message, (row, column) in (
        (point, PointStamped(point=Point(x=30.0, y=100.0)), (111, 16)),
        (click, Point(x=100.0, y=60.0), (63, 96)),
    ):
        before = len(images["similarity"])
        output.publish(message)
        camera.play_until(lambda: len(images["similarity"]) > before + 5, "similarity")  # noqa: B023 - called at once
        heat = image_pixels(images["similarity"][-1])
        at = message.point if isinstance(message, PointStamped) else message
        assert (heat[int(at.y), int(at.x)] == (0, 255, 0)).all()
        assert (heat[row, column] == (252, 255, 164)).all()  # the brightest colour of the map


def test_patches_age_until_events_come_again(graph: Graph, model: Path) -> None:
    # A machine with much else to do makes pauses, which would begin new epochs.
    node = start(graph, model, trigger="packet", activity_threshold=5, silence=600.0)
    received = {topic: graph.collect(Image, f"{NODE}/{topic}") for topic in ("activity", "age")}
    camera = camera_for(graph)
    camera.play_until(lambda: len(received["age"]) > 10, "ages of the whole sensor")
    still = len(received["age"])
    camera.play_until(
        lambda: len(received["age"]) > still + 40, "ages of a lower half without events",
        rows=HEIGHT // 2,
    )  # fmt: skip
    quiet = image_pixels(received["age"][-1])[5:]
    camera.play_until(lambda: len(received["age"]) > still + 60, "ages of the whole sensor again")
    assert node.interrupt() == 0
    activity, ages = (
        {stamp_ns(message): image_pixels(message) for message in messages}
        for messages in received.values()
    )
    stamps = sorted(activity.keys() & ages.keys())
    assert len(stamps) > 60
    for stamp in stamps:
        np.testing.assert_array_equal(ages[stamp] == 0, activity[stamp] == 255)
    assert quiet.min() > 0.02
    assert ages[stamps[-1]].max() < quiet.max()
    for earlier, later in pairwise(stamps):
        silent = (activity[later] < 255) & np.isfinite(ages[earlier])
        grown = (ages[later] - ages[earlier])[silent]
        # Stamps follow a clock whose fit moves by less than this.
        np.testing.assert_allclose(grown, (later - earlier) * 1e-9, atol=2e-3)


def test_nothing_is_computed_for_nobody(graph: Graph, model: Path) -> None:
    node = start(graph, model, trigger="packet")
    diagnostics = graph.collect(DiagnosticArray, "/diagnostics")
    camera = camera_for(graph)
    camera.play_until(lambda: float(values(diagnostics).get("packets_hz", 0)) > 50, "packets")
    assert said(diagnostics, "no topic has subscribers")
    assert values(diagnostics)["windows_hz"] == "0"
    assert "inference_ms_p50" not in values(diagnostics)
    # Activity needs windows, and no network.
    graph.collect(Image, f"{NODE}/activity")
    camera.play_until(lambda: "publish_ms_p50" in values(diagnostics), "windows")
    assert "inference_ms_p50" not in values(diagnostics)
    graph.collect(Image, f"{NODE}/similarity")
    camera.play_until(lambda: "inference_ms_p50" in values(diagnostics), "inference")
    found = values(diagnostics)
    for name in ("decode", "transfer", "inference", "publish", "window_age"):
        assert 0 <= float(found[f"{name}_ms_p50"]) <= float(found[f"{name}_ms_p99"])
    assert (found["device"], found["precision"], found["backend"]) == ("cpu", "fp32", "eager")
    assert found["packets_lost_by_seq"] == found["packets_left_out"] == "0"
    assert node.interrupt() == 0


def test_each_image_gets_the_window_that_ends_with_it(graph: Graph, model: Path) -> None:
    node = start(graph, model, trigger="image", window_ms=20.0)
    activity = graph.collect(Image, f"{NODE}/activity")
    images = graph.publisher(Image, "/image", BEST_EFFORT)
    camera = camera_for(graph)
    graph.wait_for_subscriber(images)
    camera.play(60)
    assert not activity
    wanted = []
    for _ in range(4):
        frame = Image()
        asked = camera.start_ns + camera.seq * PACKET_NS
        frame.header.stamp.sec, frame.header.stamp.nanosec = divmod(asked, 10**9)
        images.publish(frame)
        wanted.append(asked)
        camera.play(20)
    graph.spin_until(lambda: len(activity) >= 4, "a result for each image")
    assert len(activity) == 4
    for asked, message in zip(wanted, activity, strict=True):
        assert -2_500_000 <= stamp_ns(message) - asked <= 2_000  # windows end on slices of 2.5 ms
    assert node.interrupt() == 0


def test_a_corrupt_packet_a_silence_and_another_camera(graph: Graph, model: Path) -> None:
    node = start(graph, model, trigger="count", count=2000, silence=0.5)
    activity = graph.collect(Image, f"{NODE}/activity")
    diagnostics = graph.collect(DiagnosticArray, "/diagnostics")
    camera = camera_for(graph)
    camera.play_until(lambda: len(activity) > 3, "the first results")
    camera.output.publish(b"\0\1\0\0nonsense")
    view = parse_event_packet(camera.packet())
    noise = np.random.default_rng(0).integers(0, 256, 1001, np.uint8).tobytes()
    camera.output.publish(serialize_event_packet(view._replace(payload=noise)))
    camera.output.publish(serialize_event_packet(view._replace(encoding="morse", seq=view.seq)))
    count = len(activity)
    camera.play_until(lambda: len(activity) > count + 3, "results after the corrupt packets")
    camera.play_until(lambda: values(diagnostics).get("packets_left_out") == "2", "the count")
    assert int(values(diagnostics)["broken_words"]) > 0
    diagnostics.clear()  # before the first packet it was silent too
    graph.spin_until(lambda: said(diagnostics, "no event packet on /events for"), "the silence")
    count = len(activity)
    camera.play_until(lambda: len(activity) > count + 3, "results after the silence")
    camera.play_until(lambda: said(diagnostics, "the camera is back after"), "the return")
    camera.play_until(
        lambda: activity[-1].width == 13, "results of the other geometry", height=96, width=200
    )
    assert activity[-1].height == 6
    camera.play_until(
        lambda: said(diagnostics, "the geometry changes from 160x128 to 200x96"), "the change",
        height=96, width=200,
    )  # fmt: skip
    # The host's clock is set back by an hour: a new epoch begins, and stamps follow it.
    camera.start_ns -= 3600 * 10**9
    stamps = [stamp_ns(message) for message in activity]
    assert stamps == sorted(stamps)
    activity.clear()
    camera.play_until(
        lambda: said(diagnostics, "stamps step back by 3600.0 s"), "the step", height=96, width=200
    )

    def of_this_hour() -> list[int]:
        now = camera.start_ns + camera.seq * PACKET_NS
        return [stamp for each in activity if abs((stamp := stamp_ns(each)) - now) < 10**9]

    camera.play_until(lambda: len(of_this_hour()) > 3, "stamps that follow", height=96, width=200)
    assert of_this_hour() == sorted(of_this_hour())
    assert node.interrupt() == 0
    assert "Traceback" not in node.output


def test_a_memory_is_emptied_where_an_epoch_begins_and_with_another_geometry(
    graph: Graph, model: Path, tmp_path: Path
) -> None:
    student = load_student(model)
    student.set_memory(600.0)
    save_student(tmp_path / "gated.safetensors", student)
    # A machine with much else to do makes pauses, which would begin new epochs.
    node = start(graph, tmp_path / "gated.safetensors", trigger="count", count=2000, silence=600.0)
    features = graph.collect(Image, f"{NODE}/features")
    diagnostics = graph.collect(DiagnosticArray, "/diagnostics")
    camera = camera_for(graph)
    camera.play_until(lambda: len(features) > 3, "the first features")
    diagnostics.clear()
    camera.play_until(lambda: len(diagnostics) > 0, "diagnostics")
    assert values(diagnostics)["memory_resets"] == "0"
    camera.start_ns -= 3600 * 10**9
    camera.play_until(lambda: values(diagnostics)["memory_resets"] == "1", "an empty memory")
    camera.play_until(
        lambda: values(diagnostics)["memory_resets"] == "2", "another geometry", height=96,
        width=200,
    )  # fmt: skip
    assert node.interrupt() == 0
    assert "Traceback" not in node.output


def test_lifecycle_and_parameters(graph: Graph, model: Path) -> None:
    node = start(graph, model, autostart=False)
    assert state(graph) == "unconfigured"
    assert change(graph, Transition.TRANSITION_CONFIGURE)
    assert state(graph) == "inactive"
    assert change(graph, Transition.TRANSITION_ACTIVATE)
    features = graph.collect(Image, f"{NODE}/features")
    camera = camera_for(graph)
    camera.play_until(lambda: len(features) > 2, "features")
    for name, value, why in (
        ("rate", 0.0, "out of range Min: 0.1, Max: 1000.0, value: 0.0"),
        ("window", "long", "not one of trained, fixed, motion"),
        ("rate", "often", "parameter 'rate' is 'often', not a number"),
        ("model", "other", "cannot change while the node is active"),
    ):
        done, reason = set_parameter(graph, name, value)
        assert not done
        assert why in reason
    assert set_parameter(graph, "features_channels", 8) == (True, "")
    assert set_parameter(graph, "features_resolution", "pixel") == (True, "")
    camera.play_until(lambda: features[-1].encoding == "32FC8", "fewer channels")
    camera.play_until(lambda: features[-1].width == WIDTH, "pixels")
    for name, change_to in (("window", "motion"), ("window_ms", 10.0), ("rate", 50.0)):
        assert set_parameter(graph, name, change_to) == (True, "")
    count = len(features)
    camera.play_until(lambda: len(features) > count + 3, "features of other windows")
    assert change(graph, Transition.TRANSITION_DEACTIVATE)
    graph.spin_for(0.2)
    count = len(features)
    camera.play(50)
    assert len(features) == count
    assert change(graph, Transition.TRANSITION_CLEANUP)
    assert change(graph, Transition.TRANSITION_CONFIGURE)
    assert change(graph, Transition.TRANSITION_ACTIVATE)
    camera.play_until(lambda: len(features) > count, "features again")
    assert change(graph, Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert node.wait() == 0


def test_what_cannot_be_configured_can_be_mended(graph: Graph, model: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.safetensors"
    wrong.write_bytes(b"this is no checkpoint")
    node = start(graph, wrong)
    node.wait_for_output("cannot configure")
    assert str(wrong) in node.output
    diagnostics = graph.collect(DiagnosticArray, "/diagnostics")
    graph.spin_until(lambda: said(diagnostics, str(wrong)), "the error in diagnostics")
    assert diagnostics[-1].status[0].level == DiagnosticStatus.ERROR
    assert state(graph) == "unconfigured"
    assert set_parameter(graph, "model", str(model))[0]
    import torch

    if not torch.cuda.is_available():
        assert set_parameter(graph, "device", "cuda")[0]
        assert not change(graph, Transition.TRANSITION_CONFIGURE)
        node.wait_for_output("finds no GPU")
        assert set_parameter(graph, "device", "cpu")[0]
    assert change(graph, Transition.TRANSITION_CONFIGURE)
    assert change(graph, Transition.TRANSITION_ACTIVATE)
    assert state(graph) == "active"
    assert node.terminate() == 0
    assert "Traceback" not in node.output


def test_a_wrong_parameter_at_the_start_is_one_clear_line(graph: Graph, model: Path) -> None:
    node = start(graph, model, trigger="sometimes")
    assert node.wait() == 1
    assert "parameter 'trigger' is 'sometimes', not one of rate, " in node.output
    assert "Traceback" not in node.output


def test_warns_when_large_messages_go_out_without_the_profile(graph: Graph, model: Path) -> None:
    node = graph.start(
        MODULE,
        parameters={
            "device": "cpu", "backend": "eager", "width": 640, "height": 480, "model": str(model),
        },
        remaps={"~/events": "/events"},
        environment={PROFILE_VARIABLE: "", OLD_PROFILE_VARIABLE: ""},
    )  # fmt: skip
    graph.collect(Image, f"{NODE}/features")
    camera = camera_for(graph)
    camera.play(300, height=480, width=640)
    assert "loses best-effort messages" not in node.output
    graph.collect(Image, f"{NODE}/features_pca")
    camera.play_until(
        lambda: "loses best-effort messages" in node.output, "a warning", height=480, width=640
    )
    assert node.interrupt() == 0
