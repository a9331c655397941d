"""Statuses of the recorder, of each of its topics, and of the perception node."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from scaleevent_ros.bags.errors import MessageError
from scaleevent_ros.bags.messages import EVENT_PACKET, IMAGE, parse_event_packet, parse_image
from scaleevent_ros.nodes import diagnostics
from scaleevent_ros.nodes.diagnostics import Rates

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from diagnostic_msgs.msg import DiagnosticStatus

    from scaleevent_ros.bags.messages import EventPacketView
    from scaleevent_ros.bags.writer_thread import BagThread
    from scaleevent_ros.nodes.diagnostics import Percentiles
    from scaleevent_ros.nodes.perception_pipeline import Pipeline
    from scaleevent_ros.nodes.perception_stream import StreamCounts
    from scaleevent_ros.nodes.subscriptions import Topic

_MB = 1_000_000


@dataclass
class TopicMonitor:
    """Counts the serialized messages of one topic.

    Attributes:
        msgtype: Message type of the topic.
        messages: Number of messages.
        size: Number of bytes of the serialized messages.
        lost: Number of event packets that are missing by their `seq`.
        malformed: Number of messages that cannot be parsed as their type.
        geometry: Width and height of the latest event packet or image; None so far.
        frame_id: Coordinate frame of the latest event packet or image; empty so far.
    """

    msgtype: str
    messages: int = 0
    size: int = 0
    lost: int = 0
    malformed: int = 0
    geometry: tuple[int, int] | None = None
    frame_id: str = ""
    _seq: int | None = field(default=None, init=False)
    _rates: Rates = field(default_factory=Rates, init=False)

    def count(self, cdr: bytes) -> None:
        """Count a message."""
        self.messages += 1
        self.size += len(cdr)
        try:
            if self.msgtype == EVENT_PACKET:
                self._follow(parse_event_packet(cdr))
            elif self.msgtype == IMAGE:
                image = parse_image(cdr)
                self.geometry, self.frame_id = (image.width, image.height), image.frame_id
        except MessageError:
            self.malformed += 1

    def rates(self, now: float) -> tuple[float, ...]:
        """Return messages and bytes per second since the last call, given the time in s."""
        return self._rates.take(now, self.messages, self.size)

    def _follow(self, packet: EventPacketView) -> None:
        before, self._seq = self._seq, packet.seq
        self.geometry, self.frame_id = (packet.width, packet.height), packet.frame_id
        # If seq does not increase, the driver restarted, and nothing was lost.
        if before is not None and packet.seq > before:
            self.lost += packet.seq - before - 1


class TopicReport(NamedTuple):
    """State of one topic.

    Attributes:
        topic: The topic.
        monitor: Counters of the topic since it was found.
        rates: Messages and bytes per second since the previous report.
        queued: Number of messages that wait for the disk.
        dropped: Number of messages that were dropped, since the queue was full.
    """

    topic: Topic
    monitor: TopicMonitor
    rates: tuple[float, ...]
    queued: int
    dropped: int

    @property
    def hardware_id(self) -> str:
        """Coordinate frame of the camera, or the topic if its messages have none."""
        return self.monitor.frame_id or self.topic.name


class RecorderReport(NamedTuple):
    """State of the recorder.

    Attributes:
        state: State of the lifecycle.
        bag: Bag that is being written; None without one.
        seconds: Seconds since that bag was opened.
        free_mb: Free disk space in MB; None while the node is not active.
        missing: Requested topics that have not appeared.
        problem: Reason why the last recording failed or could not start; empty if it did not fail.
    """

    state: str
    bag: BagThread | None
    seconds: float
    free_mb: float | None
    missing: Sequence[str]
    problem: str


def recorder_status(
    name: str, report: RecorderReport, topics: Sequence[TopicReport]
) -> DiagnosticStatus:
    """Build the status for `~/status`, with the main values of every topic.

    Args:
        name: Fully qualified name of the node.
        report: State of the recorder.
        topics: States of the topics.
    """
    bag = report.bag
    dropped = sum(topic.dropped for topic in topics)
    lost = sum(topic.monitor.lost for topic in topics)
    values: dict[str, object] = {"state": report.state, "recording": bag is not None}
    if bag:
        values |= {
            "bag": bag.path,
            "duration_s": report.seconds,
            "messages": bag.written,
            "written_mb": bag.written_bytes / _MB,
            "queue_mb": bag.queued_bytes / _MB,
        }
    if report.free_mb is not None:
        values["free_space_mb"] = report.free_mb
    values |= {"dropped_by_queue": dropped, "lost_by_seq": lost}
    for topic in topics:
        values |= {
            f"{topic.topic.name} {key}": value for key, value in _topic_values(topic).items()
        }
    if report.problem:
        level, message = diagnostics.ERROR, report.problem
    elif dropped or lost:
        level, message = diagnostics.WARN, f"{dropped} messages dropped, {lost} missing by seq"
    elif report.missing:
        level, message = diagnostics.WARN, "waits for " + ", ".join(report.missing)
    elif bag:
        level, message = diagnostics.OK, f"recording to {bag.path}"
    else:
        level, message = diagnostics.OK, "not recording"
    cameras = [topic.hardware_id for topic in topics if topic.topic.msgtype == EVENT_PACKET]
    return diagnostics.status(name, level, message, values, ", ".join(sorted(set(cameras))))


def topic_status(name: str, report: TopicReport) -> DiagnosticStatus:
    """Build the status of one topic; ``name`` is the fully qualified name of the node."""
    topic, monitor = report.topic, report.monitor
    values: dict[str, object] = {
        "type": topic.msgtype,
        "publishers": topic.publishers,
        "reliability": topic.qos.reliability.name.lower(),
        "durability": topic.qos.durability.name.lower(),
        **_topic_values(report),
    }
    if report.dropped or monitor.lost:
        level = diagnostics.WARN
        message = f"{report.dropped} messages dropped, {monitor.lost} missing by seq"
    elif monitor.malformed:
        level = diagnostics.WARN
        message = f"{monitor.malformed} messages cannot be parsed as {topic.msgtype}"
    elif not topic.publishers:
        level, message = diagnostics.WARN, "the publisher is gone"
    else:
        level, message = diagnostics.OK, f"{report.rates[0]:.1f} messages per second"
    return diagnostics.status(f"{name}: {topic.name}", level, message, values, report.hardware_id)


def _topic_values(report: TopicReport) -> dict[str, object]:
    monitor, rates = report.monitor, report.rates
    values: dict[str, object] = {
        "messages": monitor.messages,
        "rate_hz": rates[0],
        "bandwidth_mb_s": rates[1] / _MB,
        "queue_depth": report.queued,
        "dropped_by_queue": report.dropped,
    }
    if monitor.geometry:
        values["geometry"] = "{}x{}".format(*monitor.geometry)
    if report.topic.msgtype == EVENT_PACKET:
        values["lost_by_seq"] = monitor.lost
    return values


class PerceptionReport(NamedTuple):
    """State of the perception node.

    Attributes:
        state: State of the lifecycle.
        pipeline: Pipeline, once it is built.
        building: Description of what is being built; empty if nothing is.
        counts: Totals since activation; None while the node is not active.
        rates: Packets, events, computed and skipped windows per second since the previous report.
        timings: Durations of steps since the previous report.
        subscribed: Image topics that have subscribers.
        events_topic: Topic of the event packets.
        silent_s: Seconds since the last packet if the camera is silent, else 0.
        problem: Reason why the node cannot work; empty if it can.
        remarks: Warnings since the previous report.
        transport: Warning that the middleware's settings do not suit the size of the outputs; empty
            if they do.
    """

    state: str
    pipeline: Pipeline | None
    building: str
    counts: StreamCounts | None
    rates: tuple[float, ...]
    timings: Mapping[str, Percentiles]
    subscribed: tuple[str, ...]
    events_topic: str
    silent_s: float
    problem: str
    remarks: tuple[str, ...]
    transport: str


def perception_status(name: str, report: PerceptionReport) -> DiagnosticStatus:
    """Build the status of the node; ``name`` is its fully qualified name."""
    level, message = _summary(report)
    values: dict[str, object] = {"state": report.state}
    if report.pipeline:
        values |= _engine_values(report.pipeline)
    if counts := report.counts:
        packets, events, windows, _ = report.rates
        values |= {
            "events_topic": report.events_topic,
            "packets_hz": packets,
            "event_rate_mev_s": events / 1e6,
            "windows_hz": windows,
            "windows_skipped": counts.skipped,
            "packets_lost_by_seq": counts.lost,
            "packets_left_out": counts.malformed,
            "broken_words": counts.broken_words,
            "events_left_out": counts.left_out,
            "epochs": counts.epochs,
            "clock_steps": counts.clock_steps,
            "memory_resets": counts.memory_resets,
            "subscribed": " ".join(report.subscribed) or "nothing",
        }
    for key, percentiles in report.timings.items():
        values |= {f"{key}_ms_p50": percentiles.p50, f"{key}_ms_p99": percentiles.p99}
    camera = (report.counts.frame_id if report.counts else "") or report.events_topic
    return diagnostics.status(name, level, message, values, camera)


def _engine_values(pipeline: Pipeline) -> dict[str, object]:
    engine = pipeline.engine
    values: dict[str, object] = {
        "device": engine.device,
        "precision": engine.precision,
        "backend": engine.backend,
        "architecture": engine.header.architecture,
        "size": f"{engine.size[1]}x{engine.size[0]}",
    }
    if engine.device.type == "cuda":
        import torch

        values["gpu"] = torch.cuda.get_device_name(engine.device.index)
        values["gpu_memory_mb"] = torch.cuda.memory_reserved(engine.device.index) / _MB
    return values


def _summary(report: PerceptionReport) -> tuple[bytes, str]:
    """Return the level, and the most important message."""
    if report.problem:
        return diagnostics.ERROR, report.problem
    if report.building:
        return diagnostics.WARN, "; ".join((report.building, *report.remarks))
    if report.counts is None:
        return diagnostics.OK, report.state
    _, _, windows, skipped = report.rates
    if report.silent_s:
        return diagnostics.WARN, (
            f"no event packet on {report.events_topic} for {report.silent_s:.1f} s"
        )
    if report.remarks:
        return diagnostics.WARN, "; ".join(report.remarks)
    if skipped:
        return diagnostics.WARN, (
            f"too slow: {skipped:.1f} of {skipped + windows:.1f} windows per second are skipped"
        )
    if report.transport:
        return diagnostics.WARN, report.transport
    if not report.subscribed:
        return diagnostics.OK, "no topic has subscribers, nothing is computed"
    return diagnostics.OK, f"{windows:.1f} windows per second"
