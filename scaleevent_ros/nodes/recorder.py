"""The recorder node: records event, image, camera and IMU topics into bags, as serialized bytes."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import Counter
from datetime import datetime
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy
from std_srvs.srv import Trigger

from scaleevent_ros.bags.metadata import Qos
from scaleevent_ros.bags.writer import BagWriter
from scaleevent_ros.bags.writer_thread import BagThread
from scaleevent_ros.errors import ScaleEventError
from scaleevent_ros.nodes.managed_node import ManagedNode, create_steady_timer
from scaleevent_ros.nodes.parameters import DISTRIBUTIONS, NodeError, RecorderParameters
from scaleevent_ros.nodes.running import run
from scaleevent_ros.nodes.statuses import (
    RecorderReport,
    TopicMonitor,
    TopicReport,
    recorder_status,
    topic_status,
)
from scaleevent_ros.nodes.subscriptions import Topic, TopicFilter, TopicFollower
from scaleevent_ros.nodes.transport import transport_warning

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rclpy.qos import QoSProfile

NAME = "scaleevent_recorder"

_MB = 1_000_000
_WATCH_PERIOD_S = 0.25


class Recorder(ManagedNode[RecorderParameters]):
    """Node that records event, image, camera and IMU topics into bags.

    When activated, it subscribes to the topics and starts recording. Its services `~/start`,
    `~/stop` and `~/split` (`std_srvs/Trigger`) open a bag (configuring and activating the node if
    necessary), close it, and continue it in another file.

    Messages arrive on the receiver's thread. The receiver's lock must be held to change the bag.

    Raises:
        NodeError: If a parameter is invalid.
    """

    def __init__(self) -> None:
        super().__init__(NAME, RecorderParameters)
        self._folder = Path()
        self._inputs: TopicFollower | None = None
        self._bag: BagThread | None = None
        self._started_at = 0.0
        self._monitors: dict[str, TopicMonitor] = {}
        self._latched: dict[str, bytes] = {}
        self._losses: Counter[str] = Counter()
        self._waits_for_clock = False
        self._status = self.create_publisher(DiagnosticStatus, "~/status", 1)
        self.create_service(Trigger, "~/start", self._serve(self._start))
        self.create_service(Trigger, "~/stop", self._serve(self._stop))
        self.create_service(Trigger, "~/split", self._serve(self._split))
        create_steady_timer(self, _WATCH_PERIOD_S, self._watch)
        if warning := transport_warning():
            self.get_logger().warning(warning)
        if self.settings.autostart:
            self._start()

    def configure(self) -> None:
        """Create the output folder."""
        self._folder = _made(self.settings.output_folder)

    def activate(self) -> None:
        """Subscribe to the topics and open a bag."""
        settings = self.settings
        wanted = TopicFilter(
            settings.topics,
            settings.types,
            settings.exclude,
            settings.qos_depth,
            settings.reliability,
            settings.durability,
        )
        self._inputs = TopicFollower(self, wanted, self._add, self._receive, self._report_defect)
        try:
            self._open_bag()
        except BaseException:
            self.deactivate()
            raise

    def deactivate(self) -> None:
        """Write the messages that have arrived, close the bag and unsubscribe."""
        if self._bag:
            self._close_bag()
        if self._inputs:
            self._inputs.close()
        self._inputs = None
        self._monitors.clear()
        self._latched.clear()

    def cleanup(self) -> None:
        """Reset the counters."""
        self._losses.clear()

    def _serve(
        self, action: Callable[[], str]
    ) -> Callable[[Trigger.Request, Trigger.Response], Trigger.Response]:
        """Create the callback of a service from a method that returns the response's message."""

        def answer(_: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            try:
                response.message = action()
                response.success = True
            except ScaleEventError as error:
                response.message = str(error)
            return response

        return answer

    def _start(self) -> str:
        """Open a bag; configure and activate the node first if necessary."""
        if self._bag:
            msg = f"already recording to {self._bag.path}"
            raise NodeError(msg)
        if self._inputs:
            self._open_bag()
        else:
            success = TransitionCallbackReturn.SUCCESS
            unconfigured = self.state == "unconfigured"
            if (unconfigured and self.trigger_configure() != success) or (
                self.trigger_activate() != success
            ):
                raise NodeError(self.problem)
        assert self._bag
        return f"recording to {self._bag.path}"

    def _stop(self) -> str:
        """Close the bag."""
        if not self._bag:
            msg = "nothing is being recorded"
            raise NodeError(msg)
        return self._close_bag()

    def _split(self) -> str:
        """Continue the bag in another file."""
        if not self._bag:
            msg = "nothing is being recorded"
            raise NodeError(msg)
        self._bag.split()
        return f"{self._bag.path} continues in another file"

    def _open_bag(self) -> None:
        settings, inputs = self.settings, self._inputs
        assert inputs
        self._check_free_space()
        writer = BagWriter(
            _unused(self._folder, settings.name),
            metadata_version=DISTRIBUTIONS[settings.distribution],
            compression=None if settings.compression == "none" else settings.compression,
            max_bytes=int(settings.max_file_size * _MB),
            max_duration_ns=int(settings.max_file_duration * 1e9),
        )
        bag = BagThread(writer, int(settings.queue_size * _MB))
        self._started_at = time.monotonic()
        self.problem = ""
        self.get_logger().info(f"recording to {bag.path}")
        with inputs.receiver.lock:
            for topic in inputs.topics.values():
                bag.add_topic(topic.name, topic.msgtype, _stored(topic.offer))
            self._bag = bag
            self._put_latched()

    def _close_bag(self) -> str:
        """Write the messages that have arrived, close the bag, and return a summary."""
        bag, inputs = self._bag, self._inputs
        assert bag
        assert inputs
        with inputs.receiver.lock:
            inputs.receiver.drain()
            self._bag = None
        bag.close()
        self._losses.update(bag.dropped)
        summary = f"closed {bag.path}: {bag.written} messages, {bag.written_bytes / _MB:.1f} MB"
        if dropped := bag.dropped.total():
            summary += f", {dropped} dropped"
        if missing := inputs.missing:
            summary += f"; never appeared: {', '.join(missing)}"
        elif not bag.written:
            summary += "; no message was received"
        if bag.error:
            self.fail(f"{bag.error}; {summary}")
        else:
            self.get_logger().info(summary)
        return summary

    def _add(self, topic: Topic) -> None:
        """Prepare for the messages of a new topic."""
        self._monitors[topic.name] = TopicMonitor(topic.msgtype)
        self.get_logger().info(f"found {topic.name}, {topic.msgtype}")
        if self._bag:
            self._bag.add_topic(topic.name, topic.msgtype, _stored(topic.offer))

    def _receive(self, topic: Topic, cdr: bytes) -> None:
        """Count a message and queue it for the bag."""
        monitor = self._monitors[topic.name]
        geometry = monitor.geometry
        monitor.count(cdr)
        if geometry and monitor.geometry != geometry:
            self.get_logger().warning(
                f"{topic.name}: size changes from {geometry} to {monitor.geometry} pixels",
                throttle_duration_sec=1.0,
            )
        if topic.qos.durability == DurabilityPolicy.TRANSIENT_LOCAL:
            self._latched[topic.name] = cdr
        self._put(topic.name, cdr)

    def _put(self, topic: str, cdr: bytes) -> None:
        """Queue a message for the bag, if there is one."""
        if not self._bag:
            return
        if now := self._now():
            self._bag.put(topic, now, cdr)
        else:  # simulated time has not begun
            self._waits_for_clock = True

    def _put_latched(self) -> None:
        """Queue the latched messages, which are received only once, for a new bag."""
        self._waits_for_clock = False
        for name, cdr in self._latched.items():
            self._put(name, cdr)

    def _report_defect(self, error: Exception) -> None:
        self.problem = f"a message cannot be recorded: {type(error).__name__}: {error}"
        self.get_logger().error(self.problem, throttle_duration_sec=1.0)

    def _now(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _check_free_space(self) -> None:
        free, least = self._free_mb(), self.settings.min_free_space
        if free < least:
            msg = (
                f"{free:.0f} MB are free in {self._folder}, less than min_free_space, "
                f"{least:.0f} MB: free disk space, or lower it"
            )
            raise NodeError(msg)

    def _free_mb(self) -> float:
        return shutil.disk_usage(self._folder).free / _MB

    def _watch(self) -> None:
        """Update the subscriptions, and end the recording on an error or after its duration."""
        if not self._inputs:
            return
        self._inputs.refresh()
        with self._inputs.receiver.lock:
            if self._waits_for_clock and self._now():
                self._put_latched()
        if not self._bag:
            return
        seconds = time.monotonic() - self._started_at
        if self._bag.error:
            self._close_bag()
        elif 0 < self.settings.duration <= seconds:
            self._close_bag()
            self.finished = True
        else:
            try:
                self._check_free_space()
            except NodeError as error:
                self.fail(f"{error}; {self._close_bag()}")

    def statuses(self) -> Sequence[DiagnosticStatus]:
        """Build the statuses for `/diagnostics`, and publish the first on `~/status`."""
        now, name = time.monotonic(), self.get_fully_qualified_name()
        topics = list(self._inputs.topics.values()) if self._inputs else []
        reports = [self._topic_report(topic, now) for topic in topics]
        overall = recorder_status(
            name,
            RecorderReport(
                state=self.state,
                bag=self._bag,
                seconds=now - self._started_at if self._bag else 0.0,
                free_mb=self._free_mb() if self._inputs else None,
                missing=self._missing(),
                problem=self.problem,
            ),
            reports,
        )
        self._status.publish(overall)
        return [overall, *(topic_status(name, report) for report in reports)]

    def _missing(self) -> list[str]:
        """List the topics that the recording waits for."""
        clock = ["/clock"] if self._waits_for_clock else []
        return clock + (self._inputs.missing if self._inputs else [])

    def _topic_report(self, topic: Topic, now: float) -> TopicReport:
        monitor = self._monitors[topic.name]
        bag = self._bag
        return TopicReport(
            topic=topic,
            monitor=monitor,
            rates=monitor.rates(now),
            queued=bag.queued[topic.name] if bag else 0,
            dropped=self._losses[topic.name] + (bag.dropped[topic.name] if bag else 0),
        )


def _made(folder: str) -> Path:
    """Create the output folder, and check that it can be written."""
    path = Path(folder).expanduser().absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"output_folder {path} cannot be created: {error.strerror}"
        raise NodeError(msg) from None
    if not os.access(path, os.W_OK):
        msg = f"output_folder {path} cannot be written to"
        raise NodeError(msg)
    return path


def _unused(folder: Path, pattern: str) -> Path:
    """Return the path of a new bag, for a name with strftime fields.

    Raises:
        NodeError: If the name is empty or contains a slash.
    """
    name = datetime.now().astimezone().strftime(pattern)
    if not name or "/" in name:
        msg = f"parameter 'name' gives {name!r}, which is not a valid folder name"
        raise NodeError(msg)
    candidates = chain([name], (f"{name}_{number}" for number in count(2)))
    return next(path for path in map(folder.joinpath, candidates) if not path.exists())


def _stored(offer: QoSProfile) -> Qos:
    """Convert the QoS that a publisher offers to that of a bag's metadata."""
    return Qos(
        reliability=offer.reliability.name.lower(),
        durability=offer.durability.name.lower(),
        history=offer.history.name.lower(),
        depth=offer.depth,
    )


def main(args: Sequence[str] | None = None) -> int:
    """Run the recorder; the exit code is 1 if it cannot start."""
    return run(NAME, Recorder, RecorderParameters, args)


if __name__ == "__main__":
    sys.exit(main())
