"""The middleware's settings: Fast DDS as it comes loses best-effort messages of about 1 MB."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from scaleevent_ros.share_folder import share_folder

if TYPE_CHECKING:
    from pathlib import Path

PROFILE_VARIABLE = "FASTDDS_DEFAULT_PROFILES_FILE"
OLD_PROFILE_VARIABLE = "FASTRTPS_DEFAULT_PROFILES_FILE"
"""Variable before Fast DDS 3, which accepts it with a warning."""
PROFILE_VARIABLES = (PROFILE_VARIABLE, OLD_PROFILE_VARIABLE)


def large_messages_profile() -> Path:
    """Return the Fast DDS profile with shared memory that fits images and event packets."""
    return share_folder() / "config" / "fastdds_large_messages.xml"


def profile_environment() -> dict[str, str]:
    """Return the variable that selects our profile for Fast DDS; empty where a profile is set."""
    if any(os.environ.get(variable) for variable in PROFILE_VARIABLES):
        return {}
    old = os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy")
    return {OLD_PROFILE_VARIABLE if old else PROFILE_VARIABLE: str(large_messages_profile())}


def transport_warning() -> str | None:
    """Describe a problem of the middleware's settings, or return None.

    `rclpy` is imported here: launch files import this module.
    """
    from rclpy.utilities import get_rmw_implementation_identifier

    if not get_rmw_implementation_identifier().startswith("rmw_fastrtps"):
        return None
    if not (missing := profile_environment()):
        return None
    (setting,) = (f"{name}={value}" for name, value in missing.items())
    return (
        "Fast DDS runs with its own defaults and loses best-effort messages of about 1 MB: set "
        f"{setting} in every process of the graph"
    )
