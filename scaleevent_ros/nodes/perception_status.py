"""Status of the perception node for `/diagnostics`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from scaleevent_ros.nodes import diagnostics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from diagnostic_msgs.msg import DiagnosticStatus

    from scaleevent_ros.nodes.diagnostics import Percentiles
    from scaleevent_ros.nodes.perception_pipeline import Pipeline
    from scaleevent_ros.nodes.perception_stream import StreamCounts

_MB = 1_000_000


class Rates(NamedTuple):
    """Counts per second since the previous report.

    Attributes:
        packets: Event packets.
        events: Events in them.
        windows: Computed windows.
        skipped: Windows that were skipped, since another was requested before they were computed.
    """

    packets: float
    events: float
    windows: float
    skipped: float


class PerceptionReport(NamedTuple):
    """State of the perception node.

    Attributes:
        state: State of the lifecycle.
        pipeline: Pipeline, once it is built.
        building: Description of what is being built; empty if nothing is.
        counts: Totals since activation; None while the node is not active.
        rates: Rates since the previous report.
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
    rates: Rates
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
        values |= {
            "events_topic": report.events_topic,
            "packets_hz": report.rates.packets,
            "event_rate_mev_s": report.rates.events / 1e6,
            "windows_hz": report.rates.windows,
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
    if report.silent_s:
        return diagnostics.WARN, (
            f"no event packet on {report.events_topic} for {report.silent_s:.1f} s"
        )
    if report.remarks:
        return diagnostics.WARN, "; ".join(report.remarks)
    if report.rates.skipped:
        return diagnostics.WARN, (
            f"too slow: {report.rates.skipped:.1f} of "
            f"{report.rates.skipped + report.rates.windows:.1f} windows per second are skipped"
        )
    if report.transport:
        return diagnostics.WARN, report.transport
    if not report.subscribed:
        return diagnostics.OK, "no topic has subscribers, nothing is computed"
    return diagnostics.OK, f"{report.rates.windows:.1f} windows per second"
