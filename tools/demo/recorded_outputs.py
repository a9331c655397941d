"""Outputs of the perception node in a recorded bag, as parts of a page."""

from __future__ import annotations

import html
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scaleevent_ros.errors import ScaleEventError
from scaleevent_ros.events import EventBatch, histogram
from scaleevent_ros.visuals.events import event_picture
from scaleevent_ros.visuals.features import enlarge
from scaleevent_ros.visuals.page import render_classes, render_picture, render_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from scaleevent_ros.bags import BagReader
    from scaleevent_ros.bags.messages import CompressedImageView, ImageView

    Picture = NDArray[np.uint8]

PICTURES = ("features_pca", "similarity", "overlay", "segmentation_color", "activity")
"""Picture topics of the node, in the order of a page's columns."""

TIMES = ("decode", "transfer", "inference", "publish", "window_age")
DROPS = (
    "windows_skipped",
    "packets_lost_by_seq",
    "packets_left_out",
    "broken_words",
    "events_left_out",
)
WINDOW_NS = 50_000_000
_WIDTH = 320
_TITLES = ("events", "frame", *(name.replace("_", " ") for name in PICTURES))


class Moment(NamedTuple):
    """Pictures of one window of the node.

    Attributes:
        stamp_ns: End of the window in ROS time, in ns.
        pictures: Pictures by title, RGB, uint8 [H, W, 3].
    """

    stamp_ns: int
    pictures: dict[str, Picture]


def recorded_strip(reader: BagReader, node: str, count: int = 6) -> str:
    """Render a table of windows spread over a bag, with events, frame and outputs of the node.

    Args:
        reader: Bag with events and outputs of the node.
        node: Name of the node, such as ``/scaleevent_perception``.
        count: Maximum number of windows.

    Raises:
        ScaleEventError: If the bag has no picture of the node.
    """
    moments = list(_moments(reader, node, count))
    shown = {title for moment in moments for title in moment.pictures}
    titles = [title for title in _TITLES if title in shown]
    head = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
    rows = ""
    for moment in moments:
        seconds = (moment.stamp_ns - moments[0].stamp_ns) / 1e9
        rows += f"<tr><td class='when'>+{seconds:.2f} s</td>"
        for title in titles:
            picture = moment.pictures.get(title)
            cell = "" if picture is None else render_picture(picture, title, width=_WIDTH)
            rows += f"<td>{cell}</td>"
        rows += "</tr>"
    return f"{_classes(reader, node)}<table class='strip'><tr><th></th>{head}</tr>{rows}</table>"


def recorded_times(reader: BagReader, node: str) -> str:
    """Render a table of the durations of each step, which the node publishes with ``debug``."""
    values: dict[str, list[float]] = {}
    for name in TIMES:
        topic = f"{node}/debug/{name}_ms"
        values[name] = [float(message.data) for message in _messages(reader, topic)]
    rows = [
        (
            name.replace("_", " "),
            *(f"{each:.2f}" for each in np.percentile(ms, (50, 99))),
            f"{len(ms)}",
        )
        for name, ms in values.items()
        if ms
    ]
    return render_table(rows, ("ms", "median", "99th percentile", "windows"))


def recorded_drops(reader: BagReader) -> str:
    """Render a table of the nodes' counters of dropped data, from their last diagnostics."""
    latest: dict[str, dict[str, str]] = {}
    for message in _messages(reader, "/diagnostics"):
        for status in message.status:
            latest[status.name] = {pair.key: pair.value for pair in status.values}
    rows = [
        (f"{name.strip('/')}: {key.replace('_', ' ')}", values[key])
        for name, values in latest.items()
        for key in (*DROPS, "dropped_by_queue", "lost_by_seq")
        # Without the recorder's statuses of single topics, which are named `…: /topic`.
        if key in values and ": /" not in name
    ]
    return render_table(rows, ("dropped", "count"))


