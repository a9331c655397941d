"""The recorder's parameters."""

from __future__ import annotations

from dataclasses import dataclass

from scaleevent_ros.bags.mcap_format import COMPRESSIONS
from scaleevent_ros.bags.messages import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    EVENT_PACKET,
    IMAGE,
    IMU,
)
from scaleevent_ros.nodes.parameters import DURABILITIES, RELIABILITIES, parameter

DISTRIBUTIONS = {"humble": 8, "iron": 8, "jazzy": 9, "kilted": 9}
"""Version of the bag's metadata that each reads."""


@dataclass(frozen=True)
class RecorderParameters:
    """Parameters of the recorder, for launch files, YAML files and the command line.

    Changes take effect when the node is configured the next time.
    """

    topics: tuple[str, ...] = parameter(
        (), "Topics to record, whenever they appear. Empty: every topic of one of `types`."
    )
    types: tuple[str, ...] = parameter(
        (EVENT_PACKET, IMAGE, COMPRESSED_IMAGE, CAMERA_INFO, IMU),
        "Message types to look for while `topics` is empty.",
    )
    exclude: str = parameter(
        "", "Regular expression: topics that it matches from their start are left out."
    )
    output_folder: str = parameter("~/bags", "Folder for the bags; made if it is not there.")
    name: str = parameter(
        "%Y-%m-%d_%H-%M-%S",
        "Name of a bag, with strftime fields in local time. A name in use gets a number behind it.",
    )
    duration: float = parameter(
        0.0, "Seconds to record, after which bag and node end. 0: until told.", minimum=0
    )
    max_file_size: float = parameter(
        0.0, "MB after which the bag goes on in another file. 0: no limit.", minimum=0
    )
    max_file_duration: float = parameter(
        0.0, "Seconds after which the bag goes on in another file. 0: no limit.", minimum=0
    )
    compression: str = parameter("none", "Of the bag's chunks.", choices=("none", *COMPRESSIONS))
    distribution: str = parameter(
        "jazzy", "Oldest ROS 2 distribution that is to read the bag.", choices=tuple(DISTRIBUTIONS)
    )
    min_free_space: float = parameter(
        1000.0, "MB: recording stops when the disk has less left.", minimum=0
    )
    queue_size: float = parameter(
        128.0, "MB that may wait for the disk before messages are dropped.", minimum=1
    )
    reliability: str = parameter(
        "auto", "QoS of the subscriptions; auto: as the publishers offer.", choices=RELIABILITIES
    )
    durability: str = parameter(
        "auto", "QoS of the subscriptions; auto: as the publishers offer.", choices=DURABILITIES
    )
    qos_depth: int = parameter(
        400, "Messages of a topic that the middleware holds before the oldest are lost.", minimum=1
    )
    autostart: bool = parameter(
        True, "Configure, activate and record at once; otherwise when told to.", read_only=True
    )
