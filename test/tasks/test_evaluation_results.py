"""Results of evaluations: files, spreads over seeds, comparisons, and their text."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
from made_evaluations import made_evaluation, made_group

from scaleevent_ros.tasks.errors import TaskError
from scaleevent_ros.tasks.evaluation_report import (
    comparison_markdown,
    comparison_table,
    markdown_table,
    notes,
    score_table,
    text_table,
)
from scaleevent_ros.tasks.evaluation_results import (
    compare,
    difference,
    pair_seeds,
    read_evaluation,
    spread,
    to_plain,
    write_evaluation,
    write_whole,
)

if TYPE_CHECKING:
    from pathlib import Path


def test_an_evaluation_is_read_as_it_was_written(tmp_path: Path) -> None:
    for one in (made_evaluation(), made_evaluation(seed=None, step=None, classes=[])):
        write_evaluation(tmp_path / "new", one)
        assert read_evaluation(tmp_path / "new" / "evaluation.json") == one


def test_what_is_not_known_is_null(tmp_path: Path) -> None:
    write_evaluation(tmp_path, made_evaluation(scores={"mean_10m": math.nan, "rmse": 2.0}))
    path = tmp_path / "evaluation.json"
    assert json.loads(path.read_text())["scores"] == {"mean_10m": None, "rmse": 2.0}
    scores = read_evaluation(path).scores
    assert math.isnan(scores["mean_10m"])
    assert scores["rmse"] == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "version 1"),
        ({"seed": "zero"}, "'seed'"),
        ({"windows": True}, "'windows'"),
        ({"scores": {"miou": "high"}}, "'scores'"),
        ({"scores": [0.5]}, "'scores'"),
        ({"mood": "good"}, "'mood'"),
        ({"truth": None}, "'truth'"),
    ],
)
def test_something_else_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    write_evaluation(tmp_path, made_evaluation())
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(TaskError, match=said):
        read_evaluation(path)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="No such file"):
        read_evaluation(tmp_path / "evaluation.json")
    (tmp_path / "text.json").write_text("miou 0.5")
    with pytest.raises(TaskError, match=r"text\.json is not JSON"):
        read_evaluation(tmp_path / "text.json")
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(TaskError, match="version 1"):
        read_evaluation(tmp_path / "list.json")


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(TaskError, match="taken cannot be written"):
        write_whole(tmp_path / "taken", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_the_spread_of_a_group_is_that_of_a_sample() -> None:
    # Deviations -2, -1, 3: squares sum to 14, over n - 1 = 2.
    assert list(spread([1, 2, 6])) == pytest.approx([3, math.sqrt(7), 3])
    assert spread([4]) == (4, None, 1)


def test_equal_seeds_are_paired_in_any_order() -> None:
    assert pair_seeds([0, 1, 2], [2, 0, 1]) == [(0, 1), (1, 2), (2, 0)]
    assert pair_seeds([5], [5]) == [(0, 0)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([0, 1], [1, 2]),
        ([0, 1], [0, 1, 2]),
        ([0, 0], [0, 0]),
        ([0, 1], [0, 1, 1]),
        ([0, None], [0, None]),
        ([None], [None]),
        ([0, 1], [0, 1, None]),
        ([0, 1], []),
    ],
)
def test_other_seeds_are_not_paired(first: list[int | None], second: list[int | None]) -> None:
    assert pair_seeds(first, second) is None
    assert pair_seeds(second, first) is None


def test_a_paired_difference_spreads_as_the_differences_of_equal_seeds() -> None:
    # Of seeds 0, 1, 2: 5 - 5, 7 - 9, 9 - 4. Their mean is 1, deviations -1, -3, 4: 26 / 2 = 13.
    found = difference([5, 7, 9], [4, 5, 9], [(0, 1), (1, 2), (2, 0)])
    assert list(found) == pytest.approx([1, math.sqrt(13 / 3), 2, True])


def test_an_unpaired_difference_spreads_as_welch_says() -> None:
    # Variances 1 of n = 3 and 8 of n = 2: 1 / 3 + 4. Freedom: (13/3)^2 / ((1/3)^2 / 2 + 4^2 / 1).
    found = difference([1, 2, 3], [2, 6], None)
    assert list(found) == pytest.approx([-2, math.sqrt(13 / 3), 338 / 289, False])


def test_a_single_score_has_no_spread() -> None:
    assert difference([3], [1], [(0, 0)]) == (2, None, None, True)
    assert difference([3], [1, 2], None) == (1.5, None, None, False)


def test_scores_that_are_all_alike_have_no_degrees_of_freedom() -> None:
    assert difference([3, 3], [1, 1], None) == (2, 0, None, False)


A = made_group("a", {0: 0.5, 1: 0.7, 2: 0.9})
B = made_group("b", {2: 0.4, 0: 0.5, 1: 0.9})


def test_groups_of_the_same_seeds_are_compared_seed_by_seed() -> None:
    found = to_plain(compare(A, B))
    assert found["paired"] is True
    assert found["compared"]["B1"]["seed"] == 2
    score = found["scores"]["miou"]
    assert score["A"] == {
        "mean": pytest.approx(0.7), "std": pytest.approx(0.2), "seeds": 3, "values": [0.5, 0.7, 0.9]
    }  # fmt: skip
    # Differences of seeds 0, 1, 2: 0, -0.2, 0.5; mean 0.1; squares 0.01 + 0.09 + 0.16.
    assert score["difference"] == {
        "mean": pytest.approx(0.1),
        "standard_error": pytest.approx(math.sqrt(0.13 / 3)),
        "degrees_of_freedom": 2,
        "paired": True,
    }
    assert "seeds that A and B share" in notes(compare(A, B))[0]


def test_groups_of_other_seeds_are_compared_by_welch() -> None:
    found = compare(A, B[:2])
    assert not found.paired
    difference = found.rows[0].difference
    assert difference is not None
    # Variances 0.04 over 3 and 0.005 over 2.
    assert difference.standard_error == pytest.approx(math.sqrt(0.04 / 3 + 0.005 / 2))
    assert "Welch" in notes(found)[0]


def test_one_group_is_summed_up() -> None:
    found = compare(A, [])
    assert comparison_table(found) == [["score", "A: mean ± std"], ["miou ↑", "0.7000 ± 0.2000"]]
    assert notes(found) == []
    assert "difference" not in to_plain(found)["scores"]["miou"]


def test_two_single_checkpoints_differ_without_a_spread() -> None:
    found = compare(A[:1], B[1:2])
    assert comparison_table(found)[1] == ["miou ↑", "0.5000", "0.5000", "+0.0000"]
    assert notes(found) == [
        "A single checkpoint has no spread over seeds, so differences have no standard error."
    ]


def test_scores_that_not_all_have_are_left_out() -> None:
    first = made_evaluation(scores={"miou": 0.5, "iou/smooth": 0.1, "rmse": 1.0})
    second = made_evaluation(scores={"miou": 0.4, "iou/rough": 0.1, "rmse": math.nan})
    assert [row.name for row in compare([first], [second]).rows] == ["miou"]


@pytest.mark.parametrize(
    "change",
    [
        {"events": {"representation": "voxel", "bins": 3}},
        {"classes": ["smooth", "coarse"]},
        {"task": "depth"},
        {"architecture": "vit_small_patch16_224"},
        {"head": {"kind": "segmentation_dpt"}},
    ],
)
def test_a_group_is_of_one_kind(change: dict[str, Any]) -> None:
    with pytest.raises(TaskError, match=f"B2 is of another kind than B1, its {next(iter(change))}"):
        compare(A, [made_evaluation(), made_evaluation(seed=1, **change)])


def test_what_the_groups_differ_in_is_said() -> None:
    three = made_group("c", {0: 0.5}, events={"representation": "voxel", "bins": 3})
    said = notes(compare(A, three))[-1]
    assert said == (
        "Different events: A has representation voxel, bins 5; B has representation voxel, bins 3."
    )


def test_other_tasks_and_classes_cannot_be_compared() -> None:
    with pytest.raises(TaskError, match="A has segmentation smooth, rough, B has depth: they"):
        compare(A, made_group("d", {0: 1.0}, task="depth", classes=[]))
    with pytest.raises(TaskError, match="B has segmentation sky, road: they"):
        compare(A, made_group("d", {0: 1.0}, classes=["sky", "road"]))


def test_other_truth_cannot_be_compared() -> None:
    other = made_group("b", {0: 0.5}, truth="ef" * 32, windows=9)
    with pytest.raises(TaskError, match=r"on different ground truth \(9 and 7 windows\)"):
        compare(A, other)
    with pytest.raises(TaskError, match="different ground truth"):
        compare([*A, *other], [])


def test_tables_are_aligned_and_have_units_and_directions() -> None:
    scores = {"rmse": 2.5, "delta1": 0.5, "mean_10m": math.nan, "events/rmse": 10.25}
    table = score_table(made_evaluation(task="depth", classes=[], scores=scores))
    assert text_table(table) == (
        "score           all pixels  pixels with events\n"
        "rmse [m] ↓          2.5000             10.2500\n"
        "delta1 ↑            0.5000                   -\n"
        "mean_10m [m] ↓           -                   -\n"
    )
    assert markdown_table(table).splitlines()[:3] == [
        "| score | all pixels | pixels with events |",
        "| --- | ---: | ---: |",
        "| rmse [m] ↓ | 2.5000 | 10.2500 |",
    ]


def test_the_markdown_of_a_comparison_says_what_was_compared() -> None:
    said = comparison_markdown(compare(A, B))
    assert "| B1 | `runs/b2/best.safetensors` | 2 | `abababababab` |" in said
    assert "Evaluated on 7 windows of the validation part of kind stills, strength 2.0." in said
