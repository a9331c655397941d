"""The perception node as a process, an event camera for it, and calls of its services."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from event_camera_msgs.msg import EventPacket
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.qos import QoSProfile, ReliabilityPolicy

from scaleevent_ros.bags.messages import EventPacketView, serialize_event_packet
from scaleevent_ros.events import EventBatch, encode_evt3

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from diagnostic_msgs.msg import DiagnosticArray
    from ros_processes import Graph, NodeProcess

MODULE = "scaleevent_ros.nodes.perception"
NODE = "/scaleevent_perception"
BEST_EFFORT = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
HEIGHT, WIDTH = 128, 160
PACKET_NS = 5_000_000
DEFAULTS = {"device": "cpu", "backend": "eager", "width": WIDTH, "height": HEIGHT}
REMAPS = {
    "~/events": "/events", "~/image": "/image", "~/point": "/point", "~/click": "/click",
}  # fmt: skip


def start(graph: Graph, model: Path | str, **parameters: object) -> NodeProcess:
    return graph.start(
        MODULE, parameters={**DEFAULTS, "model": str(model), **parameters}, remaps=REMAPS
    )


class Camera:
    """Publishes events of a bar that moves, in real time.

    Attributes:
        start_ns: Stamp of the packet with seq 0.
        seq: Number of the next packet.
    """

    def __init__(self, graph: Graph, topic: str = "/events") -> None:
        self.graph = graph
        self.output = graph.publisher(EventPacket, topic, BEST_EFFORT)
        self.start_ns = time.time_ns()
        self.seq = 0

    def packet(self, *, height: int = HEIGHT, width: int = WIDTH, rows: int = 0) -> bytes:
        """Make the next packet, its events in the upper ``rows`` only if there are any."""
        t = self.seq * PACKET_NS + np.arange(400) * (PACKET_NS // 400) // 1000 * 1000
        x = (np.arange(400) * 7 + self.seq) % width
        y = np.arange(400) * 3 % (rows or height)
        p = np.arange(400) % 2
        batch = EventBatch(
            x.astype("u2"), y.astype("u2"), t.astype("i8"), p.astype("u1"), width, height
        )
        view = EventPacketView(
            self.start_ns + self.seq * PACKET_NS, "camera", height, width, self.seq, 0, "evt3",
            False, encode_evt3(batch),
        )  # fmt: skip
        self.seq += 1
        return serialize_event_packet(view)

    def play(self, packets: int, **size: int) -> None:
        for _ in range(packets):
            self.output.publish(self.packet(**size))
            self.graph.spin_for(PACKET_NS * 1e-9)

    def play_until(self, done: Callable[[], object], what: str, **size: int) -> None:
        for _ in range(3000):
            if done():
                return
            self.play(1, **size)
        self.graph.spin_until(done, what, 0)


def camera_for(graph: Graph) -> Camera:
    camera = Camera(graph)
    graph.wait_for_subscriber(camera.output)
    graph.spin_for(0.3)
    return camera


def stamp_ns(message: Any) -> int:
    return int(message.header.stamp.sec) * 10**9 + int(message.header.stamp.nanosec)


def values(arrays: list[DiagnosticArray]) -> dict[str, str]:
    return {item.key: item.value for item in arrays[-1].status[0].values} if arrays else {}


def said(arrays: list[DiagnosticArray], text: str) -> bool:
    return any(text in status.message for array in arrays for status in array.status)


def state(graph: Graph) -> str:
    return str(graph.call(GetState, f"{NODE}/get_state").current_state.label)


def change(graph: Graph, transition: int) -> bool:
    request = ChangeState.Request(transition=Transition(id=transition))
    return bool(graph.call(ChangeState, f"{NODE}/change_state", request).success)


def set_parameter(graph: Graph, name: str, value: float | str) -> tuple[bool, str]:
    if isinstance(value, str):
        written = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=value)
    elif isinstance(value, int):
        written = ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=value)
    else:
        written = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=value)
    request = SetParameters.Request(parameters=[Parameter(name=name, value=written)])
    result = graph.call(SetParameters, f"{NODE}/set_parameters", request).results[0]
    return bool(result.successful), str(result.reason)
