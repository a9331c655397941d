"""Report of a bag quality check as one self-contained page of HTML."""

from __future__ import annotations

import html
import json
from typing import TYPE_CHECKING

import cv2
import numpy as np

from scaleevent_ros.visuals.curves import figure_svg, new_figure
from scaleevent_ros.visuals.events import event_picture
from scaleevent_ros.visuals.page import render_page, render_picture, render_table, write_page

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from matplotlib.axes import Axes

    from scaleevent_ros.bags.quality import BagQuality, PairQuality, Thumbnail

_MAX_POINTS = 3000


def write_report(quality: BagQuality, path: Path) -> None:
    """Write a report as HTML, and the results as JSON beside it (`report.html`, `report.json`).

    Raises:
        ScaleEventError: If a file cannot be written, or matplotlib is not installed.
    """
    from scaleevent_ros.bags.quality import REASONS

    write_page(path, render_report(quality, REASONS))
    write_page(path.with_suffix(".json"), json.dumps(quality.to_dict(), indent=1))


def render_report(quality: BagQuality, reasons: Mapping[str, str]) -> str:
    """Render a report.

    Args:
        quality: Result of the check.
        reasons: Descriptions of the reasons against a pair, by their names.

    Returns:
        HTML that contains its plots and thumbnails.
    """
    name = quality.bag.rstrip("/").rsplit("/", 1)[-1]
    return render_page(name, quality.bag, report_parts(quality, reasons))


def report_parts(quality: BagQuality, reasons: Mapping[str, str]) -> list[str]:
    """Render a report as HTML parts for `render_page`; arguments as for `render_report`."""
    parts = [
        _verdict(quality),
        "<h2>What is in it</h2><div class='columns'>",
        _topics(quality),
        _events(quality),
        _frames_and_clock(quality),
        "</div><h2>Over time</h2>",
        _plots(quality),
    ]
    if quality.pairs:
        parts += ["<h2>Why pairs cannot be used</h2>", _reasons(quality, reasons)]
    if quality.thumbnails:
        parts += ["<h2>Pairs</h2><div class='pairs'>"]
        parts += [_pair(item, quality.pairs[item.index]) for item in quality.thumbnails]
        parts += ["</div>"]
    return parts


def _verdict(quality: BagQuality) -> str:
    usable = f"{quality.usable:,} of {len(quality.pairs):,} pairs can be used for pretraining."
    if quality.problems:
        verdict = (
            f"<div class='verdict bad'><b>Problems.</b> {usable}{_list(quality.problems)}</div>"
        )
    else:
        verdict = f"<div class='verdict good'><b>Good.</b> {usable}</div>"
    if quality.warnings:
        verdict += f"<div class='verdict so'><b>Warnings:</b>{_list(quality.warnings)}</div>"
    return verdict


def _list(items: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(item)}</li>' for item in items)}</ul>"


def _topics(quality: BagQuality) -> str:
    rows = [
        (name, str(info["type"]), f"{info['count']:,}") for name, info in quality.topics.items()
    ]
    return render_table(rows, ("Topic", "Type", "Messages"))


def _events(quality: BagQuality) -> str:
    events = quality.events
    edges = ", ".join(f"{count:,} on channel {key}" for key, count in events.triggers.items())
    dropped = sum(
        events.decoder.get(name, 0) for name in ("out_of_range", "unknown", "truncated_bytes")
    )
    return render_table(
        [
            ("Duration", f"{quality.duration_s:.2f} s"),
            ("Sensor", f"{events.width} x {events.height}"),
            ("Events", f"{events.events:,} ({events.on:,} ON, {events.off:,} OFF)"),
            ("Event rate", f"{events.mean_rate / 1e6:.2f} M/s"),
            ("Packets", f"{events.packets:,}, {events.lost_packets:,} lost"),
            ("Trigger edges", edges or "none"),
            ("Broken words", f"{dropped:,}"),
        ]
    )


