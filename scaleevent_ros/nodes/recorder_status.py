"""What the recorder says once a second: a status for itself and one for each topic."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from scaleevent_ros.bags.messages import EVENT_PACKET
from scaleevent_ros.nodes import diagnostics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from diagnostic_msgs.msg import DiagnosticStatus

    from scaleevent_ros.nodes.bag_thread import BagThread
    from scaleevent_ros.nodes.subscriptions import Topic
    from scaleevent_ros.nodes.topic_monitor import Rates, TopicMonitor

_MB = 1_000_000


class TopicReport(NamedTuple):
    """What is known of one topic.

    Attributes:
        topic: Its subscription.
        monitor: Its counts since it was found.
        rates: Since the report before.
        queued: Messages that wait for the disk.
        dropped: Messages that the queue had no room for.
    """

    topic: Topic
    monitor: TopicMonitor
    rates: Rates
    queued: int
    dropped: int


class RecorderReport(NamedTuple):
    """What is known of the recorder.

    Attributes:
        state: Of its lifecycle.
        bag: That is being written, if any.
        seconds: Since that bag was opened.
        free_mb: On the disk, once the folder is known.
        missing: Topics that are wanted and have not appeared.
        problem: Why the last recording ended, or could not begin.
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
    """Build the status of `~/status`, which has the main figures of every topic too."""
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
    return diagnostics.status(name, level, message, values)


def topic_status(name: str, report: TopicReport) -> DiagnosticStatus:
    """Build the status of one topic, for `/diagnostics`."""
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
        message = f"{monitor.malformed} messages are not what their type says"
    elif not topic.publishers:
        level, message = diagnostics.WARN, "no publisher any more"
    else:
        level, message = diagnostics.OK, f"{report.rates.messages:.1f} messages per second"
    return diagnostics.status(f"{name}: {topic.name}", level, message, values)


def _topic_values(report: TopicReport) -> dict[str, object]:
    monitor, rates = report.monitor, report.rates
    values: dict[str, object] = {
        "messages": monitor.messages,
        "rate_hz": rates.messages,
        "bandwidth_mb_s": rates.size / _MB,
        "queue_depth": report.queued,
        "dropped_by_queue": report.dropped,
    }
    if monitor.geometry:
        values["geometry"] = "{}x{}".format(*monitor.geometry)
    if report.topic.msgtype == EVENT_PACKET:
        values["lost_by_seq"] = monitor.lost
        if (event_rate := monitor.event_rate(rates)) is not None:
            values["event_rate_mev_s"] = event_rate / 1e6
        if monitor.clock and (residual_ms := monitor.clock.ms) is not None:
            values["clock_residual_ms"] = residual_ms
    return values
