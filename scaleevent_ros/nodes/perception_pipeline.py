"""The perception pipeline (engine, windows, images) and the loop that runs it on a stream."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from scaleevent_ros.bags.errors import MessageError
from scaleevent_ros.bags.messages import parse_header_stamp
from scaleevent_ros.events import warm_up
from scaleevent_ros.nodes.images import array_to_cdr
from scaleevent_ros.nodes.parameters import NodeError
from scaleevent_ros.nodes.perception_outputs import Products, Scene, topics_of
from scaleevent_ros.nodes.perception_stream import PacketStream, Requests, Trigger
from scaleevent_ros.nodes.perception_windows import make_windows, window_options
from scaleevent_ros.runtime import Engine, Outputs

if TYPE_CHECKING:
    from scaleevent_ros.nodes.diagnostics import Timings
    from scaleevent_ros.nodes.parameters import PerceptionParameters
    from scaleevent_ros.nodes.perception_stream import Live, StreamCounts
    from scaleevent_ros.nodes.perception_windows import Windows

logger = logging.getLogger(__name__)

MAX_CHANNELS = 512
"""Largest number of channels of OpenCV's matrices, into which cv_bridge converts (CV_CN_MAX)."""
MAX_IMAGE_BYTES = 64_000_000
"""Size of the shared memory in `config/fastdds_large_messages.xml`."""

_SUBSCRIBED_PERIOD_S = 0.1
_CLOCK_JUMP_NS = 100_000_000  # fits of the same clock differ by less


@dataclass(frozen=True)
class Pipeline:
    """Engine and images for one sensor size; replaced as a whole, never changed.

    Attributes:
        engine: Network for the sensor's size.
        products: Maker of the images to publish.
    """

    engine: Engine
    products: Products

    @property
    def topics(self) -> tuple[str, ...]:
        """Names of the image topics, without `~/`."""
        return topics_of(self.engine)

    def check(self, settings: PerceptionParameters) -> None:
        """Check that the images fit the middleware, and OpenCV in subscribers.

        Raises:
            NodeError: If ~/features would have too many channels or bytes.
        """
        engine = self.engine
        channels = min(settings.features_channels or engine.width, engine.width)
        if channels > MAX_CHANNELS:
            msg = (
                f"~/features would have {channels} channels, but OpenCV and cv_bridge read at most "
                f"{MAX_CHANNELS}: set features_channels to {MAX_CHANNELS} or less"
            )
            raise NodeError(msg)
        pixel = settings.features_resolution == "pixel"
        rows, columns = engine.size if pixel else engine.grid
        size = 4 * channels * rows * columns
        if size > MAX_IMAGE_BYTES:
            advice = "features_resolution to patch, or " if pixel else ""
            fitting = MAX_IMAGE_BYTES // (4 * rows * columns)
            msg = (
                f"~/features would have {size / 1e6:.0f} MB, more than the "
                f"{MAX_IMAGE_BYTES / 1e6:.0f} MB that one message may have: set {advice}"
                f"features_channels to {fitting} or less"
            )
            raise NodeError(msg)

    def windows(self, settings: PerceptionParameters) -> Windows:
        """Create the stream's windows, empty, for the parameters and the checkpoint.

        Raises:
            CheckpointError: If the checkpoint's representation and number of channels disagree.
        """
        engine = self.engine
        options = window_options(settings, engine.header)
        return make_windows(
            engine.header.input, engine.size, engine.stride, options, engine.device,
            settings.slices_per_bin,
        )  # fmt: skip

    def warn_window(self, settings: PerceptionParameters) -> None:
        """Log a warning if windows differ from those of the student's training."""
        trained, options = self.engine.header.window, window_options(settings, self.engine.header)
        if trained not in {None, options}:
            logger.warning("the student was trained on %s, but runs on %s", trained, options)


def build_pipeline(settings: PerceptionParameters, size: tuple[int, int]) -> Pipeline:
    """Load the model and warm it up; takes seconds, or minutes for TensorRT.

    Args:
        settings: Parameters of the node.
        size: Height and width of the sensor.

    Raises:
        ScaleEventError: If the model cannot be loaded, or cannot run with these settings.
    """
    warm_up()
    try:
        engine = Engine(
            settings.model,
            settings.device,
            settings.precision,
            settings.backend,
            size=size,
            features_space=settings.features_space,
        )
    except RuntimeError as error:  # raised by torch, for example when memory is short
        msg = f"no engine for {size[1]}x{size[0]} pixels: {error}"
        raise NodeError(msg) from error
    pipeline = Pipeline(engine, Products(engine))
    pipeline.check(settings)
    pipeline.windows(settings)
    pipeline.warn_window(settings)
    return pipeline


