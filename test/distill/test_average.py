from __future__ import annotations

import torch
from torch import nn

from scaleevent_ros.distill.average import WeightAverage


def test_the_average_follows_its_definition_and_leaves_the_model_alone() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(3)
    average = WeightAverage(norm, decay=0.75)
    expected = norm.weight.detach().double().clone()
    for _ in range(5):
        norm(torch.randn(4, 3))
        with torch.no_grad():
            norm.weight.add_(torch.randn_like(norm.weight))
        average.update(norm)
        expected = 0.75 * expected + 0.25 * norm.weight.detach().double()
    averaged = average.module.state_dict()
    torch.testing.assert_close(averaged["weight"].double(), expected, atol=1e-6, rtol=0)
    assert norm.running_mean is not None
    assert torch.equal(averaged["running_mean"], norm.running_mean)
    assert not any(parameter.requires_grad for parameter in average.module.parameters())
    assert all(parameter.requires_grad for parameter in norm.parameters())
    assert (norm.training, average.module.training) == (True, False)
