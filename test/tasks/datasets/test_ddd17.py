"""DDD17's labels from files in the layout of ESS's archive, by hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from recording_events import recorded_events

from scaleevent_ros.tasks import TaskError
from scaleevent_ros.tasks.classes import read_classes
from scaleevent_ros.tasks.datasets.ddd17 import Ddd17Sequence, find, split

CLASSES = read_classes(Path(__file__).parents[3] / "config" / "labels" / "ddd17_6.yaml")
MS = 1_000_000
START_NS = 1_487_000_000_000_000_000
WINDOW_NS = 50 * MS
EVENTS = recorded_events(346, 260, 5000, START_NS / 1e9, 0.5)
FRAMES_NS = START_NS + np.array([20, 60, 110, 180]) * MS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a folder with labels of the frames 1, 2 and 4, each full of the number less one."""
    folder = tmp_path / "dir3"
    (folder / "index").mkdir(parents=True)
    (folder / "segmentation_masks").mkdir()
    EVENTS.t.astype("<i8").tofile(folder / "events.dat.t")
    xyp = np.stack([EVENTS.x, EVENTS.y, EVENTS.p], axis=1).astype("<i2")
    xyp.tofile(folder / "events.dat.xyp")
    at, before = (np.searchsorted(EVENTS.t, FRAMES_NS - lead * MS) for lead in (0, 50))
    np.save(folder / "index/index_50ms.npy", np.stack([FRAMES_NS, at, before], axis=1))
    for number in (1, 2, 4):
        labels = np.full((200, 346), number - 1, np.uint8)
        labels[0, 0] = 255
        path = folder / f"segmentation_masks/segmentation_{number:08d}.png"
        cv2.imwrite(str(path), labels if number < 4 else np.stack([labels] * 3, axis=-1))
    return folder


def test_a_label_has_the_events_before_its_frame(folder: Path) -> None:
    source = Ddd17Sequence(folder, WINDOW_NS, CLASSES)
    assert [source.key(n) for n in range(len(source))] == [  # of frame 1 there are 20 ms alone
        "dir3/segmentation_00000002", "dir3/segmentation_00000004",
    ]  # fmt: skip
    for index, frame in enumerate((1, 3)):
        window = source.read(index, 0)
        assert window.t_end == FRAMES_NS[frame]
        assert window.truth.shape == (200, 346)
        assert window.truth[0, 0] == 255
        assert (window.truth[1:] == frame).all()
        all_rows = EVENTS.between(window.t_end - WINDOW_NS, window.t_end)
        kept = all_rows.y < 200
        assert kept.sum() > 100
        assert (window.events.width, window.events.height) == (346, 200)
        for name in "xytp":
            assert np.array_equal(getattr(window.events, name), getattr(all_rows, name)[kept])


@pytest.mark.parametrize(
    ("names", "train"), [("013467", "03467"), ("0123456", "02356")], ids=["six", "seven"]
)
def test_the_split_is_that_of_ess(tmp_path: Path, names: str, train: str) -> None:
    for name in names:
        (tmp_path / f"dir{name}").mkdir()
    found = split(tmp_path)
    assert found.validation == ("dir1",)
    assert found.train == tuple(f"dir{name}" for name in train)
    assert find(tmp_path, found.validation) == [tmp_path / "dir1"]


def test_what_is_wrong_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"has 1 folders dir\*"):
        split(tmp_path)
    masks = folder / "segmentation_masks"
    shutil.copy(masks / "segmentation_00000004.png", masks / "segmentation_00000009.png")
    with pytest.raises(
        TaskError, match=r"labels are of frames \d to 9, but the index has frames 1 to 4"
    ):
        Ddd17Sequence(folder, WINDOW_NS, CLASSES)
    (masks / "segmentation_00000009.png").rename(masks / "last.png")
    with pytest.raises(TaskError, match=r"last\.png: its name does not end with the number"):
        Ddd17Sequence(folder, WINDOW_NS, CLASSES)
    (folder / "events.dat.xyp").write_bytes(b"123")
    with pytest.raises(TaskError, match=r"dir3: events\.dat\.t and .* cannot be read"):
        Ddd17Sequence(folder, WINDOW_NS, CLASSES)
    np.zeros((7, 3), "<i2").tofile(folder / "events.dat.xyp")
    with pytest.raises(TaskError, match=r"has 5000 events, events\.dat\.xyp has 7"):
        Ddd17Sequence(folder, WINDOW_NS, CLASSES)
