"""Small bags of frames and events, through the converter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h5py
from recording_events import photographs, recorded_events

from scaleevent_ros.sources.convert import ConvertOptions, convert

if TYPE_CHECKING:
    from pathlib import Path

WIDTH, HEIGHT = 64, 48
FRAME_PERIOD_S = 0.1


def write_paired_bag(bag: Path, frames: int, seed: int = 0, codec: str | None = None) -> None:
    """Write a bag of a sensor that makes both, a frame every 0.1 s, events all along."""
    length_s = frames * FRAME_PERIOD_S + 0.1
    events = recorded_events(WIDTH, HEIGHT, 300 * frames, 1.0, length_s, seed)
    bag.parent.mkdir(parents=True, exist_ok=True)
    path = bag.with_name(f"{bag.name}.h5")
    with h5py.File(path, "w") as file:
        file["events/xs"], file["events/ys"] = events.x, events.y
        file["events/ts"], file["events/ps"] = events.t / 1e9, events.p.astype(bool)
        file.attrs["sensor_resolution"] = (HEIGHT, WIDTH)
        for index, frame in enumerate(photographs(frames, HEIGHT, WIDTH, colour=True)):
            name = f"images/image{index:09d}"
            file[name] = frame[..., ::-1]
            file[name].attrs["timestamp"] = 1.1 + index * FRAME_PERIOD_S
    convert(path, bag, ConvertOptions(image_codec=codec))
    path.unlink()
