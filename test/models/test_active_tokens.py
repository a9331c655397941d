"""Which tokens a student of active tokens computes."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from scaleevent_ros.models import (
    CheckpointError,
    build_student,
    load_student,
    read_header,
    save_student,
)
from scaleevent_ros.models.active_tokens import (
    ActiveTokens,
    spread_tokens,
    token_counts,
)
from scaleevent_ros.models.checkpoints import METADATA_KEY

if TYPE_CHECKING:
    from pathlib import Path

ROWS, COLUMNS, STRIDE = 12, 20, 16
VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2}


def windows(patches: list[list[tuple[int, int]]], pixels: int) -> np.ndarray:
    """Draw events in a number of pixels of patches, [B, 3, H, W]; the last rows are cut."""
    events = np.zeros((len(patches), 3, ROWS * STRIDE - 5, COLUMNS * STRIDE), np.float32)
    rng = np.random.default_rng(0)
    for window, places in zip(events, patches, strict=True):
        for row, column in places:
            y, x = np.divmod(rng.choice(100, pixels, replace=False), 10)
            y, x = y + row * STRIDE, x + column * STRIDE
            window[rng.integers(0, 3, pixels), y, x] = rng.choice([-1.0, 2.0], pixels)
    return events


@pytest.mark.parametrize("dilation", [0, 1, 2])
def test_active_tokens_and_those_around_them_are_chosen(dilation: int) -> None:
    places = [[(0, 0), (7, 13), (7, 14)], [(11, 19)], []]
    choice = ActiveTokens(anchors=0.05, dilation=dilation, pixels=8)
    chosen = choice.choose(windows(places, 8), STRIDE)
    assert (np.diff(chosen, axis=1) > 0).all()  # ascending, none twice
    needed = set()
    for window, around in zip(chosen, places, strict=True):
        expected = {
            (y, x)
            for row, column in around
            for y in range(max(0, row - dilation), min(ROWS, row + dilation + 1))
            for x in range(max(0, column - dilation), min(COLUMNS, column + dilation + 1))
        }
        found = {tuple(divmod(int(token), COLUMNS)) for token in window}
        assert expected <= found
        needed.add(len(expected))
    least = max(needed) + 0.05 * (ROWS * COLUMNS)
    assert chosen.shape[1] == next(n for n in token_counts(ROWS * COLUMNS) if n >= least)
    tensors = torch.from_numpy(windows(places, 8))
    np.testing.assert_array_equal(choice.choose(tensors, STRIDE), chosen)
    # Fewer pixels with events are noise.
    noise = choice.choose(windows(places, 7), STRIDE)
    np.testing.assert_array_equal(noise[0], noise[2])


def test_everything_is_computed_where_everything_is_active() -> None:
    choice = ActiveTokens(anchors=0.5, dilation=0, pixels=1)
    everywhere = [(row, column) for row in range(ROWS) for column in range(COLUMNS)]
    chosen = choice.choose(windows([everywhere], 3), STRIDE)
    np.testing.assert_array_equal(chosen, np.arange(ROWS * COLUMNS)[None])


@pytest.mark.parametrize("grid", [(30, 40), (15, 20), (7, 3)])
def test_anchors_are_spread_evenly(grid: tuple[int, int]) -> None:
    counts = token_counts(grid[0] * grid[1])
    assert counts[-1] == grid[0] * grid[1]
    for count in counts:
        chosen = spread_tokens(*grid, count)
        assert len(set(chosen)) == count
        y, x = np.divmod(chosen, grid[1])
        rows, columns = np.indices(grid)
        gap = np.hypot(rows[..., None] - y, columns[..., None] - x).min(-1)
        # In a square lattice of as many points no cell is further away than 0.71 of its spacing.
        spacing = (grid[0] * grid[1] / count) ** 0.5
        assert gap.max() <= 2 * spacing


def test_the_header_holds_the_rule(tmp_path: Path) -> None:
    choice = ActiveTokens(anchors=0.1, dilation=2, pixels=16)
    student = build_student("vit_tiny_patch16_224", 5, "random", options=VIT)
    events = torch.from_numpy(windows([[(3, 4)], []], 20)).repeat(1, 2, 1, 1)[:, :5]
    assert student.choose_tokens(events) is None
    student.header = replace(student.header, tokens=asdict(choice), leaky=[0.1, 0.5])
    path = tmp_path / "student.safetensors"
    save_student(path, student)
    loaded = load_student(path)
    assert read_header(path).active_tokens == choice
    kept = loaded.choose_tokens(events)
    assert kept is not None
    # The last two channels are leaky integrals, which are no activity.
    np.testing.assert_array_equal(kept, choice.choose(events[:, :3], STRIDE))
    with torch.inference_mode():
        assert torch.equal(loaded(events, kept=kept), student.eval()(events, kept=kept))


@pytest.mark.parametrize("damage", [{"anchors": 0.1}, {"color": 3}])
def test_a_damaged_rule_is_refused(tmp_path: Path, damage: dict[str, float]) -> None:
    path = tmp_path / "student.safetensors"
    save_student(path, build_student("vit_tiny_patch16_224", 5, "random", options=VIT))
    header = json.loads(_metadata(path))
    save_file(load_file(path), path, {METADATA_KEY: json.dumps({**header, "tokens": damage})})
    with pytest.raises(CheckpointError, match=r"the header's 'tokens' is .*argument"):
        read_header(path)


def test_headers_of_older_releases_compute_all_tokens(tmp_path: Path) -> None:
    path = tmp_path / "student.safetensors"
    save_student(path, build_student("vit_tiny_patch16_224", 5, "random", options=VIT))
    header = json.loads(_metadata(path))
    assert header.pop("tokens") is None
    save_file(load_file(path), path, {METADATA_KEY: json.dumps(header)})
    assert load_student(path).header.active_tokens is None


def _metadata(path: Path) -> str:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    text: str = json.loads(content[8 : 8 + length])["__metadata__"][METADATA_KEY]
    return text
