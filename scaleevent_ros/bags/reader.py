"""Reader of bags of `ros2 bag record` and of this package's recorder, also after a crash.

One module, since finding, opening and reading the files share the list of what is damaged.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import yaml

from scaleevent_ros.bags import mcap_format as mcap
from scaleevent_ros.bags.compression import ZSTD_MAGIC, decompress, decompress_file
from scaleevent_ros.bags.errors import BagError, ImageError, MessageError
from scaleevent_ros.bags.images import depth_of, image_rgb, is_deep
from scaleevent_ros.bags.mcap_reader import McapFile
from scaleevent_ros.bags.messages import (
    COMPRESSED_IMAGE,
    EVENT_PACKET,
    IMAGE,
    TypeDefinition,
    parse_compressed_image,
    parse_event_packet,
    parse_image,
)
from scaleevent_ros.bags.metadata import METADATA_NAME
from scaleevent_ros.bags.shared_copies import SharedCopy
from scaleevent_ros.bags.sqlite_reader import MAGIC as SQLITE_MAGIC
from scaleevent_ros.bags.sqlite_reader import SqliteFile

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from numpy.typing import NDArray

    from scaleevent_ros.bags.messages import (
        BytesLike,
        CompressedImageView,
        EventPacketView,
        ImageView,
    )
    from scaleevent_ros.bags.metadata import Qos
    from scaleevent_ros.bags.storage import StoredFile

IMAGE_TYPES = (IMAGE, COMPRESSED_IMAGE)
CAMERA_IMAGE = re.compile(r"/image_raw(/compressed)?$")

_LATEST = 2**63 - 1
_LONGEST_NS = 366 * 24 * 3600 * 10**9  # of a recording
_MOST_EARLY = 100
_DEPTH_SAMPLES = 16  # images of a topic that determine how many bits it uses
_DIGITS = re.compile(r"(\d+)")
_NUMBER = re.compile(r"_\d+(?=\.\w+$)")
_COMPRESSED_SUFFIX = ".zstd"
_SUFFIXES = (".mcap", ".db3")


@dataclass(frozen=True)
class TopicInfo:
    """A topic of a bag.

    Attributes:
        msgtype: Message type, for example `sensor_msgs/msg/Image`.
        count: Number of messages.
        qos: Publisher's QoS; None if the bag lacks it.
        definition: Definition of the message type; empty if the bag lacks it.
    """

    msgtype: str
    count: int
    qos: Qos | None
    definition: TypeDefinition


class RawMessage(NamedTuple):
    """A recorded message, not deserialized.

    Attributes:
        topic: Topic of the message.
        record_time_ns: Record time in ns.
        publish_time_ns: Publish time in ns, or the record time if the bag lacks it.
        data: CDR bytes, a view of the file's block where possible.
    """

    topic: str
    record_time_ns: int
    publish_time_ns: int
    data: BytesLike


class Frame(NamedTuple):
    """A decoded camera image.

    Attributes:
        stamp_ns: Header stamp in ns.
        image: uint8 [H, W, 3], red first.
    """

    stamp_ns: int
    image: NDArray[np.uint8]


class BagReader:
    """Reader of any rosbag2: MCAP or sqlite3, split, compressed, without metadata, or truncated.

    Only the names of the files, the version and the custom data are taken from `metadata.yaml`. No
    more than one block of a file is in memory, some MB for most writers. Files that are compressed
    as a whole are decompressed once; see `SharedCopy`.

    Attributes:
        path: Path of the bag.
        topics: Topics by name.
        start_ns: Record time of the earliest message in ns; 0 without messages.
        end_ns: Record time of the latest message in ns; 0 without messages.
        metadata_version: Version of `metadata.yaml`; None if it is missing.
        custom_data: Custom data of `metadata.yaml`, by name.

    Args:
        path: A bag's folder, or one file of it.
        skip_damaged: Skip damaged parts of a file and list them in `damage` once encountered,
            instead of raising an error.

    Raises:
        BagError: If there is no bag, or one that cannot be read at all.
    """

    def __init__(self, path: str | Path, *, skip_damaged: bool = False) -> None:
        self.path = Path(path)
        if self.path.name == METADATA_NAME:
            self.path = self.path.parent
        if not self.path.exists():
            msg = f"there is no bag at {self.path}"
            raise BagError(msg)
        self._damage: dict[str, str] = {}
        self._skip_damaged = skip_damaged
        self._earliest_ns = 0
        self._depths: dict[str, int] = {}  # by topic
        self._copies: list[SharedCopy] = []  # in use as long as this reader
        metadata = self._read_metadata()
        version, custom_data = metadata.get("version"), metadata.get("custom_data")
        self.metadata_version = version if isinstance(version, int) else None
        self.custom_data = (
            {str(name): str(value) for name, value in custom_data.items()}
            if isinstance(custom_data, dict)
            else {}
        )
        self._files = [
            file for path in self._find_files(metadata) if (file := self._open_file(path))
        ]
        filled = [file for file in self._files if any(file.counts.values())]
        self.start_ns = min((file.start_ns for file in filled), default=0)
        self.end_ns = max((file.end_ns for file in filled), default=0)
        self.topics = self._merge_topics()
        self._drop_early_messages()

    @property
    def damage(self) -> dict[str, str]:
        """Damage by file; empty for an intact bag."""
        of_files = {file.path.name: file.damage for file in self._files if file.damage}
        return self._damage | of_files

    def messages(
        self, topics: Collection[str] | None = None, *, start_ns: int = 0, end_ns: int = _LATEST
    ) -> Iterator[RawMessage]:
        """Read messages in order of record time, without deserializing them.

        Args:
            topics: Names of the topics; None for all.
            start_ns: Earliest record time in ns; earlier data are not read from the disk.
            end_ns: Record time in ns before which to stop.

        Raises:
            BagError: If a topic is not in the bag, or a file turns out to be damaged.
        """
        for topic in topics or ():
            self._require(topic)
        names = self.topics if topics is None else frozenset(topics)
        if not names:
            return
        for group in _overlapping(self._files):
            earliest_ns = max(start_ns, self._earliest_ns)
            parts = [_read_file(file, names, earliest_ns, end_ns) for file in group]
            yield from heapq.merge(*parts, key=attrgetter("record_time_ns"))

    def events(
        self, topic: str | None = None, *, start_ns: int = 0, end_ns: int = _LATEST
    ) -> Iterator[tuple[int, EventPacketView]]:
        """Read event packets, in order of record time.

        Args:
            topic: Event topic; may be omitted if there is only one.
            start_ns: Earliest record time in ns.
            end_ns: Record time in ns before which to stop.

        Yields:
            Header stamp in ns, and the packet, whose payload is a view.

        Raises:
            BagError: If the topic is not in the bag, is not an event topic, or is ambiguous.
            MessageError: If a message is not an event packet.
        """
        name = self.event_topic(topic)
        for message in self.messages([name], start_ns=start_ns, end_ns=end_ns):
            try:
                packet = parse_event_packet(message.data)
            except MessageError as error:
                raise self._message_error(message, error) from None
            yield packet.stamp_ns, packet

    def images(
        self, topic: str | None = None, *, start_ns: int = 0, end_ns: int = _LATEST
    ) -> Iterator[tuple[int, ImageView | CompressedImageView]]:
        """Read images without decoding them, in order of record time.

        Args:
            topic: Image topic, raw or compressed; see `image_topic` for the default.
            start_ns: Earliest record time in ns.
            end_ns: Record time in ns before which to stop.

        Yields:
            Header stamp in ns, and the image, whose data are a view.

        Raises:
            BagError: If the topic is not in the bag, is not an image topic, or is ambiguous.
            MessageError: If a message is not an image.
        """
        name = self.image_topic(topic)
        for message in self.messages([name], start_ns=start_ns, end_ns=end_ns):
            image = self.parse_image(message)
            yield image.stamp_ns, image

    def parse_image(self, message: RawMessage) -> ImageView | CompressedImageView:
        """Parse a message of an image topic.

        The bit depth of 16-bit images (see `depth_of`) is determined once for their topic, from
        images spread over the whole recording, so that all of them are scaled alike.

        Raises:
            MessageError: If the message is not an image.
        """
        image = self._parse_image(message)
        return image._replace(bits=self._depth(message.topic)) if is_deep(image) else image

    def _parse_image(self, message: RawMessage) -> ImageView | CompressedImageView:
        is_raw = self.topics[message.topic].msgtype == IMAGE
        try:
            return parse_image(message.data) if is_raw else parse_compressed_image(message.data)
        except MessageError as error:
            raise self._message_error(message, error) from None

    def _depth(self, topic: str) -> int:
        """Determine how many bits the 16-bit images of a topic use, once."""
        if topic not in self._depths:
            times = np.linspace(self.start_ns, self.end_ns, _DEPTH_SAMPLES, dtype=np.int64)
            depths = []
            for time_ns in times.tolist():
                message = next(iter(self.messages([topic], start_ns=time_ns)), None)
                if message is not None:
                    with suppress(ImageError, MessageError):
                        depths.append(depth_of(self._parse_image(message)))
            self._depths[topic] = max(depths, default=16)
        return self._depths[topic]

    def frames(
        self, topic: str | None = None, *, start_ns: int = 0, end_ns: int = _LATEST
    ) -> Iterator[Frame]:
        """Decode images to RGB, in order of record time; see `images` for arguments and errors.

        Raises:
            ImageError: If an image cannot be converted; see `image_rgb`.
        """
        for stamp_ns, image in self.images(topic, start_ns=start_ns, end_ns=end_ns):
            yield Frame(stamp_ns, image_rgb(image))

    def event_topic(self, topic: str | None = None) -> str:
        """Return the topic of event packets: the given one, checked, or the only one.

        Raises:
            BagError: If it is not in the bag or of another type; if there is none; if there are
                several and none is given.
        """
        return self._choose(topic, (EVENT_PACKET,), "event")

    def image_topic(self, topic: str | None = None) -> str:
        """Return the topic of images; see `event_topic` for arguments and errors.

        If none is given and there are several, such as labels or the outputs of a perception node,
        it is the only one with the usual name of a camera driver's topic, ``.../image_raw``.
        """
        if topic is None:
            names = [name for name, info in self.topics.items() if info.msgtype in IMAGE_TYPES]
            raw = [name for name in names if CAMERA_IMAGE.search(name)]
            if len(raw) == 1:
                return raw[0]
        return self._choose(topic, IMAGE_TYPES, "image")

    @property
    def has_images(self) -> bool:
        """Whether there is a topic of (compressed) images."""
        return any(info.msgtype in IMAGE_TYPES for info in self.topics.values())

    def _drop_early_messages(self) -> None:
        """Drop a few messages recorded years before all others, as with a log time of 0."""
        latest_start = self.end_ns - _LONGEST_NS
        if self.start_ns >= latest_start:
            return
        early: Counter[str] = Counter()
        for message in self.messages():
            if message.record_time_ns >= latest_start:
                start_ns = message.record_time_ns
                break
            early[message.topic] += 1
            if early.total() > _MOST_EARLY:
                return
        else:
            return
        years = (start_ns - self.start_ns) / _LONGEST_NS
        self._damage["record times"] = (
            f"{early.total()} messages of {', '.join(early)} are left out, recorded "
            f"{years:.0f} years before the others, first at {self.start_ns} ns"
        )
        self.start_ns = self._earliest_ns = start_ns
        for name, count in early.items():
            self.topics[name] = replace(self.topics[name], count=self.topics[name].count - count)

    def _choose(self, topic: str | None, msgtypes: tuple[str, ...], kind: str) -> str:
        if topic is not None:
            self._require(topic)
            if self.topics[topic].msgtype not in msgtypes:
                found = self.topics[topic].msgtype
                msg = f"topic {topic} of {self.path} holds {found}, not {kind}s"
                raise BagError(msg)
            return topic
        names = [name for name, info in self.topics.items() if info.msgtype in msgtypes]
        if not names:
            has = ", ".join(self.topics) or "no topics at all"
            msg = f"{self.path} has no {kind} topic; it has {has}"
            raise BagError(msg)
        if len(names) > 1:
            msg = f"{self.path} has {len(names)} {kind} topics, name one: {', '.join(names)}"
            raise BagError(msg)
        return names[0]

    def _require(self, topic: str) -> None:
        if topic not in self.topics:
            msg = f"{self.path} has no topic {topic}; it has {', '.join(self.topics) or 'none'}"
            raise BagError(msg)

    def _message_error(self, message: RawMessage, error: MessageError) -> MessageError:
        return MessageError(
            f"{self.path}: the message of {message.topic} recorded at {message.record_time_ns} ns "
            f"is invalid: {error}"
        )

    def _read_metadata(self) -> dict[str, Any]:
        path = self.path / METADATA_NAME
        if not path.is_file():
            return {}
        try:
            content = yaml.safe_load(path.read_bytes())
            information = content["rosbag2_bagfile_information"]
            [Path(name) for name in information["relative_file_paths"]]
        except (OSError, yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
            self._damage[METADATA_NAME] = "it cannot be read"
            return {}
        return dict(information)

    def _find_files(self, metadata: dict[str, Any]) -> list[Path]:
        """List the bag's files in the order of their numbers."""
        if self.path.is_file():
            return [self.path]
        present = {
            path.name.removesuffix(_COMPRESSED_SUFFIX): path
            # A crash may leave both a file and its compressed copy: this order selects the plain
            # one, which comes last.
            for path in sorted(self.path.iterdir(), reverse=True)
            if Path(path.name.removesuffix(_COMPRESSED_SUFFIX)).suffix in _SUFFIXES
        }
        listed = [
            Path(name).name.removesuffix(_COMPRESSED_SUFFIX)
            for name in metadata.get("relative_file_paths", ())
        ]
        for name in listed:
            if name not in present:
                self._damage[name] = "it is missing"
        if listed:
            series = {_series(name) for name in listed}
            names = [name for name in present if name in listed or _series(name) in series]
        else:
            names = list(present)
        if not present:
            msg = f"{self.path} is not a bag: there is no .mcap or .db3 file in it"
            raise BagError(msg)
        if not metadata:
            self._damage.setdefault(METADATA_NAME, "it is missing")
        return [present[name] for name in sorted(names, key=_natural_order)]

    def _open_file(self, path: Path) -> McapFile | SqliteFile | None:
        """Open a file in the format given by its first bytes; None if it is empty."""
        try:
            with path.open("rb") as stream:
                head = stream.read(16)
            if head.startswith(ZSTD_MAGIC):
                return self._open_file(self._decompress(path))
        except OSError as error:
            msg = f"cannot read {path}: {error.strerror}"
            raise BagError(msg) from None
        file: McapFile | SqliteFile
        if head.startswith(mcap.MAGIC):
            file = McapFile(path, skip_damaged=self._skip_damaged)
        elif head == SQLITE_MAGIC:
            file = SqliteFile(path)
        elif mcap.MAGIC.startswith(head) or not head.strip(b"\0"):
            self._damage[path.name] = "it is empty"
            return None
        else:
            msg = f"{path} is not a bag: it is neither MCAP nor sqlite3"
            raise BagError(msg)
        return file

    def _decompress(self, path: Path) -> Path:
        name = path.name.removesuffix(_COMPRESSED_SUFFIX)
        copy = SharedCopy([path], lambda folder: decompress_file(path, folder / name))
        self._copies.append(copy)
        return copy.folder / name

    def _merge_topics(self) -> dict[str, TopicInfo]:
        topics: dict[str, TopicInfo] = {}
        for file in self._files:
            for topic_id, stored in file.topics.items():
                count = file.counts[topic_id]
                known = topics.get(stored.name)
                topics[stored.name] = (
                    replace(known, count=known.count + count)
                    if known
                    else TopicInfo(stored.msgtype, count, stored.qos, stored.definition)
                )
        return topics


