"""Reader of a sqlite3 file of a bag."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import struct
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from scaleevent_ros.bags.errors import BagError
from scaleevent_ros.bags.messages import TypeDefinition
from scaleevent_ros.bags.metadata import parse_qos
from scaleevent_ros.bags.shared_copies import SharedCopy
from scaleevent_ros.bags.storage import StoredMessage, StoredTopic

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

logger = logging.getLogger(__name__)

MAGIC = b"SQLite format 3\0"


class SqliteFile:
    """A sqlite3 file, read one row at a time.

    Nothing is ever written to the file or beside it: unfinished transactions are rolled back, and
    truncated files are repaired, in a copy; see `SharedCopy`. Attributes are those of `StoredFile`.

    Args:
        path: Path of the file.

    Raises:
        BagError: If it is not a bag, or its topics cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damage = ""
        self.counts: Counter[int] = Counter()
        self.start_ns = 2**63 - 1
        self.end_ns = 0
        try:
            self._readable = self._make_readable()
            with closing(self._connect()) as database:
                self.topics = _read_topics(database)
                self._count_messages(database)
        except (sqlite3.Error, OSError) as error:
            msg = f"{path} cannot be read as a bag: {error}"
            raise BagError(msg) from None

    def messages(
        self, topic_ids: Collection[int], start_ns: int, end_ns: int
    ) -> Iterator[StoredMessage]:
        """Read messages with `start_ns <= time < end_ns` in order of record time.

        The messages of a truncated file come in the order of recording, up to the truncation.

        Raises:
            BagError: If the file is damaged but not truncated.
        """
        ids = ",".join(str(topic_id) for topic_id in topic_ids)
        table = "messages NOT INDEXED" if self._is_cut else "messages"
        order = "id" if self._is_cut else "timestamp, id"
        query = (  # Only numbers and fixed words, no text from outside.
            f"SELECT timestamp, topic_id, data FROM {table} WHERE timestamp >= {start_ns:d} "  # noqa: S608
            f"AND timestamp < {end_ns:d} AND topic_id IN ({ids}) ORDER BY {order}"
        )
        with closing(self._connect()) as database:
            for time_ns, topic_id, data in self._rows(database, query):
                yield StoredMessage(time_ns, time_ns, topic_id, data)

    def _make_readable(self) -> Path:
        """Return the path of the file, or of a copy where the file must be repaired."""
        with self.path.open("rb") as file:
            head = file.read(100)
        if not head.startswith(MAGIC) or len(head) < 100:
            msg = "its first bytes are not those of a sqlite3 file"
            raise sqlite3.DatabaseError(msg)
        page_size, changes, page_count = struct.unpack_from(">H6xII", head, 16)
        (changes_when_counted,) = struct.unpack_from(">I", head, 92)
        page_size = 65536 if page_size == 1 else page_size
        pages = self.path.stat().st_size // max(page_size, 1)
        # The page count in the header is valid only if both change counters are equal.
        self._is_cut = changes == changes_when_counted and pages < page_count
        journals = [
            journal
            for suffix in ("-wal", "-journal")
            if (journal := self.path.with_name(self.path.name + suffix)).exists()
            and journal.stat().st_size
        ]
        if not self._is_cut and not journals:
            return self.path
        self.damage = "it is cut off" if self._is_cut else "it was not closed"
        logger.info("%s: %s; a copy is read", self.path, self.damage)

        def repair(folder: Path) -> None:
            copy = folder / self.path.name
            for source in (self.path, *journals):
                shutil.copyfile(source, folder / source.name)
            if self._is_cut:
                # With the right page count, reading beyond the end is an error instead of zeros.
                with copy.open("r+b") as file:
                    file.truncate(pages * page_size)
                    file.seek(28)
                    file.write(struct.pack(">I", pages))
            # Reads the journal, which a read-only connection may not do.
            with closing(sqlite3.connect(copy)) as database:
                database.execute("SELECT count(*) FROM sqlite_master").fetchone()

        self._copy = SharedCopy([self.path, *journals], repair)
        return self._copy.folder / self.path.name

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            f"file:{quote(str(self._readable.absolute()))}?mode=ro&immutable=1",
            uri=True,
            check_same_thread=False,
        )

    def _count_messages(self, database: sqlite3.Connection) -> None:
        """Count the messages by topic and find the first and the last record time."""
        if self._is_cut:
            query = "SELECT topic_id, 1, timestamp, timestamp FROM messages NOT INDEXED"
        else:
            query = (
                "SELECT topic_id, count(*), min(timestamp), max(timestamp) "
                "FROM messages GROUP BY topic_id"
            )
        for topic_id, count, start_ns, end_ns in self._rows(database, query):
            self.counts[topic_id] += count
            self.start_ns = min(self.start_ns, start_ns)
            self.end_ns = max(self.end_ns, end_ns)

    def _rows(self, database: sqlite3.Connection, query: str) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query; for a truncated file, up to the truncation."""
        try:
            yield from database.execute(query)
        except sqlite3.DatabaseError as error:
            if not self._is_cut:
                msg = f"{self.path} is damaged: {error}"
                raise BagError(msg) from None


def _read_topics(database: sqlite3.Connection) -> dict[int, StoredTopic]:
    """Read the topics, of any version of the database's schema."""
    definitions = {}
    if _columns(database, "message_definitions"):
        definitions = dict(
            database.execute(
                "SELECT topic_type, encoded_message_definition FROM message_definitions"
            )
        )
    columns = _columns(database, "topics")
    topics = {}
    for values in database.execute("SELECT * FROM topics"):
        row = dict(zip(columns, values, strict=True))
        topics[row["id"]] = StoredTopic(
            row["name"],
            row["type"],
            TypeDefinition(definitions.get(row["type"], ""), row.get("type_description_hash", "")),
            parse_qos(row.get("offered_qos_profiles", "")),
        )
    return topics


def _columns(database: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
