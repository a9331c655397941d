"""Conversion of recordings of any known format to bags.

A recording is converted in parts of 30 s. Each becomes one file of the bag, and is listed in
``OUT.partial/conversion.json`` when it is complete. A conversion that was interrupted, or ended
with an error, leaves ``OUT.partial``; the next one with the same arguments continues after the last
complete part. ``OUT`` appears at the end, complete.

Event packets hold at most 5 ms and are stamped with the time of their first event. Times are those
of the recording's own clock, truncated to µs. ``OUT/conversion.json``, and ``custom_data`` in
``metadata.yaml``, describe how frames and events share that clock. If frames come from another
lens, and the recording has its calibration, ``OUT/calibration.yaml`` maps them into the event
image.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.progress import Progress, SpinnerColumn, TimeElapsedColumn

from scaleevent_ros.bags.mcap_writer import McapWriter
from scaleevent_ros.bags.messages import type_definition
from scaleevent_ros.bags.metadata import (
    FileSpan,
    Topic,
    build_metadata,
    dump_metadata,
    write_metadata,
)
from scaleevent_ros.bags.writer import check_options
from scaleevent_ros.errors import describe
from scaleevent_ros.events import EventsError
from scaleevent_ros.sources.calibration import write_calibration
from scaleevent_ros.sources.cut import cut
from scaleevent_ros.sources.errors import ConversionError, SourceError
from scaleevent_ros.sources.faults import faults_text
from scaleevent_ros.sources.formats import find_recordings
from scaleevent_ros.sources.recording import EVENTS_TOPIC, ReadOptions
from scaleevent_ros.sources.streams import Position, messages, topics

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rich.progress import TaskID

    from scaleevent_ros.sources.faults import Fault
    from scaleevent_ros.sources.recording import Recording
    from scaleevent_ros.sources.streams import Message

logger = logging.getLogger(__name__)

STRETCH_NS = 30_000_000_000
STATE_NAME = "conversion.json"
CALIBRATION_NAME = "calibration.yaml"


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """Options of written bags.

    Attributes:
        read: Options of the readers.
        image_codec: ``jpeg`` or ``png`` for frames as `sensor_msgs/CompressedImage`; None for
            `sensor_msgs/Image`. Ground truth is always `sensor_msgs/Image`.
        compression: Compression of the bag's chunks: ``zstd``, ``lz4`` or None.
        metadata_version: 9 for Jazzy and later, 8 for Humble and Iron.
        stretch_ns: Recording time in one file of a bag, in ns.
        start_s: Start of the part to convert, in seconds after the first event.
        duration_s: Duration of the part to convert, in s; None for all up to the end.
    """

    read: ReadOptions = field(default_factory=ReadOptions)
    image_codec: str | None = None
    compression: str | None = None
    metadata_version: int = 9
    stretch_ns: int = STRETCH_NS
    start_s: float = 0.0
    duration_s: float | None = None

    def __post_init__(self) -> None:
        """Check values.

        Raises:
            ConversionError: If the image codec is unknown.
            BagError: If the metadata version or the compression is unknown.
        """
        if self.image_codec not in {None, "jpeg", "png"}:
            msg = f"frames cannot be stored as {self.image_codec!r}: known are jpeg and png"
            raise ConversionError(msg)
        check_options(self.metadata_version, self.compression)


@dataclass(slots=True)
class State:
    """Progress of a conversion, stored in `conversion.json`.

    Attributes:
        arguments: Arguments of the conversion, which must be the same to continue it.
        clock: The recording's `ClockStatement`.
        status: ``partial`` or ``complete``.
        parts: Complete parts, each a file of the bag.
        next_ns: Start of the next part, in ns.
        error: Error that ended the last run; None if there was none.
        faults: Faults that were skipped or repaired, by kind.
    """

    arguments: dict[str, Any]
    clock: dict[str, Any]
    status: str = "partial"
    parts: list[Part] = field(default_factory=list)
    next_ns: int = 0
    error: str | None = None
    faults: dict[str, Fault] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write the state to its file in a folder, atomically."""
        temporary = folder / f".{STATE_NAME}.tmp"
        temporary.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        temporary.replace(folder / STATE_NAME)


