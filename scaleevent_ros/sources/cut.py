"""Selection of a part of a recording."""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING

from scaleevent_ros.sources.errors import SourceError
from scaleevent_ros.sources.ordering import in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scaleevent_ros.events import EventBatch, Triggers
    from scaleevent_ros.sources.recording import ImuSample, Picture, PictureStream, Recording


def cut(recording: Recording, start_s: float, duration_s: float | None) -> Recording:
    """Cut a part out of a recording.

    Args:
        recording: Recording to cut.
        start_s: Start of the part, in seconds after the first event.
        duration_s: Duration of the part in s; None for all up to the end.

    Raises:
        SourceError: If the recording holds no events, or a time is negative.
    """
    if start_s < 0 or (duration_s is not None and duration_s <= 0):
        msg = "--start must not be negative, and --duration must be positive"
        raise SourceError(msg)
    if recording.span_ns is not None:
        first = recording.span_ns[0]
    else:
        batch = next((some for some in recording.events(0) if len(some)), None)
        if batch is None:
            msg = f"{recording.source}: holds no events"
            raise SourceError(msg)
        first = int(batch.t[0])
    start = first + round(start_s * 1e9)
    end = (1 << 63) - 1 if duration_s is None else start + round(duration_s * 1e9)
    recording.faults.limit(start, end)
    recording = in_order(recording)  # so that a wrong time does not end a stream

    def events(t_start: int) -> Iterator[EventBatch]:
        batches = recording.events(max(t_start, start))
        for some in takewhile(lambda batch: not len(batch) or batch.t[0] < end, batches):
            yield some.between(start, end)

    def triggers(t_start: int) -> Iterator[Triggers]:
        assert recording.triggers is not None
        edges = recording.triggers(max(t_start, start))
        for some in takewhile(lambda edge: not len(edge) or edge.t[0] < end, edges):
            kept = some.t < end
            yield type(some)(some.t[kept], some.id[kept], some.edge[kept])

    def imu(t_start: int) -> Iterator[ImuSample]:
        assert recording.imu is not None
        return takewhile(lambda sample: sample.t < end, recording.imu(max(t_start, start)))

    span = recording.span_ns
    return replace(
        recording,
        events=events,
        pictures=tuple(_cut_pictures(stream, start, end) for stream in recording.pictures),
        triggers=triggers if recording.triggers is not None else None,
        imu=imu if recording.imu is not None else None,
        span_ns=None if span is None else (start, min(end, span[1])),
    )


def _cut_pictures(stream: PictureStream, start: int, end: int) -> PictureStream:
    whole: Callable[[int], Iterator[Picture]] = stream.read

    def read(t_start: int) -> Iterator[Picture]:
        return takewhile(lambda picture: picture.t < end, whole(max(t_start, start)))

    return replace(stream, read=read, span_ns=None)
