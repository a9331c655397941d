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
"""Version of the bag's metadata for each distribution."""


@dataclass(frozen=True)
class RecorderParameters:
    """Parameters of the recorder, for launch files, YAML files and the command line.

    Changes take effect when the node is configured the next time.
    """

    topics: tuple[str, ...] = parameter(
        (), "Topics to record, as soon as they appear. Empty: all topics of `types`."
    )
    types: tuple[str, ...] = parameter(
        (EVENT_PACKET, IMAGE, COMPRESSED_IMAGE, CAMERA_INFO, IMU),
        "Message types to record if `topics` is empty.",
    )
    exclude: str = parameter(
        "", "Regular expression, matched from the start: topics that are not recorded."
    )
    output_folder: str = parameter("~/bags", "Folder for the bags; created if missing.")
    name: str = parameter(
        "%Y-%m-%d_%H-%M-%S",
        "Name of a bag, with strftime fields in local time. A number is appended to a name in use.",
    )
    duration: float = parameter(
        0.0, "Seconds to record before bag and node end. 0: no limit.", minimum=0
    )
    max_file_size: float = parameter(
        0.0, "Size in MB at which the bag is split. 0: no limit.", minimum=0
    )
    max_file_duration: float = parameter(
        0.0, "Duration in seconds at which the bag is split. 0: no limit.", minimum=0
    )
    compression: str = parameter(
        "none", "Compression of the bag's chunks.", choices=("none", *COMPRESSIONS)
    )
    distribution: str = parameter(
        "jazzy", "Oldest ROS 2 distribution that must read the bag.", choices=tuple(DISTRIBUTIONS)
    )
    min_free_space: float = parameter(
        1000.0, "Free disk space in MB below which recording stops.", minimum=0
    )
    queue_size: float = parameter(
        128.0, "Size in MB of the queue before the disk; messages beyond it are dropped.", minimum=1
    )
    reliability: str = parameter(
        "auto", "Reliability of the subscriptions; auto: as offered.", choices=RELIABILITIES
    )
    durability: str = parameter(
        "auto", "Durability of the subscriptions; auto: as offered.", choices=DURABILITIES
    )
    qos_depth: int = parameter(
        400, "Queue length of each topic in the middleware, in messages.", minimum=1
    )
    autostart: bool = parameter(True, "Configure, activate and record at start.", read_only=True)
