"""What the perception node says of itself once a second."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from scaleevent_ros.nodes import diagnostics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from diagnostic_msgs.msg import DiagnosticStatus

    from scaleevent_ros.nodes.perception_stream import StreamCounts
    from scaleevent_ros.nodes.timings import Percentiles
    from scaleevent_ros.runtime import Engine

_MB = 1_000_000


class Totals(NamedTuple):
    """Counts since the node was activated, or their rates.

    Attributes:
        packets: Messages of events.
        events: Events in them.
        windows: Windows computed.
        skipped: Windows that were asked for while another was computed, and left out.
    """

    packets: float
    events: float
    windows: float
    skipped: float

    def rates(self, before: Totals, seconds: float) -> Totals:
        """Divide what came since another report by the time since then; 0 after a restart."""
        return Totals(*(max(new - old, 0) / seconds for new, old in zip(self, before, strict=True)))


class PerceptionReport(NamedTuple):
    """What is known.

    Attributes:
        state: Of the lifecycle.
        engine: Once configured.
        counts: Of the stream, while active.
        totals: Since activation.
        rates: Of the totals, a second.
        timings: Since the report before, in ms.
        subscribed: Topics that somebody listens to.
        silent_s: For how long no packet has come, if for too long.
        problem: What keeps the node from its work.
        remarks: What happened since the report before.
        transport: What is wrong with the transport for the messages that go out.
    """

    state: str
    engine: Engine | None
    counts: StreamCounts | None
    totals: Totals
    rates: Totals
    timings: Mapping[str, Percentiles]
    subscribed: tuple[str, ...]
    silent_s: float
    problem: str
    remarks: tuple[str, ...]
    transport: str


def perception_status(name: str, report: PerceptionReport) -> DiagnosticStatus:
    """Build the status for `/diagnostics`."""
    level, message = _verdict(report)
    values: dict[str, object] = {"state": report.state}
    if report.engine:
        values |= _engine_values(report.engine)
    if counts := report.counts:
        values |= {
            "packets_hz": report.rates.packets,
            "event_rate_mev_s": report.rates.events / 1e6,
            "windows_hz": report.rates.windows,
            "windows_skipped": report.totals.skipped,
            "packets_lost_by_seq": counts.lost,
            "packets_left_out": counts.malformed,
            "broken_words": counts.broken_words,
            "events_left_out": counts.left_out,
            "stream_begun": counts.epochs,
            "clock_steps": counts.clock_steps,
            "subscribed": " ".join(report.subscribed) or "nothing",
        }
    for key, percentiles in report.timings.items():
        values |= {f"{key}_ms_p50": percentiles.p50, f"{key}_ms_p99": percentiles.p99}
    return diagnostics.status(name, level, message, values)


def _engine_values(engine: Engine) -> dict[str, object]:
    values: dict[str, object] = {
        "device": engine.device,
        "precision": engine.precision,
        "backend": engine.backend,
        "architecture": engine.header.architecture,
        "size": f"{engine.size[1]}x{engine.size[0]}",
    }
    if engine.device.type == "cuda":
        values["gpu"] = torch.cuda.get_device_name(engine.device)
        values["gpu_memory_mb"] = torch.cuda.memory_reserved(engine.device) / _MB
    return values


def _verdict(report: PerceptionReport) -> tuple[bytes, str]:
    """Choose what matters most."""
    if report.problem:
        return diagnostics.ERROR, report.problem
    if report.counts is None:
        return diagnostics.OK, report.state
    if report.silent_s:
        return diagnostics.WARN, f"no event packet for {report.silent_s:.1f} s"
    if report.remarks:
        return diagnostics.WARN, "; ".join(report.remarks)
    if report.rates.skipped:
        return diagnostics.WARN, (
            f"too slow: {report.rates.skipped:.1f} of "
            f"{report.rates.skipped + report.rates.windows:.1f} windows a second are skipped"
        )
    if report.transport:
        return diagnostics.WARN, report.transport
    if not report.subscribed:
        return diagnostics.OK, "nobody listens, nothing is computed"
    return diagnostics.OK, f"{report.rates.windows:.1f} windows a second"
