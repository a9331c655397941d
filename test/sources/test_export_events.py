"""Exported events, read by other libraries and converted back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
from bag_contents import assert_same_events, read_bag
from recording_events import recorded_events
from typer.testing import CliRunner

from scaleevent_ros.bags import BagReader
from scaleevent_ros.cli import app
from scaleevent_ros.events import make_encoder
from scaleevent_ros.sources import ConversionError
from scaleevent_ros.sources.convert import ConvertOptions, convert
from scaleevent_ros.sources.export_events import export_events
from scaleevent_ros.sources.recording import ReadOptions

if TYPE_CHECKING:
    from pathlib import Path

EVENTS = recorded_events(64, 48, 5000, start_s=100.0, length_s=3.0)
SIZED = ConvertOptions(ReadOptions(64, 48))


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    """Convert a RAW file with an edge; its first event is behind several periods of the clock."""
    encoder = make_encoder("evt3")
    data = encoder.encode(EVENTS[:2000])
    data += encoder.encode_trigger(int(EVENTS.t[2000]), 3, 1) + encoder.encode(EVENTS[2000:])
    source = tmp_path / "source.raw"
    source.write_bytes(b"% format EVT3;height=48;width=64\n% end\n" + data)
    convert(source, tmp_path / "bag", ConvertOptions())
    return tmp_path / "bag"


@pytest.mark.parametrize("name", ["a.raw", "a.h5", "a.csv", "a.txt", "a.npy"])
def test_converting_back_gives_the_same_events(bag: Path, tmp_path: Path, name: str) -> None:
    result = CliRunner().invoke(app, ["export-events", str(bag), str(tmp_path / name)])
    assert result.exit_code == 0, result.output
    assert "5,000 events" in result.output
    convert(tmp_path / name, tmp_path / "again", SIZED)
    contents = read_bag(tmp_path / "again")
    assert_same_events(contents.events, EVENTS)
    if name == "a.raw":
        assert contents.triggers.t.tolist() == [EVENTS.t[2000]]
        assert contents.triggers.id.tolist() == [3]
    with pytest.raises(ConversionError, match="is not overwritten"):
        export_events(BagReader(bag), tmp_path / name)


def test_other_readers_see_the_same(bag: Path, tmp_path: Path) -> None:
    reader = BagReader(bag)
    for name in ("a.h5", "a.csv", "a.npy", "a.raw"):
        export_events(reader, tmp_path / name)
    t_us = EVENTS.t // 1000
    with h5py.File(tmp_path / "a.h5") as file:
        offset = file["t_offset"][()]
        assert (file["events/t"][:] + offset).tolist() == t_us.tolist()
        assert file["events/p"][:].tolist() == EVENTS.p.tolist()
        index = file["ms_to_idx"][:]
        t = file["events/t"][:]
        for ms in (
            0,
            1,
            1500,
            len(index) - 1,
        ):  # DSEC: t[ms_to_idx[ms]] >= ms*1000 > the one before
            row = int(index[ms])
            assert t[row] >= ms * 1000
            assert not row or t[row - 1] < ms * 1000
        assert len(index) == t[-1] // 1000 + 1
    table = np.loadtxt(tmp_path / "a.csv", np.int64, delimiter=",", skiprows=1)
    assert table.tolist() == np.stack([t_us, EVENTS.x, EVENTS.y, EVENTS.p], 1).tolist()
    rows = np.load(tmp_path / "a.npy")
    assert rows["t"].tolist() == t_us.tolist()
    assert rows["x"].tolist() == EVENTS.x.tolist()


def test_events_of_a_real_camera_keep_the_sensors_time(test_data: Path, tmp_path: Path) -> None:
    evt3 = pytest.importorskip("evt3", reason="an independent decoder of EVT3")
    reader = BagReader(test_data / "bags/evt3_640x480")
    assert export_events(reader, tmp_path / "a.npy") == 343_474
    assert export_events(reader, tmp_path / "a.raw") == 343_474
    rows = np.load(tmp_path / "a.npy")
    assert int(rows["p"].sum()) == 125_183
    decoded = evt3.decode_file(str(tmp_path / "a.raw"))
    for column, name in ((decoded.x, "x"), (decoded.y, "y"), (decoded.t, "t"), (decoded.p, "p")):
        assert np.array_equal(column, rows[name])


def test_unknown_suffixes_and_empty_bags_are_errors(bag: Path, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"give one of these suffixes"):
        export_events(BagReader(bag), tmp_path / "a.mat")
    assert not list(tmp_path.glob(".a*"))