def _frames_and_clock(quality: BagQuality) -> str:
    frames, clock = quality.frames, quality.clock
    rows = []
    if frames:
        rows += [
            ("Frames", f"{frames.count:,} at {frames.rate:.1f} Hz, {frames.missing:,} missing"),
            ("Out of order", f"{frames.unordered:,}"),
            ("Without a stamp", f"{frames.unstamped:,}"),
        ]
    if clock:
        rows += [
            ("Common clock by", clock.mode.replace("_", " ")),
            ("", clock.reason),
            ("Shift", f"{clock.shift_ms:+.2f} ms"),
            ("Residual", f"{clock.residual_ms:.2f} ms"),
            ("Packet stamps", f"scatter by {clock.jitter_ms:.2f} ms"),
            ("Drift", f"{clock.drift_ppm:+.1f} ppm, {clock.segments - 1} restarts"),
        ]
    return render_table(rows)


def _reasons(quality: BagQuality, reasons: Mapping[str, str]) -> str:
    counts = quality.reasons()
    if not counts:
        return "<p>All can be used.</p>"
    return render_table(
        (name, f"{count:,}", f"{count / len(quality.pairs):.1%}", reasons[name])
        for name, count in counts.most_common()
    )


def _pair(thumbnail: Thumbnail, pair: PairQuality) -> str:
    events = event_picture(thumbnail.events)
    width = thumbnail.frame.shape[1]
    height = max(width * events.shape[0] // events.shape[1], 1)
    small = cv2.resize(events, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8)
    why = f" <span class='why'>{html.escape(', '.join(pair.reasons))}</span>" * bool(pair.reasons)
    return (
        f"<figure>{render_picture(thumbnail.frame, 'frame', codec='jpeg')}"
        f"{render_picture(small, 'events')}"
        f"<figcaption>frame {pair.index}: {pair.events:,} events, "
        f"{pair.active:.0%} of patches active{why}</figcaption></figure>"
    )


def _plots(quality: BagQuality) -> str:
    """Plot the series over time, one above the other, as SVG."""
    draws = [_draw_rates, _draw_jitter, *([_draw_pairs] if quality.pairs else [])]
    figure, all_axes = new_figure(2.2 * len(draws), rows=len(draws))
    for draw, axes in zip(draws, all_axes, strict=True):
        draw(quality, axes)
    all_axes[-1].set_xlabel("seconds since the start")
    return figure_svg(figure)


def _draw_rates(quality: BagQuality, axes: Axes) -> None:
    events = quality.series["events"]
    axes.step(events.seconds, np.array(events.values) / 1e6, where="mid", color="#1971c2")
    axes.set_ylabel("M events / s", color="#1971c2")
    axes.set_ylim(bottom=0)
    if quality.frames:
        frames = quality.series["frames"]
        other = axes.twinx()
        other.step(frames.seconds, frames.values, where="mid", color="#e8590c")
        other.set_ylabel("frames / s", color="#e8590c")
        other.set_ylim(bottom=0)
        other.spines["top"].set_visible(False)


def _draw_jitter(quality: BagQuality, axes: Axes) -> None:
    jitter = quality.series["stamp_jitter_ms"]
    axes.plot(jitter.seconds, jitter.values, ".", markersize=2, color="#5f3dc4")
    axes.set_ylabel("packet stamps after\nthe sensor's clock, ms")


def _draw_pairs(quality: BagQuality, axes: Axes) -> None:
    active = quality.series["active"]
    every = -(-len(active.seconds) // _MAX_POINTS)
    seconds, values = np.array(active.seconds[::every]), np.array(active.values[::every])
    usable = np.array([not pair.reasons for pair in quality.pairs[::every]])
    for chosen, color, label in ((usable, "#2f9e44", "usable"), (~usable, "#e03131", "not usable")):
        axes.plot(
            seconds[chosen], 100 * values[chosen], ".", markersize=4, color=color, label=label
        )
    axes.set_ylabel("active patches, %")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper right", frameon=False)
