"""The simulate node as a process: images in, the events of a simulated camera out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from event_camera_msgs.msg import EventPacket
from photographs import photograph
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image

from scaleevent_ros.events import EventBatch, make_decoder
from scaleevent_ros.nodes.images import array_to_cdr
from scaleevent_ros.sources.video_simulator import VideoSimulator

if TYPE_CHECKING:
    from ros_processes import Graph

MODULE = "scaleevent_ros.nodes.simulate"
SIZE = (160, 120)
START_NS = 1_700_000_000_000_000_000
FRAME_NS = 40_000_000


def pan(number: int) -> list[np.ndarray]:
    """Frames that slide over a photograph by three pixels each."""
    picture = photograph()
    return [
        np.ascontiguousarray(picture[150:270, 100 + 3 * i : 260 + 3 * i]) for i in range(number)
    ]


def image(frame: np.ndarray, stamp_ns: int, encoding: str = "rgb8") -> Image:
    pixels = frame if encoding == "rgb8" else frame[..., ::-1]
    message: Image = deserialize_message(array_to_cdr(pixels, encoding, stamp_ns, "eye"), Image)
    return message


def decoded(packets: list[EventPacket]) -> EventBatch:
    decoder = make_decoder("evt3", *SIZE)
    batches = [decoder.decode(bytes(packet.events), packet.time_base) for packet in packets]
    return EventBatch.concatenate([EventBatch.empty(*SIZE), *batches])


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8"])
def test_events_are_those_of_the_simulator(graph: Graph, encoding: str) -> None:
    graph.start(MODULE, parameters={"image": "/camera/image", "events": "/eye/events"})
    packets = graph.collect(EventPacket, "/eye/events")
    images = graph.publisher(Image, "/camera/image", 10)
    graph.wait_for_subscriber(images)
    graph.spin_until(lambda: graph.node.count_publishers("/eye/events"), "the node's publisher")
    graph.spin_for(0.5)
    offline, expected = VideoSimulator(SIZE), []
    for index, frame in enumerate(pan(6)):
        stamp_ns = START_NS + index * FRAME_NS
        expected.append(offline.push(frame, stamp_ns // 1000))
        images.publish(image(frame, stamp_ns, encoding))
        graph.spin_until(lambda: len(decoded(packets)) >= sum(map(len, expected)), "events")
        graph.spin_for(0.05)
    got, truth = decoded(packets), EventBatch.concatenate(expected)
    assert len(truth) > 1000
    for name in ("x", "y", "p"):
        np.testing.assert_array_equal(getattr(got, name), getattr(truth, name))
    # EVT3 keeps times modulo 16.777216 s; stamps are the whole ROS time of the first event.
    np.testing.assert_array_equal(got.t - got.t[0], truth.t - truth.t[0])
    first = packets[0]
    assert first.header.stamp.sec * 10**9 + first.header.stamp.nanosec == truth.t[0]
    assert (first.width, first.height, first.encoding) == (*SIZE, "evt3")
    assert first.header.frame_id == "eye"
    assert [packet.seq for packet in packets] == list(range(len(packets)))


def test_compressed_images_gaps_and_damage(graph: Graph) -> None:
    topic = "/camera/image_raw/compressed"
    node = graph.start(MODULE, parameters={"image": topic, "width": 80, "height": 60})
    packets = graph.collect(EventPacket, "/event_camera/events")
    reports = graph.collect(DiagnosticArray, "/diagnostics")
    images = graph.publisher(CompressedImage, topic, 10)
    graph.wait_for_subscriber(images)
    graph.spin_until(lambda: graph.node.count_publishers("/event_camera/events"), "a publisher")
    graph.spin_for(0.5)

    def send(data: bytes, stamp_ns: int) -> None:
        message = CompressedImage(format="jpeg", data=data)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
        images.publish(message)
        graph.spin_for(0.1)

    frames = [cv2.imencode(".jpg", frame[..., ::-1])[1].tobytes() for frame in pan(4)]
    send(frames[0], START_NS)
    send(frames[1], START_NS + FRAME_NS)
    graph.spin_until(lambda: packets, "events")
    assert (packets[0].width, packets[0].height) == (80, 60)
    graph.spin_for(0.5)
    before = len(packets)
    send(b"no picture", START_NS + 2 * FRAME_NS)
    # An earlier stamp, then one long after: the simulation starts anew, without events.
    send(frames[2], START_NS)
    send(frames[3], START_NS + 5 * 10**9)
    graph.spin_for(0.3)
    assert len(packets) == before

    def values() -> dict[str, str]:
        status: DiagnosticStatus = reports[-1].status[0]
        assert status.name == "/scaleevent_simulate"
        return {value.key: value.value for value in status.values}

    graph.spin_until(lambda: reports and values()["restarts"] == "2", "a report of two restarts")
    assert values()["unreadable_images"] == "1"
    assert node.process.poll() is None
