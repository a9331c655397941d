"""The middleware's settings: Fast DDS as it comes loses best-effort messages of about 1 MB."""

from __future__ import annotations

import os
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from rclpy.utilities import get_rmw_implementation_identifier

# Fast DDS renamed the variable; Humble's version knows the old name only.
PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")


def share_folder() -> Path:
    """Return the folder that holds this package's `config/`: installed, or the source tree."""
    try:
        return Path(get_package_share_directory("scaleevent_ros"))
    except PackageNotFoundError:
        return Path(__file__).resolve().parents[2]


def large_messages_profile() -> Path:
    """Return the Fast DDS profile with shared memory that fits images and event packets."""
    return share_folder() / "config" / "fastdds_large_messages.xml"


def transport_warning() -> str | None:
    """Say what is wrong with the middleware's settings, or None where nothing is known to be."""
    if not get_rmw_implementation_identifier().startswith("rmw_fastrtps"):
        return None
    if any(os.environ.get(variable) for variable in PROFILE_VARIABLES):
        return None
    return (
        "Fast DDS runs with its own defaults and loses best-effort messages of about 1 MB: set "
        f"{PROFILE_VARIABLES[0]}={large_messages_profile()} in every process of the graph"
    )
