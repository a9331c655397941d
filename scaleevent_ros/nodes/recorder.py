"""Records event, image, camera and IMU topics into bags, as bytes, without losing one."""

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

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy
from std_srvs.srv import Trigger

from scaleevent_ros.bags.metadata import Qos
from scaleevent_ros.bags.writer import BagWriter
from scaleevent_ros.errors import ScaleEventError
from scaleevent_ros.nodes import diagnostics
from scaleevent_ros.nodes.bag_thread import BagThread
from scaleevent_ros.nodes.declaration import declare, read
from scaleevent_ros.nodes.errors import NodeError
from scaleevent_ros.nodes.recorder_parameters import DISTRIBUTIONS, RecorderParameters
from scaleevent_ros.nodes.recorder_status import (
    RecorderReport,
    TopicReport,
    recorder_status,
    topic_status,
)
from scaleevent_ros.nodes.running import run
from scaleevent_ros.nodes.subscriptions import Subscriptions, Topic, Wanted
from scaleevent_ros.nodes.topic_monitor import TopicMonitor
from scaleevent_ros.nodes.transport import transport_warning

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rclpy.lifecycle import State
    from rclpy.qos import QoSProfile

NAME = "scaleevent_recorder"

_MB = 1_000_000
_WATCH_PERIOD_S = 0.25
_REPORT_PERIOD_S = 1.0


