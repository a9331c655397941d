"""The replay node as a process: what a bag holds is published, in order, on time, restamped."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from event_camera_msgs.msg import EventPacket
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import Trigger

from scaleevent_ros.bags import BagReader, BagWriter, Qos
from scaleevent_ros.bags.messages import (
    EVENT_PACKET,
    IMAGE,
    EventPacketView,
    ImageView,
    parse_event_packet,
    parse_header_stamp,
    parse_image,
    serialize_event_packet,
    serialize_image,
)

if TYPE_CHECKING:
    from pathlib import Path

    from ros_processes import Graph, NodeProcess

MODULE = "scaleevent_ros.nodes.replay"
NODE = "/scaleevent_replay"
RECORDED_AT = 1_700_000_000_000_000_000
STAMPED_AT = 1_600_000_000_000_000_000  # headers may be years away from record times
STEP = 20_000_000


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    """Write 1 s of event packets at 50 Hz and images at 10 Hz."""
    path = tmp_path / "bag"
    with BagWriter(path) as writer:
        writer.add_topic("/events", EVENT_PACKET, qos=Qos(reliability="best_effort"))
        writer.add_topic("/image", IMAGE)
        writer.add_topic("/unknown", "nowhere_msgs/msg/Nothing")
        for seq in range(50):
            t = seq * STEP
            packet = EventPacketView(
                STAMPED_AT + t, "eye", 480, 640, seq, 10**9 + t, "libcaer", False, bytes(80)
            )
            writer.write("/events", RECORDED_AT + t, serialize_event_packet(packet))
            if seq % 5 == 0:
                image = ImageView(STAMPED_AT + t - 7, str(seq), 2, 2, "mono8", False, 2, bytes(4))
                writer.write("/image", RECORDED_AT + t, serialize_image(image))
    return path


def start(graph: Graph, path: Path, **parameters: object) -> NodeProcess:
    return graph.start(MODULE, parameters={"path": str(path), "delay": 0, **parameters})


def start_once_found(
    graph: Graph, path: Path, names: list[str], **parameters: object
) -> NodeProcess:
    """Start, and let it play when its publishers and the subscriptions here know each other."""
    replay = start(graph, path, paused=True, **parameters)
    graph.spin_until(
        lambda: all(graph.node.count_publishers(name) for name in names), "the publishers"
    )
    graph.spin_for(0.5)
    assert graph.call(Trigger, f"{NODE}/resume").success
    return replay


def test_a_subscriber_that_is_found_late_gets_the_first_message(graph: Graph, bag: Path) -> None:
    best_effort = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
    events = graph.collect(EventPacket, "/events", best_effort, raw=True)
    replay = start(graph, bag, delay=2)
    graph.spin_until(lambda: graph.node.count_publishers("/image"), "the publisher")
    graph.spin_for(2.5)
    images: list[bytes] = graph.collect(Image, "/image", raw=True)
    assert replay.wait() == 0
    graph.spin_until(lambda: len(images) == 10 and len(events) == 50, "60 messages")


def test_plays_all_in_order_with_fresh_stamps(graph: Graph, bag: Path) -> None:
    events: list[bytes] = graph.collect(
        EventPacket, "/events", QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT),
        raw=True,
    )  # fmt: skip
    images: list[bytes] = graph.collect(Image, "/image", raw=True)
    begin = time.time_ns()
    replay = start_once_found(graph, bag, ["/events", "/image"])
    graph.spin_until(lambda: len(events) == 50 and len(images) == 10, "60 messages")
    end = time.time_ns()
    assert replay.wait() == 0
    packets = [parse_event_packet(data) for data in events]
    assert [packet.seq for packet in packets] == [*range(50)]
    assert [parse_image(data).frame_id for data in images] == [*map(str, range(0, 50, 5))]
    stamps = [packet.stamp_ns for packet in packets]
    assert begin < stamps[0] <= stamps[-1] < end
    # Distances are those of the recording, but for the reading of two clocks.
    for seq, stamp in enumerate(stamps):
        assert stamp - stamps[0] == pytest.approx(seq * STEP, abs=3e6)
    assert parse_image(images[1]).stamp_ns == pytest.approx(stamps[5], abs=3e6)
    # Nothing else of a message changes.
    recorded = [bytes(message.data) for message in BagReader(bag).messages(["/events"])]
    assert [data[12:] for data in events] == [data[12:] for data in recorded]
    assert "/unknown is not played" in replay.output


def test_stamps_stay_and_the_clock_is_the_recordings(graph: Graph, bag: Path) -> None:
    images: list[bytes] = graph.collect(Image, "/image", raw=True)
    clocks = graph.collect(Clock, "/clock")
    replay = start_once_found(
        graph, bag, ["/image"], restamp=False, clock_hz=100, topics=["/image"], rate=2
    )
    graph.spin_until(lambda: len(images) == 10, "10 images")
    assert replay.wait() == 0
    assert [parse_header_stamp(data) for data in images] == [
        STAMPED_AT + seq * STEP - 7 for seq in range(0, 50, 5)
    ]
    times = [clock.clock.sec * 10**9 + clock.clock.nanosec for clock in clocks]
    assert times == sorted(times)
    assert times[0] >= RECORDED_AT
    assert RECORDED_AT + 800_000_000 < times[-1] < RECORDED_AT + 3_000_000_000


def test_pause_resume_loop_and_offset(graph: Graph, bag: Path) -> None:
    events: list[bytes] = graph.collect(EventPacket, "/events", raw=True)
    replay = start(
        graph, bag, paused=True, loop=True, start_offset=0.6, rate=0,
        topics=["/events"], reliability="reliable",
    )  # fmt: skip
    graph.spin_until(lambda: graph.node.count_publishers("/events"), "the publisher")
    graph.spin_for(0.5)
    assert not events
    assert graph.call(Trigger, f"{NODE}/resume").success
    graph.spin_until(lambda: len(events) > 45, "the second turn")
    assert graph.call(Trigger, f"{NODE}/pause").success
    held = -1
    while len(events) != held:  # until what was published before has been taken
        held = len(events)
        graph.spin_for(0.3)
    graph.spin_for(0.5)
    assert len(events) == held
    seqs = [parse_event_packet(data).seq for data in events]
    assert min(seqs) == 30
    assert any(later < earlier for earlier, later in pairwise(seqs))
    assert replay.interrupt() == 0


def test_an_image_and_its_camera_info_keep_equal_stamps(graph: Graph, tmp_path: Path) -> None:
    from rclpy.serialization import serialize_message

    path = tmp_path / "bag"
    with BagWriter(path) as writer:
        writer.add_topic("/image", IMAGE)
        writer.add_topic("/camera_info", "sensor_msgs/msg/CameraInfo")
        for index in range(40):
            t = index * STEP  # a clock that starts at 0
            info = CameraInfo()
            info.header.stamp.nanosec = t
            image = ImageView(t, "eye", 2, 2, "mono8", False, 2, bytes(4))
            writer.write("/image", RECORDED_AT + t, serialize_image(image))
            writer.write("/camera_info", RECORDED_AT + t + 1_000_000, serialize_message(info))
    images: list[bytes] = graph.collect(Image, "/image", raw=True)
    infos: list[bytes] = graph.collect(CameraInfo, "/camera_info", raw=True)
    begin = time.time_ns()
    replay = start_once_found(graph, path, ["/image", "/camera_info"], loop=True, rate=1.3)
    graph.spin_until(lambda: len(images) > 10, "some images")
    assert graph.call(Trigger, f"{NODE}/pause").success
    graph.spin_for(0.3)
    assert graph.call(Trigger, f"{NODE}/resume").success
    graph.spin_until(lambda: len(infos) > 90, "the third turn")
    assert replay.interrupt() == 0
    image_stamps = [parse_header_stamp(data) for data in images]
    info_stamps = [parse_header_stamp(data) for data in infos]
    assert begin < min(image_stamps)
    assert image_stamps == sorted(image_stamps)
    # A pause between an image and its camera_info may part one pair.
    assert len(set(info_stamps) - set(image_stamps)) <= 1


def test_latched_topics_stay_latched(graph: Graph, tmp_path: Path) -> None:
    from rclpy.serialization import serialize_message

    path = tmp_path / "bag"
    with BagWriter(path) as writer:
        latched = Qos(durability="transient_local", depth=1)
        writer.add_topic("/camera_info", "sensor_msgs/msg/CameraInfo", qos=latched)
        writer.write("/camera_info", RECORDED_AT, serialize_message(CameraInfo(width=5)))
        writer.write("/camera_info", RECORDED_AT + 10**12, serialize_message(CameraInfo(width=6)))
    replay = start(graph, path)
    replay.wait_for_output("playing")
    graph.spin_until(lambda: graph.node.count_publishers("/camera_info"), "the publisher")
    graph.spin_for(0.3)
    qos = QoSProfile(
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )
    infos: list[Any] = graph.collect(CameraInfo, "/camera_info", qos)
    graph.spin_until(lambda: infos, "the latched message")
    # Its header says nothing, and goes on saying nothing.
    assert (infos[0].width, infos[0].header.stamp.sec) == (5, 0)
    assert replay.terminate() == 0


def test_plays_a_raw_recording(graph: Graph, test_data: Path) -> None:
    from scaleevent_ros.events import make_decoder

    events: list[bytes] = graph.collect(EventPacket, "/event_camera/events", raw=True)
    raw = test_data / "raw" / "evt2_640x480.raw"
    copy = graph.folder / "evt2.raw"
    copy.write_bytes(b"% geometry 640x480\n" + raw.read_bytes())  # what its header lacks
    replay = start_once_found(graph, copy, ["/event_camera/events"])
    assert replay.wait() == 0
    graph.spin_for(0.3)
    decoder = make_decoder("evt3", 640, 480)
    count = sum(len(decoder.decode(parse_event_packet(data).payload)) for data in events)
    assert count == 521_252


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"path": ""}, "parameter 'path' is empty"),
        ({"path": "/nowhere/bag"}, "/nowhere/bag"),
        ({"topics": ["/other"]}, "has no topic /other; it has /events, /image"),
        ({"topics": ["/unknown"]}, "message type nowhere_msgs/msg/Nothing is not installed"),
        ({"clock_hz": 10}, "set restamp to false"),
        ({"start_offset": 100.0, "delay": 0}, "no messages after start_offset"),
        ({"rate": -1.0}, "parameter 'rate' is -1.0, outside its limits: At least 0"),
    ],
)
def test_what_cannot_be_played_is_one_clear_line(
    graph: Graph, bag: Path, parameters: dict[str, object], said: str
) -> None:
    replay = graph.start(MODULE, parameters={"path": str(bag), **parameters})
    assert replay.wait() == 1
    assert said in replay.output
    assert "Traceback" not in replay.output
