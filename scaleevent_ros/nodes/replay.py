"""The replay node: publishes a bag or a raw recording like a camera's driver."""

from __future__ import annotations

import struct
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from std_srvs.srv import Trigger

from scaleevent_ros.bags.messages import parse_header_stamp
from scaleevent_ros.nodes.managed_node import create_steady_timer, declare, read
from scaleevent_ros.nodes.parameters import NodeError, ReplayParameters
from scaleevent_ros.nodes.playback import Pace, PlayedTopic, TimedMessage, open_playback
from scaleevent_ros.nodes.running import run
from scaleevent_ros.nodes.subscriptions import message_class
from scaleevent_ros.nodes.transport import transport_warning

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rclpy.publisher import Publisher

NAME = "scaleevent_replay"

_NS = 1_000_000_000
_QUEUE = 100
_MOST_DELAYS = 5


class Replay(Node):
    """Node that publishes a bag or a raw recording like a camera's driver, and ends with it.

    The services `~/pause` and `~/resume` are `std_srvs/Trigger`.

    Attributes:
        busy: Always false.

    Raises:
        NodeError: If a parameter is invalid, or the recording has nothing to play.
        BagError: If the bag cannot be read.
        SourceError: If the recording cannot be read.
    """

    busy = False

    def __init__(self) -> None:
        super().__init__(NAME)
        declare(self, ReplayParameters, read_only=True)
        self._settings = read(self, ReplayParameters)
        if not self._settings.path:
            msg = "parameter 'path' is empty: give the path of a bag or a recording"
            raise NodeError(msg)
        if self._settings.clock_hz and (self._settings.restamp or not self._settings.rate):
            msg = "clock_hz publishes the recording's time: set restamp to false and rate above 0"
            raise NodeError(msg)
        path = Path(self._settings.path).expanduser()
        self._playback = open_playback(path, self._settings.topics)
        self._outputs = self._create_outputs()
        self._with_header = {
            name for name, output in self._outputs.items() if _starts_with_header(output.msg_type)
        }
        self._pace = Pace(self._settings.rate, lambda: self.get_clock().now().nanoseconds)
        self._error: Exception | None = None
        self._published = 0
        if self._settings.clock_hz:
            self._clock_output = self.create_publisher(Clock, "/clock", 10)
            create_steady_timer(self, 1 / self._settings.clock_hz, self._publish_clock)
        self.create_service(Trigger, "~/pause", self._pause)
        self.create_service(Trigger, "~/resume", self._resume)
        if warning := transport_warning():
            self.get_logger().warning(warning)
        if self._settings.paused:
            self._pace.hold()
        self.get_logger().info(f"playing {path}: {', '.join(self._outputs)}")
        self._player = threading.Thread(target=self._play, name="player")
        self._player.start()

    @property
    def finished(self) -> bool:
        """Whether everything has been played.

        Raises:
            Exception: The error that stopped playing, such as that of a damaged recording.
        """
        if self._error:
            raise self._error
        return not self._player.is_alive()

    def close(self) -> None:
        """Stop playing."""
        self._pace.stop()
        self._player.join()
        self.get_logger().info(f"published {self._published} messages")

    def _create_outputs(self) -> dict[str, Publisher[Any]]:
        outputs: dict[str, Publisher[Any]] = {}
        for name, topic in self._playback.topics.items():
            try:
                msgtype = message_class(topic.msgtype)
            except NodeError as error:
                if self._settings.topics:
                    raise
                self.get_logger().warning(f"{name} is not played: {error}")
                continue
            outputs[name] = self.create_publisher(
                msgtype, name, _offered(topic, self._settings.reliability)
            )
        if not outputs:
            msg = f"{self._settings.path} has nothing to play"
            raise NodeError(msg)
        return outputs

    def _play(self) -> None:
        """Publish all messages, until the end or until stopped; run by the player's thread."""
        try:
            start_ns = self._playback.start_ns + int(self._settings.start_offset * _NS)
            self._await_subscribers(start_ns)
            while self._play_once(start_ns):
                if not self._settings.loop:
                    for output in self._outputs.values():
                        output.wait_for_all_acked(Duration(seconds=1))
                    break
                self._pace.begin(start_ns)
        except Exception as error:  # raised in the main thread
            self._error = error

    def _await_subscribers(self, start_ns: int) -> None:
        """Start the pace once no further subscribers are discovered, one `delay` after another."""
        found = 0
        for _ in range(_MOST_DELAYS):
            self._pace.begin(start_ns, self._settings.delay)
            if not self._pace.wait(start_ns):
                return
            before = found
            found = sum(output.get_subscription_count() for output in self._outputs.values())
            if found == before > 0:
                return

    def _play_once(self, start_ns: int) -> bool:
        """Play from a time to the end; return False if it was stopped before."""
        published = self._published
        for message in self._playback.messages(start_ns):
            if not self._pace.wait(message.due_ns):
                return False
            if output := self._outputs.get(message.topic):
                output.publish(self._stamped(message))
                self._published += 1
        if self._published == published:
            msg = f"{self._settings.path} has no messages after start_offset"
            raise NodeError(msg)
        return True

    def _stamped(self, message: TimedMessage) -> bytes:
        """Return a message's bytes, with its header's stamp shifted to now if `restamp` is set."""
        cdr = message.cdr
        if not self._settings.restamp or message.topic not in self._with_header:
            return bytes(cdr)
        stamp_ns = parse_header_stamp(cdr)
        if stamp_ns == 0 and not self._playback.topics[message.topic].zero_is_time:
            return bytes(cdr)
        moved_ns = self._pace.to_clock(stamp_ns - self._playback.stamp_offset_ns)
        order = "<" if cdr[1] else ">"
        # A header starts with its stamp, after four bytes that give the byte order.
        return b"".join((cdr[:4], struct.pack(f"{order}iI", *divmod(moved_ns, _NS)), cdr[12:]))

    def _publish_clock(self) -> None:
        seconds, nanoseconds = divmod(self._pace.position(), _NS)
        message = Clock()
        message.clock.sec, message.clock.nanosec = seconds, nanoseconds
        self._clock_output.publish(message)

    def _pause(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._pace.hold()
        response.success, response.message = True, "paused"
        return response

    def _resume(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._pace.release()
        response.success, response.message = True, "playing"
        return response


def _starts_with_header(msgtype: type) -> bool:
    """Return whether messages of a class begin with a `std_msgs/Header`."""
    fields: dict[str, str] = msgtype.get_fields_and_field_types()  # type: ignore[attr-defined]
    return next(iter(fields.values()), "") == "std_msgs/Header"


def _offered(topic: PlayedTopic, reliability: str) -> QoSProfile:
    """Return the QoS to publish a topic with; ``auto`` is the recorded reliability."""
    if reliability == "auto":
        reliability = topic.qos.reliability
    lasting = topic.qos.durability == "transient_local"
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=max(1, topic.qos.depth) if lasting else _QUEUE,
        reliability=(
            ReliabilityPolicy.BEST_EFFORT
            if reliability == "best_effort"
            else ReliabilityPolicy.RELIABLE
        ),
        durability=(DurabilityPolicy.TRANSIENT_LOCAL if lasting else DurabilityPolicy.VOLATILE),
    )


def main(args: Sequence[str] | None = None) -> int:
    """Run the replay node; the exit code is 1 if the recording cannot be played."""
    return run(NAME, Replay, ReplayParameters, args)


if __name__ == "__main__":
    sys.exit(main())
