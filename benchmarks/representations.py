"""Speed of representations, normalizations, windows, and the sensor's clock.

All run on one core of the CPU, representations also on a GPU if there is one. Contestants are
interleaved, and medians are printed. Streams of 10 million events are `uniform` (random pixels, the
worst case for caches) or `edges` (around 2000 points, like the edges of a scene).
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scaleevent_ros.events import (
    NORMALIZATIONS,
    REPRESENTATIONS,
    EventBatch,
    InputSpec,
    SensorClock,
    WindowAccumulator,
    encode_evt3,
    fit_clock,
    make_decoder,
    normalize_tensor,
    patch_counts,
    represent,
    voxel_grid,
)
from scaleevent_ros.events.leaky import LEAKY_DECAYS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

SIZES = ((640, 480), (1280, 720))
BINS = 5
MS = 1_000_000


def make_events(kind: str, events: int, width: int, height: int, rate: float = 1e8) -> EventBatch:
    """Draw random events, ``rate`` per second, at times of whole microseconds."""
    rng = np.random.default_rng(1)
    if kind == "uniform":
        x, y = rng.integers(0, width, events), rng.integers(0, height, events)
    else:
        point = rng.integers(0, 2000, events)
        x = (rng.integers(0, width, 2000)[point] + rng.normal(0, 3, events)).clip(0, width - 1)
        y = (rng.integers(0, height, 2000)[point] + rng.normal(0, 3, events)).clip(0, height - 1)
    t = np.sort(rng.integers(0, int(events / rate * 1e6), events)) * 1000
    p = rng.integers(0, 2, events)
    return EventBatch(x.astype("u2"), y.astype("u2"), t, p.astype("u1"), width, height)


def medians(
    contestants: dict[str, Callable[[], object]],
    runs: int,
    clock: Callable[[], float] = time.thread_time,
) -> dict[str, float]:
    """Run contestants in turn, and return the median seconds of each.

    The default clock is processor time, which other programs on the same core do not affect.
    """
    seen: dict[str, list[float]] = {name: [] for name in contestants}
    for run in range(runs + 1):
        for name, contest in contestants.items():
            started = clock()
            contest()
            if run:
                seen[name].append(clock() - started)
    return {name: statistics.median(values) for name, values in seen.items()}


def print_representations(events: int, runs: int) -> None:
    """Print the rates of representations on the CPU."""
    names = [*REPRESENTATIONS, "patch counts"]
    print(f"| Mev/s, {BINS} bins | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for width, height in SIZES:
        for kind in ("uniform", "edges"):
            batch = make_events(kind, events, width, height)
            end = int(batch.t[-1]) + 1
            found = medians(
                {name: partial(represent, name, batch, 0, end, BINS) for name in REPRESENTATIONS}
                | {"patch counts": partial(patch_counts, batch)},
                runs,
            )
            rates = " | ".join(f"{events / found[name] / 1e6:.0f}" for name in names)
            print(f"| {width}x{height} {kind} | {rates} |")


def print_normalizations(runs: int) -> None:
    """Print the duration of normalizing a voxel grid of 3 bins with a third of pixels active."""
    print(f"\n| ms a tensor of 3 bins | {' | '.join(NORMALIZATIONS[1:])} |\n|---|---|---|---|")
    for width, height in SIZES:
        batch = make_events("edges", 2_000_000, width, height)
        grid = voxel_grid(batch, 0, int(batch.t[-1]) + 1, 3)
        found = medians(
            {how: partial(normalize_tensor, grid, how) for how in NORMALIZATIONS[1:]}, runs
        )
        print(f"| {width}x{height} | {' | '.join(f'{s * 1e3:.1f}' for s in found.values())} |")


def push_all(accumulator: WindowAccumulator, payloads: list[bytes], batch: EventBatch) -> None:
    """Decode packets with a new decoder, and push their events."""
    decoder = make_decoder("evt3", batch.width, batch.height)
    for payload in payloads:
        accumulator.push(decoder.decode(payload))


def print_decoding_and_accumulating(events: int, runs: int) -> None:
    """Print the rate of decoding and accumulating, for a sensor that sends 100 Mev/s.

    The stream must be long enough that windows restart with each run, and events are not too late.
    """
    print("\n| EVT3 to windows, Mev/s | 8 KB packets | 64 KB packets |\n|---|---|---|")
    for width, height in SIZES:
        for kind in ("uniform", "edges"):
            batch = make_events(kind, events, width, height)
            data = encode_evt3(batch)
            accumulator = WindowAccumulator(height, width)
            found = medians(
                {
                    str(size): partial(
                        push_all,
                        accumulator,
                        [data[i : i + size] for i in range(0, len(data), size)],
                        batch,
                    )
                    for size in (8 << 10, 64 << 10)
                },
                runs,
            )
            if accumulator.stats.late_events:
                msg = "events were too late and left out, so the rates are invalid: use more events"
                raise RuntimeError(msg)
            rates = " | ".join(f"{events / seconds / 1e6:.0f}" for seconds in found.values())
            print(f"| {width}x{height} {kind}, {len(data) / events:.1f} B an event | {rates} |")


def print_windows(runs: int) -> None:
    """Print the duration of building a window and its scales, at rates from 1 to 100 Mev/s."""
    rates = (1e6, 1e7, 1e8)
    print(
        f"\n| ms a window of 50 ms, {BINS} bins, and its 99th percentiles | memory | push | "
        + " | ".join(f"{rate / 1e6:.0f} Mev/s" for rate in rates)
        + f" |\n|---|---|{'---|' * (len(rates) + 1)}"
    )
    specs = {
        "voxel": InputSpec("voxel", BINS),
        "voxel and leaky": InputSpec("voxel", BINS, leaky=LEAKY_DECAYS),
        "stacked_histogram": InputSpec("stacked_histogram", BINS),
    }

    def push(accumulator: WindowAccumulator, packets: list[EventBatch]) -> None:
        for packet in packets:
            accumulator.push(packet)

    def read(accumulator: WindowAccumulator, out: NDArray[np.float32]) -> None:
        accumulator.spec.scales(accumulator.window(None, out))

    for width, height in SIZES:
        columns: dict[str, list[str]] = {name: [] for name in specs}
        for rate in rates:
            kept = {name: WindowAccumulator(height, width, spec) for name, spec in specs.items()}
            batch = make_events("uniform", int(rate * 0.12), width, height, rate)
            for accumulator in kept.values():
                accumulator.push(batch)
            found = medians(
                {name: partial(read, each, each.window()) for name, each in kept.items()},
                max(10 * runs, 50),
            )
            for name, seconds in found.items():
                columns[name].append(f"{seconds * 1e3:.2f}")
        batch = make_events("uniform", 12_000_000, width, height)
        packets = [batch[i : i + 20_000] for i in range(0, len(batch), 20_000)]
        found = medians({name: partial(push, each, packets) for name, each in kept.items()}, runs)
        for name, accumulator in kept.items():
            print(
                f"| {width}x{height} {name} | {accumulator.memory_bytes >> 20} MiB "
                f"| {len(batch) / found[name] / 1e6:.0f} Mev/s | {' | '.join(columns[name])} |"
            )


def print_clock(recording: Path | None) -> None:
    """Print the clock's errors on synthetic stamps, and its residual on real ones."""
    print("\n| clock, 20 runs of 10 s | worst offset error | drift error, median / worst |")
    print("|---|---|---|")
    for shape in ("exponential", "uniform"):
        for rate in (250, 1000):
            offsets, drifts = [], []
            for seed in range(20):
                rng = np.random.default_rng(seed)
                count, drift = 10 * rate, rng.uniform(-1e-4, 1e-4)
                sensor = np.sort(rng.integers(0, 10**10, count))
                late = {
                    "exponential": rng.exponential(1.25, count),
                    "uniform": rng.uniform(0, 1.25 * 12**0.5, count),
                }[shape]
                strays = rng.random(count) < 0.05
                late[strays] += rng.uniform(-50, 50, strays.sum())
                host = sensor + (sensor * drift + late * MS).astype(np.int64)
                (segment,) = fit_clock(sensor, host)
                all_along = np.linspace(0, 10**10, 100).astype(np.int64)
                truth = all_along + all_along * drift
                offsets.append(np.abs(segment.fit.to_ros(all_along) - truth).max() / MS)
                drifts.append(abs(segment.fit.drift - drift) * 1e6)
            print(
                f"| {shape}, {rate} packets/s | {max(offsets):.3f} ms "
                f"| {statistics.median(drifts):.2f} / {max(drifts):.2f} ppm |"
            )
    clock = SensorClock()
    started = time.perf_counter()
    for index in range(50_000):
        clock.add(index * 4 * MS, index * 4 * MS + (index * 7919 % 1250) * 1000)
    print(f"\nA pair costs {(time.perf_counter() - started) / 50_000 * 1e6:.1f} µs.")
    if recording:
        from scaleevent_ros.bags import BagReader

        decoder = make_decoder("evt3", 640, 480)
        pairs = [
            (int(batch.t[0]), packet.stamp_ns)
            for _, packet in BagReader(recording).events()
            if len(batch := decoder.decode(packet.payload))
        ]
        sensor, host = np.array(pairs).T
        (segment,) = fit_clock(sensor, host)
        print(
            f"{recording.name}: {len(pairs)} packets, raw stamps' jitter "
            f"{np.std(host - sensor) / MS:.3f} ms, residual of the line "
            f"{segment.fit.residual_ns / MS:.3f} ms, drift {segment.fit.drift * 1e6:.0f} ppm."
        )


