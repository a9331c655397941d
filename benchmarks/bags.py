"""Rates of writing, reading, recovering and checking bags; with --large, of very large bags.

The bag has the load of a recorder: event packets of about 100 kB (EVT3, 640x480) at 200 Hz and
frames of 0.92 MB (rgb8, 640x480) at 40 Hz, together 57 MB/s.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np

from scaleevent_ros.bags import BagReader, BagWriter, recover
from scaleevent_ros.bags.check import check_bag
from scaleevent_ros.bags.messages import (
    EVENT_PACKET,
    IMAGE,
    EventPacketView,
    ImageView,
    serialize_event_packet,
    serialize_image,
)
from scaleevent_ros.bags.timeline import read_timeline
from scaleevent_ros.events import EventBatch, make_encoder
from scaleevent_ros.visuals.bag_report import write_report

WIDTH, HEIGHT = 640, 480
EPOCH_NS = 1_700_000_000_000_000_000
PACKET_NS, FRAME_NS = 5_000_000, 25_000_000
EVENTS_PER_PACKET = 27_000
EDGES = 12
SPEED = 400  # pixels per second


def make_packet(index: int, random: np.random.Generator) -> EventBatch:
    """Create a packet's events of vertical edges that move to the right, with noise."""
    t = np.sort(random.integers(0, PACKET_NS, EVENTS_PER_PACKET)) + index * PACKET_NS
    edge = random.integers(0, EDGES, EVENTS_PER_PACKET)
    x = (edge * WIDTH / EDGES + SPEED * t / 1e9 + random.normal(0, 2, len(t))) % WIDTH
    y = random.integers(0, HEIGHT, EVENTS_PER_PACKET)
    return EventBatch(
        x.astype(np.uint16),
        y.astype(np.uint16),
        t.astype(np.int64),
        (edge % 2).astype(np.uint8),
        WIDTH,
        HEIGHT,
    )


def make_messages(seconds: float) -> list[tuple[int, str, bytes]]:
    """Create all messages in order of time: record time in ns, topic, serialized message."""
    random = np.random.default_rng(0)
    encoder = make_encoder("evt3")
    messages = []
    for index in range(int(seconds * 1e9 / PACKET_NS)):
        payload = encoder.encode(make_packet(index, random))
        stamp = EPOCH_NS + index * PACKET_NS
        packet = EventPacketView(stamp, "camera", HEIGHT, WIDTH, index, 0, "evt3", False, payload)
        messages.append((stamp + PACKET_NS, "/events", serialize_event_packet(packet)))
    texture = random.integers(0, 40, (HEIGHT, WIDTH, 3))
    for index in range(int(seconds * 1e9 / FRAME_NS)):
        stamp = EPOCH_NS + index * FRAME_NS
        column = (np.arange(WIDTH) - SPEED * index * FRAME_NS / 1e9) % (2 * WIDTH / EDGES)
        bars = np.where(column < WIDTH / EDGES, 60, 180)[None, :, None]
        pixels = (texture + bars).astype(np.uint8)
        image = ImageView(
            stamp, "camera", HEIGHT, WIDTH, "rgb8", False, 3 * WIDTH, pixels.tobytes()
        )
        messages.append((stamp + FRAME_NS, "/image", serialize_image(image)))
    return sorted(messages)


def row(name: str, megabytes: float, wall: float, cpu: float) -> None:
    """Print a row of the table; times in s, with the share of a core at 57 MB/s."""
    rate = megabytes / wall
    print(f"| {name} | {wall:.2f} | {rate:.0f} | {57 * cpu / megabytes:.1%} |", flush=True)


def timed_write(messages: list[tuple[int, str, bytes]], path: Path, compression: str) -> None:
    """Write a bag and print the rate."""
    megabytes = sum(len(cdr) for _, _, cdr in messages) / 1e6
    wall, cpu = time.perf_counter(), time.process_time()
    with BagWriter(path, compression=compression) as writer:
        writer.add_topic("/events", EVENT_PACKET)
        writer.add_topic("/image", IMAGE)
        for record_ns, topic, cdr in messages:
            writer.write(topic, record_ns, cdr)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    row(f"write, {compression or 'no compression'}", megabytes, wall, cpu)


def timed_read(path: Path, megabytes: float, name: str) -> None:
    """Read a bag and print the rate."""
    wall, cpu = time.perf_counter(), time.process_time()
    reader = BagReader(path)
    opened = time.perf_counter() - wall
    total = sum(len(message.data) for message in reader.messages())
    assert abs(total / 1e6 - megabytes) < 1
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    row(f"{name} (opened in {1e3 * opened:.0f} ms)", megabytes, wall, cpu)


def timed_check(path: Path, megabytes: float) -> None:
    """Check a bag with its report, and print the rate and the peak memory of this process."""
    report = path.with_suffix(".html")
    wall, cpu = time.perf_counter(), time.process_time()
    quality = check_bag(BagReader(path))
    write_report(quality, report)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    row("check, with its report", megabytes, wall, cpu)
    print(f"\nThe check found {quality.usable} usable pairs among {quality.events.events:,} events")
    print(f"It needed {peak_mb():.0f} MB of memory")


