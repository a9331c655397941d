from __future__ import annotations

import torch
from torch import nn

from scaleevent_ros.distill.average import WeightAverage


def test_the_average_follows_its_definition_and_gives_the_weights_back() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    average = WeightAverage(model, decay=0.75)
    expected = model.weight.detach().double().clone()
    for _ in range(5):
        with torch.no_grad():
            model.weight.add_(torch.randn_like(model.weight))
        average.update()
        expected = 0.75 * expected + 0.25 * model.weight.detach().double()
    weights = model.weight.detach().clone()
    with average.in_place():
        torch.testing.assert_close(model.weight.detach().double(), expected, atol=1e-6, rtol=0)
    assert torch.equal(model.weight.detach(), weights)
    average.restart()
    with average.in_place():
        assert torch.equal(model.weight.detach(), weights)
