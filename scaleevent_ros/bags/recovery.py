"""Recovery of a damaged bag to a new one."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scaleevent_ros.bags.mcap_writer import write_error
from scaleevent_ros.bags.metadata import METADATA_NAME, TEMPORARY_METADATA_NAME
from scaleevent_ros.bags.reader import BagReader, is_message_file
from scaleevent_ros.bags.writer import METADATA_VERSIONS, BagWriter

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE_BYTES = 4 * 2**30
OLDEST_METADATA, NEWEST_METADATA = METADATA_VERSIONS


@dataclass(frozen=True)
class Recovery:
    """Result of a recovery.

    Attributes:
        path: Path of the new bag.
        counts: Number of messages by topic.
        damage: Damage of the original by file; empty if there was none.
    """

    path: Path
    counts: Mapping[str, int]
    damage: Mapping[str, str]


def recover(
    path: str | Path, output: str | Path | None = None, *, metadata_version: int | None = None
) -> Recovery:
    """Copy the readable messages of a bag to a new one with an index and metadata.

    Damaged parts are left out. Other files of the bag's folder, such as `calibration.yaml`, and the
    custom data of its metadata are kept. The original is not changed; after an error, the new bag
    is removed.

    Args:
        path: Path of the bag, in any storage and state that `BagReader` reads.
        output: Path of the new bag, in MCAP; `NAME_recovered` beside the original by default.
        metadata_version: 9 for Jazzy and later, 8 for Humble and Iron; that of the original if not
            given, and 9 where it is not known.

    Raises:
        BagError: If nothing can be read from the bag.
        BagExistsError: If `output` exists.
        DiskFullError: If the new bag does not fit on the disk.
    """
    reader = BagReader(path, skip_damaged=True)
    target = Path(output) if output else _beside(reader.path)
    original_version = max(reader.metadata_version or NEWEST_METADATA, OLDEST_METADATA)
    writer = BagWriter(
        target,
        max_bytes=FILE_BYTES,
        metadata_version=metadata_version or min(original_version, NEWEST_METADATA),
        custom_data=reader.custom_data,
    )
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
        _copy_other_files(reader.path, target)
    except BaseException as error:
        shutil.rmtree(target, ignore_errors=True)
        if isinstance(error, OSError):
            raise write_error(target, error) from None
        raise
    return Recovery(target, writer.counts, reader.damage)


def _copy_other_files(bag: Path, target: Path) -> None:
    """Copy the files of a bag's folder other than messages and metadata."""
    for path in bag.iterdir() if bag.is_dir() else ():
        if path.is_dir():
            if path.resolve() != target.resolve():
                shutil.copytree(path, target / path.name)
        elif not is_message_file(path) and path.name not in (
            METADATA_NAME,
            TEMPORARY_METADATA_NAME,
        ):
            shutil.copyfile(path, target / path.name)


def _beside(path: Path) -> Path:
    path = path.absolute()
    name = path.name if path.is_dir() else path.name.split(".")[0]
    return path.with_name(f"{name}_recovered")
