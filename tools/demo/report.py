"""Report of the demo, as one HTML page."""

from __future__ import annotations

import html
import platform
from datetime import datetime
from typing import TYPE_CHECKING

from scaleevent_ros.bags import BagReader
from scaleevent_ros.bags.check import check_bag
from scaleevent_ros.bags.quality import REASONS
from scaleevent_ros.distill.journal import METRICS_NAME
from scaleevent_ros.visuals.bag_report import report_parts
from scaleevent_ros.visuals.curves import SCORES, read_metrics, training_curves
from scaleevent_ros.visuals.page import render_page, render_picture, render_table, write_page
from scaleevent_ros.visuals.validation_pictures import validation_pictures
from tools.demo.recorded_outputs import recorded_drops, recorded_strip, recorded_times
from tools.demo.stages import NODE, finished

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tools.demo.journey import Journey

_PANELS = 2


def write_report(journey: Journey, path: Path) -> None:
    """Write the report: the stages, the outputs of the student, and its training."""
    when = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    place = f"{journey.output}, {when}, {platform.node()}"
    write_page(path, render_page("scaleevent_ros: demo", place, _parts(journey)))


def _parts(journey: Journey) -> Iterator[str]:
    yield "<h2>Stages and their durations</h2>"
    rows = [
        (
            str(mark["name"]),
            str(mark["purpose"]),
            str(mark["said"]),
            f"{mark['seconds']:.0f}\N{NO-BREAK SPACE}s",
        )
        for mark in finished(journey.output)
    ]
    yield render_table(rows, ("stage", "", "result", "duration"))
    yield (
        "<p>The student that ships with the package has "
        f"<a href='../{journey.first_page.relative_to(journey.output)}'>a separate report</a>.</p>"
    )
    yield "<h2>Outputs of the student</h2>"
    yield (
        "<p>The perception node on the replayed recordings, as recorded by the recorder node: "
        "events and frame; the first three principal components of the features, as colours; the "
        "similarity of each place to the one at the cross; segmentation, if a head was trained, or "
        "else the colours, over the events; and the active patches. The student never sees a "
        "frame.</p>"
    )
    for source in journey.sources:
        reader = BagReader(journey.perceived(source))
        yield f"<h3>{html.escape(source.name)}</h3>{recorded_strip(reader, NODE)}"
        yield "<div class='columns'>"
        yield f"{recorded_times(reader, NODE)}{recorded_drops(reader)}</div>"
    yield "<h2>Pretraining</h2>"
    yield from _run_parts(journey.pretrained)
    if journey.finetuned.is_dir():
        yield "<h2>Training of the segmentation head</h2>"
        yield from _run_parts(journey.finetuned)
    for source in journey.sources:
        if source.teaches:
            quality = check_bag(BagReader(journey.recorded(source)))
            yield f"<h2>Recording {html.escape(source.name)}</h2>"
            yield from report_parts(quality, REASONS)


def _seconds(time: float) -> str:
    return f"{time:.0f}\N{NO-BREAK SPACE}s"


def _run_parts(run: Path) -> Iterator[str]:
    """Render a run: its curves, its scores before and after, and pictures before and after."""
    entries = read_metrics(run / METRICS_NAME)
    yield training_curves(entries)
    judged = [entry for entry in entries if entry["kind"] == "validation"]
    first, last = judged[0], judged[-1]
    yield render_table(
        [(name, f"{first[name]:.3f}", f"{last[name]:.3f}") for name in SCORES if name in last],
        ("validation", f"step {first['step']}", f"step {last['step']}"),
    )
    pictures = validation_pictures(run)
    if not pictures:
        return
    yield (
        "<p>Events, frame, and the features of teacher and student in one basis of principal "
        "components: equal colours mean equal features. Below, for three places: the similarity of "
        "every other place, for the teacher and for the student.</p>"
    )
    steps = list(pictures)
    for number in range(min(_PANELS, len(pictures[steps[0]]))):
        for step in (steps[0], steps[-1]):
            panel = render_picture(pictures[step][number], f"step {step}", width=960, codec="jpeg")
            yield f"<figure>{panel}<figcaption>after step {step}</figcaption></figure>"
