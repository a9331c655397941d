"""The records of an MCAP file (https://mcap.dev/spec), as bytes and as tuples.

A file is a magic, records (one byte kind, eight bytes length, content), and the magic again.
Integers are little-endian.
"""

from __future__ import annotations

import struct
import zlib
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

MAGIC = b"\x89MCAP0\r\n"
COMPRESSIONS = ("zstd", "lz4")
RECORD_HEADER = struct.Struct("<BQ")
MESSAGE_HEADER = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time
MESSAGE_RECORD = struct.Struct("<BQHIQQ")  # both headers of a message in one
CHUNK_TIMES = struct.Struct("<QQQI")  # start, end, size of the records, their CRC (0: none)
FOOTER = struct.Struct("<QQI")  # start of the summary, of its offsets, CRC (0: none)
CRC = struct.Struct("<I")  # CRC-32, last in the footer, of all from the summary's start up to it

# Messages; schemas, channels, attachments, metadata, chunks; earliest and latest time.
_STATISTICS = struct.Struct("<QHIIIIQQ")


class Op(IntEnum):
    """Kinds of records."""

    HEADER = 0x01
    FOOTER = 0x02
    SCHEMA = 0x03
    CHANNEL = 0x04
    MESSAGE = 0x05
    CHUNK = 0x06
    MESSAGE_INDEX = 0x07
    CHUNK_INDEX = 0x08
    STATISTICS = 0x0B
    METADATA = 0x0C
    METADATA_INDEX = 0x0D
    SUMMARY_OFFSET = 0x0E
    DATA_END = 0x0F


class Schema(NamedTuple):
    """A message type."""

    id: int
    name: str
    encoding: str
    text: str


class Channel(NamedTuple):
    """A topic."""

    id: int
    schema_id: int
    topic: str
    message_encoding: str
    metadata: Mapping[str, str]


class ChunkIndex(NamedTuple):
    """Position and content of a chunk in the file; times in ns, sizes and offsets in bytes."""

    start_time: int
    end_time: int
    offset: int
    length: int
    message_index_offsets: Mapping[int, int]
    message_index_length: int
    compression: str
    compressed_size: int
    uncompressed_size: int


class Statistics(NamedTuple):
    """Statistics of a file; times in ns, messages by channel id."""

    start_time: int
    end_time: int
    chunk_count: int
    schema_count: int
    metadata_count: int
    message_counts: Mapping[int, int]


class ChunkHeader(NamedTuple):
    """Header of a chunk, before its records.

    Attributes:
        crc: CRC-32 of the uncompressed records; 0 where it was not computed.
        compression: Compression of the records.
        records_size: Size of the records in the file, in bytes.
        records_offset: Offset of the records in the content of the chunk's record.
    """

    crc: int
    compression: str
    records_size: int
    records_offset: int


def record(op: Op, content: bytes) -> bytes:
    """Prepend the header of a record to its content."""
    return RECORD_HEADER.pack(op, len(content)) + content


def string(text: str) -> bytes:
    """Encode a string."""
    data = text.encode()
    return struct.pack("<I", len(data)) + data


def string_map(items: Mapping[str, str]) -> bytes:
    """Encode a map from strings to strings."""
    data = b"".join(string(key) + string(value) for key, value in items.items())
    return struct.pack("<I", len(data)) + data


def count_map(items: Mapping[int, int]) -> bytes:
    """Encode a map from channels to counts or offsets."""
    data = b"".join(struct.pack("<HQ", key, value) for key, value in items.items())
    return struct.pack("<I", len(data)) + data


def header(library: str) -> bytes:
    """Encode the first record of a file."""
    return record(Op.HEADER, string("ros2") + string(library))


def schema(value: Schema) -> bytes:
    """Encode a schema."""
    return record(
        Op.SCHEMA,
        struct.pack("<H", value.id)
        + string(value.name)
        + string(value.encoding)
        + string(value.text),
    )


def channel(value: Channel) -> bytes:
    """Encode a channel."""
    return record(
        Op.CHANNEL,
        struct.pack("<HH", value.id, value.schema_id)
        + string(value.topic)
        + string(value.message_encoding)
        + string_map(value.metadata),
    )


def chunk_header(
    start_time: int,
    end_time: int,
    uncompressed_size: int,
    crc: int,
    compression: str,
    records_size: int,
) -> bytes:
    """Encode the part of a chunk before its records, including the header of its record.

    The checksum is that of the uncompressed records.
    """
    content = (
        CHUNK_TIMES.pack(start_time, end_time, uncompressed_size, crc)
        + string(compression)
        + struct.pack("<Q", records_size)
    )
    return RECORD_HEADER.pack(Op.CHUNK, len(content) + records_size) + content


def message_index(channel_id: int, entries: list[int]) -> bytes:
    """Encode the index of one channel of a chunk; entries are times and offsets, alternating."""
    return record(
        Op.MESSAGE_INDEX,
        struct.pack(f"<HI{len(entries)}Q", channel_id, len(entries) * 8, *entries),
    )


def chunk_index(value: ChunkIndex) -> bytes:
    """Encode the index of a chunk."""
    return record(
        Op.CHUNK_INDEX,
        struct.pack("<4Q", value.start_time, value.end_time, value.offset, value.length)
        + count_map(value.message_index_offsets)
        + struct.pack("<Q", value.message_index_length)
        + string(value.compression)
        + struct.pack("<QQ", value.compressed_size, value.uncompressed_size),
    )


