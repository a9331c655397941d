"""The simulate node: simulates an event camera live from the images of any camera."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import cv2
from diagnostic_msgs.msg import DiagnosticArray
from event_camera_msgs.msg import EventPacket
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from scaleevent_ros.bags.errors import ImageError
from scaleevent_ros.bags.images import LiveDepth, image_rgb
from scaleevent_ros.bags.messages import (
    CompressedImageView,
    EventPacketView,
    serialize_event_packet,
)
from scaleevent_ros.nodes import diagnostics
from scaleevent_ros.nodes.diagnostics import Rates, Timings
from scaleevent_ros.nodes.images import image_to_rgb
from scaleevent_ros.nodes.managed_node import create_steady_timer, declare, read
from scaleevent_ros.nodes.parameters import SimulateParameters
from scaleevent_ros.nodes.running import run
from scaleevent_ros.sources.packets import LivePackets
from scaleevent_ros.sources.pixel_model import pixel_model
from scaleevent_ros.sources.stills import cover
from scaleevent_ros.sources.video_simulator import VideoSimulator

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

NAME = "scaleevent_simulate"

_NS = 1_000_000_000
_REPORT_S = 1.0


class Simulate(Node):
    """Node that simulates an event camera from the images of any camera.

    The events between two images are published when the second image arrives, in packets of at most
    5 ms, stamped with the time of their first event.

    Attributes:
        finished: Always false: the node runs until it is stopped.
        busy: Always false.

    Raises:
        NodeError: If a parameter is invalid.
        SimulationError: If the pixel model or the threshold is invalid.
    """

    finished = busy = False

    def __init__(self) -> None:
        super().__init__(NAME)
        declare(self, SimulateParameters, read_only=True)
        self._settings = settings = read(self, SimulateParameters)
        self._pixels = pixel_model(settings.pixels, settings.threshold or None)
        self._simulator: VideoSimulator | None = None
        self._packets = LivePackets()
        self._size = (0, 0)
        self._last_ns = 0
        self._seq = self._images = self._events = self._restarts = self._unreadable = 0
        self._problem = ""
        self._depth = LiveDepth()
        self._timings = Timings()
        self._rates = Rates()
        self._rates.take(time.monotonic(), 0, 0)
        self._output = self.create_publisher(EventPacket, settings.events, 100)
        msgtype = CompressedImage if settings.image.endswith("/compressed") else Image
        # A short queue: if the simulation is slower than the camera, images are skipped.
        latest = QoSProfile(
            history=HistoryPolicy.KEEP_LAST, depth=2, reliability=ReliabilityPolicy.BEST_EFFORT
        )
        self.create_subscription(msgtype, settings.image, self._receive, latest)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        create_steady_timer(self, _REPORT_S, self._report)
        self.get_logger().info(
            f"simulating events of {self.resolve_topic_name(settings.image)} on "
            f"{self.resolve_topic_name(settings.events)}"
        )

    def close(self) -> None:
        """Do nothing: the node has no open resources."""

    def _receive(self, message: Image | CompressedImage) -> None:
        began = time.perf_counter()
        stamp = message.header.stamp
        stamp_ns = stamp.sec * _NS + stamp.nanosec or self.get_clock().now().nanoseconds
        try:
            frame = _picture(message, self._depth)
        except ImageError as error:
            self._unreadable += 1
            self._problem = str(error)
            self.get_logger().warning(self._problem, throttle_duration_sec=5.0)
            return
        self._images += 1
        self._problem = ""
        size = (self._settings.width or frame.shape[1], self._settings.height or frame.shape[0])
        if not self._continues(size, stamp_ns):
            self._simulator = VideoSimulator(
                size, self._pixels, interpolate=self._settings.interpolate
            )
            self._packets, self._size = LivePackets(), size
            self._restarts += 1
        assert self._simulator is not None
        self._last_ns = stamp_ns
        batch = self._simulator.push(cover(frame, size, cv2.INTER_AREA), stamp_ns // 1000)
        for packet in self._packets.encode(batch):
            self._output.publish(
                serialize_event_packet(
                    EventPacketView(
                        stamp_ns=packet.stamp_ns,
                        frame_id=message.header.frame_id,
                        height=size[1],
                        width=size[0],
                        seq=self._seq,
                        time_base=0,
                        encoding="evt3",
                        is_bigendian=False,
                        payload=packet.payload,
                    )
                )
            )
            self._seq += 1
        self._events += len(batch)
        self._timings.add("simulation", (time.perf_counter() - began) * 1e3)
        self._timings.add("latency", (self.get_clock().now().nanoseconds - stamp_ns) / 1e6)

    def _continues(self, size: tuple[int, int], stamp_ns: int) -> bool:
        """Return whether an image continues the stream: same size, and later by at most max_gap."""
        gap_us = stamp_ns // 1000 - self._last_ns // 1000
        return (
            self._simulator is not None
            and size == self._size
            and 0 < gap_us <= self._settings.max_gap * 1e6
        )

    def _report(self) -> None:
        images_hz, events_hz = self._rates.take(time.monotonic(), self._images, self._events)
        timings = self._timings.take()
        values: dict[str, object] = {
            "images_hz": images_hz,
            "events_per_s": events_hz,
            "packets": self._seq,
            "restarts": max(self._restarts - 1, 0),
            "unreadable_images": self._unreadable,
        }
        for name, ms in timings.items():
            values |= {f"{name}_p50_ms": ms.p50, f"{name}_p99_ms": ms.p99}
        level, text = diagnostics.OK, "simulating"
        if self._problem:
            level, text = diagnostics.ERROR, self._problem
        elif not images_hz:
            level, text = diagnostics.WARN, f"no image arrives on {self._settings.image}"
        status = diagnostics.status(
            self.get_fully_qualified_name(), level, text, values, self._settings.image
        )
        self._diagnostics.publish(diagnostics.array(self.get_clock().now().to_msg(), [status]))


def _picture(message: Image | CompressedImage, depth: LiveDepth) -> NDArray[np.uint8]:
    if isinstance(message, CompressedImage):
        frame_id, data = message.header.frame_id, message.data
        return image_rgb(depth.apply(CompressedImageView(0, frame_id, message.format, data)))
    return image_to_rgb(message, depth)


def main(args: Sequence[str] | None = None) -> int:
    """Run the simulate node; the exit code is 1 if a parameter is invalid."""
    return run(NAME, Simulate, SimulateParameters, args)


if __name__ == "__main__":
    sys.exit(main())
