"""AdamW with learning rates by layer and by group of parameters."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

import torch
from timm.optim._param_groups import param_groups_layer_decay

from scaleevent_ros.distill.errors import ConfigurationError

if TYPE_CHECKING:
    from torch import nn

    from scaleevent_ros.distill.configuration import OptimizerOptions, ParameterGroup


def freeze_parameters(model: nn.Module, options: OptimizerOptions) -> None:
    """Freeze parameters whose multiplier is 0; to be called before Fabric wraps the model.

    Raises:
        ConfigurationError: If a group is invalid, as in `build_optimizer`, or no parameter is left
            to train.
    """
    multipliers = _group_multipliers(model, options.groups)
    for name, parameter in model.named_parameters():
        if multipliers.get(name) == 0:
            parameter.requires_grad = False
    if not any(parameter.requires_grad for parameter in model.parameters()):
        msg = "optimizer.groups freeze all parameters: leave one with a multiplier above 0"
        raise ConfigurationError(msg)


def set_training(model: nn.Module) -> None:
    """Set training mode, but keep frozen modules in eval mode, so that their statistics stay."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def build_optimizer(
    model: nn.Module, options: OptimizerOptions, batch_size: int, *, fused: bool = True
) -> torch.optim.AdamW:
    """Build AdamW over all parameters that are not frozen.

    Each of its groups holds its peak learning rate under ``base_lr`` (see `set_rate`).

    Args:
        model: Model with one timm network; ``layer_decay`` does not apply to other parameters.
        options: Options of the optimizer.
        batch_size: Global batch size, for ``options.reference_batch_size``.
        fused: Use PyTorch's fused implementation.

    Raises:
        ConfigurationError: If a group's pattern is no regular expression, or matches no parameter.
    """
    highest = options.learning_rate * batch_size / (options.reference_batch_size or batch_size)
    multipliers = _group_multipliers(model, options.groups)
    scales = _layer_scales(model, options.layer_decay) if options.layer_decay < 1 else {}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = highest * multipliers.get(name, 1.0) * scales.get(parameter, 1.0)
        decayed = options.decay_all or parameter.ndim > 1
        groups.setdefault((rate, options.weight_decay if decayed else 0.0), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": rate, "base_lr": rate, "weight_decay": decay}
            for (rate, decay), parameters in groups.items()
        ],
        betas=options.betas,
        fused=fused,
    )


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's learning rate to its peak rate times a factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def _layer_scales(model: nn.Module, layer_decay: float) -> dict[nn.Parameter, float]:
    """Compute the factors of layer-wise learning rate decay for the timm network in a model.

    Clark et al., "ELECTRA", ICLR 2020; for ViTs, Bao et al., "BEiT", ICLR 2022.
    """
    for module in model.modules():
        if hasattr(module, "group_matcher"):
            groups = param_groups_layer_decay(module, layer_decay=layer_decay)
            return {
                cast("nn.Parameter", parameter): group["lr_scale"]
                for group in groups
                for parameter in group["params"]
            }
    return {}


def _group_multipliers(model: nn.Module, groups: list[ParameterGroup]) -> dict[str, float]:
    names = [name for name, _ in model.named_parameters()]
    found: dict[str, float] = {}
    for group in groups:
        try:
            matching = [name for name in names if re.search(group.pattern, name)]
        except re.error as error:
            msg = f"optimizer.groups: {group.pattern!r} is not a regular expression: {error}"
            raise ConfigurationError(msg) from error
        if not matching:
            msg = f"optimizer.groups: no parameter matches {group.pattern!r}; one is {names[0]}"
            raise ConfigurationError(msg)
        for name in matching:
            found.setdefault(name, group.multiplier)
    return found