def _moments(reader: BagReader, node: str, count: int) -> Iterator[Moment]:
    """Collect the outputs of windows that are spread evenly over the bag."""
    filled = {name for name, topic in reader.topics.items() if topic.count}
    topics = {name: f"{node}/{name}" for name in PICTURES if f"{node}/{name}" in filled}
    if not topics:
        msg = f"{reader.path} has no pictures of {node}: record its image topics"
        raise ScaleEventError(msg)
    # Only times are read first, since the pictures of a long bag do not fit into memory.
    stamps = sorted({stamp for stamp, _ in reader.images(next(iter(topics.values())))})
    chosen = [
        stamps[i] for i in sorted({*np.linspace(0, len(stamps) - 1, count).round().astype(int)})
    ]
    pictures: dict[int, dict[str, Picture]] = {stamp: {} for stamp in chosen}
    _add_events(reader, pictures)
    _add_frames(reader, pictures)
    for name, topic in topics.items():
        for stamp, image in reader.images(topic):
            if stamp in pictures:
                pictures[stamp][name.replace("_", " ")] = _to_picture(image)
    for stamp in chosen:
        yield Moment(stamp, pictures[stamp])


def _add_events(reader: BagReader, pictures: dict[int, dict[str, Picture]]) -> None:
    """Draw the events of the packets stamped within a window's length before each moment."""
    from scaleevent_ros.bags.event_stream import EventStream

    due = sorted(pictures)
    recent: deque[tuple[int, EventBatch]] = deque()
    for packet in EventStream(reader).packets():
        while due and packet.stamp_ns > due[0]:
            _draw_events(recent, pictures[due.pop(0)])
        recent.append((packet.stamp_ns, packet.events))
        while recent[0][0] < packet.stamp_ns - WINDOW_NS:
            recent.popleft()
    for stamp in due:
        _draw_events(recent, pictures[stamp])


def _draw_events(recent: deque[tuple[int, EventBatch]], pictures: dict[str, Picture]) -> None:
    events = EventBatch.concatenate([batch for _, batch in recent]) if recent else None
    if events is not None and len(events):
        counts = histogram(events, int(events.t[0]), int(events.t[-1]) + 1)
        pictures["events"] = event_picture(counts)


def _add_frames(reader: BagReader, pictures: dict[int, dict[str, Picture]]) -> None:
    """Add the camera's latest frame at each moment, if the bag has exactly one camera."""
    from scaleevent_ros.bags.reader import CAMERA_IMAGE

    cameras = [name for name in reader.topics if CAMERA_IMAGE.search(name)]
    if len(cameras) != 1:
        return
    due = sorted(pictures)
    before: ImageView | CompressedImageView | None = None
    for stamp, image in reader.images(cameras[0]):
        while due and stamp > due[0]:
            moment = due.pop(0)
            if before is not None:
                pictures[moment]["frame"] = _to_picture(before)
        before = image
    if before is not None:
        for moment in due:
            pictures[moment]["frame"] = _to_picture(before)


def _to_picture(image: ImageView | CompressedImageView) -> Picture:
    """Convert an image to RGB, enlarged to at least `_WIDTH` by nearest neighbours."""
    from scaleevent_ros.bags.images import image_rgb

    picture = np.array(image_rgb(image))
    if picture.shape[1] >= _WIDTH:
        return picture
    return enlarge(picture, (_WIDTH, round(_WIDTH * picture.shape[0] / picture.shape[1])))


def _classes(reader: BagReader, node: str) -> str:
    """Render a legend of the classes, if the node published them."""
    infos = list(_messages(reader, f"{node}/label_info"))
    if not infos:
        return ""
    return render_classes([each.class_name for each in infos[-1].class_map])


def _messages(reader: BagReader, topic: str) -> Iterator[Any]:
    """Iterate over a topic's messages; none if the bag does not have the topic."""
    from scaleevent_ros.bags.messages import parse_message

    if topic in reader.topics:
        for message in reader.messages([topic]):
            yield parse_message(message.data, reader.topics[topic].msgtype)
