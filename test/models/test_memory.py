"""The memory of a student: what it holds, and that a student without it is as before."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from scaleevent_ros.models import build_student, load_student, read_header, save_student
from scaleevent_ros.models.checkpoints import METADATA_KEY
from scaleevent_ros.models.memory import GatedMemory

if TYPE_CHECKING:
    from pathlib import Path

    from scaleevent_ros.models import Student

VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2, "dynamic_img_size": True}
SIZE = 40, 56  # padded to 48x64


def make_student(*, memory: bool) -> Student:
    torch.manual_seed(0)
    student = build_student("vit_tiny_patch16_224", 5, "random", options=VIT)
    student.header = replace(student.header, leaky=[0.5, 2.0], normalization="percentile")
    if memory:
        student.set_memory(1.5)
    return student.eval()


def windows(count: int, steps: int, seed: int = 0) -> torch.Tensor:
    """Draw event tensors whose representation has events in half of the patches, by turns."""
    rng = np.random.default_rng(seed)
    events = rng.standard_normal((count, steps, 5, *SIZE), np.float32)
    for step in range(steps):
        events[:, step, :3, :, (step % 2) * 32 : (step % 2) * 32 + 32] = 0
    return torch.from_numpy(events)


def stir(memory: GatedMemory) -> None:
    """Give every weight a value, as training does."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in memory.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)


