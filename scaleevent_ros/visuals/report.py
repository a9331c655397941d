"""Report on a student's outputs along a bag, as a self-contained page of HTML, without ROS."""

from __future__ import annotations

import html
import time
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from scaleevent_ros.errors import ScaleEventError
from scaleevent_ros.events import activity_mask, histogram
from scaleevent_ros.events.windows import window_start
from scaleevent_ros.runtime.arrays import to_host
from scaleevent_ros.visuals.events import event_picture
from scaleevent_ros.visuals.features import (
    choose_anchors,
    patches_to_pixels,
    similarity_map,
    similarity_picture,
)
from scaleevent_ros.visuals.page import (
    render_classes,
    render_page,
    render_picture,
    render_table,
    write_page,
)
from scaleevent_ros.visuals.palette import class_colours
from scaleevent_ros.visuals.stable_basis import StableBasis

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from scaleevent_ros.bags import BagReader
    from scaleevent_ros.events import EventBatch
    from scaleevent_ros.models import Header
    from scaleevent_ros.runtime import Engine

    Picture = NDArray[np.uint8]

_WIDTH = 320
_MARK = (0, 255, 0)


class Still(NamedTuple):
    """One window of the report.

    Attributes:
        seconds: End of the window in s since the first event.
        events: Number of events.
        pictures: RGB, uint8 [H, W, 3], by title.
        build_ms: Duration of building the tensor in ms.
        inference_ms: Duration of the inference in ms.
    """

    seconds: float
    events: int
    pictures: dict[str, Picture]
    build_ms: float
    inference_ms: float


def write_film_strip(
    reader: BagReader,
    model: str | Path,
    path: Path,
    *,
    windows: int = 12,
    device: str = "auto",
    topic: str | None = None,
    features_space: str = "student",
) -> None:
    """Run a student on windows spread over a bag and write its outputs as HTML.

    Args:
        reader: Open bag.
        model: Name of a shipped student, or path of a checkpoint or an exported file.
        path: File to write.
        windows: Largest number of windows.
        device: Device of the `Engine`.
        topic: Event topic, for bags with several.
        features_space: Feature space of the `Engine`.

    Raises:
        ScaleEventError: If the bag has no events, the checkpoint cannot run, or the page cannot be
            written.
    """
    from scaleevent_ros.runtime import Engine
    from scaleevent_ros.runtime.trial_windows import sensor_size

    size = sensor_size(reader.path, topic)
    engine = Engine(model, device, size=size, features_space=features_space)
    stills = []
    basis, anchor = StableBasis(), None
    for events, t_end, first_ns in _windows(reader, windows, engine.header, topic):
        still, anchor = _draw_window(engine, events, t_end, basis, anchor)
        stills.append(still._replace(seconds=(t_end - first_ns) / 1e9))
    if not stills:
        msg = f"{reader.path} holds less than one window of events"
        raise ScaleEventError(msg)
    write_page(path, _page(str(reader.path), str(model), engine, stills))


