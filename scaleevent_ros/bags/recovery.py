"""A torn bag becomes a whole one, beside the original."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scaleevent_ros.bags.reader import BagReader
from scaleevent_ros.bags.writer import BagWriter

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE_BYTES = 4 * 2**30


@dataclass(frozen=True)
class Recovery:
    """What became of a bag.

    Attributes:
        path: Of the new bag.
        counts: Its messages by topic.
        damage: By file, what was wrong with the original; empty where nothing was.
    """

    path: Path
    counts: Mapping[str, int]
    damage: Mapping[str, str]


def recover(path: str | Path, output: str | Path | None = None) -> Recovery:
    """Copy all that can be read of a bag into a new one with an index and metadata.

    What is damaged is left out. The original is only read; what was written so far is removed if
    anything goes wrong.

    Args:
        path: Of the bag, in any storage and state that `BagReader` reads.
        output: Of the new one, an MCAP bag; `NAME_recovered` beside the original by default.

    Raises:
        BagError: If nothing can be read of it.
        BagExistsError: If there is something at `output`.
        DiskFullError: If it does not fit.
    """
    reader = BagReader(path, skip_damaged=True)
    target = Path(output) if output else _beside(reader.path)
    writer = BagWriter(target, max_bytes=FILE_BYTES)
    try:
        with writer:
            for name, info in reader.topics.items():
                writer.add_topic(name, info.msgtype, qos=info.qos, definition=info.definition)
            for message in reader.messages():
                writer.write(
                    message.topic,
                    message.record_time_ns,
                    message.data,
                    publish_time_ns=message.publish_time_ns,
                )
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    return Recovery(target, writer.counts, reader.damage)


def _beside(path: Path) -> Path:
    path = path.absolute()
    name = path.name if path.is_dir() else path.name.split(".")[0]
    return path.with_name(f"{name}_recovered")
