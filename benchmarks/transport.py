"""Losses and ages of feature messages between two processes.

One process publishes a ViT-S's features as images (`32FC384`, 40x30: 1.84 MB) like the perception
node, reliable with a history of four. The other subscribes and records each message's counter and
age. Run it with and without `FASTDDS_DEFAULT_PROFILES_FILE` (which `env.sh` sets) to compare.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import rclpy
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from scaleevent_ros.nodes.images import array_to_cdr

TOPIC = "/scaleevent_transport/features"
WIDTH, HEIGHT, CHANNELS = 40, 30, 384
QOS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=4, reliability=ReliabilityPolicy.RELIABLE)
QUIET_S = 3.0  # time without a message after which the run ends


def send(rate: float, seconds: float) -> None:
    """Publish at a fixed rate once there is a subscriber, and print the number of messages."""
    node = rclpy.create_node("transport_sender")
    publisher = node.create_publisher(Image, TOPIC, QOS)
    while not publisher.get_subscription_count():
        time.sleep(0.05)
    time.sleep(1)  # the receiver may discover the sender later
    features = np.zeros((HEIGHT, WIDTH, CHANNELS), np.float32)
    count = round(rate * seconds)
    begin = time.perf_counter()
    for number in range(count):
        time.sleep(max(begin + number / rate - time.perf_counter(), 0))
        cdr = array_to_cdr(features, f"32FC{CHANNELS}", time.time_ns(), str(number))
        publisher.publish(cdr)
    took = time.perf_counter() - begin
    time.sleep(QUIET_S)
    print(json.dumps({"sent": count, "megabytes": features.nbytes / 1e6, "seconds": took}))


def receive() -> tuple[list[int], list[float]]:
    """Receive messages until no more arrive; return their counters and ages in ms."""
    node = rclpy.create_node("transport_receiver")
    numbers: list[int] = []
    ages: list[float] = []

    def arrived(message: Image) -> None:
        stamp = message.header.stamp
        ages.append((time.time_ns() - stamp.sec * 10**9 - stamp.nanosec) / 1e6)
        numbers.append(int(message.header.frame_id))

    node.create_subscription(Image, TOPIC, arrived, QOS)
    last, seen = time.monotonic() + 30, 0  # time for discovery
    while time.monotonic() < last + QUIET_S:
        rclpy.spin_once(node, timeout_sec=0.1)
        if len(numbers) > seen:
            last, seen = time.monotonic(), len(numbers)
    return numbers, ages


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=30.0, help="messages per second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--send", action="store_true", help=argparse.SUPPRESS)  # the other role
    arguments = parser.parse_args()
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    rclpy.init(args=[])
    if arguments.send:
        send(arguments.rate, arguments.seconds)
    else:
        profile = Path(os.environ.get("FASTDDS_DEFAULT_PROFILES_FILE", "none")).name
        options = ["--send", "--rate", str(arguments.rate), "--seconds", str(arguments.seconds)]
        with subprocess.Popen(
            [sys.executable, __file__, *options], stdout=subprocess.PIPE, text=True
        ) as sender:
            numbers, ages = receive()
            said = json.loads(sender.communicate()[0])
        p50, p99 = np.percentile(ages, (50, 99)) if ages else (np.nan, np.nan)
        arrived = len(set(numbers))
        print("| profile | MB | Hz | sent | arrived | lost | age p50 ms | age p99 ms |")
        print("|---|---|---|---|---|---|---|---|")
        print(
            f"| {profile} | {said['megabytes']:.2f} | {said['sent'] / said['seconds']:.1f} | "
            f"{said['sent']} | {arrived} | {said['sent'] - arrived} | {p50:.1f} | {p99:.1f} |"
        )
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
