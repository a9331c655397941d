"""Copies of compressed and torn files: one for all processes, and within a limit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import namedtuple
from typing import TYPE_CHECKING

import pytest
from bag_files import example_messages, write_bag

from scaleevent_ros.bags import BagReader, DiskFullError
from scaleevent_ros.bags.shared_copies import SharedCopy

if TYPE_CHECKING:
    from pathlib import Path

MESSAGES = example_messages()

# What a DataLoader's worker does: it reads, and ends without any clean-up.
WORKER = """
import os, sys
from scaleevent_ros.bags import BagReader
assert len(list(BagReader(sys.argv[1]).messages())) == int(sys.argv[2])
os._exit(0)
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path / "cache" / "scaleevent" / "copies"


def folders(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.is_dir()]


@pytest.mark.parametrize("kind", ["compressed", "torn"])
def test_workers_of_all_epochs_share_one_copy(tmp_path: Path, cache: Path, kind: str) -> None:
    if kind == "compressed":
        bag = write_bag(tmp_path / "bag", MESSAGES, compression="file")
        count = len(MESSAGES)
    else:
        bag = write_bag(tmp_path / "bag", MESSAGES, storage="sqlite3")
        file = bag / "bag.db3"
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        count = len(list(BagReader(bag).messages()))
    command = [sys.executable, "-c", WORKER, str(bag), str(count)]
    for _ in range(2):
        workers = [subprocess.Popen(command) for _ in range(3)]
        assert [worker.wait() for worker in workers] == [0, 0, 0]
        assert len(folders(cache)) == 1
    assert list((tmp_path / "tmp").iterdir()) == []
    made = folders(cache)[0].stat().st_ino
    assert len(list(BagReader(bag).messages())) == count
    assert folders(cache)[0].stat().st_ino == made
    next(bag.glob("bag.*")).touch()
    assert len(list(BagReader(bag).messages())) == count
    assert len(folders(cache)) == 2


def test_the_oldest_unused_copies_go(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 3000))
    made: dict[str, Path] = {}

    def copy(name: str) -> SharedCopy:
        def write(folder: Path) -> None:
            (folder / name).write_bytes(bytes(1000))

        (tmp_path / name).touch()
        found = SharedCopy([tmp_path / name], write)
        made[name] = found.folder
        os.utime(found.folder, (len(made), len(made)))
        return found

    held = copy("held")
    for name in ("a", "b", "c", "d", "e"):
        copy(name)
    # With 3,000 bytes free, three copies are half of the space; the one in use stays.
    assert [name for name, folder in made.items() if folder.exists()] == ["held", "d", "e"]
    assert len(list(cache.iterdir())) == 6
    assert held.folder.exists()
    copy("a")
    assert [name for name, folder in made.items() if folder.exists()] == ["held", "a", "e"]


def test_a_copy_that_does_not_fit_is_removed_and_said(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag = write_bag(tmp_path / "bag", MESSAGES, compression="file")

    def fill_up(_: object, target: Path) -> None:
        target.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("scaleevent_ros.bags.reader.decompress_file", fill_up)
    with pytest.raises(DiskFullError, match="no space is left for a readable copy"):
        BagReader(bag)
    assert folders(cache) == []


def test_without_a_cache_folder_a_temporary_copy_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag = write_bag(tmp_path / "bag", MESSAGES, compression="file")
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    reader = BagReader(bag)
    assert len(list(reader.messages())) == len(MESSAGES)
    assert len(list((tmp_path / "tmp").iterdir())) == 1
    del reader
    assert list((tmp_path / "tmp").iterdir()) == []