@dataclass(slots=True)
class Part:
    """Content of one file of a bag.

    Attributes:
        counts: Number of messages by topic.
        spans_ns: Times of the first and the last message in ns, by topic.
        events: Number of events.
        last_event_ns: Time of the last event or trigger in ns; None if there is none.
    """

    counts: dict[str, int] = field(default_factory=dict)
    spans_ns: dict[str, tuple[int, int]] = field(default_factory=dict)
    events: int = 0
    last_event_ns: int | None = None

    def add(self, message: Message) -> None:
        """Count a message."""
        topic, t = message.topic, message.stamp_ns
        self.counts[topic] = self.counts.get(topic, 0) + 1
        self.spans_ns[topic] = (self.spans_ns.get(topic, (t, t))[0], t)
        self.events += message.events
        self.last_event_ns = message.last_ns or self.last_event_ns


def convert(
    source: Path, out: Path, options: ConvertOptions, *, show_progress: bool = False
) -> list[Path]:
    """Convert a recording, or every recording below a folder.

    Args:
        source: File or folder of recordings.
        out: Bag to write; if recordings lie below `source`, a folder of bags with their names and
            nesting. Complete bags are not changed.
        options: Options of the conversion.
        show_progress: Show a progress bar for each recording.

    Returns:
        The paths of the bags, in order. Faults that were skipped or repaired are logged.

    Raises:
        SourceError: If a recording could not be converted. All others are converted first; in
            strict reading, only those before it.
        BagError: If a bag cannot be written.
    """
    bags: list[Path] = []
    failures: list[SourceError] = []
    summaries: list[str] = []
    columns = (SpinnerColumn(), *Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, disable=not show_progress) as bars:
        for found in find_recordings(source):
            bag = out / found.name
            bar = bars.add_task(bag.name, total=None)
            try:
                recording = found.open(options.read)
                if options.start_s or options.duration_s is not None:
                    recording = cut(recording, options.start_s, options.duration_s)
                mover = _bar_mover(bars, bar, recording)
                faults = convert_recording(recording, bag, options, mover)
            except (SourceError, OSError) as error:
                failures.append(
                    error if isinstance(error, SourceError) else SourceError(describe(error))
                )
                if options.read.strict:
                    break
            else:
                bags.append(bag)
                if faults:
                    summaries.append(f"{bag}: {faults_text(faults)}")
    for summary in summaries:
        logger.warning("%s", summary)
    if len(failures) == 1:
        raise failures[0]
    if failures:
        listed = "\n  ".join(map(str, failures))
        msg = f"{len(failures)} recordings were not converted:\n  {listed}"
        raise SourceError(msg)
    return bags


def _bar_mover(bars: Progress, bar: TaskID, recording: Recording) -> Callable[[int], None]:
    """Return a function that moves a progress bar to a time (ns) of a recording."""
    if recording.span_ns is None:
        return lambda _: bars.advance(bar)
    first, last = recording.span_ns
    bars.update(bar, total=last - first)
    return lambda stamp_ns: bars.update(bar, completed=stamp_ns - first)


def convert_recording(
    recording: Recording,
    bag: Path,
    options: ConvertOptions,
    report: Callable[[int], None] = lambda _: None,
) -> dict[str, Fault]:
    """Convert one recording, or continue an earlier call that was interrupted.

    Args:
        recording: Recording to convert.
        bag: Bag to write; nothing happens if it is complete already.
        options: Options of the conversion.
        report: Function that is called with the time in ns of each message written.

    Returns:
        Faults that were skipped or repaired, by kind.

    Raises:
        SourceError: If the recording is invalid, or has a fault in strict reading; `BAG.partial`
            keeps the reason and the complete parts.
        ConversionError: If something else exists at `bag` or at `BAG.partial`.
        BagError: If the bag cannot be written.
    """
    arguments = {
        "source": str(recording.source.resolve()),
        "format": recording.format,
        "options": asdict(options),
    }
    work = bag.with_name(f"{bag.name}.partial")
    if bag.exists():
        return _load(bag, bag.name, arguments).faults
    if work.exists():
        state = _load(work, bag.name, arguments)
        state.error = None
    else:
        state = State(arguments, asdict(recording.clock))
        work.mkdir(parents=True)
    state.save(work)
    try:
        _write_parts(recording, work, bag.name, state, options, report)
        _check_spans(recording, state.parts)
    except SourceError as error:
        state.error = str(error)
        state.save(work)
        raise
    except EventsError as error:  # whose message does not give the file
        state.error = f"{recording.source}: {error}"
        state.save(work)
        raise SourceError(state.error) from error
    _complete(recording, work, bag.name, state, options)
    work.replace(bag)
    return state.faults


