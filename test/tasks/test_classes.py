"""Lists of classes: ours, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scaleevent_ros.tasks import TaskError
from scaleevent_ros.tasks.classes import read_classes
from scaleevent_ros.tasks.losses import IGNORED

FOLDER = Path(__file__).resolve().parents[2] / "config" / "labels"


@pytest.mark.parametrize(
    ("name", "count", "known"),
    [
        ("camvid11", 11, {0: "sky", 3: "road", 8: "car", 10: "bicyclist"}),
        ("dsec11", 11, {0: "background", 5: "road", 8: "car", 10: "traffic sign"}),
        ("dsec19", 19, {0: "road", 10: "sky", 13: "car", 18: "bicycle"}),
        ("ddd17_6", 6, {0: "flat", 1: "background", 4: "human", 5: "vehicle"}),
    ],
)
def test_our_lists(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    count: int,
    known: dict[int, str],
) -> None:
    monkeypatch.chdir(tmp_path)  # a name is found from any folder
    classes = read_classes(name)
    assert classes == read_classes(FOLDER / f"{name}.yaml")
    assert len(classes.names) == len(set(classes.colors)) == count
    assert {i: classes.names[i] for i in known} == known


def test_ignored_ids_become_one() -> None:
    classes = read_classes(FOLDER / "camvid11.yaml")
    truth = classes.to_truth(np.array([[0, 10, 11, 255]], np.uint8))
    assert truth.tolist() == [[0, 10, IGNORED, IGNORED]]
    with pytest.raises(TaskError, match="id 12"):
        classes.to_truth(np.array([12], np.uint8))


A = "{id: 0, name: a, color: [0, 0, 0]}"
B = "{id: 1, name: b, color: [1, 0, 0]}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("classes: [", "not a class list"),
        ("[1, 2]", "not a class list"),
        ("classes: [{id: 0, name: a}]\nignored: []", "color"),
        (f"classes: [{A}]\nignored: []", "2 to 254"),
        (f"classes: [{A}, {B.replace('1', '2')}]\nignored: []", "must count from 0"),
        (f"classes: [{A}, {B.replace('b', 'a')}]\nignored: []", "the same name"),
        (f"classes: [{A}, {B}]\nignored: [1]", "no class may be ignored"),
    ],
)
def test_a_wrong_list_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text(text)
    with pytest.raises(TaskError, match=said):
        read_classes(path)
    for absent in (tmp_path / "absent.yaml", "absent"):
        with pytest.raises(TaskError, match="cannot be read"):
            read_classes(absent)
