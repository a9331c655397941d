"""The `metadata.yaml` of a bag, as rosbag2 reads and writes it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from scaleevent_ros.bags.messages import TypeDefinition

METADATA_NAME = "metadata.yaml"
TEMPORARY_METADATA_NAME = f".{METADATA_NAME}.tmp"

_FOREVER = {"sec": 9_223_372_036, "nsec": 854_775_807}
_NEVER = 2**63 - 1
# Version 8 (Humble, Iron) holds the numbers of `rmw/types.h`, version 9 (Jazzy) the names.
_RMW_NUMBERS = {
    "history": {"system_default": 0, "keep_last": 1, "keep_all": 2, "unknown": 3},
    "reliability": {"system_default": 0, "reliable": 1, "best_effort": 2, "unknown": 3},
    "durability": {"system_default": 0, "transient_local": 1, "volatile": 2, "unknown": 3},
}


@dataclass(frozen=True)
class Qos:
    """Quality of service that a topic's publisher offered, with rosbag2's names of the policies.

    Attributes:
        reliability: `reliable`, `best_effort`, `system_default` or `unknown`.
        durability: `volatile`, `transient_local`, `system_default` or `unknown`.
        history: `keep_last`, `keep_all`, `system_default` or `unknown`.
        depth: Queue length with `keep_last`.
    """

    reliability: str = "reliable"
    durability: str = "volatile"
    history: str = "keep_last"
    depth: int = 10


@dataclass(frozen=True)
class Topic:
    """A topic of a bag.

    Attributes:
        name: Topic name, for example `/event_camera/events`.
        msgtype: Message type, for example `event_camera_msgs/msg/EventPacket`.
        qos: Publisher's QoS.
        definition: Definition of the message type.
    """

    name: str
    msgtype: str
    qos: Qos
    definition: TypeDefinition


@dataclass(frozen=True)
class FileSpan:
    """Content of one file of a bag.

    Attributes:
        name: Name of the file in the bag's folder.
        start_ns: Record time of the earliest message in ns; undefined without messages.
        end_ns: Record time of the latest message in ns; undefined without messages.
        counts: Number of messages by topic.
    """

    name: str
    start_ns: int
    end_ns: int
    counts: Mapping[str, int]

    @property
    def message_count(self) -> int:
        """Number of messages of all topics."""
        return sum(self.counts.values())


def dump_qos(qos: Qos, version: int) -> str:
    """Write a topic's QoS as the YAML that MCAP channels hold, and `metadata.yaml` in version 8."""
    return yaml.safe_dump([_qos_dict(qos, version)], sort_keys=False).strip()


def parse_qos(profiles: object) -> Qos | None:
    """Read the first of a topic's QoS profiles, written by any version of rosbag2.

    Args:
        profiles: A list of dictionaries, or the YAML of one.

    Returns:
        The QoS; None if it is unknown.
    """
    if isinstance(profiles, str):
        try:
            profiles = yaml.safe_load(profiles)
        except yaml.YAMLError:
            return None
    if not isinstance(profiles, list) or not profiles or not isinstance(profiles[0], dict):
        return None
    first = profiles[0]
    depth = first.get("depth", 0)
    policies = {
        policy: _policy_name(policy, first.get(policy, "unknown")) for policy in _RMW_NUMBERS
    }
    return Qos(depth=depth if isinstance(depth, int) else 0, **policies)


def _policy_name(policy: str, value: object) -> str:
    """Convert the number or the name of a policy to its name."""
    for name, number in _RMW_NUMBERS[policy].items():
        if value in (name, number):
            return name
    return "unknown"


def build_metadata(
    files: Sequence[FileSpan],
    topics: Sequence[Topic],
    *,
    version: int,
    custom_data: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Build the metadata of an MCAP bag.

    Args:
        files: Files in the order of recording.
        topics: All topics of the bag.
        version: 9 for Jazzy and later, 8 for Humble and Iron.
        custom_data: Custom data by name.

    Returns:
        Content of `rosbag2_bagfile_information`.
    """
    filled = [file for file in files if file.message_count]
    start = min((file.start_ns for file in filled), default=_NEVER)
    end = max((file.end_ns for file in filled), default=_NEVER)
    return {
        "version": version,
        "storage_identifier": "mcap",
        "duration": {"nanoseconds": end - start},
        "starting_time": {"nanoseconds_since_epoch": start},
        "message_count": sum(file.message_count for file in files),
        "topics_with_message_count": [
            {
                "topic_metadata": {
                    "name": topic.name,
                    "type": topic.msgtype,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": (
                        [_qos_dict(topic.qos, version)]
                        if version >= 9
                        else dump_qos(topic.qos, version)
                    ),
                    "type_description_hash": topic.definition.hash,
                },
                "message_count": sum(file.counts.get(topic.name, 0) for file in files),
            }
            for topic in topics
        ],
        "compression_format": "",
        "compression_mode": "",
        "relative_file_paths": [file.name for file in files],
        "files": [
            {
                "path": file.name,
                "starting_time": {
                    "nanoseconds_since_epoch": file.start_ns if file.message_count else _NEVER
                },
                "duration": {
                    "nanoseconds": file.end_ns - file.start_ns if file.message_count else 0
                },
                "message_count": file.message_count,
            }
            for file in files
        ],
        "custom_data": dict(custom_data) if custom_data else None,
        "ros_distro": os.environ.get("ROS_DISTRO", ""),
    }


def dump_metadata(information: Mapping[str, Any]) -> str:
    """Write the result of `build_metadata` as YAML."""
    return yaml.safe_dump(dict(information), sort_keys=False)


def write_metadata(folder: Path, information: Mapping[str, Any]) -> None:
    """Write `metadata.yaml` of a bag's folder, atomically.

    Raises:
        OSError: If it cannot be written; an existing one is kept.
    """
    text = yaml.safe_dump({"rosbag2_bagfile_information": dict(information)}, sort_keys=False)
    temporary = folder / TEMPORARY_METADATA_NAME
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(folder / METADATA_NAME)
    finally:
        temporary.unlink(missing_ok=True)


def _qos_dict(qos: Qos, version: int) -> dict[str, Any]:
    policies: dict[str, Any] = {
        "history": qos.history,
        "depth": qos.depth,
        "reliability": qos.reliability,
        "durability": qos.durability,
        "deadline": dict(_FOREVER),
        "lifespan": dict(_FOREVER),
        "liveliness": "automatic",
        "liveliness_lease_duration": dict(_FOREVER),
        "avoid_ros_namespace_conventions": False,
    }
    if version < 9:
        for policy, numbers in _RMW_NUMBERS.items():
            policies[policy] = numbers[policies[policy]]
        policies["liveliness"] = 1  # automatic
    return policies
