from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
from recording_events import recorded_events

from scaleevent_ros.events import encode_evt3
from scaleevent_ros.sources import SourceError, UnknownFormatError
from scaleevent_ros.sources.formats import find_recordings
from scaleevent_ros.sources.recording import ReadOptions

if TYPE_CHECKING:
    from pathlib import Path

EVENTS = recorded_events(64, 48, 10)


def write_raw(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"% format EVT3;height=48;width=64\n% end\n" + encode_evt3(EVENTS))


def write_columns(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name in "xytp":
            file[name] = getattr(EVENTS, name)


def test_recordings_are_found_below_a_folder_and_named_like_it(tmp_path: Path) -> None:
    write_raw(tmp_path / "day/1.raw")
    write_raw(tmp_path / "night/2.raw")
    write_columns(tmp_path / "night/events_of_3.h5")
    (tmp_path / "night/README.txt").write_text("text")
    (tmp_path / ".hidden").mkdir()
    write_raw(tmp_path / ".hidden/4.raw")
    found = [(f.name, f.format) for f in find_recordings(tmp_path)]
    assert found == [
        ("day/1", "prophesee_raw"),
        ("night/2", "prophesee_raw"),
        ("night/events_of_3", "event_hdf5"),
    ]


def test_a_file_or_a_folder_that_is_a_recording_has_no_name(tmp_path: Path) -> None:
    write_raw(tmp_path / "1.raw")
    assert find_recordings(tmp_path / "1.raw")[0].name == ""
    (tmp_path / "a").mkdir()
    (tmp_path / "a/events.txt").write_text("0.1 1 2 1\n")
    (found,) = find_recordings(tmp_path / "a")
    assert (found.name, found.format) == ("", "image_folder")


@pytest.mark.parametrize(
    ("keys", "format_name"),
    [
        (["prophesee/left/x", "ovc/ts"], "m3ed"),
        (["davis/left/events"], "mvsec"),
        (["dvs/data", "dvs/timestamp"], "ddd17"),
        (["events/xs", "events/ys", "events/ts", "events/ps"], "event_hdf5"),
    ],
)
def test_hdf5_is_told_by_its_contents(tmp_path: Path, keys: list[str], format_name: str) -> None:
    with h5py.File(tmp_path / "a.bin", "w") as file:
        for key in keys:
            file[key] = np.zeros(3)
    assert find_recordings(tmp_path / "a.bin")[0].format == format_name


def test_truth_beside_a_recording_is_no_recording(tmp_path: Path) -> None:
    for name in ("a_gt.hdf5", "b_depth_gt.h5", "b_semantics.h5"):
        write_columns(tmp_path / name)
    with pytest.raises(UnknownFormatError, match="no recording of a known format"):
        find_recordings(tmp_path)


@pytest.mark.parametrize("content", [b"", b"RIFF....AVI LIST", b"\x89HDF\r\n\x1a\n cut off"])
def test_a_file_of_no_format_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.raw").write_bytes(content)
    with pytest.raises(SourceError, match=r"a\.raw"):
        find_recordings(tmp_path / "a.raw")[0].open(ReadOptions())


def test_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnknownFormatError, match="does not exist"):
        find_recordings(tmp_path / "nothing")


def test_a_missing_library_is_named_with_its_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> None:
        msg = f"No module named {name!r}"
        raise ImportError(msg, name="aedat")

    monkeypatch.setattr("importlib.import_module", refuse)
    (tmp_path / "a.aedat4").write_bytes(b"#!AER-DAT4.0\r\n12345")
    with pytest.raises(SourceError, match=r"aedat is not installed: pip install .*\[data\]"):
        find_recordings(tmp_path / "a.aedat4")[0].open(ReadOptions())


def test_an_unknown_camera_is_an_error() -> None:
    with pytest.raises(SourceError, match="left and right, not 'middle'"):
        ReadOptions(camera="middle")


def test_a_folder_as_it_occurs(tmp_path: Path) -> None:
    """Links to nothing, to the parent and to each other, an unreadable folder, odd names."""
    folder = tmp_path / "set"
    for name in ("a [1]", "b ü", "c"):
        (folder / name).mkdir(parents=True)
        write_columns(folder / name / "events [0].h5")
    (folder / "gone.h5").symlink_to(".git/annex/objects/gone.h5")
    (folder / "torn.h5").write_bytes(b"\x89HDF\r\n\x1a\n cut off")
    (folder / "c/parent").symlink_to("..")
    (folder / "c/loop").symlink_to("loop")
    os.mkfifo(folder / "pipe.raw")
    closed = folder / "closed"
    closed.mkdir(mode=0)

    found = find_recordings(folder)
    good = {one.name for one in found if one.format}
    bad = {one.name: one for one in found if not one.format}
    assert good == {f"{name}/events [0]" for name in ("a [1]", "b ü", "c")}
    assert set(bad) - {"closed"} == {"gone.h5", "torn", "c/loop"}
    assert ("closed" in bad) == (os.geteuid() != 0)  # root reads everything
    for one in bad.values():
        with pytest.raises(SourceError, match=re.escape(str(folder / one.name))):
            one.open(ReadOptions())
