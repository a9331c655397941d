"""Bag writer in a separate thread, with a queue that is bounded in bytes."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from scaleevent_ros.errors import ScaleEventError

if TYPE_CHECKING:
    from collections.abc import Callable

    from scaleevent_ros.bags.metadata import Qos
    from scaleevent_ros.bags.writer import BagWriter

logger = logging.getLogger(__name__)

FLUSH_INTERVAL_S = 0.5


class _Job(NamedTuple):
    """Task of the thread; only messages have a topic and a size in bytes."""

    run: Callable[[], None]
    topic: str = ""
    size: int = 0


class BagThread:
    """Writes messages in the order in which they are queued, and never blocks the caller.

    A message that does not fit into the queue is dropped and counted, and so is every message after
    an error of the writer.

    Attributes:
        path: Path of the bag.
        error: First error of the writer; None so far.
        queued_bytes: Bytes of the messages that wait.
        queued: Number of messages that wait, by topic.
        dropped: Number of dropped messages, by topic.
        written: Number of written messages.
        written_bytes: Bytes of the written messages.

    Args:
        writer: Writer of the bag, which this object closes.
        queue_bytes: Largest number of bytes that may wait for the disk.
    """

    def __init__(self, writer: BagWriter, queue_bytes: int) -> None:
        self._writer = writer
        self._limit = queue_bytes
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self.path = writer.path
        self.error: Exception | None = None
        self.queued_bytes = 0
        self.queued: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.written = 0
        self.written_bytes = 0
        self._thread = threading.Thread(target=self._work, name="bag")
        self._thread.start()

    def add_topic(self, name: str, msgtype: str, qos: Qos) -> None:
        """Declare a topic before its first message."""
        self._put(_Job(partial(self._writer.add_topic, name, msgtype, qos=qos)))

    def put(self, topic: str, record_time_ns: int, cdr: bytes) -> None:
        """Queue a message; drop it if the queue is full or the writer has failed."""
        size = len(cdr)
        with self._changed:
            if self.error or self.queued_bytes + size > self._limit:
                self.dropped[topic] += 1
                return
            self.queued_bytes += size
            self.queued[topic] += 1
            self._jobs.append(
                _Job(partial(self._writer.write, topic, record_time_ns, cdr), topic, size)
            )
            self._changed.notify()

    def split(self) -> None:
        """Start another file after the messages that are queued now."""
        self._put(_Job(self._writer.split))

    def close(self) -> None:
        """Write the queued messages and close the bag; `error` then holds the first error."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _put(self, job: _Job) -> None:
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._jobs and not self._closing:
                    self._changed.wait(FLUSH_INTERVAL_S)
                job = self._jobs.popleft() if self._jobs else None
                if job is None and self._closing:
                    break
            if job is None:
                self._try(self._writer.flush)
                continue
            self._try(job.run)
            if job.topic:
                self._account(job)
        # Closing makes the written messages readable, also after an error.
        self._try(self._writer.close, even_after_error=True)

    def _account(self, job: _Job) -> None:
        with self._changed:
            self.queued_bytes -= job.size
            self.queued[job.topic] -= 1
            if self.error:
                self.dropped[job.topic] += 1
            else:
                self.written += 1
                self.written_bytes += job.size

    def _try(self, run: Callable[[], None], *, even_after_error: bool = False) -> None:
        """Run a task and keep its first error, which must not end the thread."""
        if self.error and not even_after_error:
            return
        try:
            run()
        except ScaleEventError as error:
            self.error = self.error or error
        except Exception as error:
            logger.exception("unexpected error while writing %s", self.path)
            self.error = self.error or error
