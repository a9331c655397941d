"""Reader of an MCAP file, intact or damaged."""

from __future__ import annotations

import os
import struct
from bisect import bisect_left
from contextlib import contextmanager
from itertools import zip_longest
from operator import attrgetter
from typing import TYPE_CHECKING

from scaleevent_ros.bags import mcap_format as mcap
from scaleevent_ros.bags.errors import BagError
from scaleevent_ros.bags.mcap_contents import Block, find_contents, iterate_records, load_block
from scaleevent_ros.bags.mcap_format import Op
from scaleevent_ros.bags.messages import TypeDefinition
from scaleevent_ros.bags.metadata import parse_qos
from scaleevent_ros.bags.storage import StoredMessage, StoredTopic

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

_MESSAGE_LENGTH = mcap.MESSAGE_RECORD.size


class McapFile:
    """An MCAP file, read one block at a time.

    A file without an index, or with a wrong one, is scanned once; then it is read like any other.
    Attributes are those of `StoredFile`.

    Args:
        path: Path of the file.
        skip_damaged: Skip the rest of a damaged block and list it in `damage`, instead of raising
            an error.

    Raises:
        BagError: If it is not an MCAP file.
    """

    def __init__(self, path: Path, *, skip_damaged: bool = False) -> None:
        self.path = path
        self._skip_damaged = skip_damaged
        with _open(path) as file:
            size = os.fstat(file).st_size
            if os.pread(file, len(mcap.MAGIC), 0) != mcap.MAGIC:
                msg = f"{path} is not an MCAP file: its first bytes are not those of MCAP"
                raise BagError(msg)
            contents = find_contents(file, size)
        self._blocks = sorted(contents.blocks, key=attrgetter("start_ns"))
        self._damage = contents.damage
        self.counts = contents.counts
        self.start_ns = contents.start_ns
        self.end_ns = contents.end_ns
        self.topics = {
            channel.id: _topic(channel, contents.schemas.get(channel.schema_id))
            for channel in contents.channels.values()
        }

    @property
    def damage(self) -> str:
        """Description of the damage; empty if there is none."""
        first = next(iter(self._damage.values()), "")
        others = len(self._damage) - 1
        return f"{first}, and {others} more places" if others > 0 else first

    def messages(
        self, topic_ids: Collection[int], start_ns: int, end_ns: int
    ) -> Iterator[StoredMessage]:
        """Read messages with `start_ns <= time < end_ns` in order of record time.

        Raises:
            BagError: If a block is damaged, unless ``skip_damaged`` is set.
        """
        wanted = frozenset(topic_ids)
        blocks = [
            block
            for block in self._blocks
            if block.start_ns < end_ns
            and block.end_ns >= start_ns
            and (block.channels is None or block.channels & wanted)
        ]
        ready: list[StoredMessage] = []
        with _open(self.path) as file:
            for block, following in zip_longest(blocks, blocks[1:]):
                ready += (
                    message
                    for message in self._read_block(file, block)
                    if message.topic_id in wanted and start_ns <= message.time_ns < end_ns
                )
                ready.sort(key=attrgetter("time_ns"))
                complete = (
                    bisect_left(ready, following.start_ns, key=attrgetter("time_ns"))
                    if following
                    else len(ready)
                )
                yield from ready[:complete]
                del ready[:complete]

    def _read_block(self, file: int, block: Block) -> Iterator[StoredMessage]:
        try:
            view = memoryview(load_block(file, block))
            for op, start, end in iterate_records(view, allow_cut=block.is_cut):
                if op == Op.MESSAGE:
                    _, _, channel_id, _, time_ns, publish_time_ns = mcap.MESSAGE_RECORD.unpack_from(
                        view, start
                    )
                    data = view[start + _MESSAGE_LENGTH : end]
                    yield StoredMessage(time_ns, publish_time_ns, channel_id, data)
        except (BagError, struct.error, UnicodeDecodeError) as error:
            what = f"the block at byte {block.offset} is damaged ({error})"
            if not self._skip_damaged:
                msg = f"{self.path}: {what}: use scaleevent recover"
                raise BagError(msg) from None
            self._damage[block.offset] = what


def _topic(channel: mcap.Channel, schema: mcap.Schema | None) -> StoredTopic:
    text, name = (schema.text, schema.name) if schema else ("", "")
    return StoredTopic(
        channel.topic,
        name,
        TypeDefinition(text, channel.metadata.get("topic_type_hash", "")),
        parse_qos(channel.metadata.get("offered_qos_profiles", "")),
    )


@contextmanager
def _open(path: Path) -> Iterator[int]:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        msg = f"cannot read {path}: {error.strerror}"
        raise BagError(msg) from None
    try:
        yield file
    finally:
        os.close(file)
