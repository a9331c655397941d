"""Writer of an MCAP file that is readable up to the last message at every moment.

Without compression, messages are written to the file as they come, after the header of an empty
chunk. That is already a valid MCAP stream, of messages outside any chunk. When enough have come,
overwriting the header makes them the content of that chunk, and its index follows. So a killed
process loses nothing, and no message is buffered or copied. With compression, a chunk is buffered
in memory until it is full or older than `flush_interval_s`.
"""

from __future__ import annotations

import errno
import os
import time
import zlib
from collections import Counter
from typing import TYPE_CHECKING

from scaleevent_ros import __version__
from scaleevent_ros.bags import mcap_format as mcap
from scaleevent_ros.bags.compression import compress
from scaleevent_ros.bags.errors import BagError, BagExistsError, DiskFullError
from scaleevent_ros.bags.metadata import FileSpan, dump_qos

if TYPE_CHECKING:
    from pathlib import Path

    from scaleevent_ros.bags.messages import BytesLike
    from scaleevent_ros.bags.metadata import Topic

CHUNK_BYTES = 4 * 2**20

_LATEST = 2**63 - 1
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MESSAGE_HEADER_LENGTH = mcap.MESSAGE_HEADER.size
_IDL_START = "=" * 80 + "\nIDL: "


class McapWriter:
    """Writes one new MCAP file. For one thread at a time.

    Args:
        path: Path of the file, which must not exist.
        compression: `""`, `zstd` or `lz4`.
        flush_interval_s: Maximum age, in s, of a message in memory when the next one, or `flush`,
            comes; with compression.

    Raises:
        BagExistsError: If the file exists.
        DiskFullError: If no space is left, here and in every method that writes: the file stays
            readable up to the last message that was written.
        BagError: If the file cannot be written for another reason.
    """

    def __init__(self, path: Path, *, compression: str = "", flush_interval_s: float = 0.5) -> None:
        self.path = path
        self._compression = compression
        self._flush_interval_s = flush_interval_s
        self._schemas: dict[str, mcap.Schema] = {}
        self._channels: dict[str, mcap.Channel] = {}
        self._chunks: list[mcap.ChunkIndex] = []
        self._chunk: _OpenChunk | None = None
        self._finished: Counter[int] = Counter()
        self._start: int | None = None
        self._end = 0
        self._offset = 0
        self._failed = False
        self._closed = False
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            msg = f"{path} exists already and is not overwritten"
            raise BagExistsError(msg) from None
        except OSError as error:
            raise write_error(path, error) from None
        self._append(mcap.MAGIC + mcap.header(f"scaleevent_ros {__version__}"))

    @property
    def size(self) -> int:
        """Size of the file so far in bytes, including buffered data."""
        return self._offset + (len(self._chunk.buffer) if self._chunk else 0)

    @property
    def is_empty(self) -> bool:
        """Whether the file has no message yet."""
        return self._start is None

    @property
    def start_ns(self) -> int:
        """Record time of the earliest message in ns; 0 without messages."""
        return self._start or 0

    @property
    def span(self) -> FileSpan:
        """Times and numbers of the messages so far."""
        counts = self._finished.copy()
        if self._chunk:
            for channel_id, entries in self._chunk.entries.items():
                counts[channel_id] += len(entries) // 2
        by_topic = {name: counts[channel.id] for name, channel in self._channels.items()}
        return FileSpan(self.path.name, self.start_ns, self._end, by_topic)

    def add_topic(self, topic: Topic, metadata_version: int) -> None:
        """Declare a topic, once, before its first message.

        Args:
            topic: Topic to declare.
            metadata_version: Version of the bag's metadata, in which the channel has its QoS.
        """
        schema = self._schemas.get(topic.msgtype)
        if schema is None:
            text = topic.definition.text
            encoding = "ros2idl" if text.startswith(_IDL_START) else "ros2msg"
            schema = mcap.Schema(len(self._schemas) + 1, topic.msgtype, encoding, text)
            self._schemas[topic.msgtype] = schema
            self._append_record(mcap.schema(schema))
        channel = mcap.Channel(
            len(self._channels) + 1,
            schema.id,
            topic.name,
            "cdr",
            {
                "offered_qos_profiles": dump_qos(topic.qos, metadata_version),
                "topic_type_hash": topic.definition.hash,
            },
        )
        self._channels[topic.name] = channel
        self._append_record(mcap.channel(channel))

    def write(self, topic: str, time_ns: int, publish_time_ns: int, data: BytesLike) -> None:
        """Write one message.

        Args:
            topic: Name of a declared topic.
            time_ns: Record time in ns.
            publish_time_ns: Publish time in ns.
            data: CDR bytes.
        """
        channel_id = self._channels[topic].id
        chunk = self._chunk or self._open_chunk()
        entries = chunk.entries.setdefault(channel_id, [])
        header = mcap.MESSAGE_RECORD.pack(
            mcap.Op.MESSAGE,
            _MESSAGE_HEADER_LENGTH + len(data),
            channel_id,
            (self._finished[channel_id] + len(entries) // 2) & 0xFFFFFFFF,
            time_ns,
            publish_time_ns,
        )
        if self._compression:
            offset = len(chunk.buffer)
            chunk.buffer += header
            chunk.buffer += data
            size = len(chunk.buffer)
        else:
            offset = self._offset - chunk.records_offset
            self._append(header, data)
            chunk.crc = zlib.crc32(data, zlib.crc32(header, chunk.crc))
            size = self._offset - chunk.records_offset
        entries += (time_ns, offset)
        chunk.start = min(chunk.start, time_ns)
        chunk.end = max(chunk.end, time_ns)
        self._start = time_ns if self._start is None else min(self._start, time_ns)
        self._end = max(self._end, time_ns)
        if size >= CHUNK_BYTES:
            self._finish_chunk()
        else:
            self._flush_if_older_than(self._flush_interval_s)

    def flush(self) -> None:
        """Flush all data to the operating system, where they survive this process."""
        self._flush_if_older_than(0.0)

    def close(self, serialized_metadata: str) -> None:
        """Write the index and close the file; a second call does nothing.

        After an error the file is closed as it is, readable but without an index.

        Args:
            serialized_metadata: Content of `metadata.yaml` for this file, so that rosbag2 can open
                it alone.
        """
        if self._closed:
            return
        self._closed = True
        try:
            if not self._failed:
                self._finish_chunk()
                self._append(self._end_of_file(serialized_metadata))
        finally:
            os.close(self._file)

    def _end_of_file(self, serialized_metadata: str) -> bytes:
        metadata = mcap.metadata("rosbag2", {"serialized_metadata": serialized_metadata})
        index = mcap.metadata_index(self._offset, len(metadata), "rosbag2")
        data_end = mcap.record(mcap.Op.DATA_END, bytes(4))
        return (
            metadata
            + data_end
            + mcap.summary(
                self._offset + len(metadata) + len(data_end),
                list(self._schemas.values()),
                list(self._channels.values()),
                self._chunks,
                [index],
                mcap.Statistics(
                    start_time=self.start_ns,
                    end_time=self._end,
                    chunk_count=len(self._chunks),
                    schema_count=len(self._schemas),
                    metadata_count=1,
                    message_counts=self._finished,
                ),
            )
        )

    def _flush_if_older_than(self, age_s: float) -> None:
        chunk = self._chunk
        if chunk and self._compression and time.monotonic() - chunk.opened_at >= age_s:
            self._finish_chunk()

    def _open_chunk(self) -> _OpenChunk:
        offset = self._offset
        if not self._compression:
            self._append(mcap.chunk_header(0, 0, 0, 0, "", 0))
        self._chunk = _OpenChunk(offset, self._offset)
        return self._chunk

    def _finish_chunk(self) -> None:
        chunk, self._chunk = self._chunk, None
        if chunk is None:
            return
        if self._compression:
            uncompressed_size = len(chunk.buffer)
            chunk.crc = zlib.crc32(chunk.buffer)
            records = compress(chunk.buffer, self._compression)
            size = len(records)
        else:
            records = b""
            uncompressed_size = size = self._offset - chunk.records_offset
        header = mcap.chunk_header(
            chunk.start, chunk.end, uncompressed_size, chunk.crc, self._compression, size
        )
        if self._compression:
            self._append(header, records)
        else:
            self._overwrite(chunk.offset, header)
        length = self._offset - chunk.offset
        offsets = {}
        indexes = b""
        for channel_id, entries in chunk.entries.items():
            self._finished[channel_id] += len(entries) // 2
            offsets[channel_id] = self._offset + len(indexes)
            indexes += mcap.message_index(channel_id, entries)
        self._append(indexes)
        self._chunks.append(
            mcap.ChunkIndex(
                start_time=chunk.start,
                end_time=chunk.end,
                offset=chunk.offset,
                length=length,
                message_index_offsets=offsets,
                message_index_length=len(indexes),
                compression=self._compression,
                compressed_size=size,
                uncompressed_size=uncompressed_size,
            )
        )

    def _append_record(self, record: bytes) -> None:
        if self._chunk and self._compression:
            self._chunk.buffer += record
            return
        self._append(record)
        if self._chunk:
            self._chunk.crc = zlib.crc32(record, self._chunk.crc)

    def _append(self, *parts: BytesLike) -> None:
        """Write parts at the end of the file; after an error none of them remains."""
        size = sum(map(len, parts))
        try:
            written = os.writev(self._file, parts)
            if written < size:
                rest = memoryview(b"".join(parts))[written:]
                while rest:
                    rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            self._failed = True
            os.ftruncate(self._file, self._offset)
            os.lseek(self._file, self._offset, os.SEEK_SET)
            raise write_error(self.path, error) from None
        self._offset += size

    def _overwrite(self, offset: int, data: bytes) -> None:
        try:
            os.pwrite(self._file, data, offset)
        except OSError as error:
            self._failed = True
            raise write_error(self.path, error) from None


class _OpenChunk:
    """State of an incomplete chunk.

    Attributes:
        offset: Offset of its record in the file.
        records_offset: Offset of its content in the file, if that is not compressed.
        buffer: Buffered content, if that will be compressed.
        entries: Record time and offset in the content of each message, alternating, by channel.
        start: Record time of the earliest message.
        end: Record time of the latest message.
        crc: Checksum of its content so far, where that is not compressed.
        opened_at: Start of the chunk by the monotonic clock, in s.
    """

    def __init__(self, offset: int, records_offset: int) -> None:
        self.offset = offset
        self.records_offset = records_offset
        self.buffer = bytearray()
        self.entries: dict[int, list[int]] = {}
        self.start = _LATEST
        self.end = 0
        self.crc = 0
        self.opened_at = time.monotonic()


def write_error(path: Path, error: OSError) -> BagError:
    """Build the error for a file that could not be written."""
    if error.errno in _FULL:
        return DiskFullError(f"no space is left for {path}; what was written before is readable")
    return BagError(f"cannot write {path}: {error.strerror}")