class Recorder(LifecycleNode):
    """The recorder node.

    Active, it is subscribed and records until told to stop. Its services `~/start`, `~/stop` and
    `~/split` (`std_srvs/Trigger`) open a bag (after configuring and activating the node where that
    is still to do), close it, and go on in another file of it.

    Raises:
        NodeError: If a parameter is wrong.
    """

    def __init__(self) -> None:
        super().__init__(NAME)
        declare(self, RecorderParameters)
        self._settings = read(self, RecorderParameters)
        self._folder = Path()
        self._inputs: Subscriptions | None = None
        self._bag: BagThread | None = None
        self._started_at = 0.0
        self._monitors: dict[str, TopicMonitor] = {}
        self._latched: dict[str, bytes] = {}
        self._losses: Counter[str] = Counter()
        self._problem = ""
        self._finished = False
        self._status = self.create_publisher(DiagnosticStatus, "~/status", 1)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_service(Trigger, "~/start", self._serve(self._start))
        self.create_service(Trigger, "~/stop", self._serve(self._stop))
        self.create_service(Trigger, "~/split", self._serve(self._split))
        self.create_timer(_REPORT_PERIOD_S, self._report)
        self.create_timer(_WATCH_PERIOD_S, self._watch)
        if warning := transport_warning():
            self.get_logger().warning(warning)
        if self._settings.autostart:
            self._start()

    @property
    def finished(self) -> bool:
        """Whether the duration that was asked for is recorded."""
        return self._finished

    def close(self) -> None:
        """Take what has arrived, close the bag, end the threads."""
        self._deactivate()

    def on_configure(self, state: State) -> TransitionCallbackReturn:  # noqa: ARG002 - rclpy's
        """Read the parameters anew and make the output folder."""
        try:
            self._settings = read(self, RecorderParameters)
            self._folder = _made(self._settings.output_folder)
        except ScaleEventError as error:
            return self._fail(error)
        self._problem = ""
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: State) -> TransitionCallbackReturn:  # noqa: ARG002 - rclpy's
        """Subscribe and record."""
        settings = self._settings
        wanted = Wanted(
            settings.topics,
            settings.types,
            settings.exclude,
            settings.qos_depth,
            settings.reliability,
            settings.durability,
        )
        try:
            self._inputs = Subscriptions(self, wanted, self._receive)
            self._open_bag()
        except ScaleEventError as error:
            self._deactivate()
            return self._fail(error)
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: State) -> TransitionCallbackReturn:  # noqa: ARG002 - rclpy's
        """Close the bag and unsubscribe."""
        self._deactivate()
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: State) -> TransitionCallbackReturn:  # noqa: ARG002 - rclpy's
        """Forget what was counted."""
        self._losses.clear()
        self._problem = ""
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: State) -> TransitionCallbackReturn:  # noqa: ARG002 - rclpy's
        """Close the bag; the process ends."""
        self._deactivate()
        self._finished = True
        return TransitionCallbackReturn.SUCCESS

    def _fail(self, error: ScaleEventError) -> TransitionCallbackReturn:
        self._problem = str(error)
        self.get_logger().error(self._problem)
        return TransitionCallbackReturn.FAILURE

    def _serve(
        self, action: Callable[[], str]
    ) -> Callable[[Trigger.Request, Trigger.Response], Trigger.Response]:
        """Make a service of a method that returns what it did or raises why it could not."""

        def answer(_: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            try:
                response.message = action()
                response.success = True
            except ScaleEventError as error:
                response.message = str(error)
            return response

        return answer

    def _start(self) -> str:
        """Open a bag, through the transitions that lead there."""
        if self._bag:
            msg = f"recording to {self._bag.path} already"
            raise NodeError(msg)
        if self._inputs:
            self._open_bag()
        else:
            success = TransitionCallbackReturn.SUCCESS
            unconfigured = self._state_machine.current_state[1] == "unconfigured"
            if (unconfigured and self.trigger_configure() != success) or (
                self.trigger_activate() != success
            ):
                raise NodeError(self._problem)
        assert self._bag
        return f"recording to {self._bag.path}"

    def _stop(self) -> str:
        """Close the bag."""
        if not self._bag:
            msg = "nothing is being recorded"
            raise NodeError(msg)
        return self._close_bag()

    def _split(self) -> str:
        """Go on in another file."""
        if not self._bag:
            msg = "nothing is being recorded"
            raise NodeError(msg)
        self._bag.split()
        return f"{self._bag.path} goes on in another file"

    def _deactivate(self) -> None:
        if self._bag:
            self._close_bag()
        if self._inputs:
            self._inputs.close()
        self._inputs = None
        self._monitors.clear()
        self._latched.clear()

    def _open_bag(self) -> None:
        settings = self._settings
        self._check_free_space()
        writer = BagWriter(
            _unused(self._folder, settings.name),
            metadata_version=DISTRIBUTIONS[settings.distribution],
            compression=None if settings.compression == "none" else settings.compression,
            max_bytes=int(settings.max_file_size * _MB),
            max_duration_ns=int(settings.max_file_duration * 1e9),
        )
        self._bag = BagThread(writer, int(settings.queue_size * _MB))
        self._started_at = time.monotonic()
        self._problem = ""
        self.get_logger().info(f"recording to {self._bag.path}")
        if self._inputs:
            for topic in self._inputs.topics.values():
                self._bag.add_topic(topic.name, topic.msgtype, _stored(topic.offer))
        # A latched message comes once; a bag that starts later must hold it too.
        for name, cdr in self._latched.items():
            self._bag.put(name, self._now(), cdr)

    def _close_bag(self) -> str:
        """Write all that has arrived by now and close the bag."""
        assert self._bag
        if self._inputs:
            self._inputs.drain()
        bag, self._bag = self._bag, None
        bag.close()
        self._losses.update(bag.dropped)
        said = f"closed {bag.path}: {bag.written} messages, {bag.written_bytes / _MB:.1f} MB"
        if dropped := bag.dropped.total():
            said += f", {dropped} dropped"
        if self._inputs and (missing := self._inputs.missing):
            said += f"; never appeared: {', '.join(missing)}"
        elif not bag.written:
            said += "; no topic had anything to record"
        if bag.error:
            self._problem = f"{bag.error}; {said}"
            self.get_logger().error(self._problem)
        else:
            self.get_logger().info(said)
        return said

    def _receive(self, topic: Topic, cdr: bytes) -> None:
        """Take one message: count it, sample it, queue it."""
        monitor = self._monitors[topic.name]
        geometry = monitor.geometry
        monitor.count(cdr)
        if geometry and monitor.geometry != geometry:
            self.get_logger().warning(
                f"{topic.name}: changes from {geometry} to {monitor.geometry} pixels"
            )
        if topic.qos.durability == DurabilityPolicy.TRANSIENT_LOCAL:
            self._latched[topic.name] = cdr
        if self._bag:
            self._bag.put(topic.name, self._now(), cdr)

    def _now(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _check_free_space(self) -> None:
        free, least = self._free_mb(), self._settings.min_free_space
        if free < least:
            msg = (
                f"{free:.0f} MB are free in {self._folder}, less than min_free_space, "
                f"{least:.0f} MB: make room, or lower it"
            )
            raise NodeError(msg)

    def _free_mb(self) -> float:
        return shutil.disk_usage(self._folder).free / _MB

    def _watch(self) -> None:
        """Follow the graph, and end the recording where it cannot or need not go on."""
        if not self._inputs:
            return
        for topic in self._inputs.refresh():
            self._monitors[topic.name] = TopicMonitor(topic.msgtype)
            self.get_logger().info(f"{topic.name}: found, {topic.msgtype}")
            if self._bag:
                self._bag.add_topic(topic.name, topic.msgtype, _stored(topic.offer))
        if not self._bag:
            return
        seconds = time.monotonic() - self._started_at
        if self._bag.error:
            self._close_bag()
        elif 0 < self._settings.duration <= seconds:
            self._close_bag()
            self._finished = True
        else:
            try:
                self._check_free_space()
            except NodeError as error:
                self._problem = f"{error}; {self._close_bag()}"
                self.get_logger().error(self._problem)

    def _report(self) -> None:
        now = time.monotonic()
        topics = list(self._inputs.topics.values()) if self._inputs else []
        reports = [self._topic_report(topic, now) for topic in topics]
        overall = recorder_status(
            NAME,
            RecorderReport(
                state=self._state_machine.current_state[1],
                bag=self._bag,
                seconds=now - self._started_at if self._bag else 0.0,
                free_mb=self._free_mb() if self._inputs else None,
                missing=self._inputs.missing if self._inputs else [],
                problem=self._problem,
            ),
            reports,
        )
        self._status.publish(overall)
        statuses = [overall, *(topic_status(NAME, report) for report in reports)]
        self._diagnostics.publish(diagnostics.array(self.get_clock().now().to_msg(), statuses))

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
    """Make the output folder, and see that it can be written to."""
    path = Path(folder).expanduser().absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"output_folder {path} cannot be made: {error.strerror}"
        raise NodeError(msg) from None
    if not os.access(path, os.W_OK):
        msg = f"output_folder {path} cannot be written to"
        raise NodeError(msg)
    return path


def _unused(folder: Path, pattern: str) -> Path:
    """Name a bag that does not exist yet."""
    name = datetime.now().astimezone().strftime(pattern)
    if not name or "/" in name:
        msg = f"parameter 'name' gives {name!r}, which is no name of a folder"
        raise NodeError(msg)
    candidates = chain([name], (f"{name}_{number}" for number in count(2)))
    return next(path for path in map(folder.joinpath, candidates) if not path.exists())


def _stored(offer: QoSProfile) -> Qos:
    """Write a publisher's offer as bags do."""
    return Qos(
        reliability=offer.reliability.name.lower(),
        durability=offer.durability.name.lower(),
        history=offer.history.name.lower(),
        depth=offer.depth,
    )


def main(args: Sequence[str] | None = None) -> int:
    """Run the recorder; the exit code is 1 where it could not start."""
    return run(NAME, Recorder, args)


if __name__ == "__main__":
    sys.exit(main())
