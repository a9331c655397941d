from __future__ import annotations

from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
from bag_contents import assert_same_events, pixels, read_bag
from recording_events import photographs, recorded_events

from scaleevent_ros.sources import SourceError
from scaleevent_ros.sources.convert import ConvertOptions, convert

if TYPE_CHECKING:
    from pathlib import Path

    from scaleevent_ros.events import EventBatch

START_NS = 1_504_645_177_250_000_000
START_S = 1_504_645_177.25


def write_sequence(folder: Path) -> tuple[EventBatch, dict[str, np.ndarray]]:
    events = recorded_events(346, 260, start_s=START_S)
    frames = photographs(3, 260, 346)
    stamps = START_S + np.array([0.1, 0.2, 0.3])
    with h5py.File(folder / "indoor_flying1_data.hdf5", "w") as file:
        rows = np.stack([events.x, events.y, events.t / 1e9, events.p * 2.0 - 1], axis=1)
        file["davis/left/events"] = rows
        file["davis/left/image_raw"] = frames
        file["davis/left/image_raw_ts"] = stamps
        file["davis/left/image_raw_event_inds"] = np.searchsorted(rows[:, 2], stamps)
    rng = np.random.default_rng(3)
    depth = rng.uniform(1, 9, (2, 260, 346)).astype(np.float32)
    depth[0, 0, 0] = np.nan
    flow = rng.normal(size=(1, 2, 260, 346))
    with h5py.File(folder / "indoor_flying1_gt.hdf5", "w") as file:
        file["davis/left/depth_image_raw"] = depth
        file["davis/left/depth_image_raw_ts"] = stamps[:2]
        file["davis/left/flow_dist"] = flow
        file["davis/left/flow_dist_ts"] = stamps[:1]
    return events, {"frames": frames, "depth": depth, "flow": flow}


def test_everything_arrives(tmp_path: Path) -> None:
    events, wanted = write_sequence(tmp_path)
    assert convert(tmp_path, tmp_path / "out", ConvertOptions()) == [
        tmp_path / "out/indoor_flying1_data"
    ]
    bag = read_bag(tmp_path / "out/indoor_flying1_data")
    assert_same_events(bag.events, events)
    images = bag.messages["/camera/image_raw"]
    assert [t for t, _ in images] == [START_NS + n * 10**8 for n in (1, 2, 3)]
    assert np.array_equal([pixels(m) for _, m in images], wanted["frames"])
    depth = [pixels(m) for _, m in bag.messages["/event_camera/depth"]]
    assert np.array_equal(depth, wanted["depth"], equal_nan=True)
    ((_, message),) = bag.messages["/event_camera/flow"]
    assert np.allclose(pixels(message), np.moveaxis(wanted["flow"][0], 0, -1))


def test_a_file_of_another_layout_is_an_error_that_names_the_dataset(tmp_path: Path) -> None:
    path = tmp_path / "a_data.hdf5"
    with h5py.File(path, "w") as file:
        file["davis/right/events"] = np.zeros((4, 4))
    with pytest.raises(SourceError, match=r"a_data\.hdf5: has no dataset /davis/left/events"):
        convert(path, tmp_path / "bag", ConvertOptions())


def test_a_cut_file_is_an_error(tmp_path: Path) -> None:
    write_sequence(tmp_path)
    path = tmp_path / "indoor_flying1_data.hdf5"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(SourceError, match=r"indoor_flying1_data\.hdf5: cannot be read as HDF5"):
        convert(path, tmp_path / "bag", ConvertOptions())
