"""The examples of docs/representations.md, run as they stand (a GPU's on the CPU)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import torch
from random_events import random_batch

from scaleevent_ros.events import encode_evt3

if TYPE_CHECKING:
    from pathlib import Path


def test_examples_run(repository: Path) -> None:
    text = (repository / "docs" / "representations.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    on_arrays, leaky, streaming, clock = examples
    batch = random_batch(np.random.default_rng(0), 50_000, 640, 480, 0, 100_000_000)
    times = np.arange(100, dtype=np.int64) * 1_000_000
    names: dict[str, object] = {
        "batch": batch, "t_start": 0, "t_end": 50_000_000, "payload": encode_evt3(batch),
        "stamp_ns": 10**18, "sensor_ns": times, "host_ns": times + 5,
    }  # fmt: skip
    exec(on_arrays.replace('"cuda"', '"cpu"'), names)
    grid, on_gpu = names["grid"], names["on_gpu"]
    assert isinstance(grid, np.ndarray)
    assert isinstance(on_gpu, torch.Tensor)
    np.testing.assert_allclose(on_gpu, grid, atol=1e-5)
    exec(leaky, names)
    whole = names["tensor"]
    assert isinstance(whole, np.ndarray)
    assert whole.shape == (8, 480, 640)
    exec(streaming + "\nwindow = accumulator.read()", names)
    tensor = names["tensor"]
    assert isinstance(tensor, np.ndarray)
    assert tensor.any()
    exec(clock, names)
    assert isinstance(names["stamp"], int)
