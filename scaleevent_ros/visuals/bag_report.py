"""What a bag's check found, as one page of HTML that needs no other file."""

from __future__ import annotations

import base64
import html
import io
import json
from typing import TYPE_CHECKING

import cv2
import numpy as np

from scaleevent_ros.errors import ScaleEventError
from scaleevent_ros.visuals.events import event_picture

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from scaleevent_ros.bags.quality import BagQuality, PairQuality, Thumbnail

_MAX_POINTS = 3000

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1f2933; margin: 2rem auto; max-width: 1080px;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.path { color: #52606d; overflow-wrap: anywhere; margin-top: 0; }
.verdict { border-left: 6px solid; padding: .6rem 1rem; margin: 1rem 0; }
.good { border-color: #2f9e44; background: #ebfbee; } .bad { border-color: #e03131;
  background: #fff5f5; } .so { border-color: #f08c00; background: #fff9db; }
.verdict ul { margin: .3rem 0 0; padding-left: 1.2rem; }
table { border-collapse: collapse; margin: .6rem 0; } th, td { text-align: left;
  padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #e4e7eb; vertical-align: top; }
th { font-weight: 600; color: #52606d; } td.number { text-align: right; }
.columns { display: flex; flex-wrap: wrap; gap: 0 3rem; }
figure { margin: 0; } .plot svg { width: 100%; height: auto; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: 1rem; }
.pairs img { width: 50%; display: inline-block; vertical-align: top; }
figcaption { font-size: .85rem; color: #52606d; } .why { color: #c92a2a; }
"""


def write_report(quality: BagQuality, path: Path) -> None:
    """Write a report, and what it rests on as JSON beside it (`report.html`, `report.json`).

    Raises:
        ScaleEventError: If they cannot be written.
    """
    from scaleevent_ros.bags.quality import REASONS

    try:
        path.write_text(render_report(quality, REASONS), encoding="utf-8")
        path.with_suffix(".json").write_text(
            json.dumps(quality.to_dict(), indent=1), encoding="utf-8"
        )
    except OSError as error:
        msg = f"cannot write the report {path}: {error.strerror}"
        raise ScaleEventError(msg) from None


def render_report(quality: BagQuality, reasons: Mapping[str, str]) -> str:
    """Render a report.

    Args:
        quality: What the check found.
        reasons: What the names of reasons mean.

    Returns:
        HTML with plots and thumbnails inside.
    """
    name = html.escape(quality.bag.rstrip("/").rsplit("/", 1)[-1])
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        f"<meta name='viewport' content='width=device-width'><title>{name}</title>",
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>{name}</h1><p class='path'>{html.escape(quality.bag)}</p>",
        _verdict(quality),
        "<h2>What is in it</h2><div class='columns'>",
        _topics(quality),
        _events(quality),
        _frames_and_clock(quality),
        "</div>",
        "<h2>Over time</h2>",
        f"<figure class='plot'>{_plots(quality)}</figure>",
    ]
    if quality.pairs:
        parts += ["<h2>Why pairs cannot be used</h2>", _reasons(quality, reasons)]
    if quality.thumbnails:
        parts += ["<h2>Pairs</h2><div class='pairs'>"]
        parts += [_pair(item, quality.pairs[item.index]) for item in quality.thumbnails]
        parts += ["</div>"]
    return "".join([*parts, "</body></html>\n"])


def _verdict(quality: BagQuality) -> str:
    usable = f"{quality.usable:,} of {len(quality.pairs):,} pairs can be used for pretraining."
    if quality.problems:
        verdict = (
            f"<div class='verdict bad'><b>Problems.</b> {usable}{_list(quality.problems)}</div>"
        )
    else:
        verdict = f"<div class='verdict good'><b>Good.</b> {usable}</div>"
    if quality.warnings:
        verdict += f"<div class='verdict so'><b>Besides:</b>{_list(quality.warnings)}</div>"
    return verdict


def _list(items: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(item)}</li>' for item in items)}</ul>"


def _topics(quality: BagQuality) -> str:
    rows = [
        (name, str(info["type"]), f"{info['count']:,}") for name, info in quality.topics.items()
    ]
    cells = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(kind)}</td>"
        f"<td class='number'>{count}</td></tr>"
        for name, kind, count in rows
    )
    return f"<table><tr><th>Topic</th><th>Type</th><th>Messages</th></tr>{cells}</table>"


def _events(quality: BagQuality) -> str:
    events = quality.events
    edges = ", ".join(f"{count:,} on channel {key}" for key, count in events.triggers.items())
    dropped = sum(
        events.decoder.get(name, 0) for name in ("out_of_range", "unknown", "truncated_bytes")
    )
    return _table(
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
        ]
    if clock:
        rows += [
            ("One clock by", clock.mode.replace("_", " ")),
            ("", clock.reason),
            ("Shift", f"{clock.shift_ms:+.2f} ms"),
            ("Residual", f"{clock.residual_ms:.2f} ms"),
            ("Packet stamps", f"scatter by {clock.jitter_ms:.2f} ms"),
            ("Drift", f"{clock.drift_ppm:+.1f} ppm, {clock.segments - 1} restarts"),
        ]
    return _table(rows)


def _table(rows: Iterable[tuple[str, str]]) -> str:
    cells = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in rows
    )
    return f"<table>{cells}</table>"


def _reasons(quality: BagQuality, reasons: Mapping[str, str]) -> str:
    counts = quality.reasons()
    if not counts:
        return "<p>All can be used.</p>"
    cells = "".join(
        f"<tr><td class='number'>{count:,}</td><td class='number'>"
        f"{count / len(quality.pairs):.1%}</td><th>{html.escape(name)}</th>"
        f"<td>{html.escape(reasons[name])}</td></tr>"
        for name, count in counts.most_common()
    )
    return f"<table>{cells}</table>"


def _pair(thumbnail: Thumbnail, pair: PairQuality) -> str:
    events = event_picture(thumbnail.events)
    width = thumbnail.frame.shape[1]
    height = max(width * events.shape[0] // events.shape[1], 1)
    small = cv2.resize(events, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8)
    why = f" <span class='why'>{html.escape(', '.join(pair.reasons))}</span>" * bool(pair.reasons)
    return (
        f"<figure><img alt='frame' src='{_inline(thumbnail.frame, 'jpeg')}'>"
        f"<img alt='events' src='{_inline(small, 'png')}'>"
        f"<figcaption>frame {pair.index}: {pair.events:,} events, "
        f"{pair.active:.0%} of patches active{why}</figcaption></figure>"
    )


def _inline(picture: NDArray[np.uint8], codec: str) -> str:
    _, data = cv2.imencode(f".{codec}", picture[..., ::-1])
    return f"data:image/{codec};base64,{base64.b64encode(data.tobytes()).decode()}"


def _plots(quality: BagQuality) -> str:
    """Draw the series above each other, as SVG."""
    try:
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        msg = "the plots of a report need matplotlib: pip install 'scaleevent_ros[train]'"
        raise ScaleEventError(msg) from None

    draws = [_draw_rates, _draw_jitter, *([_draw_pairs] if quality.pairs else [])]
    figure = Figure(figsize=(10.5, 2.2 * len(draws)), layout="constrained")
    all_axes = figure.subplots(len(draws), sharex=True)
    for draw, axes in zip(draws, all_axes, strict=True):
        draw(quality, axes)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    all_axes[-1].set_xlabel("seconds since the start")
    stream = io.StringIO()
    FigureCanvasSVG(figure).print_svg(stream)  # type: ignore[no-untyped-call]
    text = stream.getvalue()
    return text[text.index("<svg") :]


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
