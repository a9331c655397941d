"""CPU load, memory and lost messages of the recorder node over DDS.

A process publishes event packets and images at fixed rates, the recorder records them, and the
messages of the bag are counted. `--scale` multiplies both rates; give several to find the limit.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from mcap.reader import make_reader

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "test" / "support")]

from scaleevent_ros.bags.messages import (  # noqa: E402 - found through the path above
    EVENT_PACKET,
    EventPacketView,
    ImageView,
    parse_event_packet,
    parse_image,
    serialize_event_packet,
    serialize_image,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

EVENTS_TOPIC, IMAGE_TOPIC = "/event_camera/events", "/camera/image_raw"
WIDTH, HEIGHT = 640, 480


class Load(NamedTuple):
    """Messages that are published: duration, rates, sizes in bytes, and reliability."""

    seconds: float
    event_hz: float
    event_bytes: int
    image_hz: float
    image_bytes: int
    reliability: str

    @property
    def mb_per_s(self) -> float:
        """Payload of both topics, in MB/s."""
        return (self.event_hz * self.event_bytes + self.image_hz * self.image_bytes) / 1e6


class Outcome(NamedTuple):
    """Measurements of one load.

    Attributes:
        published: Number of published messages.
        late_ms: Largest delay of publishing a message, in ms.
        recorded: Number of different messages in the bag.
        cores: Load of the recorder, in cores.
        peak_mb: Peak memory of the recorder in MB.
    """

    published: int
    late_ms: float
    recorded: int
    cores: float
    peak_mb: float


def event_payload(size: int) -> bytes:
    """Create EVT3 words of a busy scene: a time, then rows with single events along them."""
    rng = np.random.default_rng(0)
    words = rng.integers(0, WIDTH, size // 2).astype("<u2") | 0x2000  # ADDR_X
    words[::8] = rng.integers(0, HEIGHT, words[::8].size)  # ADDR_Y
    words[1::64] = 0x6000 | np.arange(words[1::64].size) % 4096  # TIME_LOW
    words[0] = 0x8000  # TIME_HIGH
    return words.tobytes()


def schedule(load: Load) -> Iterator[tuple[float, str, int]]:
    """List the messages in order of time: time in s, topic, counter."""
    due = [
        (number / rate, topic, number)
        for rate, topic in ((load.event_hz, EVENTS_TOPIC), (load.image_hz, IMAGE_TOPIC))
        for number in range(round(load.seconds * rate))
    ]
    return iter(sorted(due))


def publish(load: Load) -> None:
    """Publish a load; print the number of messages and the largest delay in ms."""
    import rclpy
    from event_camera_msgs.msg import EventPacket
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image

    rclpy.init()
    node = rclpy.create_node("load")
    qos = QoSProfile(depth=100, reliability=ReliabilityPolicy[load.reliability.upper()])
    publishers = {
        EVENTS_TOPIC: node.create_publisher(EventPacket, EVENTS_TOPIC, qos),
        IMAGE_TOPIC: node.create_publisher(Image, IMAGE_TOPIC, qos),
    }
    packet = EventPacketView(
        0, "events", HEIGHT, WIDTH, 0, 0, "evt3", False, event_payload(load.event_bytes)
    )
    step = WIDTH * 3
    image = ImageView(
        0, "", load.image_bytes // step, WIDTH, "rgb8", False, step, bytes(load.image_bytes)
    )
    while not all(publisher.get_subscription_count() for publisher in publishers.values()):
        time.sleep(0.05)
    time.sleep(1.0)
    sys.stdout.write("go\n")
    sys.stdout.flush()
    start, late, sent = time.perf_counter(), 0.0, 0
    for due, topic, number in schedule(load):
        wait = start + due - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        late = max(late, -wait)
        stamp = time.time_ns()
        if topic == EVENTS_TOPIC:
            message = serialize_event_packet(packet._replace(stamp_ns=stamp, seq=number))
        else:
            # The frame id carries the counter, which is read without decoding pixels.
            message = serialize_image(image._replace(stamp_ns=stamp, frame_id=str(number)))
        publishers[topic].publish(message)
        sent += 1
    sys.stdout.write(f"{sent} {late * 1e3}\n")
    sys.stdout.flush()
    time.sleep(2.0)
    rclpy.shutdown()


def counters(bag: Path) -> dict[str, list[int]]:
    """Read the counters of a bag's messages, by topic."""
    found: dict[str, list[int]] = {EVENTS_TOPIC: [], IMAGE_TOPIC: []}
    for file in sorted(bag.glob("*.mcap")):
        with file.open("rb") as stream:
            for schema, channel, message in make_reader(stream).iter_messages():
                assert schema
                if schema.name == EVENT_PACKET:
                    found[channel.topic].append(parse_event_packet(message.data).seq)
                else:
                    found[channel.topic].append(int(parse_image(message.data).frame_id))
    return found


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process in s, over all cores."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mb(pid: int) -> float:
    """Return the peak memory of a process in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError


def measure(load: Load, folder: Path, parameters: dict[str, Any]) -> Outcome:
    """Record a load in a folder and count the recorded messages."""
    from ros_processes import Graph

    with Graph() as graph:
        recorder = graph.start(
            "scaleevent_ros.nodes.recorder",
            parameters={"output_folder": str(folder), "name": "bag", **parameters},
        )
        command = [sys.executable, __file__, "--publish", *map(str, load)]
        with subprocess.Popen(
            command, env=graph.environment, stdout=subprocess.PIPE, text=True
        ) as publisher:
            assert publisher.stdout
            assert publisher.stdout.readline() == "go\n"
            pid = recorder.process.pid
            cpu, start = cpu_seconds(pid), time.perf_counter()
            published, late_ms = publisher.stdout.readline().split()
            cores = (cpu_seconds(pid) - cpu) / (time.perf_counter() - start)
            publisher.wait()
        peak = peak_mb(pid)
        recorder.process.send_signal(signal.SIGINT)
        recorder.wait()
    found = counters(folder / "bag")
    recorded = sum(len(set(numbers)) for numbers in found.values())
    return Outcome(int(published), float(late_ms), recorded, cores, peak)


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--scale", type=float, nargs="+", default=[1.0])
    parser.add_argument("--reliability", nargs="+", default=["best_effort"])
    parser.add_argument("--compression", default="none", help="compression: none, lz4 or zstd")
    parser.add_argument("--folder", type=Path, help="folder for the bags")
    parser.add_argument("--publish", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.publish:
        seconds, event_hz, event_bytes, image_hz, image_bytes, reliability = options.publish
        publish(
            Load(
                float(seconds),
                float(event_hz),
                int(event_bytes),
                float(image_hz),
                int(image_bytes),
                reliability,
            )
        )
        return
    print("| MB/s | messages/s | QoS | published | lost | cores | peak MB | largest delay, ms |")
    print("|---|---|---|---|---|---|---|---|")
    for reliability in options.reliability:
        for scale in options.scale:
            load = Load(options.seconds, 200 * scale, 100_000, 40 * scale, 921_600, reliability)
            folder = Path(tempfile.mkdtemp(dir=options.folder))
            try:
                outcome = measure(load, folder, {"compression": options.compression})
            finally:
                shutil.rmtree(folder)
            print(
                f"| {load.mb_per_s:.0f} | {load.event_hz + load.image_hz:.0f} | {reliability} "
                f"| {outcome.published} | {outcome.published - outcome.recorded} "
                f"| {outcome.cores:.2f} | {outcome.peak_mb:.0f} | {outcome.late_ms:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