def print_device(events: int, runs: int) -> None:
    """Print a device's rates, with events already on it, and with uploads of batches."""
    import torch

    from scaleevent_ros.events.device import EventUploader, to_device

    gpu = torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"

    def wait() -> None:
        if gpu:
            torch.cuda.synchronize()

    name = torch.cuda.get_device_name() if gpu else "torch on the CPU"
    print(f"\n| Mev/s on {name} | on the device | upload and voxel grid |")
    print("|---|---|---|")
    for width, height in SIZES:
        batch = make_events("uniform", events, width, height)
        end = int(batch.t[-1]) + 1
        resident = to_device(batch, device)
        uploader = EventUploader(device, events)

        def compute(resident=resident, end=end) -> None:  # type: ignore[no-untyped-def]
            represent("voxel", resident, 0, end, BINS)
            wait()

        def stream(uploader=uploader, batch=batch, end=end) -> None:  # type: ignore[no-untyped-def]
            for _ in range(4):
                represent("voxel", uploader.upload(batch), 0, end, BINS)
            wait()

        found = medians({"compute": compute, "stream": stream}, runs, time.perf_counter)
        print(
            f"| {width}x{height} | {events / found['compute'] / 1e6:.0f} "
            f"| {4 * events / found['stream'] / 1e6:.0f} |"
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--core", type=int, default=0, help="core of the processor to run on")
    parser.add_argument("--recording", type=Path, help="bag of EVT3 packets, for the clock")
    parser.add_argument(
        "--gpu-only", action="store_true", help="only the GPU's rates, or torch's on the CPU"
    )
    options = parser.parse_args()
    if options.gpu_only:
        print_device(options.events, options.runs)
        return
    os.sched_setaffinity(0, {options.core})
    print_representations(options.events, options.runs)
    print_normalizations(options.runs)
    print_decoding_and_accumulating(12_000_000, options.runs)
    print_windows(options.runs)
    print_clock(options.recording)
    print_device(options.events, options.runs)


if __name__ == "__main__":
    main()