def metadata(name: str, items: Mapping[str, str]) -> bytes:
    """Encode a metadata record."""
    return record(Op.METADATA, string(name) + string_map(items))


def summary(
    start: int,
    schemas: list[Schema],
    channels: list[Channel],
    chunks: list[ChunkIndex],
    metadata_indexes: list[bytes],
    statistics: Statistics,
) -> bytes:
    """Encode the end of a file: indexes and statistics, which readers read first.

    Args:
        start: Offset of the summary in the file.
        schemas: Schemas of all channels.
        channels: All channels of the file.
        chunks: Indexes of the chunks, in the order of the file.
        metadata_indexes: Contents of the metadata index records.
        statistics: Statistics of the whole file.

    Returns:
        The summary, the footer, and the closing magic.
    """
    groups = [
        (Op.SCHEMA, b"".join(map(schema, schemas))),
        (Op.CHANNEL, b"".join(map(channel, channels))),
        (Op.STATISTICS, _statistics(statistics, len(channels))),
        (Op.CHUNK_INDEX, b"".join(map(chunk_index, chunks))),
        (
            Op.METADATA_INDEX,
            b"".join(record(Op.METADATA_INDEX, content) for content in metadata_indexes),
        ),
    ]
    data = b""
    offsets = b""
    for op, group in groups:
        if group:
            content = struct.pack("<BQQ", op, start + len(data), len(group))
            offsets += record(Op.SUMMARY_OFFSET, content)
            data += group
    footer = record(Op.FOOTER, FOOTER.pack(start, start + len(data), 0))
    checked = data + offsets + footer[: -CRC.size]
    return checked + CRC.pack(zlib.crc32(checked)) + MAGIC


def parse_schema(content: memoryview) -> Schema:
    """Decode a schema.

    Raises:
        struct.error: If the content is too short, here and in the other `parse_` functions.
        UnicodeDecodeError: If a string is not UTF-8, here and in the other `parse_` functions.
    """
    (schema_id,) = struct.unpack_from("<H", content)
    name, position = _parse_string(content, 2)
    encoding, position = _parse_string(content, position)
    text, _ = _parse_string(content, position)
    return Schema(schema_id, name, encoding, text)


def parse_channel(content: memoryview) -> Channel:
    """Decode a channel."""
    channel_id, schema_id = struct.unpack_from("<HH", content)
    topic, position = _parse_string(content, 4)
    message_encoding, position = _parse_string(content, position)
    (size,) = struct.unpack_from("<I", content, position)
    position += 4
    end = position + size
    items = {}
    while position < end:
        key, position = _parse_string(content, position)
        items[key], position = _parse_string(content, position)
    return Channel(channel_id, schema_id, topic, message_encoding, items)


def parse_chunk_header(content: memoryview) -> ChunkHeader:
    """Decode the part of a chunk before its records."""
    _, _, _, crc = CHUNK_TIMES.unpack_from(content)
    compression, position = _parse_string(content, CHUNK_TIMES.size)
    (records_size,) = struct.unpack_from("<Q", content, position)
    return ChunkHeader(crc, compression, records_size, position + 8)


def parse_chunk_index(content: memoryview) -> ChunkIndex:
    """Decode the index of a chunk."""
    start_time, end_time, offset, length = struct.unpack_from("<4Q", content)
    offsets, position = _parse_count_map(content, 32)
    (message_index_length,) = struct.unpack_from("<Q", content, position)
    compression, position = _parse_string(content, position + 8)
    compressed_size, uncompressed_size = struct.unpack_from("<QQ", content, position)
    return ChunkIndex(
        start_time,
        end_time,
        offset,
        length,
        offsets,
        message_index_length,
        compression,
        compressed_size,
        uncompressed_size,
    )


def parse_statistics(content: memoryview) -> Statistics:
    """Decode the statistics."""
    _, schema_count, _, _, metadata_count, chunk_count, start_time, end_time = (
        _STATISTICS.unpack_from(content)
    )
    counts, _ = _parse_count_map(content, _STATISTICS.size)
    return Statistics(start_time, end_time, chunk_count, schema_count, metadata_count, counts)


def metadata_index(offset: int, length: int, name: str) -> bytes:
    """Encode the content of the index record of a metadata record."""
    return struct.pack("<QQ", offset, length) + string(name)


def _statistics(value: Statistics, channel_count: int) -> bytes:
    return record(
        Op.STATISTICS,
        _STATISTICS.pack(
            sum(value.message_counts.values()),
            value.schema_count,
            channel_count,
            0,
            value.metadata_count,
            value.chunk_count,
            value.start_time,
            value.end_time,
        )
        + count_map(value.message_counts),
    )


def _parse_string(data: memoryview, position: int) -> tuple[str, int]:
    """Decode a string; return it and the position after it."""
    (length,) = struct.unpack_from("<I", data, position)
    end = position + 4 + length
    if end > len(data):
        msg = "a string is longer than its record"
        raise struct.error(msg)
    return str(data[position + 4 : end], "utf-8"), end


def _parse_count_map(data: memoryview, position: int) -> tuple[dict[int, int], int]:
    """Decode a map from channels to numbers; return it and the position after it."""
    (size,) = struct.unpack_from("<I", data, position)
    end = position + 4 + size
    return dict(struct.iter_unpack("<HQ", data[position + 4 : end])), end