def _load(folder: Path, name: str, arguments: dict[str, Any]) -> State:
    path = folder / STATE_NAME
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        state = State(**said)
        state.parts = [Part(**part) for part in said["parts"]]
    except (OSError, ValueError, TypeError, KeyError):
        msg = f"{folder} exists already and is not a conversion; nothing is overwritten"
        raise ConversionError(msg) from None
    if state.arguments != arguments:
        msg = (
            f"{folder} was converted from another recording, or with other options; see {path}, "
            "and remove the folder to restart"
        )
        raise ConversionError(msg)
    for index in range(len(state.parts)):
        if not (folder / _file_name(name, index)).exists():
            msg = f"{folder} lacks {_file_name(name, index)}: remove the folder to restart"
            raise ConversionError(msg)
    return state


def _file_name(bag: str, index: int) -> str:
    return f"{bag}_{index}.mcap"


def _declared(recording: Recording, options: ConvertOptions) -> list[Topic]:
    return [
        Topic(name, msgtype, qos, type_definition(msgtype))
        for name, (msgtype, qos) in topics(recording, options.image_codec).items()
    ]


def _write_parts(
    recording: Recording,
    work: Path,
    name: str,
    state: State,
    options: ConvertOptions,
    report: Callable[[int], None],
) -> None:
    declared, version = _declared(recording, options), options.metadata_version
    start = Position(
        state.next_ns,
        sum(part.counts.get(EVENTS_TOPIC, 0) for part in state.parts),
        next((p.last_event_ns for p in reversed(state.parts) if p.last_event_ns), None),
    )
    recording.faults.resume(state.faults, state.next_ns)
    stream = messages(recording, options.image_codec, start)
    for stretch, group in groupby(stream, lambda m: m.stamp_ns // options.stretch_ns):
        path = work / _file_name(name, len(state.parts))
        path.unlink(missing_ok=True)  # half written by a run that was interrupted
        part = Part()
        file = McapWriter(path, compression=options.compression or "")
        try:
            for topic in declared:
                file.add_topic(topic, version)
            for message in group:
                file.write(message.topic, message.stamp_ns, message.stamp_ns, message.cdr)
                part.add(message)
                report(message.stamp_ns)
        finally:
            file.close(dump_metadata(build_metadata([file.span], declared, version=version)))
        state.parts.append(part)
        state.next_ns = (stretch + 1) * options.stretch_ns
        state.faults = recording.faults.summary(state.next_ns)
        state.save(work)
    state.faults = recording.faults.summary()


def _check_spans(recording: Recording, parts: list[Part]) -> None:
    """Check that a recording has events, and that all topics overlap with them in time."""
    spans: dict[str, tuple[int, int]] = {}
    for part in parts:
        for topic, (first, last) in part.spans_ns.items():
            spans[topic] = (spans.get(topic, (first, last))[0], last)
    if not sum(part.events for part in parts):
        msg = f"{recording.source}: holds no events"
        raise SourceError(msg)
    first, last = spans[EVENTS_TOPIC]
    for topic, (start, end) in spans.items():
        if start > last or end < first:
            msg = (
                f"{recording.source}: clocks do not overlap: {topic} is from {start} to {end} ns, "
                f"events from {first} to {last} ns"
            )
            raise SourceError(msg)


def _complete(
    recording: Recording, work: Path, name: str, state: State, options: ConvertOptions
) -> None:
    """Complete the bag: write its metadata and, if the recording has one, its calibration."""
    files = []
    for index, part in enumerate(state.parts):
        starts, ends = zip(*part.spans_ns.values(), strict=True)
        files.append(FileSpan(_file_name(name, index), min(starts), max(ends), part.counts))
    declared = _declared(recording, options)
    metadata = build_metadata(files, declared, version=options.metadata_version)
    metadata["custom_data"] = {
        "source": str(recording.source),
        "format": recording.format,
        "clock_method": recording.clock.method,
        "clock_detail": recording.clock.detail,
    }
    if recording.clock.residual_ms is not None:
        metadata["custom_data"]["clock_residual_ms"] = str(recording.clock.residual_ms)
    if state.faults:
        metadata["custom_data"]["faults"] = json.dumps(state.faults)
    write_metadata(work, metadata)
    if recording.calibration is not None:
        write_calibration(work / CALIBRATION_NAME, recording.calibration)
    state.status = "complete"
    state.save(work)