def _read_file(
    file: StoredFile, topics: Collection[str], start_ns: int, end_ns: int
) -> Iterator[RawMessage]:
    names = {
        topic_id: topic.name for topic_id, topic in file.topics.items() if topic.name in topics
    }
    for time_ns, publish_time_ns, topic_id, data in file.messages(names, start_ns, end_ns):
        # CDR starts with a zero byte, so compressed messages are recognized without metadata.
        if bytes(data[:4]) == ZSTD_MAGIC:
            data = decompress(data, "zstd")  # noqa: PLW2901
        yield RawMessage(names[topic_id], time_ns, publish_time_ns, data)


def _overlapping(files: Collection[StoredFile]) -> Iterator[list[StoredFile]]:
    """Group files that overlap in time, in the order of time; split recordings do not overlap."""
    group: list[StoredFile] = []
    end_ns = 0
    for file in sorted(files, key=attrgetter("start_ns")):
        if group and file.start_ns > end_ns:
            yield group
            group = []
        group.append(file)
        end_ns = max(end_ns, file.end_ns)
    if group:
        yield group


def is_message_file(path: Path) -> bool:
    """Return whether a file of a bag holds messages, or is the journal of such a database."""
    name = path.name.removesuffix(_COMPRESSED_SUFFIX)
    return Path(re.sub("-(wal|shm|journal)$", "", name)).suffix in _SUFFIXES


def _natural_order(name: str) -> list[tuple[int, str]]:
    """Return a sort key by which `bag_10` comes after `bag_9`."""
    return [(int(part or 0), "") if part.isdigit() else (0, part) for part in _DIGITS.split(name)]


def _series(name: str) -> str:
    """Return the common part of the file names of a recording: the name without its number."""
    return _NUMBER.sub("", name)