def test_without_a_memory_and_with_an_empty_one_features_are_the_same() -> None:
    plain, gated = make_student(memory=False), make_student(memory=True)
    assert gated.memory is not None
    stir(gated.memory)
    events = windows(2, 3)
    with torch.inference_mode():
        expected = torch.stack([plain(each) for each in events])
        assert torch.equal(torch.stack([gated(each) for each in events]), expected)
        unknown = torch.full((2, 3), torch.inf)
        alone, remembered = gated(events, elapsed_s=unknown)
    # The batch is another, so sums are in another order.
    torch.testing.assert_close(alone, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(remembered, alone)


def test_an_open_and_a_closed_gate_hold_the_last_active_features() -> None:
    """The plain "hold" is what the cell does with a steep gate and no correction."""
    student = make_student(memory=True)
    assert student.memory is not None
    with torch.no_grad():
        student.memory.openness.copy_(torch.tensor([1e6, -1e3]))
        events = windows(2, 5)
        alone, remembered = student(events, elapsed_s=torch.full((2, 5), 0.05))
    held = alone[:, 0]
    for step in range(5):
        active = (events[:, step, :3] != 0).any(1).float()
        padded = nn.functional.pad(active, (0, 8, 0, 8)).reshape(-1, 3, 16, 4, 16)
        share = padded.amax((2, 4))[:, None]
        assert 0 < share.mean() < 1
        held = torch.where(share > 0, alone[:, step], held)
        torch.testing.assert_close(remembered[:, step], held)


def test_activity_is_the_share_of_pixels_with_events_in_the_window() -> None:
    memory = GatedMemory(8, 16, 3)
    events = torch.zeros(1, 5, *SIZE)
    events[0, 3:] = 1  # leaky integrals are no activity
    events[0, 0, 2, 3] = -2
    events[0, 2, 2, 3] = 2
    events[0, 1, 17:19, 40:44] = 1
    expected = torch.zeros(1, 1, 3, 4)
    expected[0, 0, 0, 0], expected[0, 0, 1, 2] = 1 / 256, 8 / 256
    torch.testing.assert_close(memory.activity(events), expected)


@pytest.mark.parametrize("elapsed_s", [0.0, 0.05, 5.0])
def test_a_trained_cell_computes_its_equations(elapsed_s: float) -> None:
    """In double precision, written once more with matrices."""
    torch.manual_seed(2)
    memory = GatedMemory(6, 16, 3, channels=4).double()
    stir(memory)
    features, state = torch.randn(1, 6, 3, 4).double(), torch.randn(1, 7, 3, 4).double()
    state[:, -1] = 1
    events = windows(1, 1)[0].double()
    with torch.no_grad():
        found = memory(features, events, state, torch.tensor([elapsed_s]))
    weights = {name: value.detach().numpy() for name, value in memory.named_parameters()}
    f, h = features[0].numpy(), state[0, :-1].numpy()
    active = memory.activity(events)[0, 0].numpy()

    def at_each(name: str, x: np.ndarray) -> np.ndarray:
        matrix = weights[f"{name}.weight"][:, :, 0, 0]
        bias = weights[f"{name}.bias"][:, None, None]
        result: np.ndarray = np.einsum("oi,ihw->ohw", matrix, x) + bias
        return result

    def gelu(x: np.ndarray) -> np.ndarray:
        return nn.functional.gelu(torch.from_numpy(x)).numpy()

    hidden = gelu(at_each("reduce", np.concatenate([f, h])))
    since = np.full((1, 3, 4), np.log1p(elapsed_s))
    padded = np.pad(np.concatenate([hidden, active[None], since]), ((0, 0), (1, 1), (1, 1)))
    kernel = weights["mix.weight"]
    mixed = np.array(
        [
            [
                [(kernel[o] * padded[:, r : r + 3, c : c + 3]).sum() for c in range(4)]
                for r in range(3)
            ]
            for o in range(4)
        ]
    )
    hidden = gelu(mixed + weights["mix.bias"][:, None, None])
    slope, offset = weights["openness"]
    gate = 1 / (1 + np.exp(-(at_each("gate", hidden) + slope * active + offset)))
    expected = h + gate * (f - h + at_each("correction", hidden))
    np.testing.assert_allclose(found[0, :-1], expected, rtol=1e-6, atol=1e-9)
    assert (found[0, -1] == 1).all()


def test_a_gap_empties_the_memory_of_its_sequence_alone() -> None:
    student = make_student(memory=True)
    assert student.memory is not None
    stir(student.memory)
    events, elapsed = windows(2, 4), torch.full((2, 4), 0.05)
    elapsed[1, 2] = torch.inf
    with torch.inference_mode():
        _, whole = student(events, elapsed_s=elapsed)
        _, first = student(events, elapsed_s=torch.full((2, 4), 0.05))
        _, rest = student(events[:, 2:], elapsed_s=torch.full((2, 2), 0.05))
    torch.testing.assert_close(whole[0], first[0])
    torch.testing.assert_close(whole[1, :2], first[1, :2])
    torch.testing.assert_close(whole[1, 2:], rest[1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(whole[1, 2:], first[1, 2:], atol=1e-2)


def test_all_of_a_memory_learns_through_time() -> None:
    student = make_student(memory=True).train()
    assert student.memory is not None
    stir(student.memory)
    events = windows(1, 4)
    events[:, 1:, :3] = 0  # only the first window has events
    events.requires_grad_()
    _, remembered = student(events, elapsed_s=torch.full((1, 4), 0.05))
    torch.autograd.backward(remembered[:, -1].square().sum())
    for name, parameter in student.memory.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert events.grad is not None
    assert events.grad[:, 0].abs().max() > 0


def test_a_checkpoint_keeps_the_memory(tmp_path: Path) -> None:
    student = make_student(memory=True)
    assert student.memory is not None
    stir(student.memory)
    save_student(tmp_path / "gated.safetensors", student)
    found = load_student(tmp_path / "gated.safetensors")
    assert found.header.memory == {"channels": 64, "width": 32, "longest_gap_s": 1.5}
    events, elapsed = windows(1, 3), torch.full((1, 3), 0.05)
    with torch.inference_mode():
        assert torch.equal(found(events, elapsed_s=elapsed), student(events, elapsed_s=elapsed))
    warm = build_student("vit_tiny_patch16_224", 5, tmp_path / "gated.safetensors")
    assert warm.memory is not None
    assert torch.equal(warm.memory.reduce.weight, student.memory.reduce.weight)
    warm.set_memory(None)
    save_student(tmp_path / "plain.safetensors", warm)
    assert load_student(tmp_path / "plain.safetensors").memory is None


def test_checkpoints_of_before_there_was_a_memory_load(tmp_path: Path) -> None:
    path, student = tmp_path / "plain.safetensors", make_student(memory=False)
    save_student(path, student)
    tensors, header = load_file(path), read_header(path)
    content = {"version": 1, **{k: v for k, v in vars(header).items() if k != "memory"}}
    assert content["window"] is None
    save_file(tensors, path, {METADATA_KEY: json.dumps(content)})
    found = load_student(path)
    events = windows(1, 1)[0]
    with torch.inference_mode():
        assert torch.equal(found(events), student(events))


def test_a_memory_is_small() -> None:
    """A tenth of EfficientNet-Lite0, whose features at stride 16 have 112 channels."""
    memory = GatedMemory(112, 16, 5)
    assert sum(parameter.numel() for parameter in memory.parameters()) < 100_000