class Sink(Protocol):
    """Destination of a loop's results."""

    def subscribed(self) -> list[str]:
        """List the image topics that have subscribers."""

    def publish(self, topic: str, cdr: bytes) -> None:
        """Publish a serialized image."""

    def publish_times(self, ms: dict[str, float]) -> None:
        """Publish the duration of each step of a window, in ms."""

    def now_ns(self) -> int:
        """Return the current ROS time in ns."""

    def remark(self, text: str) -> None:
        """Report an unusual event to the user."""

    def report_failure(self, reason: str) -> None:
        """Report why windows fail, or by an empty text that they work again."""


class PerceptionLoop:
    """Runs a pipeline on a stream of packets until it is stopped.

    The thread that calls `push` decodes packets and updates the windows. Another thread builds the
    newest window whenever the trigger requests one, runs the network and publishes the topics that
    have subscribers. Requests that come while it is busy are merged, and counted as skipped.

    Attributes:
        pipeline: Pipeline that runs.
        point: Column and row of the query pixel of ~/similarity.
        stream: Stream of packets.

    Args:
        pipeline: Pipeline to run.
        settings: Parameters of the node.
        sink: Destination of the results.
        counts: Totals since the node was activated, which this loop updates.
        timings: Collector of the durations of steps.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        settings: PerceptionParameters,
        sink: Sink,
        counts: StreamCounts,
        timings: Timings,
    ) -> None:
        self.pipeline = pipeline
        self.point = pipeline.engine.size[1] // 2, pipeline.engine.size[0] // 2
        self._settings, self._sink = settings, sink
        self._counts, self._timings = counts, timings
        self._requests = Requests()
        self._trigger = Trigger(settings, self._requests.add, counts)
        self.stream = PacketStream(
            pipeline.engine.size,
            lambda: pipeline.windows(self._settings),
            settings.silence,
            sink.remark,
            counts,
        )
        self._look_next, self._has_subscribers = 0.0, False
        self._decode_ms = 0.0
        self._seen_ns: int | None = None  # end of the engine's last window in this epoch
        self._thread = threading.Thread(target=self._work, name="inference")
        self._thread.start()

    @property
    def new_size(self) -> tuple[int, int] | None:
        """New height and width of the camera if they have changed, else None."""
        return self.stream.new_size

    def stop(self) -> None:
        """Stop the inference thread, after its current window."""
        self._requests.stop()
        self._thread.join()

    def apply(self, settings: PerceptionParameters) -> None:
        """Continue with other settings.

        Raises:
            ScaleEventError: If they are invalid; the loop then continues with the previous ones.
        """
        before, self._settings = self._settings, settings
        try:
            self.pipeline.check(settings)
            if _window_settings(settings) != _window_settings(before):
                self.stream.rebuild()
                self.pipeline.warn_window(settings)
        except BaseException:
            self._settings = before
            raise
        self.stream.silence_s = settings.silence
        self._trigger.settings = settings

    def push(self, cdr: bytes) -> None:
        """Process a serialized event packet."""
        begin = time.perf_counter()
        events = self.stream.push(cdr, self._sink.now_ns(), keep=self._has_listeners())
        self._decode_ms = (time.perf_counter() - begin) * 1e3
        self._timings.add("decode", self._decode_ms)
        self._trigger.packet(events, self.stream.live)

    def push_image(self, cdr: bytes) -> None:
        """Process a serialized image, which triggers a result."""
        try:
            stamp_ns = parse_header_stamp(cdr)
        except MessageError as error:
            self._sink.remark(f"an image is ignored: {error}")
            return
        self._trigger.image(stamp_ns, self.stream.live)

    def compare_with(self, column: float, row: float) -> None:
        """Set the query pixel, with which ~/similarity compares all others."""
        height, width = self.pipeline.engine.size
        if 0 <= column < width and 0 <= row < height:
            self.point = int(column), int(row)
        else:
            self._sink.remark(
                f"the point ({column:g}, {row:g}) is outside the {width}x{height} pixels"
            )

    def _has_listeners(self) -> bool:
        """Return whether any topic has subscribers; checked at most ten times a second."""
        now = time.monotonic()
        if now >= self._look_next:
            self._look_next = now + _SUBSCRIBED_PERIOD_S
            self._has_subscribers = bool(self._sink.subscribed())
        return self._has_subscribers

    def _work(self) -> None:
        """Compute a window for each request, until stopped."""
        epoch, t_end, failed = 0, 0, False
        while requests := self._requests.wait():
            live = self.stream.live
            if live is None:
                continue
            if live.epoch != epoch:
                epoch, t_end = live.epoch, 0
                self._reset()
            due_ns = self._trigger.due_ns
            wanted = self._sink.subscribed()
            newest = live.windows.t_end
            if not wanted or newest is None or newest <= t_end:
                continue
            self._counts.skipped += requests - 1
            at = None if due_ns is None else live.sensor_time(due_ns)
            try:
                t_end = self._compute(live, wanted, at)
            except Exception as error:  # libraries raise any; the next window may succeed
                failed = True
                self._sink.report_failure(f"a window failed: {type(error).__name__}: {error}")
            else:
                if failed:
                    failed = False
                    self._sink.report_failure("")

    @property
    def remembers(self) -> bool:
        """Whether the network has a memory, which has seen a window."""
        return self._seen_ns is not None and self.pipeline.engine.header.memory is not None

    def _reset(self) -> None:
        """Forget previous windows, when a new epoch begins."""
        self._counts.memory_resets += self.remembers
        self.pipeline.engine.reset()
        self.pipeline.products.reset()
        self._seen_ns = None

    def _elapsed_s(self, t_end: int) -> float | None:
        """Compute the time since the engine's last window; None for the first of an epoch."""
        if self._seen_ns is None:
            return None
        # With images as trigger, a window may end before the last one.
        elapsed_s = max(t_end - self._seen_ns, 0) * 1e-9
        self._counts.memory_resets += elapsed_s > self.pipeline.engine.longest_gap_s
        return elapsed_s

    def _compute(self, live: Live, wanted: list[str], at: int | None) -> int:
        """Compute and publish a window; return its end on the sensor's clock in ns."""
        engine, products = self.pipeline.engine, self.pipeline.products
        ms: dict[str, float] = {}
        begin = time.perf_counter()
        window = live.windows.read(at)
        self._wait_for_device()
        begin = _lap(ms, "transfer", begin)
        outputs = Outputs()
        if needed := products.needed(wanted):
            outputs = engine(window.tensor, needed, self._elapsed_s(window.t_end))
            self._seen_ns = window.t_end
            self._wait_for_device()
            begin = _lap(ms, "inference", begin)
        stamp_ns = self._stamp(live.fit.to_ros(window.t_end), live.epoch)
        scene = Scene(window, outputs, self._settings, self.point)
        for product in products.make(wanted, scene):
            cdr = array_to_cdr(product.pixels, product.encoding, stamp_ns, live.frame_id)
            self._sink.publish(product.topic, cdr)
        _lap(ms, "publish", begin)
        ms["window_age"] = (self._sink.now_ns() - stamp_ns) / 1e6
        for name, value in ms.items():
            self._timings.add(name, value)
        self._sink.publish_times({"decode": self._decode_ms, **ms})
        self._counts.windows += 1
        return window.t_end

    def _stamp(self, ros_ns: int, epoch: int) -> int:
        """Return the stamp of a window, so that stamps step back only if the clock did.

        The clock's fit is updated with each packet, which moves stamps by milliseconds. A larger
        step back is accepted in a new epoch.
        """
        counts = self._counts
        jumped = epoch != counts.stamp_epoch and ros_ns < counts.stamp_ns - _CLOCK_JUMP_NS
        counts.stamp_ns = ros_ns if jumped else max(ros_ns, counts.stamp_ns)
        counts.stamp_epoch = epoch
        return counts.stamp_ns

    def _wait_for_device(self) -> None:
        """Wait for the GPU, so that each step's time includes its work on the GPU."""
        device = self.pipeline.engine.device
        if device.type == "cuda":
            import torch

            torch.cuda.current_stream(device.to_torch()).synchronize()


def _window_settings(settings: PerceptionParameters) -> tuple[object, ...]:
    return (
        settings.window,
        settings.window_ms,
        settings.shortest_ms,
        settings.events_per_pixel,
        settings.slices_per_bin,
    )


def _lap(ms: dict[str, float], name: str, begin: float) -> float:
    """Store the time since ``begin`` in ms under a name, and return the current time in s."""
    end = time.perf_counter()
    ms[name] = (end - begin) * 1e3
    return end
