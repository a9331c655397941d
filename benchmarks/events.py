"""Speed of decoding and accumulating event packets on one core, compared with the `evt3` wheel.

Runs of all contestants are interleaved, and medians are printed. Streams are synthetic: `single`
has random pixels, with a new row for each event and a new time for every second one (2.5 words per
event); `vector` has groups of 32 columns, of which a share is active (VECT_12, VECT_12, VECT_8).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from typing import TYPE_CHECKING

import evt3
import numpy as np

from scaleevent_ros.events import (
    EventBatch,
    WindowAccumulator,
    encode_evt2,
    encode_evt3,
    make_decoder,
    warm_up,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

SIZES = ((640, 480), (1280, 720))
RATE = 50_000_000
"""Events per second on the sensor's clock, in streams that are accumulated."""


def clock_words(
    us: NDArray[np.int64], high_kind: int = 8, low_kind: int = 6
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Create TIME_HIGH and TIME_LOW words [N, 2] for times, and a mask of the needed ones."""
    high, low = us >> 12 & 0xFFF, us & 0xFFF
    due = np.empty((len(us), 2), bool)
    due[:, 0] = np.diff(high, prepend=-1) != 0
    due[:, 1] = np.diff(us, prepend=-1) != 0
    return np.stack([high_kind << 12 | high, low_kind << 12 | low], axis=1), due


def single_stream(events: int, width: int, height: int) -> bytes:
    """Create EVT3 words of random single events."""
    rng = np.random.default_rng(1)
    clock, due = clock_words(np.cumsum(rng.integers(0, 2, events)))
    row = rng.integers(0, height, events)
    column = 2 << 12 | rng.integers(0, 2, events) << 11 | rng.integers(0, width, events)
    words = np.column_stack([clock, row, column]).astype("<u2")
    kept = np.column_stack([due, np.ones((events, 2), bool)])
    return bytes(words[kept])


def vector_stream(events: int, width: int, height: int, share: float) -> bytes:
    """Create EVT3 words of random groups of 32 columns, of which a share is active."""
    rng = np.random.default_rng(2)
    groups = int(events / (32 * share))
    clock, due = clock_words(np.cumsum(rng.integers(0, 3, groups)))
    row = rng.integers(0, height, groups)
    base = 3 << 12 | rng.integers(0, 2, groups) << 11 | rng.integers(0, width // 32, groups) * 32
    valid = np.packbits(rng.random((groups, 32)) < share, axis=1).view("<u4")[:, 0].astype(np.int64)
    vectors = [4 << 12 | valid & 0xFFF, 4 << 12 | valid >> 12 & 0xFFF, 5 << 12 | valid >> 24]
    words = np.column_stack([clock, row, base, *vectors]).astype("<u2")
    kept = np.column_stack([due, np.ones((groups, 5), bool)])
    return bytes(words[kept])


def random_batch(events: int, width: int, height: int) -> EventBatch:
    """Draw random events at `RATE`, half of them in short runs along a row, as from edges."""
    rng = np.random.default_rng(3)
    length = np.where(rng.random(events) < 0.1, 10, 1)
    length = length[: np.searchsorted(np.cumsum(length), events) + 1]

    def spread(values: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.repeat(values, length)[:events]

    within = (np.arange(len(spread(length))) - spread(np.cumsum(length) - length))[:events]
    runs = len(length)
    return EventBatch(
        (spread(rng.integers(0, width - 10, runs)) + within).astype(np.uint16),
        spread(rng.integers(0, height, runs)).astype(np.uint16),
        spread(np.arange(runs) * (events * 10**9 // RATE // runs)),
        spread(rng.integers(0, 2, runs)).astype(np.uint8),
        width,
        height,
    )


def cut(payload: bytes, size: int) -> list[bytes]:
    """Cut a stream into packets."""
    return [payload[start : start + size] for start in range(0, len(payload), size)]


def decode(packets: list[bytes], encoding: str, width: int, height: int) -> int:
    """Decode packets with this package; return the number of events."""
    decoder = make_decoder(encoding, width, height)
    return sum(len(decoder.decode(packet)) for packet in packets)


def decode_in_rust(packets: list[bytes], width: int, height: int) -> int:
    """Decode packets with the `evt3` wheel; return the number of events."""
    decoder = evt3.Decoder(sensor_width=width, sensor_height=height)
    return sum(len(decoder.feed(packet)) for packet in packets)


def accumulate(packets: list[bytes], width: int, height: int) -> int:
    """Decode packets and accumulate their events in a window of 5 bins; return their number."""
    decoder = make_decoder("evt3", width, height)
    accumulator = WindowAccumulator(height, width)
    events = 0
    for packet in packets:
        batch = decoder.decode(packet)
        accumulator.push(batch)
        events += len(batch)
    return events


def rates(contestants: dict[str, Callable[[], int]], runs: int) -> dict[str, float]:
    """Run contestants in turn; return the median rate of each, in million events per second.

    Raises:
        RuntimeError: If they return different numbers of events.
    """
    seen: dict[str, list[float]] = {name: [] for name in contestants}
    counts = {name: contest() for name, contest in contestants.items()}
    if len(set(counts.values())) > 1:
        msg = f"contestants return different numbers of events: {counts}"
        raise RuntimeError(msg)
    for _ in range(runs):
        for name, contest in contestants.items():
            started = time.perf_counter()
            events = contest()
            seen[name].append(events / (time.perf_counter() - started) / 1e6)
    return {name: statistics.median(values) for name, values in seen.items()}


def print_decoding(events: int, runs: int) -> None:
    """Print the rates of decoding EVT3, with this package and with the `evt3` wheel."""
    width, height = SIZES[0]
    streams = {
        "single": single_stream(events, width, height),
        "vector, 1/3 active": vector_stream(events, width, height, 1 / 3),
        "vector, 1/8 active": vector_stream(events, width, height, 1 / 8),
    }
    print("| EVT3 stream | chunks | Mev/s | `evt3` | ratio |\n|---|---|---|---|---|")
    for name, payload in streams.items():
        for size in (8 << 10, 64 << 10):
            packets = cut(payload, size)
            found = rates(
                {
                    "ours": partial(decode, packets, "evt3", width, height),
                    "evt3": partial(decode_in_rust, packets, width, height),
                },
                runs,
            )
            ratio = found["ours"] / found["evt3"]
            print(
                f"| {name} | {size >> 10} KB | {found['ours']:.0f} | {found['evt3']:.0f} "
                f"| {ratio:.2f} |"
            )


def print_overhead() -> None:
    """Print the duration of decoding a packet without events."""
    decoder = make_decoder("evt3", *SIZES[0])
    packet = b"\x00\x80"
    calls = 20_000
    seconds = []
    for _ in range(7):
        started = time.perf_counter()
        for _ in range(calls):
            decoder.decode(packet)
        seconds.append((time.perf_counter() - started) / calls)
    print(f"\nA packet costs {statistics.median(seconds) * 1e6:.1f} µs beyond its events.")


def print_encodings(events: int, runs: int) -> None:
    """Print the rates of decoding the other encodings, in packets of 64 KB."""
    width, height = SIZES[0]
    batch = random_batch(events, width, height)
    halves = np.empty((events, 2), "<u4")
    halves[:, 0] = batch.x.astype("<u4") << 17 | batch.y.astype("<u4") << 2 | batch.p << 1
    halves[:, 1] = batch.t // 1000
    mono = np.empty((events, 2), "<u4")
    mono[:, 0] = batch.t
    mono[:, 1] = batch.p.astype("<u4") << 31 | batch.y.astype("<u4") << 16 | batch.x
    clock, due = clock_words(batch.t // 1000, 0, 1)
    address = 3 << 12 | batch.p.astype("<u2") << 11 | batch.y
    compressed = np.column_stack([clock, 2 << 12 | batch.x, address]).astype("<u2")
    compressed = compressed[np.column_stack([due, np.ones((events, 2), bool)])]
    vectors = np.empty((events // 4, 2), "<u4")
    vectors[:, 0] = np.packbits(
        np.random.default_rng(4).random((len(vectors), 32)) < 1 / 8, axis=1
    ).view("<u4")[:, 0]
    vectors[:, 1] = batch.x[::4].astype("<u4") // 32 << 16 | batch.y[::4]
    vectors[::100] = 0, 8 << 28
    streams = {
        "evt2": encode_evt2(batch),
        "evt21": vectors.tobytes(),
        "libcaer": halves.tobytes(),
        "libcaer_cmp": compressed.tobytes(),
        "mono": mono.tobytes(),
    }
    print("\n| encoding, 64 KB | Mev/s |\n|---|---|")
    for name, payload in streams.items():
        contest = partial(decode, cut(payload, 64 << 10), name, width, height)
        print(f"| {name} | {rates({name: contest}, runs)[name]:.0f} |")


def print_end_to_end(events: int, runs: int) -> None:
    """Print the rates of decoding and accumulating, in packets of 64 KB."""
    print("\n| decoded and accumulated, 64 KB | Mev/s |\n|---|---|")
    for width, height in SIZES:
        packets = cut(encode_evt3(random_batch(events, width, height)), 64 << 10)
        contest = partial(accumulate, packets, width, height)
        found = rates({"ours": contest}, runs)["ours"]
        print(f"| {width}x{height} | {found:.0f} |")


FIRST_PACKET = """
import time
started = time.perf_counter()
from scaleevent_ros.events import make_decoder, warm_up
imported = time.perf_counter()
warm_up()
warm = time.perf_counter()
make_decoder("evt3", 640, 480).decode(bytes(range(256)) * 40)
print(imported - started, warm - imported, time.perf_counter() - warm)
"""


def print_first_packet() -> None:
    """Print the durations of a node's imports, of `warm_up` and of its first packet."""
    print("\n| fresh process | import | `warm_up()` | first packet |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"NUMBA_CACHE_DIR": cache}
        for name in ("nothing compiled yet", "compiled, on disk"):
            run = subprocess.run(
                [sys.executable, "-c", FIRST_PACKET],
                env=environment,
                check=True,
                capture_output=True,
                text=True,
            )
            times = " | ".join(f"{1000 * float(value):.1f} ms" for value in run.stdout.split())
            print(f"| {name} | {times} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--core", type=int, default=0, help="core of the processor to run on")
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.core})
    warm_up()
    print_decoding(options.events, options.runs)
    print_overhead()
    print_first_packet()
    print_encodings(options.events, options.runs)
    print_end_to_end(options.events, options.runs)


if __name__ == "__main__":
    main()
