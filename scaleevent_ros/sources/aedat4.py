"""AEDAT4, as iniVation's DV software and cameras (DAVIS346, DVXplorer) write it.

Container: https://docs.inivation.com/software/software-advanced-usage/file-formats/aedat-4.0.html
(``#!AER-DAT4.0``, then compressed flatbuffers packets of events, frames, IMU samples and triggers,
all stamped in µs of one clock since 1970). It is read with the `aedat` package, each kind in a
separate pass over the file, so that no kind is buffered in memory.
"""

from __future__ import annotations

import math
import struct
import warnings
from typing import TYPE_CHECKING, Any

import aedat
import numpy as np

from scaleevent_ros.bags.images import depth_for, to_8_bits
from scaleevent_ros.events import Triggers
from scaleevent_ros.sources.errors import SourceError
from scaleevent_ros.sources.event_columns import Columns, event_batches
from scaleevent_ros.sources.faults import Faults
from scaleevent_ros.sources.recording import (
    FRAMES_TOPIC,
    ClockStatement,
    ImuSample,
    Picture,
    PictureStream,
    ReadOptions,
    Recording,
    nanoseconds,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scaleevent_ros.events import EventBatch

# dv-processing's `TriggerType`: rising edge, falling edge and pulse on the external input. The
# other types mark frames and exposures, which frames contain themselves.
_EXTERNAL_TYPES = (1, 2, 3)
_FALLING = 2
_METRES_PER_S2_IN_G = 9.80665
_HEAD_BYTES = len(b"#!AER-DAT4.0\r\n")
_LENGTH = struct.Struct("<I")
_PACKET_HEAD = struct.Struct("<iI")


def open_recording(path: Path, options: ReadOptions) -> Recording:
    """Open an AEDAT4 file: events, frames at the middle of their exposure, IMU, external triggers.

    Raises:
        SourceError: If the file cannot be read or has no stream of events.
    """
    streams = _streams(path)
    sizes = [(s["width"], s["height"]) for s in streams.values() if s["type"] == "events"]
    if not sizes:
        kinds = ", ".join(str(s["type"]) for s in streams.values()) or "nothing"
        msg = f"{path}: has no stream of events, but {kinds}"
        raise SourceError(msg)
    width, height = sizes[0] if options.width is None else options.geometry(path)
    present = {stream["type"] for stream in streams.values()}

    faults = options.faults()

    def pieces() -> Iterator[Columns]:
        first = 0
        for rows in _packets(path, "events", faults):
            t = nanoseconds(rows["t"], "us")
            yield Columns(str(path), first, rows["x"], rows["y"], t, rows["on"])
            first += len(t)

    def events(t_start: int) -> Iterator[EventBatch]:
        return event_batches(pieces(), width, height, faults, t_start)

    pictures: tuple[PictureStream, ...] = ()
    if "frame" in present:
        pictures = (PictureStream(FRAMES_TOPIC, str(path), lambda t: _frames(path, t, faults)),)
    return Recording(
        path,
        "aedat4",
        width,
        height,
        events,
        ClockStatement(
            "sensor_time", "One device stamps events and frames; frames at mid-exposure.", 0.0
        ),
        pictures,
        triggers=(lambda t: _triggers(path, t, faults)) if "triggers" in present else None,
        imu=(lambda t: _imu(path, t, faults)) if "imus" in present else None,
        faults=faults,
    )


def _streams(path: Path) -> dict[int, dict[str, Any]]:
    try:
        streams: dict[int, dict[str, Any]] = aedat.Decoder(path).id_to_stream()
    except (RuntimeError, OSError) as error:
        msg = f"{path}: cannot be read as AEDAT4: {error}"
        raise SourceError(msg) from error
    return streams


def _packets(path: Path, kind: str, faults: Faults) -> Iterator[Any]:
    """Yield the contents of the packets of the first stream of a kind, up to any damage."""
    wanted = None
    count = frame_ns = 0
    decoder = iter(aedat.Decoder(path))
    while True:
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                packet = next(decoder, None)
        except RuntimeError as error:
            msg = f"{path}: is cut off or damaged after packet {count}: {error}"
            faults.add("truncated files", msg)
            return
        if kind == "frame":
            if packet is not None and "frame" in packet:
                frame_ns = int(packet["frame"]["t"]) * 1000
            for warning in caught:  # the library warns once, of the first frame that it skips
                faults.add(
                    "frames of unknown type",
                    f"{path}: after packet {count}: {warning.message}",
                    np.full(_skipped_frames(path), frame_ns),
                )
        if packet is None:
            return
        count += 1
        if kind in packet:
            wanted = packet["stream_id"] if wanted is None else wanted
            if packet["stream_id"] == wanted:
                yield packet[kind]


def _skipped_frames(path: Path) -> int:
    """Count the frames in the file that the library skips; 1 if the file is damaged."""
    present = _streams(path)
    announced = 0
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            decoded = sum("frame" in packet for packet in aedat.Decoder(path))
        except RuntimeError:
            return 1
        file.seek(_HEAD_BYTES)
        (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
        file.seek(length, 1)
        # Stream and length precede each packet; a table follows the last one.
        while len(head := file.read(_PACKET_HEAD.size)) == _PACKET_HEAD.size:
            stream, length = _PACKET_HEAD.unpack(head)
            if stream not in present:
                break
            announced += present[stream]["type"] == "frame"
            file.seek(length, 1)
    return max(announced - decoded, 1)


def _frames(path: Path, t_start: int, faults: Faults) -> Iterator[Picture]:
    bits = 0
    for frame in _packets(path, "frame", faults):
        begin, end = int(frame["exposure_begin_t"]), int(frame["exposure_end_t"])
        t = (begin + end) // 2 * 1000 if begin > 0 and end > 0 else int(frame["t"]) * 1000
        if t < t_start:
            continue
        pixels = frame["pixels"]
        if pixels.dtype == np.uint16:  # of which cameras use 10 or 12 bits
            bits = bits or depth_for(_largest_pixel(path))
            pixels = to_8_bits(pixels, bits)
        yield Picture(t, pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels[..., :3]))


def _largest_pixel(path: Path) -> int:
    frames = _packets(path, "frame", Faults())
    return max(int(frame["pixels"].max(initial=0)) for frame in frames)


def _triggers(path: Path, t_start: int, faults: Faults) -> Iterator[Triggers]:
    for triggers in _packets(path, "triggers", faults):
        t = nanoseconds(triggers["t"], "us")
        kept = np.isin(triggers["source"], _EXTERNAL_TYPES) & (t >= t_start)
        if kept.any():
            edge = (triggers["source"][kept] != _FALLING).astype(np.uint8)
            yield Triggers(t[kept], np.zeros(len(edge), np.uint8), edge)


def _imu(path: Path, t_start: int, faults: Faults) -> Iterator[ImuSample]:
    for samples in _packets(path, "imus", faults):
        for sample in samples[nanoseconds(samples["t"], "us") >= t_start]:
            yield ImuSample(
                int(sample["t"]) * 1000,
                _vector(sample, "accelerometer", _METRES_PER_S2_IN_G),
                _vector(sample, "gyroscope", math.pi / 180),
            )


def _vector(sample: Any, name: str, scale: float) -> tuple[float, float, float]:
    x, y, z = (float(sample[f"{name}_{axis}"]) * scale for axis in "xyz")
    return x, y, z
