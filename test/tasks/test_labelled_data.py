"""Samples from the configuration of a data set."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import cv2
import numpy as np
import pytest
import torch
from labelled_pictures import write_labelled

from scaleevent_ros.data.sampler import SampleSpec
from scaleevent_ros.distill.configuration import EventOptions, TrainerOptions, parse_configuration
from scaleevent_ros.distill.errors import ConfigurationError
from scaleevent_ros.events.windows import WindowOptions
from scaleevent_ros.tasks import TaskError
from scaleevent_ros.tasks.classes import read_classes
from scaleevent_ros.tasks.finetune import Finetuning
from scaleevent_ros.tasks.labelled import LabelledDataset
from scaleevent_ros.tasks.labelled_data import (
    TASKS,
    Kind,
    LabelledData,
    build_held_out,
    build_loaders,
)

if TYPE_CHECKING:
    from scaleevent_ros.data.loading import PairLoaders

REPOSITORY = Path(__file__).resolve().parents[2]
MS = 1_000_000
START_NS = 1_487_000_000_000_000_000
DDD17_CLASSES = str(REPOSITORY / "config/labels/ddd17_6.yaml")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labelled(tmp_path_factory.mktemp("labelled") / "all", 6)


def loaded(data: LabelledData, seed: int = 0, **events: Any) -> PairLoaders:
    classes = read_classes(data.classes) if data.classes else None
    options = EventOptions(window=WindowOptions(length_ms=40), **events)
    return build_loaders(data, options, TrainerOptions(batch_size=1, seed=seed), classes)


def test_a_library_that_is_missing_is_named_with_its_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    for name in [name for name in sys.modules if name.startswith("scaleevent_ros.sources.hdf5")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "scaleevent_ros.tasks.datasets.mvsec", raising=False)
    monkeypatch.delattr("scaleevent_ros.tasks.datasets.mvsec", raising=False)
    data = LabelledData("mvsec_flow", root=str(tmp_path))
    with pytest.raises(TaskError, match=r"mvsec_flow needs h5py: pip install .*\[data\]"):
        build_held_out(data, EventOptions(), None)


def test_every_kind_has_a_task() -> None:
    assert set(TASKS) == set(get_args(Kind))


def test_a_student_with_memory_gets_windows_that_follow_one_another(pictures: Path) -> None:
    places, labels = str(pictures / "pictures"), str(pictures / "labels")
    classes = str(pictures / "classes.yaml")
    data = LabelledData(
        pictures=places, labels=labels, validation_pictures=places, validation_labels=labels,
        classes=classes, windows=4, width=64, height=48,
    )  # fmt: skip
    events = EventOptions(window=WindowOptions(length_ms=40), leaky=[0.1])
    known = read_classes(classes)
    samples = build_held_out(data, events, known, memory=True)
    assert isinstance(samples, LabelledDataset)
    found = samples[SampleSpec(0, 0, 1)]
    assert found.events.shape == (4, 6, 48, 64)
    # Of the same film, each window built by itself.
    film = samples._sources[0].read(1, 0)
    assert film.t_end >= 4 * 40 * MS
    for number, tensor in enumerate(found.events.numpy()):
        t_end = film.t_end - (3 - number) * 40 * MS
        expected = events.input.normalize(events.input.build(film.events, t_end - 40 * MS, t_end))
        np.testing.assert_allclose(tensor, expected, atol=1e-5)
    at_events = np.zeros((48, 64), np.bool_)
    last = film.events.between(film.t_end - 40 * MS, film.t_end)
    at_events[last.y, last.x] = True
    assert np.array_equal(found.at_events.numpy(), at_events)
    alone = build_held_out(data, events, known)[SampleSpec(0, 0, 1)]
    assert alone.events.shape == (6, 48, 64)


def test_flow_of_pictures_is_new_in_each_epoch_and_judged_alike(pictures: Path) -> None:
    places = str(pictures / "pictures")
    data = LabelledData(
        "stills_flow", pictures=places, validation_pictures=places, width=64, height=48
    )
    train = loaded(data).train
    first, second = (train[SampleSpec(epoch, 0, 1)] for epoch in (0, 1))
    assert first.events.shape == (2, 5, 48, 64)
    assert first.truth.shape == (2, 48, 64)
    assert first.truth.isfinite().all()
    assert not torch.equal(first.truth, second.truth)
    held_out = [loaded(data, seed).held_out[SampleSpec(0, 0, 1)] for seed in (1, 2)]
    assert torch.equal(held_out[0].truth, held_out[1].truth)
    assert torch.equal(held_out[0].events, held_out[1].events)


def write_ddd17(root: Path, names: str) -> Path:
    """Write folders of three labels each, and events at one pixel."""
    for name in names:
        folder = root / f"dir{name}"
        (folder / "index").mkdir(parents=True)
        (folder / "segmentation_masks").mkdir()
        t = START_NS + np.arange(400) * MS
        t.astype("<i8").tofile(folder / "events.dat.t")
        np.tile(np.array([5, 7, 1], "<i2"), (400, 1)).tofile(folder / "events.dat.xyp")
        frames = START_NS + np.array([100, 200, 300]) * MS
        np.save(folder / "index/index_50ms.npy", np.stack([frames, frames, frames], axis=1))
        for number in (1, 2, 3):
            path = folder / f"segmentation_masks/segmentation_{number:08d}.png"
            cv2.imwrite(str(path), np.full((200, 346), number, np.uint8))
    return root


def test_the_published_split_is_taken_unless_sequences_are_named(tmp_path: Path) -> None:
    root = str(write_ddd17(tmp_path, "0123"))
    data = LabelledData("ddd17", root, classes=DDD17_CLASSES, width=346, height=200)
    loaders = loaded(data)
    assert (len(loaders.train), len(loaders.held_out)) == (9, 3)
    sample = loaders.train[SampleSpec(0, 0, 4)]
    assert sample.events.shape == (5, 200, 346)
    assert (sample.truth == 2).all()
    assert sample.at_events.nonzero().tolist() == [[7, 5]]
    named = LabelledData(
        "ddd17", root, ["dir2"], ["dir0", "dir3"], classes=DDD17_CLASSES, fraction=0.3
    )
    loaders = loaded(named)
    assert (len(loaders.train), len(loaders.held_out)) == (1, 6)
    missing = LabelledData("ddd17", root, ["dir7"], classes=DDD17_CLASSES)
    with pytest.raises(TaskError, match="expected one sequence dir7, found nothing"):
        loaded(missing)
    # What is judged by is opened by itself.
    assert len(build_held_out(missing, EventOptions(), read_classes(DDD17_CLASSES))) == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], r"data\.pictures is not given, but data\.kind stills needs it"),
        (["--data.kind", "dsec_flow"], r"data\.root is not given"),
        (["--data.kind", "dsec_semantic", "--data.root", "x"], r"data\.classes is not given"),
        (["--data.kind", "bag_depth", "--data.train", "[a]"], r"data\.validation is not given"),
        (["--data.kind", "kitti"], r"data\.kind"),
        (
            ["--data.kind", "mvsec_flow", "--data.root", "x", "--data.frames", "-1"],
            r"data\.frames is -1",
        ),
    ],
)
def test_what_a_kind_lacks_is_named(given: list[str], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        parse_configuration(Finetuning, [*given, "--head.kind", "flow_correlation"], "")


PRESETS = sorted(
    path.stem
    for path in (REPOSITORY / "config" / "finetune").glob("*.yaml")
    if not path.stem.startswith("camvid")
)


@pytest.mark.parametrize("name", PRESETS)
def test_our_presets_of_data_sets_can_be_read(name: str) -> None:
    path = REPOSITORY / "config" / "finetune" / f"{name}.yaml"
    read = parse_configuration(Finetuning, ["--config", str(path), "--data.root", "x"], "")
    assert read.data.kind.split("_")[0] == name.rstrip("1_").split("_")[0].rstrip("1")
    assert not read.data.classes or read_classes(read.data.classes).names
    assert read.trainer.output == f"runs/{name}"
