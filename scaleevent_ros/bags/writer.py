"""Writer of bags: a folder of MCAP files with `metadata.yaml`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleevent_ros.bags.errors import BagError, BagExistsError
from scaleevent_ros.bags.mcap_format import COMPRESSIONS
from scaleevent_ros.bags.mcap_writer import McapWriter, write_error
from scaleevent_ros.bags.messages import type_definition
from scaleevent_ros.bags.metadata import (
    FileSpan,
    Qos,
    Topic,
    build_metadata,
    dump_metadata,
    write_metadata,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from scaleevent_ros.bags.messages import BytesLike, TypeDefinition

METADATA_VERSIONS = (8, 9)


def check_options(metadata_version: int, compression: str | None) -> None:
    """Check options of a bag.

    Raises:
        BagError: If one of them is unknown.
    """
    if metadata_version not in METADATA_VERSIONS:
        msg = f"metadata version {metadata_version} is neither 8 (Humble) nor 9 (Jazzy)"
        raise BagError(msg)
    if compression and compression not in COMPRESSIONS:
        msg = f"compression {compression!r} is none of {', '.join(COMPRESSIONS)}"
        raise BagError(msg)


class BagWriter:
    """Writer of one new bag, for one thread at a time; a context manager that closes it.

    The bag is complete up to the last message at every moment, also after a crash; only with
    compression, messages of the last `flush_interval_s` are in memory. A bag that was not closed
    has no index: `BagReader` can still read it, and `scaleevent recover` restores it for
    `ros2 bag`.

    Args:
        path: Path of the bag, a folder that must not exist. Its files are `NAME_0.mcap` and so on.
        metadata_version: 9 for Jazzy and later, 8 for Humble and Iron.
        compression: Compression of the chunks: `zstd`, `lz4`, or None.
        max_bytes: Start another file before one grows larger; 0 for no limit.
        max_duration_ns: Start another file before one spans more record time; 0 for no limit.
        flush_interval_s: Maximum age of a message in memory in s, with compression. Call `flush`
            that often if messages may pause.
        custom_data: Custom data for the metadata, by name.

    Raises:
        BagExistsError: If `path` exists.
        DiskFullError: If no space is left, here and in every method that writes.
        BagError: If an option is unknown or the folder cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        metadata_version: int = 9,
        compression: str | None = None,
        max_bytes: int = 0,
        max_duration_ns: int = 0,
        flush_interval_s: float = 0.5,
        custom_data: Mapping[str, str] | None = None,
    ) -> None:
        check_options(metadata_version, compression)
        self.path = Path(path)
        self._version = metadata_version
        self._custom_data = custom_data
        self._compression = compression or ""
        self._max_bytes = max_bytes
        self._max_duration_ns = max_duration_ns
        self._flush_interval_s = flush_interval_s
        self._topics: dict[str, Topic] = {}
        self._finished: list[FileSpan] = []
        try:
            self.path.mkdir(parents=True)
        except FileExistsError:
            msg = f"{self.path} exists already and is not overwritten"
            raise BagExistsError(msg) from None
        except OSError as error:
            raise write_error(self.path, error) from None
        self._file = self._new_file(0)

    @property
    def counts(self) -> Counter[str]:
        """Number of messages by topic."""
        counts = Counter(dict.fromkeys(self._topics, 0))
        for span in self._spans():
            counts.update(span.counts)
        return counts

    def add_topic(
        self,
        name: str,
        msgtype: str,
        *,
        qos: Qos | None = None,
        definition: TypeDefinition | None = None,
    ) -> None:
        """Declare a topic, once, before its first message.

        Args:
            name: Topic name, for example `/event_camera/events`.
            msgtype: Message type, for example `event_camera_msgs/msg/EventPacket`.
            qos: Publisher's QoS, for replay.
            definition: Definition of the type, if `messages.type_definition` does not know it.

        Raises:
            BagError: If the topic was declared already.
        """
        if name in self._topics:
            msg = f"topic {name} is in the bag {self.path} already"
            raise BagError(msg)
        topic = Topic(name, msgtype, qos or Qos(), definition or type_definition(msgtype))
        self._topics[name] = topic
        self._file.add_topic(topic, self._version)
        self._write_metadata()

    def write(
        self,
        topic: str,
        record_time_ns: int,
        cdr: BytesLike,
        *,
        publish_time_ns: int | None = None,
    ) -> None:
        """Write one message.

        Args:
            topic: Name of a declared topic.
            record_time_ns: Receive time, in ns of ROS time.
            cdr: The serialized message; the caller may reuse a buffer afterwards.
            publish_time_ns: Publish time in ns, if known; otherwise the record time.

        Raises:
            BagError: If the topic was not declared.
        """
        if topic not in self._topics:
            msg = f"topic {topic} was not added to the bag {self.path}"
            raise BagError(msg)
        if self._is_due(record_time_ns, len(cdr)):
            self.split()
        if publish_time_ns is None:
            publish_time_ns = record_time_ns
        self._file.write(topic, record_time_ns, publish_time_ns, cdr)

    def flush(self) -> None:
        """Flush all messages to the operating system, where they survive this process."""
        self._file.flush()

    def split(self) -> None:
        """Close the current file and start another."""
        self._close_file()
        following = self._new_file(len(self._finished) + 1)
        self._finished.append(self._file.span)
        self._file = following
        for topic in self._topics.values():
            self._file.add_topic(topic, self._version)
        self._write_metadata()

    def close(self) -> None:
        """Write the index and the metadata; a second call changes nothing."""
        self._close_file()
        self._write_metadata()

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _is_due(self, record_time_ns: int, length: int) -> bool:
        file = self._file
        if file.is_empty:
            return False
        return bool(
            (self._max_bytes and file.size + length > self._max_bytes)
            or (self._max_duration_ns and record_time_ns - file.start_ns >= self._max_duration_ns)
        )

    def _new_file(self, number: int) -> McapWriter:
        return McapWriter(
            self.path / f"{self.path.name}_{number}.mcap",
            compression=self._compression,
            flush_interval_s=self._flush_interval_s,
        )

    def _close_file(self) -> None:
        self._file.close(dump_metadata(self._metadata([self._file.span])))

    def _spans(self) -> list[FileSpan]:
        return [*self._finished, self._file.span]

    def _write_metadata(self) -> None:
        try:
            write_metadata(self.path, self._metadata(self._spans()))
        except OSError as error:
            raise write_error(self.path, error) from None

    def _metadata(self, files: list[FileSpan]) -> dict[str, Any]:
        return build_metadata(
            files,
            list(self._topics.values()),
            version=self._version,
            custom_data=self._custom_data,
        )
