"""Transport of large best-effort messages: settings of the middleware, and a test of it.

By default, Fast DDS loses best-effort messages of about 1 MB. `scaleevent doctor` runs this module
twice, once to receive and once to send: within one process the middleware would pass messages
without its transport. Launch files and `doctor` import this module without rclpy.
"""

from __future__ import annotations

import argparse
import array
import json
import os
import sys
import time
from typing import TYPE_CHECKING

from scaleevent_ros.share_folder import share_folder

if TYPE_CHECKING:
    from pathlib import Path

    from rclpy.qos import QoSProfile
    from sensor_msgs.msg import Image

PROFILE_VARIABLE = "FASTDDS_DEFAULT_PROFILES_FILE"
OLD_PROFILE_VARIABLE = "FASTRTPS_DEFAULT_PROFILES_FILE"
"""Name of the variable before Fast DDS 3, which accepts it with a warning."""
PROFILE_VARIABLES = (PROFILE_VARIABLE, OLD_PROFILE_VARIABLE)

MESSAGES = 10
BYTES = 4_000_000
PATIENCE_S = 15.0
IN_TRANSIT_S = 1.0  # for messages that arrive after the sender has gone


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
    """Return a warning if the middleware's settings lose large messages, else None."""
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


def receive(topic: str) -> dict[str, float]:
    """Count the messages that arrive, for at most `PATIENCE_S` or until the sender has gone.

    Returns:
        Number of complete messages (`received`), and their median age on arrival (`median_ms`).
    """
    import rclpy
    from sensor_msgs.msg import Image

    node = rclpy.create_node("scaleevent_loopback_receiver")
    ages: list[float] = []

    def arrived(message: Image) -> None:
        sent = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
        if len(message.data) == BYTES:
            ages.append(time.time() - sent)

    node.create_subscription(Image, topic, arrived, _best_effort())
    deadline = time.monotonic() + PATIENCE_S
    found = False
    while len(ages) < MESSAGES and time.monotonic() < deadline:
        rclpy.spin_once(node, timeout_sec=0.1)
        if node.count_publishers(topic):
            found = True
        elif found:
            deadline = min(deadline, time.monotonic() + IN_TRANSIT_S)
            found = False
    ages.sort()
    return {
        "received": len(ages),
        "median_ms": round(ages[len(ages) // 2] * 1e3, 2) if ages else 0.0,
    }


def send(topic: str) -> dict[str, float]:
    """Wait for the receiver for at most `PATIENCE_S`, then publish at 20 Hz.

    Returns:
        Number of published messages (`sent`); 0 without a receiver.
    """
    import rclpy
    from sensor_msgs.msg import Image

    node = rclpy.create_node("scaleevent_loopback_sender")
    publisher = node.create_publisher(Image, topic, _best_effort())
    deadline = time.monotonic() + PATIENCE_S
    while publisher.get_subscription_count() == 0:
        if time.monotonic() > deadline:
            return {"sent": 0}
        time.sleep(0.02)
    time.sleep(1)  # the receiver may discover the sender later
    message = Image(height=1000, width=4000, encoding="mono8", step=4000)
    message.data = array.array("B", bytes(BYTES))
    for _ in range(MESSAGES):
        now = time.time()
        message.header.stamp.sec, message.header.stamp.nanosec = int(now), int(now % 1 * 1e9)
        publisher.publish(message)
        time.sleep(0.05)
    return {"sent": MESSAGES}


def _best_effort() -> QoSProfile:
    from rclpy.qos import QoSProfile, ReliabilityPolicy

    return QoSProfile(depth=MESSAGES, reliability=ReliabilityPolicy.BEST_EFFORT)


def main() -> None:
    """Run one of the two roles of the test and print its result as JSON."""
    import rclpy

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("receive", "send"))
    parser.add_argument("topic")
    arguments = parser.parse_args()
    rclpy.init(args=[])
    role = receive if arguments.role == "receive" else send
    sys.stdout.write(json.dumps(role(arguments.topic)) + "\n")
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
