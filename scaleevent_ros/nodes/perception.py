"""The perception node: runs a student on a live event camera and publishes its outputs.

This module has the ROS part: parameters, lifecycle, topics and reports. It imports neither torch
nor numba: the pipeline is imported and built while the node already serves requests. It is one
class, since lifecycle, topics and reports share the references and the locks that guard them.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from event_camera_msgs.msg import EventPacket
from geometry_msgs.msg import Point, PointStamped
from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Float64
from vision_msgs.msg import LabelInfo, VisionClass

from scaleevent_ros.errors import ScaleEventError
from scaleevent_ros.nodes.diagnostics import Rates, Remarks, Timings
from scaleevent_ros.nodes.managed_node import ManagedNode, create_steady_timer
from scaleevent_ros.nodes.parameters import LIVE, NodeError, PerceptionParameters, changed
from scaleevent_ros.nodes.running import run
from scaleevent_ros.nodes.statuses import PerceptionReport, perception_status
from scaleevent_ros.nodes.subscriptions import Receiver
from scaleevent_ros.nodes.transport import transport_warning

if TYPE_CHECKING:
    from collections.abc import Sequence

    from diagnostic_msgs.msg import DiagnosticStatus
    from rclpy.parameter import Parameter
    from rclpy.publisher import Publisher
    from rclpy.subscription import Subscription

    from scaleevent_ros.nodes.perception_pipeline import PerceptionLoop, Pipeline
    from scaleevent_ros.nodes.perception_stream import StreamCounts
    from scaleevent_ros.nodes.subscriptions import RawTopic

NAME = "scaleevent_perception"
DEFAULT_EVENTS = "/event_camera/events"
"""Topic to subscribe to if `~/events` is not remapped and no camera is found yet."""

_WATCH_PERIOD_S = 0.25
_SETTLING_S = 0.5  # time for further cameras to be discovered, before one is chosen
_UNKNOWN_NODE = "_NODE_NAME_UNKNOWN_"
_PATIENCE_S = 3.0  # time without packets, before a warning
_LARGE_BYTES = 500_000  # size from which Fast DDS with its default settings loses messages
_TIMED = ("decode", "transfer", "inference", "publish", "window_age")

_RELIABLE = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=4, reliability=ReliabilityPolicy.RELIABLE
)
_LATCHED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


class Perception(ManagedNode[PerceptionParameters]):
    """Node that runs a student on a live event camera and publishes its outputs.

    Threads: the executor's threads serve lifecycle, parameters and reports, and build the first
    pipeline in the transition `configure`. The receiver's thread decodes packets, and the loop's
    thread computes windows. If the camera's geometry changes, a separate thread builds a new
    pipeline. Each thread holds its own references to the objects that it uses; the node only
    replaces its own references.

    Raises:
        NodeError: If an initial parameter is invalid.
    """

    def __init__(self) -> None:
        super().__init__(NAME, PerceptionParameters)
        self._lock = threading.RLock()  # for the references below; taken after a receiver's lock
        self._topic_lock = threading.Lock()  # for subscriptions; taken before a receiver's lock
        self._building_lock = threading.Lock()  # two engines at once may not fit the GPU
        self._building = ""
        self._activation = 0
        self._pipeline: Pipeline | None = None
        self._loop: PerceptionLoop | None = None
        self._counts: StreamCounts | None = None
        self._receiver: Receiver | None = None
        self._events: RawTopic | None = None
        self._images: dict[str, Publisher[Any]] = {}
        self._label_info: Publisher[Any] | None = None
        self._debug: dict[str, Publisher[Any]] = {}
        self._points: list[Subscription[Any]] = []
        self._large = False
        self._timings = Timings()
        self._remarks = Remarks(self.get_logger().warning)
        self._last_packet = 0.0
        self._candidates: tuple[tuple[str, ...], float] = (), 0.0
        self._warned_of_silence = False
        self._several = self._awaits_names = False
        self._rates = Rates()
        self._starting = self._closed = False
        self.add_on_set_parameters_callback(self._change)
        create_steady_timer(self, _WATCH_PERIOD_S, self._watch)
        if self.settings.autostart:
            self._starting = True
            threading.Thread(target=self._start, name="autostart", daemon=True).start()

    @property
    def busy(self) -> bool:
        """Whether a thread builds a pipeline, which cannot be interrupted."""
        return self._starting or self._building_lock.locked()

    def close(self) -> None:
        """End the work before the process ends."""
        self._closed = True
        self.deactivate()

    def configure(self) -> None:
        """Build the pipeline, and create the publishers of its outputs."""
        pipeline = self._build((self.settings.height, self.settings.width))
        self._pipeline = pipeline
        self._create_publishers(pipeline)

    def activate(self) -> None:
        """Subscribe to the topics, and start the loop."""
        from scaleevent_ros.nodes.perception_stream import StreamCounts

        settings, pipeline = self.settings, self._pipeline
        if not pipeline:
            msg = "there is no pipeline for this camera: clean up and configure the node"
            raise NodeError(msg)
        counts = StreamCounts()
        self._candidates, self._several, self._warned_of_silence = ((), 0.0), False, False
        self._last_packet = time.monotonic()
        with self._lock:
            self._activation += 1
            self._counts = counts
            self._loop = self._start_loop(pipeline, counts)
        self._points = [
            self.create_subscription(
                PointStamped, "~/point", lambda message: self._compare_with(message.point), 10
            ),
            self.create_subscription(Point, "~/click", self._compare_with, 10),
        ]
        with self._topic_lock:
            self._receiver = Receiver(self, self._report_defect)
            self._subscribe_to_events(self._remapped_events or DEFAULT_EVENTS)
            if settings.trigger == "image":
                images = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
                self._receiver.add(Image, "~/image", images, self._receive_image)

    def deactivate(self) -> None:
        """Unsubscribe and stop the loop; the pipeline is kept."""
        with self._topic_lock:
            receiver, self._receiver, self._events = self._receiver, None, None
        with self._lock:
            self._activation += 1
            points, self._points = self._points, []
            loop, self._loop, self._counts = self._loop, None, None
        for subscription in points:
            self.destroy_subscription(subscription)
        if receiver:
            receiver.close()
        if loop:
            loop.stop()
        self._large = False

    def cleanup(self) -> None:
        """Release the pipeline and destroy its publishers."""
        with self._lock:
            self._pipeline = None
            publishers = [*self._images.values(), *self._debug.values()]
            if self._label_info:
                publishers.append(self._label_info)
            self._images, self._debug, self._label_info = {}, {}, None
            for publisher in publishers:
                self.destroy_publisher(publisher)

    def _start(self) -> None:
        """Configure and activate the node, in the thread `autostart`."""
        try:
            if self.trigger_configure() == TransitionCallbackReturn.SUCCESS and not self._closed:
                self.trigger_activate()
        except Exception as error:
            if not self._closed:
                self.fail(f"cannot start: {type(error).__name__}: {error}")
        finally:
            self._starting = False

    def _build(self, size: tuple[int, int]) -> Pipeline:
        """Build a pipeline for a sensor's size, on the calling thread."""
        with self._building_lock:
            self._building = f"building the engine for {size[1]}x{size[0]} pixels"
            try:
                from scaleevent_ros.nodes.perception_pipeline import build_pipeline

                pipeline = build_pipeline(self.settings, size)
            finally:
                self._building = ""
        engine = pipeline.engine
        self.get_logger().info(
            f"{engine.header.architecture} for {size[1]}x{size[0]} on {engine.device}, "
            f"{engine.precision}, {engine.backend}: {', '.join(engine.outputs)}"
        )
        gc.freeze()  # see `running.run`
        return pipeline

    def _create_publishers(self, pipeline: Pipeline) -> None:
        self._images = {
            topic: self.create_publisher(Image, f"~/{topic}", _RELIABLE)
            for topic in pipeline.topics
        }
        if self.settings.debug:
            self._debug = {
                name: self.create_publisher(Float64, f"~/debug/{name}_ms", 10) for name in _TIMED
            }
        if "segmentation" in pipeline.engine.outputs:
            self._label_info = self.create_publisher(LabelInfo, "~/label_info", _LATCHED)
            info = LabelInfo(
                class_map=[
                    VisionClass(class_id=number, class_name=name)
                    for number, name in enumerate(pipeline.engine.header.classes)
                ]
            )
            info.header.stamp = self.get_clock().now().to_msg()
            self._label_info.publish(info)

    def _start_loop(self, pipeline: Pipeline, counts: StreamCounts) -> PerceptionLoop:
        from scaleevent_ros.nodes.perception_pipeline import PerceptionLoop

        return PerceptionLoop(pipeline, self.settings, self, counts, self._timings)

    # What a loop calls, see `perception_pipeline.Sink`.

    def subscribed(self) -> list[str]:
        """List the image topics that have subscribers."""
        with self._lock:
            images = self._images.items()
            return [topic for topic, output in images if output.get_subscription_count()]

    def publish(self, topic: str, cdr: bytes) -> None:
        """Publish a serialized image."""
        self._images[topic].publish(cdr)
        self._large |= len(cdr) >= _LARGE_BYTES

    def publish_times(self, ms: dict[str, float]) -> None:
        """Publish the duration of each step of a window, in ms."""
        for name, publisher in self._debug.items():
            if name in ms:
                publisher.publish(Float64(data=ms[name]))

    def now_ns(self) -> int:
        """Return the current ROS time in ns."""
        return int(self.get_clock().now().nanoseconds)

    def remark(self, text: str) -> None:
        """Log a warning and add it to the next report."""
        self._remarks.add(text)

    def report_failure(self, reason: str) -> None:
        """Report why windows fail, or by an empty text that they work again."""
        if reason and not self.problem:
            self.get_logger().error(reason)
        self.problem = reason

    # Messages, on the receiver's thread.

    def _receive(self, cdr: bytes) -> None:
        self._last_packet = time.monotonic()
        loop = self._loop
        if not loop:
            return  # a pipeline for another geometry is being built
        loop.push(cdr)
        if size := loop.new_size:
            self._follow(loop, size)

    def _receive_image(self, cdr: bytes) -> None:
        if loop := self._loop:
            loop.push_image(cdr)

    def _report_defect(self, error: Exception) -> None:
        self.remark(f"a message cannot be processed: {type(error).__name__}: {error}")

    def _compare_with(self, point: Point) -> None:
        if loop := self._loop:
            loop.compare_with(point.x, point.y)

    # Changes while the node runs.

    def _follow(self, loop: PerceptionLoop, size: tuple[int, int]) -> None:
        """Replace the pipeline by one for a camera that has changed its geometry."""
        with self._lock:
            if self._loop is not loop:
                return
            # The old engine is released first: the two may not fit the GPU together.
            self._loop = self._pipeline = None
            activation = self._activation
        old = loop.pipeline.engine.size
        self.remark(f"the geometry changes from {old[1]}x{old[0]} to {size[1]}x{size[0]}")
        threading.Thread(
            target=self._replace, args=(loop, size, activation), name="builder", daemon=True
        ).start()

    def _replace(self, loop: PerceptionLoop, size: tuple[int, int], activation: int) -> None:
        """Build a pipeline and swap it in, unless the node was deactivated meanwhile."""
        loop.stop()
        if counts := self._counts:
            counts.memory_resets += loop.remembers
        del loop
        try:
            pipeline = self._build(size)
        except Exception as error:
            if activation == self._activation:
                self.trigger_deactivate()
                self.fail(f"no engine for {size[1]}x{size[0]}: {type(error).__name__}: {error}")
            return
        with self._lock:
            if activation == self._activation and self._counts:
                self._pipeline = pipeline
                self._loop = self._start_loop(pipeline, self._counts)
            elif self.state == "inactive" and not self._pipeline:
                self._pipeline = pipeline

    def _change(self, parameters: list[Parameter[Any]]) -> SetParametersResult:
        """Check new values of parameters and apply them."""
        changes = {
            parameter.name: parameter.value
            for parameter in parameters
            if hasattr(self.settings, parameter.name)
        }
        fixed = sorted(name for name in changes if name not in LIVE)
        try:
            settings = changed(self.settings, changes)
            if fixed and self.state != "unconfigured":
                msg = (
                    f"parameter {fixed[0]!r} cannot change while the node is {self.state}: "
                    f"`ros2 lifecycle set {self.get_fully_qualified_name()}` deactivate and "
                    "cleanup, set it, then configure and activate"
                )
                raise NodeError(msg)
            with self._lock:
                if self._pipeline:
                    self._pipeline.check(settings)
                if self._loop:
                    self._loop.apply(settings)
                self.settings = settings
        except ScaleEventError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    # The topic of events.

    @property
    def _remapped_events(self) -> str:
        """Topic that `~/events` is remapped to; empty if it is not remapped."""
        name = self.resolve_topic_name("~/events")
        return "" if name == f"{self.get_fully_qualified_name()}/events" else name

    def _subscribe_to_events(self, topic: str) -> None:
        assert self._receiver
        if self._events:
            self._receiver.remove(self._events)
        qos = QoSProfile(depth=self.settings.qos_depth, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._events = self._receiver.add(EventPacket, topic, qos, self._receive)

    def _watch(self) -> None:
        """Look for the camera, and warn if there are no packets or several publishers."""
        with self._topic_lock:
            if not self._receiver or not self._events:
                return
            topic = self._events.subscription.topic_name
            publishers = self.get_publishers_info_by_topic(topic)
            heard = self._counts is not None and self._counts.packets > 0
            if not publishers and not heard and not self._remapped_events:
                self._look_for_camera(topic)
        several = len(publishers) > 1
        names = ", ".join(sorted({_node_name(info) for info in publishers}))
        # Names of nodes are discovered a little later than their topics: wait once for them.
        new = several and not self._several
        self._awaits_names = new and _UNKNOWN_NODE in names and not self._awaits_names
        if new and not self._awaits_names:
            self.remark(f"{topic} has {len(publishers)} publishers ({names}); one is expected")
        self._several = several and not self._awaits_names
        silent_s = time.monotonic() - self._last_packet
        if silent_s < _PATIENCE_S:
            self._warned_of_silence = False
        elif not self._warned_of_silence:
            self._warned_of_silence = True
            found = ", ".join(self._event_topics()) or "none"
            self.get_logger().warning(
                f"no event packet on {topic} for {silent_s:.0f} s; topics of EventPacket: {found}"
            )

    def _event_topics(self) -> list[str]:
        """List the topics of event packets that have a publisher."""
        return [
            name
            for name, types in self.get_topic_names_and_types()
            if "event_camera_msgs/msg/EventPacket" in types and self.count_publishers(name)
        ]

    def _look_for_camera(self, current: str) -> None:
        """Subscribe to the first topic of event packets, once no further ones are discovered."""
        found, now = tuple(self._event_topics()), time.monotonic()
        before, since = self._candidates
        if found != before:
            self._candidates = found, now
        elif found and now - since >= _SETTLING_S and found[0] != current:
            if len(found) > 1:
                self.remark(
                    f"several topics of event packets: {', '.join(found)}; using {found[0]}. "
                    "Remap ~/events (launch argument `events`) to use another"
                )
            else:
                self.get_logger().info(f"found event packets on {found[0]}")
            self._subscribe_to_events(found[0])

    # Reports.

    def statuses(self) -> Sequence[DiagnosticStatus]:
        """Build the status for `/diagnostics`."""
        with self._lock:
            loop, counts, pipeline, events = self._loop, self._counts, self._pipeline, self._events
        transport = (transport_warning() or "") if self._large else ""
        if transport:
            self.get_logger().warning(transport, once=True)
        now = time.monotonic()
        silent_s = now - self._last_packet
        totals = (
            (counts.packets, counts.events, counts.windows, counts.skipped)
            if counts
            else (0, 0, 0, 0)
        )
        report = PerceptionReport(
            state=self.state,
            pipeline=pipeline,
            building=self._building,
            counts=counts,
            rates=self._rates.take(now, *totals),
            timings=self._timings.take(),
            subscribed=tuple(self.subscribed()),
            events_topic=events.subscription.topic_name if events else "",
            silent_s=silent_s if loop and silent_s > self.settings.silence else 0.0,
            problem=self.problem,
            remarks=self._remarks.take(),
            transport=transport,
        )
        return [perception_status(self.get_fully_qualified_name(), report)]


def _node_name(info: Any) -> str:
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"


def main(args: Sequence[str] | None = None) -> int:
    """Run the perception node; the exit code is 1 if an initial parameter is invalid."""
    return run(NAME, Perception, PerceptionParameters, args, threads=3)


if __name__ == "__main__":
    sys.exit(main())
