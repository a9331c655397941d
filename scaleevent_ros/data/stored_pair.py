"""A pair of frame and events as the files of one sample in a shard, and back.

``.evt3``: the events, as EVT3 words like in `event_camera_msgs/EventPacket`, with times relative to
the JSON's ``origin_ns``. ``.jpg`` or ``.png``: the frame; if it was recorded as such a file, the
recorded bytes. ``.covered.png``: 255 for each pixel of the event image that the frame covers, else
0. ``.json``: times in ns, sizes, the alignment of the frame with the event image, and the origin of
the pair. ``.leaky.z``: the leaky integrals of all earlier events, float16 [decays, height, width],
compressed by zlib; the JSON holds their decays and time.
"""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from scaleevent_ros.data.alignment import HomographyAlignment
from scaleevent_ros.data.augmentation import View
from scaleevent_ros.data.dataset import Pair
from scaleevent_ros.data.errors import DataError
from scaleevent_ros.events import EventBatch, LeakyState, make_decoder, make_encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from scaleevent_ros.data.alignment import Alignment, MapAlignment

FRAME_SUFFIXES = {"jpeg": "jpg", "png": "png"}
"""Suffix of a frame by the codec that writes it."""

_JPEG_QUALITY = 95
_LARGEST_HALF = 65504
_LONGEST_NS = (1 << 24) * 1000


class Origin(NamedTuple):
    """Origin of a pair.

    Attributes:
        recording: Name of the recording.
        number: Index of the pair in the recording.
    """

    recording: str
    number: int


def encode_pair(
    pair: Pair,
    codec: str,
    origin: Origin,
    name_map: Callable[[MapAlignment], str],
    decays: Sequence[float] = (),
) -> dict[str, bytes]:
    """Encode a pair.

    Args:
        pair: Pair to store, with events that span less than 16 s; their times are truncated to µs.
        codec: Codec of a frame that is not stored as JPEG or PNG already: ``jpeg`` (quality 95) or
            ``png``.
        origin: Origin of the pair.
        name_map: Function that stores the look-up table of an alignment and returns its file name.
        decays: Decays of the pair's leaky integrals in seconds; empty if it has none.

    Returns:
        The files by suffix; the same pair gives the same bytes.

    Raises:
        DataError: If the codec is unknown, or the events span 16 s or more.
    """
    if codec not in FRAME_SUFFIXES:
        msg = f"frames cannot be stored as {codec!r}: known are {', '.join(FRAME_SUFFIXES)}"
        raise DataError(msg)
    events, alignment = pair.events, pair.alignment
    start = int(events.t[0]) // 1000 * 1000 if len(events) else pair.t_end
    if len(events) and int(events.t[-1]) - start >= _LONGEST_NS:
        msg = f"events of {(int(events.t[-1]) - start) / 1e9:.1f} s do not fit into one sample"
        raise DataError(msg)
    said: dict[str, Any] = {
        "width": events.width,
        "height": events.height,
        "events": len(events),
        "origin_ns": start,
        "t_end_ns": pair.t_end,
        "alignment": (
            {"homography": alignment.matrix.tolist()}
            if isinstance(alignment, HomographyAlignment)
            else {"map": name_map(alignment)}
        ),
        "origin": origin._asdict(),
    }
    history = {}
    if pair.history is not None:
        said["leaky"] = {"decays": list(decays), "t_ns": pair.history.t}
        halves = np.clip(pair.history.values, -_LARGEST_HALF, _LARGEST_HALF).astype(np.float16)
        history["leaky.z"] = zlib.compress(halves.tobytes(), 1)
    suffix, frame = _frame_file(pair, codec)
    return {
        "covered.png": _encode_picture(".png", covered_mask(pair).astype(np.uint8) * 255, []),
        "evt3": make_encoder("evt3", start).encode(events),
        suffix: frame,
        "json": json.dumps(said, sort_keys=True).encode(),
    } | history


def _frame_file(pair: Pair, codec: str) -> tuple[str, bytes]:
    """Return the frame as a file, and its suffix: the recorded file, or an encoded one."""
    if pair.stored is not None:
        return "png" if pair.stored.startswith(b"\x89PNG") else "jpg", pair.stored
    settings = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if codec == "jpeg" else []
    frame = cv2.cvtColor(pair.frame, cv2.COLOR_RGB2BGR)
    return FRAME_SUFFIXES[codec], _encode_picture(f".{codec}", frame, settings)


def covered_mask(pair: Pair) -> NDArray[np.bool_]:
    """Return which pixels of the event image a pair's frame covers, bool [H, W] of the sensor."""
    width, height = pair.events.width, pair.events.height
    view = View(0, 0, width, height, width, height)
    mask = pair.alignment.covered(pair.frame.shape[:2], view)
    known = np.ones((height, width), np.bool_) if mask is None else mask
    return known if pair.covered is None else known & pair.covered


def decode_pair(
    files: Mapping[str, bytes],
    place: str,
    load_map: Callable[[str], MapAlignment],
    decays: Sequence[float] = (),
) -> Pair:
    """Decode the files of a sample.

    Args:
        files: Files by suffix, as returned by `encode_pair`.
        place: Description of the sample, for error messages.
        load_map: Function that loads an alignment by the file name of its look-up table.
        decays: Decays of the leaky integrals to decode, in seconds.

    Raises:
        DataError: If a file is missing or damaged.
    """
    try:
        said = json.loads(files["json"])
        width, height, origin = said["width"], said["height"], said["origin_ns"]
        batch = make_decoder("evt3", width, height).decode(files["evt3"])
        if len(batch) != said["events"]:
            msg = f"{place}: its evt3 holds {len(batch)} events, not {said['events']}"
            raise DataError(msg)
        suffix = next(suffix for suffix in FRAME_SUFFIXES.values() if suffix in files)
        frame = cv2.cvtColor(_decode_picture(files[suffix], cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        covered = _decode_picture(files["covered.png"], cv2.IMREAD_GRAYSCALE) > 0
        alignment: Alignment
        if "map" in said["alignment"]:
            alignment = load_map(said["alignment"]["map"])
        else:
            matrix = np.array(said["alignment"]["homography"], np.float64).reshape(3, 3)
            alignment = HomographyAlignment(matrix)
        return Pair(
            np.asarray(frame, np.uint8),
            EventBatch(batch.x, batch.y, batch.t + origin, batch.p, width, height),
            said["t_end_ns"],
            alignment,
            None if covered.all() else covered,
            _decode_history(files, said, decays) if decays else None,
        )
    except (KeyError, ValueError, TypeError, StopIteration, zlib.error) as error:
        msg = f"{place}: the sample is damaged: {error!r}"
        raise DataError(msg) from error


def _decode_history(
    files: Mapping[str, bytes], said: dict[str, Any], decays: Sequence[float]
) -> LeakyState:
    stored = said["leaky"]["decays"]
    halves = np.frombuffer(zlib.decompress(files["leaky.z"]), np.float16)
    values = halves.reshape(len(stored), said["height"], said["width"])
    chosen = values[[stored.index(decay) for decay in decays]]
    return LeakyState(chosen.astype(np.float32), int(said["leaky"]["t_ns"]))


def _encode_picture(suffix: str, pixels: NDArray[Any], settings: list[int]) -> bytes:
    _, data = cv2.imencode(suffix, pixels, settings)
    return data.tobytes()


def _decode_picture(data: bytes, mode: int) -> NDArray[np.uint8]:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), mode) if data else None
    if pixels is None:
        msg = "a picture cannot be decoded"
        raise ValueError(msg)
    return np.asarray(pixels, np.uint8)
