"""The queue before the bag: order, bounds, counts, errors."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from scaleevent_ros.bags.errors import DiskFullError
from scaleevent_ros.bags.metadata import Qos
from scaleevent_ros.bags.writer import BagWriter
from scaleevent_ros.bags.writer_thread import BagThread

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

IMAGE = "sensor_msgs/msg/Image"


class HeldWriter(BagWriter):
    """A writer that waits for a gate at each message, as one does when the disk is busy."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.gate = threading.Event()

    def write(self, *args: object, **options: object) -> None:
        assert self.gate.wait(30)
        super().write(*args, **options)  # type: ignore[arg-type]  # handed through


def stored(path: Path) -> list[tuple[str, int, bytes]]:
    """Read a bag's messages with `mcap`, which is not ours."""
    from mcap.reader import make_reader

    messages = []
    for file in sorted(path.glob("*.mcap")):
        with file.open("rb") as stream:
            messages += [
                (channel.topic, message.log_time, message.data)
                for _, channel, message in make_reader(stream).iter_messages()
            ]
    return messages


def test_writes_all_in_order(tmp_path: Path) -> None:
    thread = BagThread(BagWriter(tmp_path / "bag"), 10**6)
    thread.add_topic("/a", IMAGE, Qos())
    thread.add_topic("/b", IMAGE, Qos())
    messages = [("/a" if i % 3 else "/b", i, i.to_bytes(4, "little") * 9) for i in range(300)]
    for message in messages:
        thread.put(*message)
    thread.close()
    assert stored(tmp_path / "bag") == messages
    assert (thread.error, thread.written, thread.queued_bytes) == (None, 300, 0)
    assert thread.written_bytes == 300 * 36
    assert not +thread.dropped
    assert not +thread.queued


def test_what_does_not_fit_is_dropped_and_counted(tmp_path: Path) -> None:
    writer = HeldWriter(tmp_path / "bag")
    thread = BagThread(writer, 1000)
    thread.add_topic("/a", IMAGE, Qos())
    for i in range(5):
        thread.put("/a", i, bytes(300))
    assert thread.queued == {"/a": 3}
    assert thread.dropped == {"/a": 2}
    writer.gate.set()
    thread.close()
    assert [time for _, time, _ in stored(tmp_path / "bag")] == [0, 1, 2]
    assert thread.written == 3


def test_split_stands_between_the_messages_around_it(tmp_path: Path) -> None:
    thread = BagThread(BagWriter(tmp_path / "bag"), 10**6)
    thread.add_topic("/a", IMAGE, Qos())
    thread.put("/a", 1, b"1")
    thread.split()
    thread.put("/a", 2, b"2")
    thread.close()
    files = sorted((tmp_path / "bag").glob("*.mcap"))
    assert len(files) == 2
    assert [time for _, time, _ in stored(tmp_path / "bag")] == [1, 2]


def test_an_error_is_kept_and_the_bag_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = BagWriter(tmp_path / "bag")
    thread = BagThread(writer, 10**6)
    thread.add_topic("/a", IMAGE, Qos())
    thread.put("/a", 1, b"1")
    real = BagWriter.write

    def fail_at_three(self: BagWriter, topic: str, time: int, cdr: bytes) -> None:
        if time == 3:
            msg = "no space left"
            raise DiskFullError(msg)
        real(self, topic, time, cdr)

    monkeypatch.setattr(BagWriter, "write", fail_at_three)
    for time in (2, 3, 4):
        thread.put("/a", time, b"x")
    thread.close()
    assert isinstance(thread.error, DiskFullError)
    assert thread.dropped == {"/a": 2}
    assert [time for _, time, _ in stored(tmp_path / "bag")] == [1, 2]
