"""Speed and memory of converting large recordings to bags, and bags to shards.

Each recording has random events at 20 Mev/s, and frames at 25 Hz if the format has frames. It is
written, converted in a separate process, and removed. The memory is the peak resident size of that
process.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import h5py
import numpy as np

from scaleevent_ros.events import EventBatch, make_encoder
from scaleevent_ros.sources.convert import ConvertOptions, convert
from scaleevent_ros.sources.recording import FRAMES_TOPIC, ReadOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH, HEIGHT = 1280, 720
RATE = 20_000_000
CHUNK = 1 << 20
FRAME_RATE = 25


class Run(NamedTuple):
    """Result of a conversion: seconds, peak memory in bytes, events, and bytes of the bag."""

    seconds: float
    memory: int
    events: int
    written: int


def chunks(count: int) -> Iterator[EventBatch]:
    """Create batches of random events, with four successive ones in each row."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, WIDTH, CHUNK).astype(np.uint16)
    y = np.repeat(rng.integers(0, HEIGHT, CHUNK // 4).astype(np.uint16), 4)
    p = rng.integers(0, 2, CHUNK).astype(np.uint8)
    for start in range(0, count, CHUNK):
        t_us = np.arange(start, start + CHUNK) * 1_000_000 // RATE
        yield EventBatch(x, y, t_us * 1000, p, WIDTH, HEIGHT)


def write_raw(path: Path, size: int) -> None:
    """Write a Prophesee RAW file of a size in bytes, in EVT3."""
    encoder = make_encoder("evt3")
    with path.open("wb") as file:
        file.write(f"% format EVT3;height={HEIGHT};width={WIDTH}\n% end\n".encode())
        for batch in chunks(sys.maxsize):
            if file.tell() >= size:
                return
            file.write(encoder.encode(batch))


def write_m3ed(path: Path, size: int) -> None:
    """Write an HDF5 file like M3ED's, with 13 bytes per event and colour frames of 1280x800."""
    count = int(size / (13 + 1280 * 800 * 3 * FRAME_RATE / RATE)) // CHUNK * CHUNK
    frames = count * FRAME_RATE // RATE
    with h5py.File(path, "w") as file:
        group = file.create_group("prophesee/left")
        for name, dtype in (("x", "u2"), ("y", "u2"), ("t", "i8"), ("p", "i1")):
            group.create_dataset(name, (count,), dtype, chunks=(CHUNK,))
        for index, batch in enumerate(chunks(count)):
            part = slice(index * CHUNK, (index + 1) * CHUNK)
            for name in "xyp":
                group[name][part] = getattr(batch, name)
            group["t"][part] = batch.t // 1000
        file["ovc/ts"] = np.arange(1, frames + 1) * 1_000_000 // FRAME_RATE
        shape = (frames, 800, 1280, 3)
        data = file.create_dataset("ovc/rgb/data", shape, "u1", chunks=(1, 800, 1280, 3))
        picture = np.random.default_rng(1).integers(0, 256, shape[1:], np.uint8)
        for index in range(frames):
            data[index] = picture


def write_text(path: Path, size: int) -> None:
    """Write a text file of lines ``t x y p``."""
    with path.open("w") as file:
        for batch in chunks(sys.maxsize):
            if file.tell() >= size:
                return
            rows = zip(batch.t.tolist(), batch.x, batch.y, batch.p, strict=True)
            file.writelines(f"{t / 1e9:.6f} {x} {y} {p}\n" for t, x, y, p in rows)


WRITERS = {"raw": write_raw, "m3ed": write_m3ed, "text": write_text}


def name_of(kind: str) -> str:
    """Return the file name by which the format is recognized."""
    return {"raw": "a.raw", "m3ed": "a_data.h5", "text": "events.txt"}[kind]


def measure(source: Path, bag: Path) -> Run:
    """Convert a recording to a bag; run in a separate process."""
    read = ReadOptions(WIDTH, HEIGHT) if source.is_dir() else ReadOptions()
    start = time.perf_counter()
    convert(source, bag, ConvertOptions(read))
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text()
    memory = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    state = json.loads((bag / "conversion.json").read_text())
    written = sum(path.stat().st_size for path in bag.iterdir())
    return Run(seconds, memory, sum(part["events"] for part in state["parts"]), written)


def measure_shards(bag: Path, workers: list[int]) -> None:
    """Write the pairs of a bag as shards with several numbers of workers, and print durations."""
    from scaleevent_ros.data.indexed_bag import BagOptions
    from scaleevent_ros.data.sharding import ShardOptions, count_pairs, write_shards

    options = ShardOptions(samples=20, bags=BagOptions(frames_topic=FRAMES_TOPIC))
    start = time.perf_counter()
    pairs = count_pairs(bag, options)
    assert isinstance(pairs, int)
    print(f"times of {pairs} pairs read in {time.perf_counter() - start:.1f} s, once for a bag")
    for count in workers:
        out = bag.with_name("shards")
        start = time.perf_counter()
        manifest = write_shards(str(bag), out, options, workers=count)
        seconds = time.perf_counter() - start
        samples = sum(shard.samples for shard in manifest.shards)
        print(f"shards, {count} workers: {samples} samples in {seconds:.1f} s")
        shutil.rmtree(out)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=2.0, help="size of a recording in GB")
    parser.add_argument("--kinds", nargs="+", default=["raw", "m3ed"], choices=list(WRITERS))
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[1, 2], help="processes for shards"
    )
    parser.add_argument("--folder", type=Path, default=None, help="folder to write to")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        print("recording      size   events   seconds   Mev/s   MB/s   peak memory   bag")
        for kind in arguments.kinds:
            source = folder / kind
            source.mkdir()
            WRITERS[kind](source / name_of(kind), int(arguments.gb * 1e9))
            size = sum(path.stat().st_size for path in source.iterdir())
            place = source if kind == "text" else source / name_of(kind)
            with get_context("spawn").Pool(1) as pool:
                run = pool.apply(measure, (place, folder / f"{kind}_bag"))
            print(
                f"{kind:<10}{size / 1e9:>6.2f} GB{run.events / 1e6:>7.0f} M{run.seconds:>10.1f}"
                f"{run.events / 1e6 / run.seconds:>8.1f}{size / 1e6 / run.seconds:>7.0f}"
                f"{run.memory / 1e6:>11.0f} MB{run.written / 1e9:>6.2f} GB"
            )
            shutil.rmtree(source)
            if kind == "m3ed":
                measure_shards(folder / "m3ed_bag", arguments.workers)
            shutil.rmtree(folder / f"{kind}_bag")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
