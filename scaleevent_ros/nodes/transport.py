"""Settings of the middleware: by default, Fast DDS loses best-effort messages of about 1 MB."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from scaleevent_ros.share_folder import share_folder

if TYPE_CHECKING:
    from pathlib import Path

PROFILE_VARIABLE = "FASTDDS_DEFAULT_PROFILES_FILE"
OLD_PROFILE_VARIABLE = "FASTRTPS_DEFAULT_PROFILES_FILE"
"""Name of the variable before Fast DDS 3, which accepts it with a warning."""
PROFILE_VARIABLES = (PROFILE_VARIABLE, OLD_PROFILE_VARIABLE)


def large_messages_profile() -> Path:
    """Return the path of a Fast DDS profile whose shared memory fits images and event packets."""
    return share_folder() / "config" / "fastdds_large_messages.xml"


def profile_environment() -> dict[str, str]:
    """Return the variable and value that select this package's profile; empty if one is set."""
    if any(os.environ.get(variable) for variable in PROFILE_VARIABLES):
        return {}
    old = os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy")
    return {OLD_PROFILE_VARIABLE if old else PROFILE_VARIABLE: str(large_messages_profile())}


def transport_warning() -> str | None:
    """Return a warning if the middleware's settings lose large messages, else None.

    `rclpy` is imported here, since launch files import this module without it.
    """
    from rclpy.utilities import get_rmw_implementation_identifier

    if not get_rmw_implementation_identifier().startswith("rmw_fastrtps"):
        return None
    if not (missing := profile_environment()):
        return None
    (setting,) = (f"{name}={value}" for name, value in missing.items())
    return (
        "Fast DDS runs with its default settings and loses best-effort messages of about 1 MB: set "
        f"{setting} in every process of the graph"
    )
