"""Runs a student on a live event camera and publishes what it sees."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from diagnostic_msgs.msg import DiagnosticArray
from event_camera_msgs.msg import EventPacket
from geometry_msgs.msg import Point, PointStamped
from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Float64
from vision_msgs.msg import LabelInfo, VisionClass

from scaleevent_ros.bags.errors import MessageError
from scaleevent_ros.bags.messages import parse_header_stamp
from scaleevent_ros.errors import ScaleEventError
from scaleevent_ros.events import warm_up
from scaleevent_ros.nodes import diagnostics
from scaleevent_ros.nodes.declaration import declare, read
from scaleevent_ros.nodes.errors import NodeError
from scaleevent_ros.nodes.images import array_to_cdr
from scaleevent_ros.nodes.parameters import changed
from scaleevent_ros.nodes.perception_outputs import Products, Scene, topics_of
from scaleevent_ros.nodes.perception_parameters import LIVE, PerceptionParameters
from scaleevent_ros.nodes.perception_status import PerceptionReport, Totals, perception_status
from scaleevent_ros.nodes.perception_stream import PacketStream, StreamCounts
from scaleevent_ros.nodes.perception_trigger import Trigger
from scaleevent_ros.nodes.perception_windows import make_windows, window_rule
from scaleevent_ros.nodes.receiver import Receiver
from scaleevent_ros.nodes.running import run
from scaleevent_ros.nodes.timings import Timings
from scaleevent_ros.nodes.transport import transport_warning
from scaleevent_ros.nodes.wake_up import WakeUp
from scaleevent_ros.runtime import Engine, Outputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rclpy.lifecycle import State
    from rclpy.parameter import Parameter
    from rclpy.publisher import Publisher
    from rclpy.subscription import Subscription

    from scaleevent_ros.nodes.perception_stream import Live
    from scaleevent_ros.nodes.perception_windows import Windows

NAME = "scaleevent_perception"

_REPORT_PERIOD_S = 1.0
_LOOK_PERIOD_S = 0.1
_LARGE_BYTES = 500_000  # from here on Fast DDS as it comes loses messages
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


class Perception(LifecycleNode):
    """The perception node.

    One thread receives packets, decodes them and keeps the windows. Another takes the newest
    window whenever the trigger asks for one, runs the network, and publishes what is subscribed
    to. It never has more than one window to do: requests that come meanwhile become one, and are
    counted. The executor's thread does the rest: lifecycle, parameters, reports.

    Raises:
        NodeError: If a parameter is wrong from the start.
    """

    def __init__(self) -> None:
        super().__init__(NAME)
        declare(self, PerceptionParameters)
        self._settings = read(self, PerceptionParameters)
        self._engine: Engine | None = None
        self._products: Products | None = None
        self._stream: PacketStream | None = None
        self._trigger = Trigger(self._settings, self._request)
        self._receiver: Receiver | None = None
        self._worker: threading.Thread | None = None
        self._wake_up = WakeUp()
        self._images: dict[str, Publisher[Any]] = {}
        self._label_info: Publisher[Any] | None = None
        self._debug: dict[str, Publisher[Any]] = {}
        self._points: list[Subscription[Any]] = []
        self._new_size = self.create_guard_condition(self._follow)
        self._look_next, self._listened = 0.0, False
        self._stamp_ns = 0
        self._windows = self._skipped = 0
        self._large = False
        self._timings = Timings()
        self._remarks: deque[str] = deque(maxlen=10)
        self._problem = ""
        self._finished = False
        self._reported = Totals(0, 0, 0, 0), time.monotonic()
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_timer(_REPORT_PERIOD_S, self._report)
        self.add_on_set_parameters_callback(self._change)
        if (
            self._settings.autostart
            and self.trigger_configure() == TransitionCallbackReturn.SUCCESS
        ):
            self.trigger_activate()

    @property
    def finished(self) -> bool:
        """Whether the node was shut down; raises what ended the thread that receives."""
        if self._receiver and self._receiver.error:
            raise self._receiver.error
        return self._finished

    def close(self) -> None:
        """End the threads."""
        self._deactivate()

    def on_configure(self, state: State) -> TransitionCallbackReturn:  # noqa: ARG002 - rclpy's
        """Load the checkpoint, run it until it is warm, and offer the topics of its outputs."""
        self._problem = ""
        try:
            self._settings = read(self, PerceptionParameters)
            warm_up()
            self._load((self._settings.height, self._settings.width))
            self._make_windows()
        except (ScaleEventError, RuntimeError) as error:  # torch raises the latter, out of memory
            self._unload()
            self._problem = str(error)
            self.get_logger().error(f"cannot be configured: {error}")
            return TransitionCallbackReturn.FAILURE
        self._offer()
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: State) -> TransitionCallbackReturn:  # noqa: ARG002 - rclpy's
        """Subscribe, and start the thread of inference."""
        settings = self._settings
        if not self._engine:
            self._problem = "there is no network for this camera: cleanup and configure the node"
            self.get_logger().error(self._problem)
            return TransitionCallbackReturn.FAILURE
        self._problem = ""
        self._stamp_ns = self._windows = self._skipped = 0
        self._trigger = Trigger(settings, self._request)
        self._start(StreamCounts())
        self._points = [
            self.create_subscription(
                PointStamped, "~/point", lambda message: self._compare_with(message.point), 10
            ),
            self.create_subscription(Point, "~/click", self._compare_with, 10),
        ]
        self._receiver = Receiver(self)
        packets = QoSProfile(depth=settings.qos_depth, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._receiver.subscribe(EventPacket, "~/events", packets, self._receive)
        if settings.trigger == "image":
            images = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
            self._receiver.subscribe(Image, "~/image", images, self._receive_image)
        self._receiver.start()
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: State) -> TransitionCallbackReturn:  # noqa: ARG002 - rclpy's
        """Unsubscribe and end the threads; the network stays loaded."""
        self._deactivate()
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: State) -> TransitionCallbackReturn:  # noqa: ARG002 - rclpy's
        """Forget the network and withdraw the topics."""
        self._unload()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: State) -> TransitionCallbackReturn:  # noqa: ARG002 - rclpy's
        """End; so does the process."""
        self._deactivate()
        self._unload()
        self._finished = True
        return TransitionCallbackReturn.SUCCESS

    def _load(self, size: tuple[int, int]) -> None:
        """Make the engine for a sensor's size."""
        settings = self._settings
        if not settings.model:
            msg = "parameter 'model' is empty: name a checkpoint"
            raise NodeError(msg)
        self._engine = None  # two at once may not fit the GPU
        engine = Engine(
            settings.model, settings.device, settings.precision, settings.backend, size=size
        )
        self._engine, self._products = engine, Products(engine)
        self.get_logger().info(
            f"{engine.header.architecture} for {size[1]}x{size[0]} on {engine.device}, "
            f"{engine.precision}, {engine.backend}: {', '.join(engine.outputs)}"
        )

    def _unload(self) -> None:
        for publisher in (*self._images.values(), *self._debug.values()):
            self.destroy_publisher(publisher)
        if self._label_info:
            self.destroy_publisher(self._label_info)
        self._images, self._debug, self._label_info = {}, {}, None
        self._engine = self._products = None

    def _offer(self) -> None:
        """Create the publishers of what the engine can make."""
        assert self._engine
        self._images = {
            topic: self.create_publisher(Image, f"~/{topic}", _RELIABLE)
            for topic in topics_of(self._engine.outputs)
        }
        if self._settings.debug:
            self._debug = {
                name: self.create_publisher(Float64, f"~/debug/{name}_ms", 10) for name in _TIMED
            }
        if "segmentation" in self._engine.outputs:
            self._label_info = self.create_publisher(LabelInfo, "~/label_info", _LATCHED)
            info = LabelInfo(
                class_map=[
                    VisionClass(class_id=number, class_name=name)
                    for number, name in enumerate(self._engine.header.classes)
                ]
            )
            info.header.stamp = self.get_clock().now().to_msg()
            self._label_info.publish(info)

    def _make_windows(self) -> Windows:
        engine = self._engine
        assert engine
        rule = window_rule(self._settings, engine.header, engine.size)
        return make_windows(engine.header, engine.size, engine.stride, rule, engine.device)

    def _start(self, counts: StreamCounts) -> None:
        """Take packets of the engine's size, and start the thread of inference."""
        assert self._engine
        self._trigger.forget()
        self._stream = PacketStream(
            self._engine.size, self._make_windows, self._settings.silence, self._remark, counts
        )
        self._wake_up = WakeUp()
        self._worker = threading.Thread(
            target=self._work, args=(self._stream, self._wake_up), name="inference"
        )
        self._worker.start()

    def _stop(self) -> None:
        """End the thread of inference, after the window that it is at."""
        self._wake_up.stop()
        if self._worker:
            self._worker.join()
        self._worker = None

    def _deactivate(self) -> None:
        for points in self._points:
            self.destroy_subscription(points)
        if self._receiver:
            self._receiver.close()
        self._points, self._receiver = [], None
        self._stop()
        self._stream = None
        self._large = False

    def _remark(self, text: str) -> None:
        self.get_logger().warning(text)
        self._remarks.append(text)

    def _change(self, parameters: list[Parameter[Any]]) -> SetParametersResult:
        """Take new values of parameters, or say why not."""
        changes = {
            parameter.name: parameter.value
            for parameter in parameters
            if hasattr(self._settings, parameter.name)
        }
        fixed = sorted(name for name, new in changes.items() if name not in LIVE)
        state = self._state_machine.current_state[1]
        try:
            settings = changed(self._settings, changes)
            if fixed and state != "unconfigured":
                msg = (
                    f"parameter {fixed[0]!r} cannot change while the node is {state}: "
                    f"`ros2 lifecycle set {self.get_fully_qualified_name()}` deactivate and "
                    "cleanup, set it, then configure and activate"
                )
                raise NodeError(msg)
            before, self._settings = self._settings, settings
            try:
                self._apply(set(changes))
            except ScaleEventError:
                self._settings = before
                raise
        except ScaleEventError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _apply(self, names: set[str]) -> None:
        """Let new values take effect."""
        settings, stream = self._settings, self._stream
        if not stream:
            return
        stream.silence_s = settings.silence
        self._trigger.settings = settings
        if {"window", "window_ms", "shortest_ms", "events_per_pixel", "slices_per_bin"} & names:
            stream.rebuild(self._make_windows)

    def _receive(self, cdr: bytes) -> None:
        """Take a packet, on the thread that receives."""
        stream = self._stream
        assert stream
        with self._timings.measure("decode"):
            events = stream.push(
                cdr, self.get_clock().now().nanoseconds, keep=self._has_listeners()
            )
        self._trigger.packet(events, stream.live)
        if stream.new_size:
            self._new_size.trigger()

    def _receive_image(self, cdr: bytes) -> None:
        """Take an image that asks for a result, on the thread that receives."""
        try:
            stamp_ns = parse_header_stamp(cdr)
        except MessageError as error:
            self._remark(f"an image is left out: {error}")
            return
        assert self._stream
        self._trigger.image(stamp_ns, self._stream.live)

    def _has_listeners(self) -> bool:
        """Tell whether anybody wants windows; looks ten times a second."""
        now = time.monotonic()
        if now >= self._look_next:
            self._look_next = now + _LOOK_PERIOD_S
            self._listened = bool(self._wanted())
        return self._listened

    def _wanted(self) -> list[str]:
        """Name the topics that somebody listens to."""
        return [topic for topic, output in self._images.items() if output.get_subscription_count()]

    def _request(self) -> None:
        self._wake_up.request()

    def _compare_with(self, point: Point) -> None:
        assert self._engine
        assert self._products
        height, width = self._engine.size
        column, row = point.x, point.y
        if 0 <= column < width and 0 <= row < height:
            self._products.point = int(column), int(row)
        else:
            self._remark(f"the point ({column:g}, {row:g}) is off the {width}x{height} pixels")

    def _follow(self) -> None:
        """Make an engine for a camera that has changed its geometry."""
        stream = self._stream
        if not stream or not (size := stream.new_size):
            return  # each packet of the other geometry asks, until it is followed
        old = stream.size
        self._remark(f"the geometry changes from {old[1]}x{old[0]} to {size[1]}x{size[0]}")
        self._stop()
        try:
            self._load(size)
        except (ScaleEventError, RuntimeError) as error:
            self._problem = f"no engine for {size[1]}x{size[0]}: {error}"
            self.get_logger().error(self._problem)
            self.trigger_deactivate()
            return
        self._start(stream.counts)

    def _work(self, stream: PacketStream, wake_up: WakeUp) -> None:
        """Compute the newest window whenever asked to, until told to stop."""
        epoch, t_end = 0, 0
        while requests := wake_up.wait():
            live = stream.live
            if live is None:
                continue
            if live.epoch != epoch and self._engine:
                epoch, t_end = live.epoch, 0
                self._engine.reset()
            due_ns = self._trigger.due_ns
            wanted = self._wanted()
            newest = live.windows.t_end
            if not wanted or newest is None or newest <= t_end:
                continue  # nobody listens, or nothing new has come
            self._skipped += requests - 1
            at = None if due_ns is None else live.sensor_time(due_ns)
            try:
                t_end = self._compute(live, wanted, at)
                self._problem = ""
            except Exception as error:  # libraries have their own; the next window may do
                if not self._problem:
                    self.get_logger().error(f"a window failed: {error}")
                self._problem = f"a window failed: {error}"

    def _compute(self, live: Live, wanted: list[str], at: int | None) -> int:
        """Run one window and publish it; return its end on the sensor's clock."""
        engine, products = self._engine, self._products
        assert engine
        assert products
        times: dict[str, float] = {}
        begin = time.perf_counter()
        window = live.windows.read(at)
        self._wait_for_device()
        begin = _lap(times, "transfer", begin)
        outputs = Outputs()
        if needed := products.needed(wanted):
            outputs = engine(window.tensor, needed)
            self._wait_for_device()
            begin = _lap(times, "inference", begin)
        self._stamp_ns = max(self._stamp_ns, live.fit.to_ros(window.t_end))
        for product in products.make(wanted, Scene(window, outputs, self._settings)):
            cdr = array_to_cdr(product.pixels, product.encoding, self._stamp_ns, live.frame_id)
            self._images[product.topic].publish(cdr)
            self._large |= product.pixels.nbytes >= _LARGE_BYTES
        _lap(times, "publish", begin)
        times["window_age"] = (self.get_clock().now().nanoseconds - self._stamp_ns) / 1e6
        for name, ms in times.items():
            self._timings.add(name, ms)
            if name in self._debug:
                self._debug[name].publish(Float64(data=ms))
        self._windows += 1
        return window.t_end

    def _wait_for_device(self) -> None:
        """Let the GPU finish, so that each step's time is its own."""
        assert self._engine
        if self._engine.device.type == "cuda":
            import torch

            torch.cuda.current_stream(self._engine.device).synchronize()

    def _report(self) -> None:
        stream, now = self._stream, time.monotonic()
        counts = stream.counts if stream else None
        totals = Totals(
            counts.packets if counts else 0,
            counts.events if counts else 0,
            self._windows,
            self._skipped + self._trigger.replaced,
        )
        before, then = self._reported
        self._reported = totals, now
        silent_s = stream.silent_for if stream and stream.silent_for > stream.silence_s else 0.0
        remarks = tuple(self._remarks)
        self._remarks.clear()
        transport = (transport_warning() or "") if self._large else ""
        if transport:
            self.get_logger().warning(transport, once=True)
        report = PerceptionReport(
            state=self._state_machine.current_state[1],
            engine=self._engine,
            counts=counts,
            totals=totals,
            rates=totals.rates(before, now - then),
            timings=self._timings.take(),
            subscribed=tuple(self._wanted()),
            silent_s=silent_s,
            problem=self._problem,
            remarks=remarks,
            transport=transport,
        )
        status = perception_status(NAME, report)
        self._diagnostics.publish(diagnostics.array(self.get_clock().now().to_msg(), [status]))


def _lap(times: dict[str, float], name: str, begin: float) -> float:
    """Note the time since a moment, in ms, and return the present one."""
    end = time.perf_counter()
    times[name] = (end - begin) * 1e3
    return end


def main(args: Sequence[str] | None = None) -> int:
    """Run the perception node; the exit code is 1 where a parameter is wrong from the start."""
    return run(NAME, Perception, args)


if __name__ == "__main__":
    sys.exit(main())
