"""Prophesee RAW: an ASCII header, then the sensor's own words (EVT2, EVT2.1 or EVT3).

Header and keywords: https://docs.prophesee.ai/stable/data/file_formats/raw.html (lines that start
with "% ", a keyword, a value; an optional "% end"; ``format`` says encoding and size, older files
say ``evt`` and ``geometry`` or nothing but the plugin's name). Words: the "EVT 2.0", "EVT 2.1" and
"EVT 3.0" pages of the same manual.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from scaleevent_ros.events import make_decoder
from scaleevent_ros.sources.errors import SourceError
from scaleevent_ros.sources.recording import ClockStatement, ReadOptions, Recording

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scaleevent_ros.events import Decoder, EventBatch, Triggers

_CHUNK_BYTES = 1 << 21
_HEADER_BYTES = 1 << 16

_ENCODINGS = {"2.0": "evt2", "2.1": "evt21", "3.0": "evt3"}
_WORD_BYTES = {"evt2": 4, "evt21": 8, "evt3": 2}

# Sensor sizes by what plugin names say, for headers without a geometry (the manual's page on
# cameras: Gen3.1 is VGA, Gen4.1 and IMX636 are HD, GenX320 is 320x320).
_PLUGIN_SIZES = {
    "gen31": (640, 480),
    "gen3": (640, 480),
    "gen4": (1280, 720),
    "imx636": (1280, 720),
    "imx646": (1280, 720),
    "genx320": (320, 320),
}


class RawHeader(NamedTuple):
    """What a RAW header says.

    Attributes:
        encoding: ``evt2``, ``evt21`` or ``evt3``.
        width: Of the sensor; None if the header does not tell.
        height: Of the sensor; None if the header does not tell.
        data_start: Where the words begin, in bytes.
        byte_order: ``little``, ``big``, or ``legacy``: EVT2.1 with the upper half of a word first.
    """

    encoding: str
    width: int | None
    height: int | None
    data_start: int
    byte_order: str


def read_header(path: Path) -> RawHeader:
    """Parse the header of a RAW file.

    Raises:
        SourceError: If it has none, or its encoding is not one of events.
    """
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    fields: dict[str, str] = {}
    position = 0
    while head[position : position + 2] == b"% ":
        end = head.find(b"\n", position)
        if end < 0:
            msg = f"{path}: its header does not end within {_HEADER_BYTES} bytes"
            raise SourceError(msg)
        keyword, _, value = head[position + 2 : end].decode("latin-1").strip().partition(" ")
        position = end + 1
        if keyword == "end":
            break
        fields[keyword] = value.strip()
    if not fields:
        msg = f"{path}: is not a Prophesee RAW file: no header line that starts with '% '"
        raise SourceError(msg)
    name, *settings = fields.get("format", "").split(";")
    said = dict(setting.partition("=")[::2] for setting in settings)
    encoding = _ENCODINGS.get(fields.get("evt", ""), name.lower())
    if encoding not in _WORD_BYTES:
        said_encoding = name or fields.get("evt") or "an encoding that its header does not name"
        msg = f"{path}: holds {said_encoding}, not EVT2, EVT2.1 or EVT3"
        raise SourceError(msg)
    byte_order = said.get("endianness", fields.get("endianness", "little"))
    width, height = _geometry(fields, said)
    return RawHeader(encoding, width, height, position, byte_order)


def _geometry(fields: dict[str, str], said: dict[str, str]) -> tuple[int | None, int | None]:
    width, _, height = fields.get("geometry", "").partition("x")
    width = said.get("width") or fields.get("width") or width
    height = said.get("height") or fields.get("height") or height
    if width.isdigit() and height.isdigit():
        return int(width), int(height)
    plugin = fields.get("plugin_name", "")
    for name, size in _PLUGIN_SIZES.items():
        if name in plugin:
            return size
    return None, None


def open_recording(path: Path, options: ReadOptions) -> Recording:
    """Open a RAW file. It holds events and trigger edges, no frames.

    Raises:
        SourceError: If the header is not understood, or nobody says how large the sensor is.
    """
    header = read_header(path)
    if header.width is not None and header.height is not None and options.width is None:
        width, height = header.width, header.height
    else:
        width, height = options.geometry(path)
    if header.byte_order == "big":
        msg = f"{path}: is big-endian; save it as little-endian (metavision_file_to_raw)"
        raise SourceError(msg)

    def decoder_of() -> Decoder:
        order = header.byte_order if header.encoding == "evt21" else None
        return make_decoder(header.encoding, width, height, word_order=order)

    def events(t_start: int) -> Iterator[EventBatch]:
        for batch in _batches(path, header, decoder_of()):
            late = batch.between(t_start, int(batch.t[-1]) + 1)
            if len(late):
                yield late

    def triggers(t_start: int) -> Iterator[Triggers]:
        decoder = decoder_of()
        for _ in _batches(path, header, decoder):
            edges = decoder.triggers()
            late = edges.t >= t_start
            if late.any():
                yield type(edges)(edges.t[late], edges.id[late], edges.edge[late])

    return Recording(
        path,
        "prophesee_raw",
        width,
        height,
        events,
        ClockStatement("sensor_time", "The sensor's clock, from when the camera started."),
        triggers=triggers,
    )


def _batches(path: Path, header: RawHeader, decoder: Decoder) -> Iterator[EventBatch]:
    word = _WORD_BYTES[header.encoding]
    seen = 0
    with path.open("rb") as file:
        file.seek(header.data_start)
        position = header.data_start
        while chunk := file.read(_CHUNK_BYTES):
            whole = len(chunk) - len(chunk) % word
            batch = decoder.decode(memoryview(chunk)[:whole])
            if decoder.stats.out_of_range:
                msg = (
                    f"{path}: between bytes {position:,} and {position + whole:,}: "
                    f"{decoder.stats.out_of_range:,} events outside the sensor's "
                    f"{batch.width}x{batch.height}; give --width and --height"
                )
                raise SourceError(msg)
            seen += len(batch)
            if len(batch):
                yield batch
            if whole < len(chunk):
                msg = f"{path}: is cut off at byte {position + whole:,}, inside a word"
                raise SourceError(msg)
            position += len(chunk)
    if not seen:
        msg = f"{path}: holds no events"
        raise SourceError(msg)