def large_bags(folder: Path) -> None:
    """Time `scaleevent info` on a bag of 10 GB, and the timeline of an hour of packets at 1 kHz."""
    messages = make_messages(1)
    bag = folder / "ten_gigabytes"
    written, turn = 0, 0
    with BagWriter(bag, compression="") as writer:
        writer.add_topic("/events", EVENT_PACKET)
        writer.add_topic("/image", IMAGE)
        while written < 10_000_000_000:
            for record_ns, topic, cdr in messages:
                writer.write(topic, record_ns + turn * 1_000_000_000, cdr)
                written += len(cdr)
            turn += 1
    count = turn * len(messages)
    print(f"{written / 1e9:.1f} GB in {count:,} messages, {turn} s\n")
    for attempt in ("first", "second", "third"):
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [str(Path(sys.executable).parent / "scaleevent"), "info", str(bag), "--json"],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        assert json.loads(done.stdout)["messages"] == count
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"`scaleevent info`, {attempt} time: {seconds:.2f} s, {cpu:.2f} s of a core")
    shutil.rmtree(bag)

    bag = folder / "an_hour"
    random, encoder = np.random.default_rng(0), make_encoder("evt3")
    x, p = np.asarray([1, 2, 3, 4], np.uint16), np.asarray([0, 1, 0, 1], np.uint8)
    with BagWriter(bag, compression="") as writer:
        writer.add_topic("/events", EVENT_PACKET)
        for index in range(3_600_000):
            t = np.sort(random.integers(0, 1_000_000, 4)) + index * 1_000_000
            batch = EventBatch(x, x, t, p, WIDTH, HEIGHT)
            stamp = EPOCH_NS + (index + 1) * 1_000_000
            packet = EventPacketView(
                stamp, "camera", HEIGHT, WIDTH, index, 0, "evt3", False, encoder.encode(batch)
            )
            writer.write("/events", stamp, serialize_event_packet(packet))
    command = [sys.executable, __file__, "--timeline", str(bag)]
    subprocess.run(command, check=True)


def peak_mb() -> float:
    """Return the peak memory of this process in MB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024 / 1e6


def timed_timeline(path: Path) -> None:
    """Build the timeline of a bag of event packets, and print its memory and duration."""
    reader = BagReader(path)
    list(islice(reader.events(), 100))  # loads modules and compiled code
    before, start = peak_mb(), time.perf_counter()
    timeline = read_timeline(reader, with_frames=False)
    seconds, after = time.perf_counter() - start, peak_mb()
    held = sum(array.nbytes for array in timeline.to_arrays().values()) / 1e6
    print(
        f"\nTimeline of {reader.topics['/events'].count:,} packets over "
        f"{(timeline.end_ns - timeline.start_ns) / 1e9:.0f} s: {held:.0f} MB in arrays, "
        f"{after - before:.0f} MB more peak memory, {seconds:.0f} s"
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=18.0, help="length of the bag: 57 MB/s")
    parser.add_argument("--folder", type=Path, default=None, help="folder for the bags")
    parser.add_argument("--check", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--large", action="store_true", help="time large bags instead: 11 GB")
    parser.add_argument("--timeline", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.timeline:
        timed_timeline(options.timeline)
        return
    if options.large:
        with tempfile.TemporaryDirectory(dir=options.folder, prefix="bags_") as name:
            large_bags(Path(name))
        return
    if options.check:
        timed_check(Path(options.check[0]), float(options.check[1]))
        return
    messages = make_messages(options.seconds)
    megabytes = sum(len(cdr) for _, _, cdr in messages) / 1e6
    folder = Path(tempfile.mkdtemp(dir=options.folder, prefix="bags_"))
    print(f"{len(messages)} messages, {megabytes:.0f} MB\n")
    print("| what | s | MB/s | of a core at 57 MB/s |\n|---|---|---|---|")
    try:
        for compression in ("zstd", "lz4", ""):
            bag = folder / f"bag_{compression}"
            timed_write(messages, bag, compression)
            timed_read(bag, megabytes, f"read, {compression or 'no compression'}")
            if compression:
                shutil.rmtree(bag)
        messages.clear()
        (file,) = bag.glob("*.mcap")
        with file.open("r+b") as stream:
            stream.truncate(file.stat().st_size - 2000)
        timed_read(bag, megabytes, "read, truncated, without index")
        wall, cpu = time.perf_counter(), time.process_time()
        bag = recover(bag).path
        row("recover", megabytes, time.perf_counter() - wall, time.process_time() - cpu)
        # In a separate process, to measure its memory.
        command = [sys.executable, __file__, "--check", str(bag), str(megabytes)]
        subprocess.run(command, check=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
