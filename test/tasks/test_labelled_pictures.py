"""Labelled pictures under a moving camera: events and labels that belong together."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
from labelled_pictures import write_labelled

from scaleevent_ros.data.sampler import SampleSpec
from scaleevent_ros.events.windows import WindowOptions
from scaleevent_ros.sources import SourceError
from scaleevent_ros.tasks import TaskError
from scaleevent_ros.tasks.classes import read_classes
from scaleevent_ros.tasks.labelled import LabelledDataset, LabelledOptions
from scaleevent_ros.tasks.labelled_pictures import (
    FilmOptions,
    FlowStills,
    LabelledStills,
    find_labelled,
)
from scaleevent_ros.tasks.losses import IGNORED

if TYPE_CHECKING:
    from pathlib import Path

WINDOW = WindowOptions(length_ms=40)
FILM = FilmOptions(width=64, height=48, window=WINDOW, strength=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labelled(tmp_path_factory.mktemp("labelled") / "all", 6)


def stills(folder: Path, film: FilmOptions = FILM) -> LabelledDataset:
    classes = read_classes(folder / "classes.yaml")
    source = LabelledStills(folder / "pictures", folder / "labels", classes, film)
    return LabelledDataset([source], LabelledOptions(64, 48, window=WINDOW))


def test_a_sample_shows_events_where_the_rough_class_is(folder: Path) -> None:
    sample = stills(folder)[SampleSpec(0, 0, 2)]
    assert sample.events.shape == (5, 48, 64)
    assert sample.truth.dtype == torch.int64
    assert set(sample.truth.flatten().tolist()) == {0, 1, IGNORED}
    rough = sample.at_events[sample.truth == 1].float().mean()
    smooth = sample.at_events[sample.truth == 0].float().mean()
    assert rough > 0.5
    assert smooth < 0.2
    # Values of the tensor are where events are: bilinear only in time.
    assert not sample.events[:, ~sample.at_events].any()


def test_a_sample_follows_from_its_draw(folder: Path) -> None:
    moving = stills(folder)
    fixed = stills(folder, replace(FILM, fixed_motion=True))
    for samples, alike in ((moving, False), (fixed, True)):
        first, again = samples[SampleSpec(0, 0, 1)], samples[SampleSpec(0, 3, 1)]
        assert torch.equal(first.events, again.events)
        assert torch.equal(first.events, samples[SampleSpec(1, 0, 1)].events) == alike


def test_what_is_wrong_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="absent"):
        find_labelled(folder / "absent", folder / "labels")
    with pytest.raises(TaskError, match=r"00\.png has no labels"):
        find_labelled(folder / "pictures", tmp_path)
    own = write_labelled(tmp_path / "own", 2)
    cv2.imwrite(str(own / "labels" / "00.png"), np.full((48, 64), 7, np.uint8))
    cv2.imwrite(str(own / "labels" / "01.png"), np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(TaskError, match=r"00\.png: labels have the id 7"):
        stills(own)[SampleSpec(0, 0, 0)]
    with pytest.raises(TaskError, match=r"01\.png: labels are uint8 \(48, 64, 3\)"):
        stills(own)[SampleSpec(0, 0, 1)]


def test_along_the_flow_events_come_together(tmp_path: Path) -> None:
    """The events of an edge lie on one line, once moved back to where the edge was at the start.

    How sharp their picture is tells a flow from others: Gallego, Rebecq and Scaramuzza, "A Unifying
    Contrast Maximization Framework for Event Cameras", CVPR 2018.
    """
    picture = np.full((96, 128), 60, np.uint8)
    for number in range(6):
        cv2.circle(picture, (20 + 18 * number, 20 + 37 * number % 60), 9, 200, -1)
    cv2.imwrite(str(tmp_path / "circles.png"), picture)
    film = FilmOptions(128, 96, WindowOptions(length_ms=60), strength=4, seed=3)
    source = FlowStills(tmp_path, film)
    assert (len(source), source.key(0)) == (1, "circles")
    for take in range(3):
        events, t_end, flow, t_start = source.read(0, take)
        assert t_start is not None
        assert t_end - t_start == 60_000_000
        assert len(events.between(2 * t_start - t_end, t_start)) > 100
        now = events.between(t_start, t_end)
        moved = flow[now.y, now.x] * ((now.t - t_start) / (t_end - t_start))[:, None]
        sharp = {}
        for share in (-1, 0, 0.5, 1, 1.5):
            columns, rows = (now.x - share * moved[:, 0], now.y - share * moved[:, 1])
            counts, _, _ = np.histogram2d(rows, columns, (96, 128), ((-0.5, 95.5), (-0.5, 127.5)))
            sharp[share] = counts.var()
        assert max(sharp, key=lambda share: sharp[share]) == 1
        assert sharp[0] > sharp[-1]
