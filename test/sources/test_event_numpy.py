from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from bag_contents import assert_same_events, read_bag
from recording_events import recorded_events

from scaleevent_ros.sources import SourceError
from scaleevent_ros.sources.convert import ConvertOptions, convert
from scaleevent_ros.sources.event_numpy import open_recording
from scaleevent_ros.sources.recording import ReadOptions

if TYPE_CHECKING:
    from pathlib import Path

EVENTS = recorded_events(64, 48)
SIZED = ReadOptions(64, 48)


def write(path: Path, version: tuple[int, int] | None = None) -> bytes:
    rows = np.stack([EVENTS.t // 1000, EVENTS.x, EVENTS.y, EVENTS.p], 1).astype(np.int64)
    with path.open("wb") as file:
        np.lib.format.write_array(file, rows, version)
    return path.read_bytes()


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_a_torn_file_gives_its_whole_events(tmp_path: Path, version: tuple[int, int]) -> None:
    path = tmp_path / "a.npy"
    whole = write(path, version)
    convert(path, tmp_path / "whole", ConvertOptions(SIZED))
    assert_same_events(read_bag(tmp_path / "whole").events, EVENTS)
    path.write_bytes(whole[: -10 * 32 - 5])
    convert(path, tmp_path / "bag", ConvertOptions(SIZED))
    assert_same_events(read_bag(tmp_path / "bag").events, EVENTS[:-11])
    faults = json.loads((tmp_path / "bag/conversion.json").read_text())["faults"]
    assert faults["truncated files"]["first"] == f"{path}: is cut off inside event 1,989"
    with pytest.raises(SourceError, match="is cut off inside event"):
        open_recording(path, ReadOptions(64, 48, strict=True))


def test_what_holds_no_events_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    for content in (b"", b"\x93NUMPY\x01\x00", write(path)[:100], b"no array"):
        path.write_bytes(content)
        with pytest.raises(SourceError, match=r"a\.npy: cannot be read as a NumPy file"):
            open_recording(path, SIZED)
    path.write_bytes(write(path)[:140])
    with pytest.raises(SourceError, match=r"a\.npy: is cut off before its first event"):
        open_recording(path, SIZED)
    np.save(path, np.array([{}], object), allow_pickle=True)
    with pytest.raises(SourceError, match=r"a\.npy: cannot be read as a NumPy file of plain"):
        open_recording(path, SIZED)
