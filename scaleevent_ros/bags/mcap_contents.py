"""Contents of an MCAP file: from its index, or by scanning its records if that is damaged."""

from __future__ import annotations

import os
import struct
import zlib
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from scaleevent_ros.bags import mcap_format as mcap
from scaleevent_ros.bags.compression import decompress, decompress_prefix
from scaleevent_ros.bags.errors import BagError
from scaleevent_ros.bags.mcap_format import Op
from scaleevent_ros.bags.storage import BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scaleevent_ros.bags.messages import BytesLike

# Records that the scan skips: known ones, and from 0x80 on, private ones.
_SKIPPED = frozenset({Op.HEADER, *range(Op.MESSAGE_INDEX, Op.DATA_END), *range(0x80, 0x100)})
_END = frozenset({Op.DATA_END, Op.FOOTER})
_HEADER_LENGTH = mcap.RECORD_HEADER.size
_FOOTER_LENGTH = _HEADER_LENGTH + mcap.FOOTER.size + len(mcap.MAGIC)
_LATEST = 2**63 - 1
_WINDOW_BYTES = 16 * 2**10
_CHUNK_HEADER_LIMIT = 256


class Block(NamedTuple):
    """Consecutive records of the file that are read together.

    Attributes:
        offset: Offset in the file of the content of a chunk, or of the first record.
        size: Size in the file, in bytes.
        start_ns: Record time of the earliest message.
        end_ns: Record time of the latest message.
        is_chunk: Whether the block is the content of one chunk.
        is_cut: Whether its end is missing.
        channels: Channels of its messages; None if the file lacks them.
    """

    offset: int
    size: int
    start_ns: int
    end_ns: int
    is_chunk: bool
    is_cut: bool
    channels: frozenset[int] | None


class Contents:
    """Content of a file, extended while it is read."""

    def __init__(self) -> None:
        self.schemas: dict[int, mcap.Schema] = {}
        self.channels: dict[int, mcap.Channel] = {}
        self.blocks: list[Block] = []
        self.counts: Counter[int] = Counter()
        self.start_ns = _LATEST
        self.end_ns = 0
        self.damage: dict[int, str] = {}

    def take(self, op: int, content: memoryview) -> None:
        """Store a schema or a channel."""
        if op == Op.SCHEMA:
            schema = mcap.parse_schema(content)
            self.schemas[schema.id] = schema
        elif op == Op.CHANNEL:
            channel = mcap.parse_channel(content)
            self.channels[channel.id] = channel


def load_block(file: int, block: Block) -> BytesLike:
    """Read the records of a block.

    Raises:
        BagError: If they cannot be decompressed, or a chunk's checksum is wrong.
        struct.error: If the header of a chunk is damaged.
    """
    data = os.pread(file, block.size, block.offset)
    if not block.is_chunk:
        return data
    view = memoryview(data)
    chunk = mcap.parse_chunk_header(view)
    stored = view[chunk.records_offset :]
    if block.is_cut:
        return decompress_prefix(stored, chunk.compression)
    records = decompress(stored[: chunk.records_size], chunk.compression)
    if chunk.crc and zlib.crc32(records) != chunk.crc:
        msg = "its checksum is wrong"
        raise BagError(msg)
    return records


def iterate_records(data: memoryview, *, allow_cut: bool) -> Iterator[tuple[int, int, int]]:
    """Yield kind, start and end of each record, including those in uncompressed chunks."""
    position = 0
    while position < len(data):
        if position + _HEADER_LENGTH > len(data):
            if allow_cut:
                return
            msg = "a record is cut off"
            raise BagError(msg)
        op, length = mcap.RECORD_HEADER.unpack_from(data, position)
        end = position + _HEADER_LENGTH + length
        if op == Op.CHUNK:
            chunk = mcap.parse_chunk_header(data[position + _HEADER_LENGTH :])
            if not chunk.compression:
                position += _HEADER_LENGTH + chunk.records_offset
                continue
        if end > len(data):
            if allow_cut:
                return
            msg = f"a record declares {length} bytes, but {len(data) - position} are left"
            raise BagError(msg)
        yield op, position, end
        position = end


def _read_index(file: int, size: int) -> Contents | None:
    """Read the summary; None if it is missing, incomplete, or points outside the file."""
    tail = os.pread(file, _FOOTER_LENGTH, max(size - _FOOTER_LENGTH, 0))
    if len(tail) < _FOOTER_LENGTH or not tail.endswith(mcap.MAGIC) or tail[0] != Op.FOOTER:
        return None
    summary_start, _, crc = mcap.FOOTER.unpack_from(tail, _HEADER_LENGTH)
    if not 0 < summary_start < size - _FOOTER_LENGTH:
        return None
    data = memoryview(os.pread(file, size - _FOOTER_LENGTH - summary_start, summary_start))
    checked = tail[: -len(mcap.MAGIC) - mcap.CRC.size]
    if crc and zlib.crc32(checked, zlib.crc32(data)) != crc:
        return None
    contents = Contents()
    statistics = None
    try:
        for op, start, end in iterate_records(data, allow_cut=False):
            content = data[start + _HEADER_LENGTH : end]
            contents.take(op, content)
            if op == Op.STATISTICS:
                statistics = mcap.parse_statistics(content)
            elif op == Op.CHUNK_INDEX:
                index = mcap.parse_chunk_index(content)
                if not 0 < index.offset < index.offset + index.length <= summary_start:
                    return None
                contents.blocks.append(
                    Block(
                        index.offset + _HEADER_LENGTH,
                        index.length - _HEADER_LENGTH,
                        index.start_time,
                        index.end_time,
                        is_chunk=True,
                        is_cut=False,
                        # The format allows files without an index of messages.
                        channels=frozenset(index.message_index_offsets) or None,
                    )
                )
    except (BagError, struct.error, UnicodeDecodeError):
        return None
    if statistics is None or statistics.chunk_count != len(contents.blocks):
        return None
    contents.counts.update(statistics.message_counts)
    contents.start_ns, contents.end_ns = statistics.start_time, statistics.end_time
    if contents.counts.total() and (
        not contents.blocks or not contents.counts.keys() <= contents.channels.keys()
    ):
        return None
    return contents


