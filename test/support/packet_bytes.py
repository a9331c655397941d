"""Bytes of event packets: made at random for each encoding, and taken from real recordings."""

from __future__ import annotations

import sqlite3
import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from mcap.reader import make_reader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

WORD_BYTES = {"evt3": 2, "evt2": 4, "evt21": 8, "libcaer": 8, "libcaer_cmp": 2, "mono": 8}


class Packet(NamedTuple):
    """An EventPacket as it stands in a bag."""

    height: int
    width: int
    time_base: int
    encoding: str
    payload: bytes


def random_payload(encoding: str, seed: int, count: int) -> bytes:
    """Create `count` words, mostly of known types, inside a sensor of 300x200, in order of time.

    The rest is padding, unknown types, addresses outside, and a clock that jumps.
    """
    rng = np.random.default_rng(seed)
    wild = rng.random(count) < 0.05
    low = np.sort(rng.integers(0, 4096, count))
    high = np.cumsum(rng.random(count) < 0.3)
    column, row, bright = rng.integers(0, [310, 205, 2], (count, 3)).T
    if encoding in ("evt3", "libcaer_cmp"):
        if encoding == "evt3":
            kinds = rng.choice([0, 2, 3, 4, 5, 6, 8, 10, 14, 9, 1], count)
            values = {0: row, 2: column | bright << 11, 3: column | bright << 11, 6: low, 8: high}
        else:
            kinds = rng.integers(0, 7, count)
            values = {0: high, 1: low, 2: column, 3: row | bright << 11, 4: row | bright << 11}
        value = rng.integers(0, 4096, count)
        for kind, known in values.items():
            value = np.where((kinds == kind) & ~wild, known & 0xFFF, value)
        words = kinds << 12 | value
        words[rng.random(count) < 0.02] = 0x9999
        return words.astype("<u2").tobytes()
    if encoding in ("evt2", "evt21"):
        kinds = rng.choice([0, 1, 8, 10, 14, 9], count, p=[0.35, 0.35, 0.2, 0.05, 0.03, 0.02])
        value = np.where(kinds == 8, high + 12345, (low & 0x3F) << 22 | column << 11 | row)
        value = np.where(wild, rng.integers(0, 1 << 28, count), value)
        words = (kinds << 28 | value).astype("<u4")
        words[rng.random(count) < 0.02] = 0x99999999
        if encoding == "evt2":
            return words.tobytes()
        valid = np.where(kinds == 8, 0, rng.integers(0, 1 << 32, count)).astype("<u4")
        halves = [words, valid] if seed % 2 else [valid, words]
        return np.stack(halves, axis=1).tobytes()
    time = np.where(wild, rng.integers(0, 1 << 32, count), (1 << 31) - 20_000 + 10 * low)
    if encoding == "libcaer":
        halves = [column << 17 | row << 2 | bright << 1, time]
    else:
        halves = [time, bright << 31 | row << 16 | column]
    return np.stack(halves, axis=1).astype("<u4").tobytes()


def evt3_words(*words: tuple[int, int]) -> bytes:
    """Join words of a type and 12 bits."""
    return np.array([kind << 12 | value for kind, value in words], "<u2").tobytes()


def parse_packet(message: bytes) -> Packet:
    """Take an EventPacket from its serialized form (CDR, little-endian)."""
    body = message[4:]
    position = 8

    def take(code: str) -> int:
        nonlocal position
        size = struct.calcsize(code)
        position += -position % size + size
        return int(struct.unpack_from(f"<{code}", body, position - size)[0])

    def take_bytes() -> bytes:
        nonlocal position
        size = take("I")
        position += size
        return body[position - size : position]

    take_bytes()
    height, width = take("I"), take("I")
    take("Q")
    time_base = take("Q")
    encoding = take_bytes().rstrip(b"\0").decode()
    take("B")
    return Packet(height, width, time_base, encoding, take_bytes())


def evt3_recording(folder: Path) -> Iterator[Packet]:
    """Read the EVT3 bag."""
    bag = folder / "bags" / "evt3_640x480" / "test_events_1.db3"
    connection = sqlite3.connect(f"file:{bag}?mode=ro&immutable=1", uri=True)
    try:
        for (message,) in connection.execute("select data from messages order by timestamp"):
            yield parse_packet(message)
    finally:
        connection.close()


def libcaer_cmp_recording(folder: Path) -> Iterator[Packet]:
    """Read the DAVIS bag."""
    bag = folder / "bags" / "libcaer_cmp_346x260" / "test_events_2_0.mcap"
    with bag.open("rb") as file:
        for _, _, message in make_reader(file).iter_messages():
            yield parse_packet(message.data)


def evt2_recording(folder: Path) -> bytes:
    """Read the words of the EVT2 file behind its header."""
    data = (folder / "raw" / "evt2_640x480.raw").read_bytes()
    start = 0
    while data[start : start + 1] == b"%":
        start = data.index(b"\n", start) + 1
    return data[start:]


def as_tuples(*arrays: NDArray[np.generic]) -> list[tuple[int, ...]]:
    """Turn columns into rows."""
    return list(zip(*(array.tolist() for array in arrays), strict=True))
