"""Sequential reading of ROS 1 bags whose index is missing, as a killed recorder leaves them.

Format: wiki.ros.org/Bags/Format/2.0. A record has a header, whose fields are ``name=value``, and
data. Messages and the connections that declare their topics lie in chunks, or outside of them.
"""

from __future__ import annotations

import bz2
import mmap
import struct
from typing import TYPE_CHECKING

from rosbags.typesys.msg import normalize_msgtype

from scaleevent_ros.bags.compression import decompress_prefix

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scaleevent_ros.bags.messages import BytesLike

ROSBAG1_MAGIC = b"#ROSBAG V2.0\n"

_MESSAGE, _CHUNK, _CONNECTION = b"\x02", b"\x05", b"\x07"
_LENGTH = struct.Struct("<I")


def scan_messages(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """Read all whole messages in the order of the file, up to the first damaged record.

    Yields:
        Topic, message type, and data.
    """
    connections: dict[bytes, tuple[str, str]] = {}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for fields, data in _records_outside_chunks(content, len(ROSBAG1_MAGIC)):
            connection = fields.get(b"conn", b"")
            if fields[b"op"] == _CONNECTION:
                msgtype = _fields(data).get(b"type", b"?/?").decode("utf-8", "replace")
                topic = fields.get(b"topic", b"").decode("utf-8", "replace")
                connections[connection] = topic, normalize_msgtype(msgtype)
            elif fields[b"op"] == _MESSAGE and connection in connections:
                yield *connections[connection], data


def _records_outside_chunks(
    content: BytesLike | mmap.mmap, start: int = 0
) -> Iterator[tuple[dict[bytes, bytes], bytes]]:
    """Yield header fields and data of each record; those of a chunk in place of the chunk."""
    position = start
    while (header := _sized(content, position)) is not None:
        position += _LENGTH.size + len(header)
        fields = _fields(header)
        data = _sized(content, position)
        if b"op" not in fields or (data is None and fields[b"op"] != _CHUNK):
            return
        if fields[b"op"] == _CHUNK:  # of one that is cut off, as far as it goes
            data = bytes(content[position + _LENGTH.size :]) if data is None else data
            yield from _records_outside_chunks(_decompress(data, fields.get(b"compression", b"")))
        elif data is not None:
            yield fields, data
        position += _LENGTH.size + len(data or b"")


def _sized(content: BytesLike | mmap.mmap, position: int) -> bytes | None:
    """Return the bytes whose number precedes them; None if they are cut off."""
    start = position + _LENGTH.size
    if start > len(content):
        return None
    (length,) = _LENGTH.unpack_from(content, position)
    return bytes(content[start : start + length]) if start + length <= len(content) else None


def _fields(header: bytes) -> dict[bytes, bytes]:
    fields = {}
    position = 0
    while (field := _sized(header, position)) is not None:
        name, _, value = field.partition(b"=")
        fields[name] = value
        position += _LENGTH.size + len(field)
    return fields


def _decompress(data: bytes, compression: bytes) -> BytesLike:
    """Decompress as much as is whole."""
    if compression == b"lz4":
        return decompress_prefix(data, "lz4")
    if compression == b"bz2":
        try:
            return bz2.BZ2Decompressor().decompress(data)
        except OSError:
            return b""
    return data
