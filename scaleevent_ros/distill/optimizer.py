"""AdamW with learning rates by layer and by group of parameters."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

import torch
from timm.models import group_parameters

from scaleevent_ros.distill.errors import ConfigurationError

if TYPE_CHECKING:
    from torch import nn

    from scaleevent_ros.distill.configuration import OptimizerOptions, ParameterGroup


def freeze_parameters(model: nn.Module, options: OptimizerOptions) -> None:
    """Let parameters whose rate is 0 not learn; before a model is wrapped for its processes.

    Raises:
        ConfigurationError: As `build_optimizer` does.
    """
    multipliers = _group_multipliers(model, options.groups)
    for name, parameter in model.named_parameters():
        if multipliers.get(name) == 0:
            parameter.requires_grad = False
    if not any(parameter.requires_grad for parameter in model.parameters()):
        msg = "optimizer.groups leave no parameter that learns"
        raise ConfigurationError(msg)


def build_optimizer(model: nn.Module, options: OptimizerOptions) -> torch.optim.AdamW:
    """Build AdamW over all parameters that learn.

    Each of its groups holds its highest learning rate under ``highest`` (see `set_rate`).

    Args:
        model: Holds one timm network, anywhere; what lies outside it counts as closest to the
            output.
        options: See `OptimizerOptions`.

    Raises:
        ConfigurationError: If a group's pattern is none, or fits no parameter.
    """
    multipliers = _group_multipliers(model, options.groups)
    depths = layer_depths(model) if options.layer_decay < 1 else {}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        multiplier = multipliers.get(name, 1.0) * options.layer_decay ** depths.get(name, 0)
        decayed = options.decay_all or parameter.ndim > 1
        decay = options.weight_decay if decayed else 0.0
        groups.setdefault((options.learning_rate * multiplier, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": rate, "highest": rate, "weight_decay": decay}
            for (rate, decay), parameters in groups.items()
        ],
        betas=options.betas,
        fused=True,
    )


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's learning rate to its highest times a factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["highest"] * factor


def layer_depths(model: nn.Module) -> dict[str, int]:
    """Count for each parameter of the timm network the blocks between it and the output.

    Layer-wise decay of learning rates: Clark et al., "ELECTRA", ICLR 2020; for ViTs, Bao et al.,
    "BEiT", ICLR 2022.
    """
    for place, module in model.named_modules():
        if hasattr(module, "group_matcher"):
            matcher = cast("Any", module).group_matcher(coarse=False)
            layers = cast("dict[str, int]", group_parameters(module, matcher, reverse=True))
            last = max(layers.values())
            prefix = f"{place}." if place else ""
            return {f"{prefix}{name}": last - layer for name, layer in layers.items()}
    return {}


def _group_multipliers(model: nn.Module, groups: list[ParameterGroup]) -> dict[str, float]:
    names = [name for name, _ in model.named_parameters()]
    found: dict[str, float] = {}
    for group in groups:
        try:
            fitting = [name for name in names if re.search(group.pattern, name)]
        except re.error as error:
            msg = f"optimizer.groups: {group.pattern!r} is not a regular expression: {error}"
            raise ConfigurationError(msg) from error
        if not fitting:
            msg = f"optimizer.groups: no parameter fits {group.pattern!r}; one is {names[0]}"
            raise ConfigurationError(msg)
        for name in fitting:
            found.setdefault(name, group.multiplier)
    return found