def _windows(
    reader: BagReader, count: int, header: Header, topic: str | None
) -> Iterator[tuple[EventBatch, int, int]]:
    """Yield windows whose ends are spread evenly over a bag.

    Packets are decoded once, and only those of the latest windows are kept.

    Yields:
        Events of the window with their history, its end in ns, and the time of the first event.
    """
    from scaleevent_ros.bags.event_stream import EventStream, EventWindow

    length = header.windows.length_ns
    reach = length + header.input.history_ns
    span = max(reader.end_ns - reader.start_ns, length)
    recent = EventWindow()
    first = None
    due = 1
    for packet in EventStream(reader, topic).packets():
        if not len(packet.events):
            continue
        recent.push(packet.events)
        if first is None:
            first = int(packet.events.t[0])
        while due <= count and recent.end_ns >= (end := first + span * due // (count + 1)):
            due += 1
            events = recent.between(end - reach, end)
            if events is not None:
                yield events, end, first
        recent.drop_before(recent.end_ns - 2 * length - reach)


def _draw_window(
    engine: Engine,
    events: EventBatch,
    t_end: int,
    basis: StableBasis,
    anchor: tuple[int, int] | None,
) -> tuple[Still, tuple[int, int]]:
    """Run the engine on a window and draw it.

    Returns:
        The drawn window, and the row and column of the patch with which all others are compared:
        ``anchor``, or a new one if it is None.
    """
    header = engine.header
    begin = time.perf_counter()
    start = window_start(events, t_end, header.windows)
    tensor = header.input.build(events, start, t_end)
    built = time.perf_counter()
    outputs = engine(tensor, {"features", "segmentation"}.intersection(engine.outputs))
    assert outputs.features is not None
    array = to_host(outputs.features)
    done = time.perf_counter()
    window = events.between(start, t_end)
    active = activity_mask(window, engine.stride)
    anchor = anchor or choose_anchors(array, active, 2)[-1]
    pictures = {
        "events": event_picture(histogram(events, start, t_end)),
        "principal components": patches_to_pixels(
            basis.picture(array, active), engine.stride, engine.size
        ),
        "similarity to the cross": patches_to_pixels(
            similarity_picture(similarity_map(array, anchor)), engine.stride, engine.size
        ),
    }
    place = round((anchor[1] + 0.5) * engine.stride), round((anchor[0] + 0.5) * engine.stride)
    for title in ("events", "similarity to the cross"):
        cv2.drawMarker(pictures[title], place, _MARK, cv2.MARKER_CROSS, 20, 2)
    if outputs.segmentation is not None:
        colours = class_colours(max(len(header.classes), 256))
        pictures["segmentation"] = np.take(colours, to_host(outputs.segmentation), axis=0)
    return Still(0.0, len(window), pictures, (built - begin) * 1e3, (done - built) * 1e3), anchor


def _page(bag: str, model: str, engine: Engine, stills: Sequence[Still]) -> str:
    header = engine.header
    space = f"{engine.width} channels in the {engine.features_space}'s space"
    facts = [
        ("Model", f"{model}: {header.architecture}, {space}"),
        ("Ran on", f"{engine.device}, {engine.precision}, {engine.backend}"),
        ("Window", _window(header)),
        ("Building a window", _timing([still.build_ms for still in stills])),
        ("Network", _timing([still.inference_ms for still in stills])),
    ]
    legend = render_classes(header.classes) if "segmentation" in engine.outputs else ""
    titles = "".join(f"<th>{html.escape(title)}</th>" for title in stills[0].pictures)
    strip = f"<table class='strip'><tr><th></th>{titles}</tr>{''.join(map(_row, stills))}</table>"
    name = bag.rstrip("/").rsplit("/", 1)[-1]
    return render_page(name, bag, [render_table(facts), legend, strip])


def _window(header: Header) -> str:
    """Describe the event windows and the tensor of a checkpoint."""
    options, spec = header.windows, header.input
    least = f"{options.shortest_ms:g} to " if options.mode == "motion" else ""
    memory = f", leaky integrals of {', '.join(map(str, spec.leaky))} s" if spec.leaky else ""
    return f"{least}{options.length_ms:g} ms, {spec.representation}{memory}"


def _row(still: Still) -> str:
    cells = "".join(
        f"<td>{render_picture(picture, title, width=_WIDTH)}</td>"
        for title, picture in still.pictures.items()
    )
    when = f"{still.seconds:.2f} s<br>{still.events:,} events<br>{still.inference_ms:.1f} ms"
    return f"<tr><td class='when'>{when}</td>{cells}</tr>"


def _timing(ms: Sequence[float]) -> str:
    """Format the durations of a step, of which the first may include warm-up."""
    return f"median {np.median(ms):.2f} ms, longest {max(ms):.2f} ms of {len(ms)} windows"
