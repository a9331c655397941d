"""Interface of the files of a bag, independent of their format."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from scaleevent_ros.bags.messages import BytesLike, TypeDefinition
    from scaleevent_ros.bags.metadata import Qos

# Size of blocks that are read at once, if the file does not define blocks.
BLOCK_BYTES = 4 * 2**20


class StoredTopic(NamedTuple):
    """A topic of one file.

    Attributes:
        name: Topic name.
        msgtype: Message type.
        definition: Definition of the message type; empty if the file lacks it.
        qos: Publisher's QoS; None if the file lacks it.
    """

    name: str
    msgtype: str
    definition: TypeDefinition
    qos: Qos | None


class StoredMessage(NamedTuple):
    """A message of one file.

    Attributes:
        time_ns: Record time in ns.
        publish_time_ns: Publish time in ns, or the record time if the file lacks it.
        topic_id: Id of the topic within the file.
        data: CDR bytes.
    """

    time_ns: int
    publish_time_ns: int
    topic_id: int
    data: BytesLike


class StoredFile(Protocol):
    """Interface of an indexed file of a bag."""

    @property
    def topics(self) -> Mapping[int, StoredTopic]:
        """Topics by their ids within the file."""

    @property
    def counts(self) -> Mapping[int, int]:
        """Numbers of messages by topic id."""

    @property
    def start_ns(self) -> int:
        """Record time of the earliest message in ns; undefined without messages."""

    @property
    def end_ns(self) -> int:
        """Record time of the latest message in ns; undefined without messages."""

    @property
    def damage(self) -> str:
        """Description of the file's damage; empty if there is none."""

    def messages(
        self, topic_ids: Collection[int], start_ns: int, end_ns: int
    ) -> Iterator[StoredMessage]:
        """Read messages with `start_ns <= time < end_ns` in order of record time."""
