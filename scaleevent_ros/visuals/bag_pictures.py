"""Pictures of a bag's events, written to files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2

from scaleevent_ros.errors import ScaleEventError
from scaleevent_ros.visuals.events import representation_pictures

if TYPE_CHECKING:
    from pathlib import Path

    from scaleevent_ros.bags import BagReader
    from scaleevent_ros.events import EventBatch

MOMENTS = (0.25, 0.5, 0.75)
WINDOW_NS = 50_000_000


def write_pictures(reader: BagReader, folder: Path, window_ns: int = WINDOW_NS) -> list[Path]:
    """Draw each event topic at three times, in every representation.

    Args:
        reader: Open bag.
        folder: Output folder, created if missing. Files are named TOPIC_PERCENT_PICTURE.png, with
            the time in percent of the bag's duration.
        window_ns: Length of the window of events in ns.

    Returns:
        Paths of the files.

    Raises:
        ScaleEventError: If a file cannot be written.
    """
    from scaleevent_ros.bags.messages import EVENT_PACKET

    files = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"cannot create the folder {folder}: {error.strerror}"
        raise ScaleEventError(msg) from None
    topics = [name for name, topic in reader.topics.items() if topic.msgtype == EVENT_PACKET]
    for topic in topics:
        for moment in MOMENTS:
            start_ns = reader.start_ns + round(moment * (reader.end_ns - reader.start_ns))
            batch = _events_after(reader, topic, start_ns, window_ns)
            if batch is None:
                continue
            for name, picture in representation_pictures(batch).items():
                label = topic.strip("/").replace("/", "_")
                file = folder / f"{label}_{moment:.0%}_{name}.png".replace("%", "")
                try:
                    file.write_bytes(cv2.imencode(".png", picture[..., ::-1])[1].tobytes())
                except OSError as error:
                    msg = f"cannot write the picture {file}: {error.strerror}"
                    raise ScaleEventError(msg) from None
                files.append(file)
    return files


def _events_after(
    reader: BagReader, topic: str, start_ns: int, window_ns: int
) -> EventBatch | None:
    """Decode a window of events that were recorded from a time on; None if there are none."""
    from scaleevent_ros.bags.event_stream import EventStream, EventWindow

    window = EventWindow()
    first_ns = None
    for packet in EventStream(reader, topic).packets(start_ns=start_ns):
        window.push(packet.events)
        if first_ns is None and len(packet.events):
            first_ns = int(packet.events.t[0])
        if first_ns is not None and window.end_ns >= first_ns + window_ns:
            break
    return None if first_ns is None else window.between(first_ns, first_ns + window_ns)
