"""Packets in libcaer's layout, in AEDAT 3.1 files and inside the HDF5 files of DDD17 and DDD20.

Layout: docs.inivation.com, "AEDAT 3.1": a header of 28 bytes, then events of one kind. Polarity
events have 8 bytes: valid bit 0, polarity bit 1, y bits 2 to 16, x bits 17 to 31, then µs. Frames
have 36 bytes of header and 16-bit pixels.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPECIAL, POLARITY, FRAME, IMU6 = range(4)
HEADER_BYTES = 28

_HEADER = struct.Struct("<hhiiiiii")
_FRAME_HEADER_BYTES = 36


class PacketHeader(NamedTuple):
    """Header of a packet.

    Attributes:
        kind: Kind of its events: `SPECIAL`, `POLARITY`, `FRAME`, `IMU6` or another number.
        size: Size of one event in bytes.
        overflow: Number of overflows of the clock, of 2^31 µs each.
        capacity: Number of events for which the packet has room.
        events: Number of events.
    """

    kind: int
    size: int
    overflow: int
    capacity: int
    events: int


def parse_packet_header(data: bytes) -> PacketHeader:
    """Read the 28 bytes of a packet's header."""
    kind, _, size, _, overflow, capacity, count, _ = _HEADER.unpack(data)
    return PacketHeader(kind, size, overflow, capacity, count)


def polarities(
    words: NDArray[np.uint32],
) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64], NDArray[Any]]:
    """Decode polarity events, uint32 [N, 2].

    Returns:
        Whether each is valid, bool [N], and x, y and p of the valid ones.
    """
    data = words[:, 0]
    valid = (data & 1) == 1
    data = data[valid].astype(np.int64)
    return valid, data >> 17, data >> 2 & 0x7FFF, data >> 1 & 1


def frame_pixels(words: NDArray[np.uint32]) -> NDArray[np.uint8] | None:
    """Return the upper 8 bits of a frame's pixels, uint8 [H, W] or [H, W, 3]; None if cut off."""
    channels = max(int(words[0]) >> 1 & 7, 1)
    width, height = int(words[5]), int(words[6])
    pixels = words[_FRAME_HEADER_BYTES // 4 :].view(np.uint16)
    count = width * height * channels
    if not 0 < count <= len(pixels):
        return None
    shape = (height, width) if channels == 1 else (height, width, channels)
    return (pixels[:count].reshape(shape)[..., : 3 if channels > 1 else width] >> 8).astype(
        np.uint8
    )
