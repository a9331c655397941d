"""Prophesee RAW: an ASCII header, then the sensor's own words (EVT2, EVT2.1 or EVT3).

Header and keywords: https://docs.prophesee.ai/stable/data/file_formats/raw.html (lines that start
with "% ", a keyword, a value; an optional "% end"; ``format`` has encoding and size, older files
have ``evt`` and ``geometry`` or only the plugin's name). Words: the "EVT 2.0", "EVT 2.1" and
"EVT 3.0" pages of the same manual.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scaleevent_ros.events import make_decoder
from scaleevent_ros.sources.errors import SourceError
from scaleevent_ros.sources.event_columns import Columns, event_batches
from scaleevent_ros.sources.faults import Faults
from scaleevent_ros.sources.recording import ClockStatement, ReadOptions, Recording

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scaleevent_ros.events import Decoder, EventBatch, Triggers

_CHUNK_BYTES = 1 << 21
_HEADER_BYTES = 1 << 16

_ENCODINGS = {"2.0": "evt2", "2.1": "evt21", "3.0": "evt3"}
_WORD_BYTES = {"evt2": 4, "evt21": 8, "evt3": 2}

_ANY_SIDE = 2048  # addresses have 11 bits
_MAX_NONSENSE = 0.05  # maximum share of words that are invalid in the right encoding

# Sensor sizes by the names of plugins and sensors, for headers without a geometry (the manual's
# page on cameras: Gen3.1 is VGA, Gen4.1 and IMX636 are HD, GenX320 is 320x320).
_SENSOR_FIELDS = ("plugin_name", "sensor_name", "camera_integration_name")
_SENSOR_SIZES = {
    "gen31": (640, 480),
    "gen3": (640, 480),
    "gen4": (1280, 720),
    "imx636": (1280, 720),
    "imx646": (1280, 720),
    "genx320": (320, 320),
}


_DECODER_FAULTS = {
    "words of unknown type": "unknown",
    "events out of range of the encoding": "out_of_range",
    "events held while the clock stepped back": "backward",
    "resets of the clock": "resets",
}


class RawHeader(NamedTuple):
    """Header of a RAW file.

    Attributes:
        encoding: ``evt2``, ``evt21`` or ``evt3``.
        width: Sensor width in pixels; None if the header lacks it.
        height: Sensor height in pixels; None if the header lacks it.
        data_start: Offset of the words in bytes.
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
        SourceError: If there is no header, or the encoding is none of EVT2, EVT2.1 and EVT3.
    """
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    fields, position = parse_header(head)
    if not fields:
        msg = f"{path}: is not a Prophesee RAW file: no header line that starts with '% '"
        raise SourceError(msg)
    name, *settings = fields.get("format", "").split(";")
    pairs = (setting.partition("=") for setting in settings)
    said = {key.strip(): value.strip() for key, _, value in pairs}
    named = name.strip() or fields.get("evt", "")
    encoding: str | None = _ENCODINGS.get(fields.get("evt", ""), named.lower())
    if not named:
        encoding = _guess_encoding(path, position)
    if encoding not in _WORD_BYTES:
        held = named or "an encoding that its header does not name"
        msg = f"{path}: holds {held}, not EVT2, EVT2.1 or EVT3"
        raise SourceError(msg)
    byte_order = said.get("endianness", fields.get("endianness", "little"))
    width, height = _geometry(fields, said)
    return RawHeader(encoding, width, height, position, byte_order)


def parse_header(head: bytes) -> tuple[dict[str, str], int]:
    """Parse the header of a RAW or DAT file.

    A header line starts with "% " and is printable text, up to ``% end`` or to the first byte of
    data.

    Returns:
        Values by keyword, and the offset of the data in bytes.
    """
    fields: dict[str, str] = {}
    position = 0
    while head[position : position + 2] == b"% ":
        end = head.find(b"\n", position)
        try:
            line = head[position + 2 : end].decode("utf-8").strip()
        except UnicodeDecodeError:
            break
        if end < 0 or not line.replace("\t", " ").isprintable():
            break
        keyword, _, value = line.partition(" ")
        position = end + 1
        fields[keyword] = value.strip()
        if keyword == "end":
            break
    return fields, position


def _guess_encoding(path: Path, data_start: int) -> str | None:
    """Find the encoding with the fewest invalid words in the first 2 MB; None if all have many."""
    with path.open("rb") as file:
        file.seek(data_start)
        data = file.read(_CHUNK_BYTES)
    best, least = None, _MAX_NONSENSE
    for encoding in _WORD_BYTES:
        decoder = make_decoder(encoding, _ANY_SIDE, _ANY_SIDE)
        decoder.decode(data)
        stats = decoder.stats
        nonsense = stats.unknown + stats.backward + stats.resets + stats.roll_overs
        share = (nonsense + stats.out_of_range) / max(stats.words, 1)
        if stats.events and share < least:
            best, least = encoding, share
    return best


def _geometry(fields: dict[str, str], said: dict[str, str]) -> tuple[int | None, int | None]:
    width, _, height = fields.get("geometry", "").partition("x")
    width = said.get("width") or fields.get("width") or width
    height = said.get("height") or fields.get("height") or height
    if width.isdigit() and height.isdigit():
        return int(width), int(height)
    names = " ".join(fields.get(key, "") for key in _SENSOR_FIELDS).lower()
    for name, size in _SENSOR_SIZES.items():
        if name in names:
            return size
    return None, None


def open_recording(path: Path, options: ReadOptions) -> Recording:
    """Open a RAW file, which holds events and trigger edges but no frames.

    Raises:
        SourceError: If the header is invalid, the words are big-endian, or the sensor's size is
            unknown.
    """
    header = read_header(path)
    if header.width is not None and header.height is not None and options.width is None:
        width, height = header.width, header.height
    else:
        width, height = options.geometry(path)
    if header.byte_order == "big":
        msg = f"{path}: is big-endian; save it as little-endian (metavision_file_to_raw)"
        raise SourceError(msg)

    faults = options.faults()

    def decoder_of() -> Decoder:
        order = header.byte_order if header.encoding == "evt21" else None
        return make_decoder(header.encoding, _ANY_SIDE, _ANY_SIDE, word_order=order)

    def events(t_start: int) -> Iterator[EventBatch]:
        pieces = _pieces(path, header, decoder_of(), faults)
        return event_batches(pieces, width, height, faults, t_start)

    def triggers(t_start: int) -> Iterator[Triggers]:
        decoder = decoder_of()
        for _ in _pieces(path, header, decoder, Faults()):
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
        faults=faults,
    )


def _pieces(path: Path, header: RawHeader, decoder: Decoder, faults: Faults) -> Iterator[Columns]:
    """Decode a file piece by piece, and count undecodable words."""
    seen = last_ns = 0
    before = decoder.stats
    with path.open("rb") as file:
        file.seek(header.data_start)
        while chunk := file.read(_CHUNK_BYTES):
            batch = decoder.decode(chunk)
            last_ns = int(batch.t[-1]) if len(batch) else last_ns
            stats = decoder.stats
            place = f"{path}: before byte {file.tell():,}"
            for kind, name in _DECODER_FAULTS.items():
                count = getattr(stats, name) - getattr(before, name)
                if count:
                    faults.add(kind, f"{place}: {count:,} {kind}", np.full(count, last_ns))
            unknown = stats.unknown - before.unknown
            faults.count_events(unknown, unknown, f"{place}: {unknown:,} words of unknown type")
            before = stats
            yield Columns(str(path), seen, batch.x, batch.y, batch.t, batch.p)
            seen += len(batch)
        decoder.flush()
        if cut := decoder.stats.truncated_bytes:
            msg = f"{path}: is cut off at byte {file.tell() - cut:,}, inside a word"
            faults.add("truncated files", msg)
    if not seen:
        msg = f"{path}: holds no events"
        raise SourceError(msg)
