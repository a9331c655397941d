"""Truth in bags, of known pixels."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from class_lists import numbered_classes
from recording_events import recorded_events

from scaleevent_ros.data.indexed_bag import BagOptions
from scaleevent_ros.sources.convert import ConvertOptions, convert_recording
from scaleevent_ros.sources.recording import (
    FRAMES_TOPIC,
    ClockStatement,
    Picture,
    PictureStream,
    Recording,
)
from scaleevent_ros.tasks import TaskError
from scaleevent_ros.tasks.datasets.bags import TOPICS, LabelledBag

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scaleevent_ros.events import EventBatch
    from scaleevent_ros.tasks.labelled import Task

MS = 1_000_000
WIDTH, HEIGHT = 32, 24
START_NS = 1_700_000_000_000_000_000
TIMES = [START_NS + n * 100 * MS for n in (0, 1, 2, 5)]  # events last for 500 ms
EVENTS = recorded_events(WIDTH, HEIGHT, 3000, START_NS / 1e9, 0.5)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def events_from(t_start: int) -> Iterator[EventBatch]:
    yield EVENTS.between(t_start, int(EVENTS.t[-1]) + 1)


def write_bag(bag: Path, topic: str, pixels: list[np.ndarray]) -> Path:
    """Write a bag with an image at each of `TIMES`."""

    def pictures(t_start: int) -> Iterator[Picture]:
        for t, one in zip(TIMES, pixels, strict=True):
            if t >= t_start:
                yield Picture(t, one)

    streams = (PictureStream(topic, "made up", pictures),)
    clock = ClockStatement("sensor_time", "Made up.")
    recording = Recording(bag, "made up", WIDTH, HEIGHT, events_from, clock, streams)
    convert_recording(recording, bag, ConvertOptions())
    return bag


def image(value: Any, dtype: type, channels: tuple[int, ...] = ()) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, *channels), value, dtype)


def assert_events(batch: EventBatch, t_start: int, t_end: int) -> None:
    wanted = EVENTS.between(t_start, t_end)
    assert len(wanted) > 100
    for name in "xytp":
        assert np.array_equal(getattr(batch, name), getattr(wanted, name)), name


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_class_ids(tmp_path: Path, dtype: type) -> None:
    labels = [image(n, dtype) for n in range(4)]
    labels[1][3, 5] = 255
    bag = write_bag(tmp_path / "bag", TOPICS["segmentation"], labels)
    source = LabelledBag(bag, "segmentation", BagOptions(), 50 * MS, numbered_classes(4))
    assert [source.key(n) for n in range(len(source))] == [f"bag/{TIMES[n]}" for n in (1, 2)]
    source.read(1, 0)
    window = pickle.loads(pickle.dumps(source)).read(0, 0)  # as workers get it
    assert window.truth.dtype == np.uint8
    assert window.truth[3, 5] == 255
    assert (window.truth == 1).sum() == WIDTH * HEIGHT - 1
    assert (window.t_end, window.t_start) == (TIMES[1], None)
    assert_events(window.events, TIMES[1] - 50 * MS, TIMES[1])


@pytest.mark.parametrize(("dtype", "stored"), [(np.float32, 2.5), (np.uint16, 2500)])
def test_depth_in_metres_or_millimetres(tmp_path: Path, dtype: type, stored: float) -> None:
    depth = image(stored, dtype)
    depth[0, 0] = 0
    bag = write_bag(tmp_path / "bag", "/lidar/depth", [depth] * 4)
    options = BagOptions(frames_topic="/lidar/depth")
    window = LabelledBag(bag, "depth", options, 50 * MS).read(1, 0)
    assert window.truth.dtype == np.float32
    assert window.truth[0, 0] == 0
    assert (window.truth.ravel()[1:] == 2.5).all()


def test_flow_goes_from_its_stamp_on(tmp_path: Path) -> None:
    flows = [image((n, -2), np.float32, (2,)) for n in range(4)]
    bag = write_bag(tmp_path / "bag", TOPICS["flow"], flows)
    source = LabelledBag(bag, "flow", BagOptions(), 80 * MS)
    assert len(source) == 2
    window = source.read(1, 0)
    assert window.truth[7, 7].tolist() == [2, -2]
    assert (window.t_start, window.t_end) == (TIMES[2], TIMES[2] + 80 * MS)
    assert_events(window.events, TIMES[2] - 80 * MS, TIMES[2] + 80 * MS)


WRONG: list[tuple[Task, np.ndarray, str]] = [
    ("segmentation", image(3, np.uint8), "labels have the id 3"),
    ("segmentation", image(300, np.uint16), "labels have the id 300; ids are at most 255"),
    ("segmentation", image(0, np.float32), "labels are float32"),
    ("depth", image(0, np.uint8), "images of encoding mono8 do not hold depth"),
    ("flow", image(0, np.float32), "images of encoding 32FC1 do not hold flow"),
]


@pytest.mark.parametrize(("task", "pixels", "said"), WRONG)
def test_truth_of_another_kind_is_named(
    tmp_path: Path, task: Task, pixels: np.ndarray, said: str
) -> None:
    bag = write_bag(tmp_path / "bag", TOPICS[task], [pixels] * 4)
    classes = numbered_classes(3) if task == "segmentation" else None
    with pytest.raises(TaskError, match=f"/bag: {said}"):
        LabelledBag(bag, task, BagOptions(), 50 * MS, classes).read(0, 0)


def test_truth_without_enough_events_is_named(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", TOPICS["depth"], [image(1, np.float32)] * 4)
    with pytest.raises(TaskError, match="no image on /event_camera/depth has 600 ms of events"):
        LabelledBag(bag, "depth", BagOptions(), 600 * MS)


def test_compressed_truth_is_refused(tmp_path: Path) -> None:
    def pictures(t_start: int) -> Iterator[Picture]:
        return (Picture(t, image(0, np.uint8)) for t in TIMES if t >= t_start)

    streams = (PictureStream(FRAMES_TOPIC, "made up", pictures),)
    clock = ClockStatement("sensor_time", "Made up.")
    recording = Recording(tmp_path, "made up", WIDTH, HEIGHT, events_from, clock, streams)
    convert_recording(recording, tmp_path / "bag", ConvertOptions(image_codec="png"))
    options = BagOptions(frames_topic=f"{FRAMES_TOPIC}/compressed")
    source = LabelledBag(tmp_path / "bag", "segmentation", options, 50 * MS, numbered_classes(3))
    with pytest.raises(TaskError, match="truth is compressed"):
        source.read(0, 0)
