from __future__ import annotations

from itertools import pairwise

import pytest

from scaleevent_ros.distill.configuration import OptimizerOptions
from scaleevent_ros.distill.schedule import rate_factor


def factors(options: OptimizerOptions, steps: int = 100, per_epoch: int = 10) -> list[float]:
    return [rate_factor(step, steps, per_epoch, options) for step in range(steps)]


def test_cosine_warms_up_and_ends_where_it_should() -> None:
    curve = factors(OptimizerOptions(warmup_steps=9, min_lr_ratio=0.1))
    assert curve[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert max(curve) == 1.0
    assert curve[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(curve[9:]))
    assert curve[54] == pytest.approx(0.55, abs=0.01)  # half-way down, half-way through


def test_exponential_falls_from_epoch_to_epoch() -> None:
    curve = factors(OptimizerOptions(schedule="exponential", gamma=0.9))
    assert curve[:10] == [1.0] * 10
    assert curve[35] == pytest.approx(0.9**3)


def test_constant_is_constant() -> None:
    assert set(factors(OptimizerOptions(schedule="constant"))) == {1.0}


def test_a_run_of_one_step_has_a_rate() -> None:
    assert rate_factor(0, 1, 1, OptimizerOptions()) == 1.0
