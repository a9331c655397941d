"""Text output of bag summaries and quality checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaleevent_ros.bags.quality import REASONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from scaleevent_ros.bags.info import BagInfo
    from scaleevent_ros.bags.quality import BagQuality, ClockSummary


def info_text(info: BagInfo) -> str:
    """Format the summary of a bag."""
    lines = [f"{info.bag}: {info.messages:,} messages in {info.duration_s:.3f} s"]
    rows = [
        (name, topic.type, f"{topic.count:,}", f"{topic.rate:.1f} Hz")
        for name, topic in info.topics.items()
    ]
    lines += _columns(rows)
    for name, topic in info.event_topics.items():
        lines.append(f"{name}: {topic.encoding} {topic.width}x{topic.height}")
        if topic.error:
            lines.append(f"  cannot be decoded: {topic.error}")
        if (counts := topic.counts) is None:
            continue
        lines += [
            f"  {counts.sensor_duration_s:.3f} s by the sensor's clock",
            f"  {counts.events:,} events: {counts.on:,} ON, {counts.off:,} OFF",
            f"  triggers: {_edges(counts.triggers)}",
            f"  {counts.lost_packets:,} packets lost, {counts.malformed:,} malformed",
        ]
        if counts.off_sensor:
            lines.append(f"  {counts.off_sensor:,} events dropped: their pixels are off the sensor")
    return "\n".join([*lines, *_damage(info.damage)])


def quality_text(quality: BagQuality) -> str:
    """Format the result of a check."""
    events, frames, clock = quality.events, quality.frames, quality.clock
    rows = [
        ("events", f"{events.events:,} in {quality.duration_s:.2f} s, {events.topic}"),
        ("packets", f"{events.packets:,}, {events.lost_packets:,} lost"),
        ("triggers", _edges(events.triggers)),
    ]
    if frames:
        rows += [
            ("frames", f"{frames.count:,} at {frames.rate:.1f} Hz, {frames.topic}"),
            ("missing", f"{frames.missing:,} frames"),
        ]
    if clock:
        rows += [
            ("clock", f"{clock.mode}: {clock.reason}"),
            ("shift", f"{clock.shift_ms:+.2f} ms, residual {clock.residual_ms:.2f} ms"),
            ("declared", clock.declared or "none"),
            ("by motion", _estimate(clock)),
            ("packet stamps", f"scatter by {clock.jitter_ms:.2f} ms, {clock.drift_ppm:+.1f} ppm"),
        ]
    rows.append(("usable pairs", f"{quality.usable:,} of {len(quality.pairs):,}"))
    rows += [
        (f"  {name}", f"{count:,}: {REASONS[name]}")
        for name, count in quality.reasons().most_common()
    ]
    lines = [quality.bag, *_columns(rows)]
    lines += [f"warning: {warning}" for warning in quality.warnings]
    lines += [f"PROBLEM: {problem}" for problem in quality.problems]
    return "\n".join(lines)


def _estimate(clock: ClockSummary) -> str:
    if clock.estimated_shift_ms is None:
        return "no other shift" if clock.mode == "estimated" else "no clear shift"
    return (
        f"shift {clock.estimated_shift_ms:+.2f} ms, residual {clock.estimated_residual_ms:.2f} ms"
    )


def _edges(triggers: Mapping[int, int]) -> str:
    edges = [f"{count:,} edges on channel {channel}" for channel, count in triggers.items()]
    return ", ".join(edges) or "none"


def _damage(damage: Mapping[str, str]) -> list[str]:
    return [f"damage: {name}: {what}" for name, what in damage.items()]


def _columns(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Align rows of text in columns."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append(f"  {'  '.join(cells).rstrip()}")
    return lines
