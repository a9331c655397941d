"""Conversion of a recording to one stream of serialized ROS messages, in order of time."""

from __future__ import annotations

import heapq
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scaleevent_ros.bags.messages import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    EVENT_PACKET,
    IMAGE,
    IMU,
    LABEL_INFO,
    EventPacketView,
    serialize_event_packet,
)
from scaleevent_ros.bags.metadata import Qos
from scaleevent_ros.sources.errors import SourceError
from scaleevent_ros.sources.faults import MAX_LOST_SHARE
from scaleevent_ros.sources.ordering import in_order
from scaleevent_ros.sources.packets import encode_packets
from scaleevent_ros.sources.recording import (
    DEPTH_TOPIC,
    DISPARITY_TOPIC,
    EVENTS_INFO_TOPIC,
    EVENTS_TOPIC,
    FLOW_TOPIC,
    FRAMES_INFO_TOPIC,
    FRAMES_TOPIC,
    IMU_TOPIC,
    LABEL_INFO_TOPIC,
    LABELS_TOPIC,
    WARPED_TOPIC,
)
from scaleevent_ros.sources.serialize import (
    camera_info_message,
    compressed_image_message,
    image_message,
    imu_message,
    label_info_message,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scaleevent_ros.sources.recording import (
        CameraCalibration,
        PictureStream,
        Recording,
    )

EVENTS_FRAME_ID = "event_camera"
FRAMES_FRAME_ID = "camera"

_EVENT_VIEWS = (LABELS_TOPIC, DEPTH_TOPIC, DISPARITY_TOPIC, FLOW_TOPIC, WARPED_TOPIC)
_PHOTOGRAPHS = (FRAMES_TOPIC, WARPED_TOPIC)
_SECOND = 1_000_000_000
_LATCHED = Qos(durability="transient_local", depth=1)
_QUEUE = Qos(depth=1000)


class Message(NamedTuple):
    """A serialized message.

    Attributes:
        stamp_ns: Header stamp in ns, which is also the record time in a bag.
        topic: Topic of the message.
        cdr: CDR bytes.
        events: Number of events in it.
        last_ns: Time of the last event or trigger in it, in ns; 0 if it holds none.
    """

    stamp_ns: int
    topic: str
    cdr: bytes
    events: int = 0
    last_ns: int = 0


class Position(NamedTuple):
    """Point from which a stream continues after an interruption.

    Attributes:
        t: Time in ns of the first message that is still to be written.
        packets: Number of event packets written so far.
        last_event_ns: Time of the last event or trigger written, in ns; None if there is none.
    """

    t: int = 0
    packets: int = 0
    last_event_ns: int | None = None


def topics(recording: Recording, image_codec: str | None) -> dict[str, tuple[str, Qos]]:
    """Return the topics of a recording, with message type and quality of service of each."""
    found = {EVENTS_TOPIC: (EVENT_PACKET, _QUEUE)}
    for stream in recording.pictures:
        if image_codec is not None and stream.topic in _PHOTOGRAPHS:
            found[_compressed(stream.topic)] = (COMPRESSED_IMAGE, Qos())
        else:
            found[stream.topic] = (IMAGE, Qos())
        if stream.topic == LABELS_TOPIC and recording.labels:
            found[LABEL_INFO_TOPIC] = (LABEL_INFO, _LATCHED)
    found.update({camera.topic: (CAMERA_INFO, Qos()) for camera in recording.cameras})
    if recording.imu is not None:
        found[IMU_TOPIC] = (IMU, _QUEUE)
    return found


def messages(recording: Recording, image_codec: str | None, start: Position) -> Iterator[Message]:
    """Stream all messages of a recording from a position on.

    Args:
        recording: Recording to stream.
        image_codec: ``jpeg`` or ``png`` for photographs as compressed images, with JPEG and PNG
            files of the recording passed through; None for raw images.
        start: Position to start from.

    Raises:
        SourceError: If pictures and events do not overlap in time, a stream has too many faults, or
            at the first fault in strict reading.
    """
    _check_clocks(recording)
    recording = in_order(recording)
    cameras = {camera.topic: camera for camera in recording.cameras}
    streams = [_events(recording, cameras.get(EVENTS_INFO_TOPIC), start)]
    for stream in recording.pictures:
        info = cameras.get(FRAMES_INFO_TOPIC) if stream.topic == FRAMES_TOPIC else None
        streams.append(_pictures(recording, stream, info, image_codec, start.t))
    if recording.imu is not None:
        streams.append(_imu(recording, start.t))
    return heapq.merge(*streams, key=attrgetter("stamp_ns"))


def _compressed(topic: str) -> str:
    return f"{topic}/compressed"


def _check_clocks(recording: Recording) -> None:
    if recording.span_ns is None:
        return
    first, last = recording.span_ns
    for stream in recording.pictures:
        if stream.span_ns is not None and (stream.span_ns[1] < first or stream.span_ns[0] > last):
            msg = (
                f"{stream.place}: clocks do not overlap: pictures are from {stream.span_ns[0]} to "
                f"{stream.span_ns[1]} ns, events from {first} to {last} ns"
            )
            raise SourceError(msg)


def _events(
    recording: Recording, camera: CameraCalibration | None, start: Position
) -> Iterator[Message]:
    triggers = recording.triggers(start.t) if recording.triggers is not None else ()
    packets = encode_packets(recording.events(start.t), triggers, start.last_event_ns)
    second = -1
    for seq, packet in enumerate(packets, start.packets):
        if camera is not None and packet.stamp_ns // _SECOND != second:
            second = packet.stamp_ns // _SECOND
            info = camera_info_message(camera, packet.stamp_ns, EVENTS_FRAME_ID)
            yield Message(packet.stamp_ns, EVENTS_INFO_TOPIC, info)
        view = EventPacketView(
            packet.stamp_ns,
            EVENTS_FRAME_ID,
            recording.height,
            recording.width,
            seq,
            time_base=0,
            encoding="evt3",
            is_bigendian=False,
            payload=packet.payload,
        )
        cdr = serialize_event_packet(view)
        yield Message(packet.stamp_ns, EVENTS_TOPIC, cdr, packet.events, packet.last_ns)
    recording.faults.check_share()


def _pictures(
    recording: Recording,
    stream: PictureStream,
    camera: CameraCalibration | None,
    image_codec: str | None,
    t_start: int,
) -> Iterator[Message]:
    in_event_view = stream.topic in _EVENT_VIEWS
    frame_id = EVENTS_FRAME_ID if in_event_view or recording.one_sensor else FRAMES_FRAME_ID
    size = (recording.height, recording.width) if in_event_view else None
    compress = image_codec is not None and stream.topic in _PHOTOGRAPHS
    topic = _compressed(stream.topic) if compress else stream.topic
    names_wanted = stream.topic == LABELS_TOPIC and bool(recording.labels)
    wrong_count = 0
    for count, picture in enumerate(stream.read(t_start), 1):
        height, width = picture.pixels.shape[:2]
        if size is not None and size != (height, width):
            what = f"{width}x{height}, not {size[1]}x{size[0]}"
            message = f"{stream.place}: the picture at {picture.t} ns is {what}"
            recording.faults.add("pictures of another size", message, np.array([picture.t]))
            wrong_count += 1
            if wrong_count > max(1, MAX_LOST_SHARE * count):
                raise SourceError(message)
            continue
        size = height, width
        if names_wanted:
            names = label_info_message(recording.labels, picture.t, frame_id)
            yield Message(picture.t, LABEL_INFO_TOPIC, names)
            names_wanted = False
        if camera is not None:
            info = camera_info_message(camera, picture.t, frame_id)
            yield Message(picture.t, FRAMES_INFO_TOPIC, info)
        if compress and image_codec is not None:
            cdr = compressed_image_message(picture, frame_id, image_codec)
        else:
            cdr = image_message(picture.pixels, picture.t, frame_id)
        yield Message(picture.t, topic, cdr)


def _imu(recording: Recording, t_start: int) -> Iterator[Message]:
    assert recording.imu is not None
    for sample in recording.imu(t_start):
        yield Message(sample.t, IMU_TOPIC, imu_message(sample, EVENTS_FRAME_ID))
