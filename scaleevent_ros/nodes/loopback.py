"""Test of the transport: large best-effort messages between two processes of this machine.

`scaleevent doctor` starts this module twice, once to receive and once to send: within one process
the middleware would pass messages without its transport.
"""

from __future__ import annotations

import argparse
import array
import json
import sys
import time

import rclpy
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

MESSAGES = 10
BYTES = 4_000_000
PATIENCE_S = 15.0
IN_TRANSIT_S = 1.0  # for messages that arrive after the sender has gone
BEST_EFFORT = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=MESSAGES, reliability=ReliabilityPolicy.BEST_EFFORT
)


def receive(topic: str) -> dict[str, float]:
    """Count the messages that arrive, for at most `PATIENCE_S` or until the sender has gone.

    Returns:
        Number of complete messages (`received`), and their median age on arrival (`median_ms`).
    """
    node = rclpy.create_node("scaleevent_loopback_receiver")
    ages: list[float] = []

    def arrived(message: Image) -> None:
        sent = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
        if len(message.data) == BYTES:
            ages.append(time.time() - sent)

    node.create_subscription(Image, topic, arrived, BEST_EFFORT)
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
    node = rclpy.create_node("scaleevent_loopback_sender")
    publisher = node.create_publisher(Image, topic, BEST_EFFORT)
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


def main() -> None:
    """Run one of the two roles and print its result as JSON."""
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