class _Walk:
    """Scan of a file record by record, up to its end or to damage outside chunks.

    The records of an uncompressed chunk are read as if they were outside it, so that the part of a
    truncated chunk is not lost. Damage inside a chunk loses no more than the rest of that chunk.
    """

    def __init__(self, file: int, size: int) -> None:
        self._file = file
        self._size = size
        self._contents = Contents()
        self._window = b""
        self._window_start = 0
        self._chunk_end = 0
        self._block: Block | None = None

    def run(self) -> Contents:
        """Scan the file to its end."""
        position = len(mcap.MAGIC)
        contents = self._contents
        while position < self._size:
            position = self._step_or_skip(position)
        self._close_block()
        ending = os.pread(self._file, len(mcap.MAGIC), max(self._size - len(mcap.MAGIC), 0))
        if not contents.damage and (ending != mcap.MAGIC or self._size == len(mcap.MAGIC)):
            contents.damage[self._size] = "it ends without an index"
        for unknown in contents.counts.keys() - contents.channels.keys():
            del contents.counts[unknown]
        return contents

    def _step_or_skip(self, position: int) -> int:
        """Read the record at a position; after damage, continue after the chunk, or end."""
        try:
            return self._step(position)
        except (BagError, struct.error, UnicodeDecodeError) as error:
            self._close_block()
            self._contents.damage[position] = f"byte {position}: {error}"
            return self._chunk_end if position < self._chunk_end <= self._size else self._size

    def _step(self, position: int) -> int:
        """Read the record at a position and return the position of the next."""
        op, length = mcap.RECORD_HEADER.unpack(self._read(position, _HEADER_LENGTH))
        content = position + _HEADER_LENGTH
        end = content + length
        if op in _END:
            return self._size
        if op == Op.CHUNK:
            return self._enter_chunk(content, end)
        if end > self._size:
            msg = "the file ends inside a record"
            raise BagError(msg)
        if op == Op.MESSAGE:
            header = self._read(content, mcap.MESSAGE_HEADER.size)
            channel_id, _, time_ns, _ = mcap.MESSAGE_HEADER.unpack(header)
            self._add_message(position, end, channel_id, time_ns)
        elif op in {Op.SCHEMA, Op.CHANNEL} and length <= BLOCK_BYTES:
            self._contents.take(op, memoryview(self._read(content, length)))
        elif op not in _SKIPPED:
            msg = f"no kind of record has the number {op:#04x}"
            raise BagError(msg)
        return int(end)

    def _enter_chunk(self, content: int, end: int) -> int:
        """Read a chunk as a block, or step into one that is uncompressed and needs no check."""
        head = os.pread(self._file, _CHUNK_HEADER_LIMIT, content)
        chunk = mcap.parse_chunk_header(memoryview(head))
        self._chunk_end = end
        is_cut = end > self._size
        if not chunk.compression and (is_cut or not chunk.crc):
            return content + chunk.records_offset
        self._close_block()
        size = min(end, self._size) - content
        block = Block(content, size, _LATEST, 0, is_chunk=True, is_cut=is_cut, channels=None)
        view = memoryview(load_block(self._file, block))
        found: list[tuple[int, int]] = []
        for op, start, stop in iterate_records(view, allow_cut=is_cut):
            if op == Op.MESSAGE:
                _, _, channel_id, _, time_ns, _ = mcap.MESSAGE_RECORD.unpack_from(view, start)
                found.append((channel_id, time_ns))
            else:
                self._contents.take(op, view[start + _HEADER_LENGTH : stop])
        for channel_id, time_ns in found:
            block = self._count(block, channel_id, time_ns)
        self._contents.blocks.append(block)
        if is_cut:
            msg = "the file ends inside a chunk"
            raise BagError(msg)
        return end

    def _add_message(self, start: int, end: int, channel_id: int, time_ns: int) -> None:
        block = self._block or Block(
            start, 0, _LATEST, 0, is_chunk=False, is_cut=False, channels=None
        )
        block = self._count(block, channel_id, time_ns)._replace(size=end - block.offset)
        self._block = block
        if block.size >= BLOCK_BYTES:
            self._close_block()

    def _count(self, block: Block, channel_id: int, time_ns: int) -> Block:
        contents = self._contents
        contents.counts[channel_id] += 1
        if channel_id in contents.channels:  # otherwise it is damage that looks like a message
            contents.start_ns = min(contents.start_ns, time_ns)
            contents.end_ns = max(contents.end_ns, time_ns)
        return block._replace(
            start_ns=min(block.start_ns, time_ns), end_ns=max(block.end_ns, time_ns)
        )

    def _close_block(self) -> None:
        if self._block:
            self._contents.blocks.append(self._block)
            self._block = None

    def _read(self, position: int, length: int) -> bytes:
        start = position - self._window_start
        if start < 0 or start + length > len(self._window):
            self._window = os.pread(self._file, max(length, _WINDOW_BYTES), position)
            self._window_start = position
            start = 0
        data = self._window[start : start + length]
        if len(data) < length:
            msg = "the file ends inside a record"
            raise BagError(msg)
        return data


def find_contents(file: int, size: int) -> Contents:
    """Find the contents of a file from its index; scan the file if it has none or a wrong one."""
    return _read_index(file, size) or _Walk(file, size).run()
