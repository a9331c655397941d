"""Compression and decompression by the names in rosbag2 and MCAP."""

from __future__ import annotations

import logging
import shutil
import sys
from typing import TYPE_CHECKING

import lz4.frame

from scaleevent_ros.bags.errors import BagError
from scaleevent_ros.bags.mcap_format import COMPRESSIONS

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from pathlib import Path

    from scaleevent_ros.bags.messages import BytesLike

logger = logging.getLogger(__name__)

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def compress(data: BytesLike, compression: str) -> BytesLike:
    """Compress data with `zstd` or `lz4` at the fastest level; return them unchanged for `""`."""
    if compression == "zstd":
        return zstd.compress(data, level=1)
    if compression == "lz4":
        return bytes(lz4.frame.compress(data))
    return data


def decompress(data: BytesLike, compression: str) -> BytesLike:
    """Decompress data of `compress`.

    Raises:
        BagError: If the compression is unknown or the data are damaged.
    """
    try:
        if compression == "zstd":
            return zstd.decompress(data)
        if compression == "lz4":
            return bytes(lz4.frame.decompress(data))
    except (zstd.ZstdError, RuntimeError) as error:
        msg = f"{compression} data are damaged: {error}"
        raise BagError(msg) from None
    if compression:
        msg = f"compression {compression!r} is unknown; known are {', '.join(COMPRESSIONS)}"
        raise BagError(msg)
    return data


def decompress_prefix(data: BytesLike, compression: str) -> BytesLike:
    """Decompress truncated data as far as they go; return nothing if they are damaged.

    Raises:
        BagError: If the compression is unknown.
    """
    try:
        if compression == "zstd":
            return bytes(zstd.ZstdDecompressor().decompress(data))
        if compression == "lz4":
            return bytes(lz4.frame.LZ4FrameDecompressor().decompress(data))
    except (zstd.ZstdError, RuntimeError):
        return b""
    return decompress(data, compression)


def decompress_file(source: Path, target: Path) -> None:
    """Decompress a zstd file piece by piece; a truncated file as far as it goes.

    Raises:
        BagError: If the data are damaged.
        OSError: If a file cannot be read or written.
    """
    try:
        with zstd.open(source, "rb") as compressed, target.open("wb") as plain:
            shutil.copyfileobj(compressed, plain, 2**20)
    except EOFError:
        logger.warning("%s is cut off: reading the part that is there", source)
    except zstd.ZstdError as error:
        msg = f"{source} is damaged: {error}"
        raise BagError(msg) from None
