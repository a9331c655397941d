"""Released files of weights, read into timm's networks: Meta's DINOv3 and the paper's students.

The names and their meaning follow the published model definition of DINOv3 (arXiv 2508.10104,
github.com/facebookresearch/dinov3). The paper's event encoders (arXiv 2603.03969) are the same
networks under ``module.event_encoder.``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from scaleevent_ros.models.backbone import build_network
from scaleevent_ros.models.errors import CheckpointError, ModelError
from scaleevent_ros.models.weights import load_exactly

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_PREFIXES = ("module.", "event_encoder.", "backbone.")
_PERIODS = "rope_embed.periods"
_CONVNEXT_STEM = "downsample_layers.0.0.weight"
# Used only in pretraining or by the class token, or (bias_mask, periods) read elsewhere.
_UNUSED = re.compile(
    r"mask_token$|local_cls_norm\.|cls_norm\.|projectors\.|norms\.|.*\.bias_mask$|rope_embed\."
)
# timm's names by embed_dim, depth, gated MLP.
_NAMED_VITS = {
    (192, 12, False): "vit_tiny",
    (384, 12, False): "vit_small",
    (384, 12, True): "vit_small_plus",
    (768, 12, False): "vit_base",
    (1024, 24, False): "vit_large",
    (1280, 32, True): "vit_huge_plus",
    (4096, 40, True): "vit_7b",
}
_VIT_RENAMES = (
    ("storage_tokens", "reg_token"),
    ("ls1.gamma", "gamma_1"),
    ("ls2.gamma", "gamma_2"),
    ("mlp.w1", "mlp.fc1_g"),
    ("mlp.w2", "mlp.fc1_x"),
    ("mlp.w3", "mlp.fc2"),
)


@dataclass(frozen=True)
class ImageNetwork:
    """A timm network, and what is needed to build it again.

    Attributes:
        network: The network.
        architecture: timm's name, without a tag.
        options: Arguments of timm's model.
        channels: Number of input channels.
    """

    network: nn.Module
    architecture: str
    options: dict[str, Any]
    channels: int = 3


def strip_prefixes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes of wrappers (``module.event_encoder.``) where all names have them."""
    plain = dict(tensors)
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in plain):
            plain = {name.removeprefix(prefix): value for name, value in plain.items()}
    return plain


def is_dinov3(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether the names are those of Meta's DINOv3, a ViT's or a ConvNeXt's."""
    plain = strip_prefixes(tensors)
    return (
        _PERIODS in plain
        or {"storage_tokens", "mask_token"} <= plain.keys()
        or (_CONVNEXT_STEM in plain and "norms.3.weight" in plain)
    )


def build_released(
    tensors: Mapping[str, Tensor],
    source: str,
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> ImageNetwork:
    """Build the timm network of a DINOv3 file, with its weights.

    Biases of queries and values are kept (timm's ``_qkvb`` variants), with the file's mask applied.
    The RoPE periods are the file's.

    Args:
        tensors: Tensors read from the file.
        source: Name of the file, for error messages.
        name: timm's name of the expected network; derived from the shapes if None.
        options: Arguments of timm's model that go with the name.

    Raises:
        CheckpointError: A tensor is missing or does not fit; names the first one.
    """
    plain = strip_prefixes(tensors)
    if _CONVNEXT_STEM in plain:
        return _build_convnext(plain, source, name, options)
    for wanted in (_PERIODS, "cls_token", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"):
        if wanted not in plain:
            msg = f"{source} has no {wanted}, which every DINOv3 ViT has"
            raise CheckpointError(msg)
    biased = "blocks.0.attn.qkv.bias" in plain
    if name is None:
        architecture, arguments = _vit_from_shapes(plain, source, biased=biased)
    else:
        architecture, arguments = _vit_variant(name, biased=biased), dict(options or {})
    channels = plain["patch_embed.proj.weight"].shape[1]
    network = _build(architecture, arguments, channels, source)
    load_exactly(network, _rename_vit(plain, source), source)
    periods = plain[_PERIODS].float()
    own = getattr(getattr(network, "rope", None), "periods", None)
    if not isinstance(own, torch.Tensor) or periods.shape != own.shape:
        msg = f"{source}: {_PERIODS} is {tuple(periods.shape)}, which does not fit {architecture}"
        raise CheckpointError(msg)
    own.copy_(periods)
    return ImageNetwork(network, architecture.partition(".")[0], arguments, channels)


def _build(architecture: str, options: Mapping[str, Any], channels: int, source: str) -> nn.Module:
    try:
        return build_network(architecture, options, num_classes=0, in_chans=channels)
    except ModelError as error:
        msg = f"{source} is a DINOv3 file whose network cannot be built: {error}"
        raise CheckpointError(msg) from error


def _vit_variant(name: str, *, biased: bool) -> str:
    """Return timm's name of the variant with or without biases of queries and values."""
    architecture, _, tag = name.partition(".")
    architecture = architecture.removesuffix("_qkvb") + ("_qkvb" if biased else "")
    return f"{architecture}.{tag}" if tag else architecture


def _vit_from_shapes(
    plain: Mapping[str, Tensor], source: str, *, biased: bool
) -> tuple[str, dict[str, Any]]:
    """Derive the architecture from the tensors: timm's name, and options where no name fits."""
    width = plain["cls_token"].shape[-1]
    depth = 1 + max(int(found[1]) for k in plain if (found := re.match(r"blocks\.(\d+)\.", k)))
    gated = "blocks.0.mlp.w1.weight" in plain
    hidden = "blocks.0.mlp.w1.weight" if gated else "blocks.0.mlp.fc1.weight"
    if hidden not in plain:
        msg = f"{source} has no {hidden}, which every DINOv3 ViT has"
        raise CheckpointError(msg)
    head_width = 4 * len(plain[_PERIODS])
    if width % head_width:
        msg = f"{source}: {_PERIODS} means heads of {head_width}, which do not divide {width}"
        raise CheckpointError(msg)
    registers = plain["storage_tokens"].shape[1] if "storage_tokens" in plain else 0
    patch = plain["patch_embed.proj.weight"].shape[-1]
    named = _NAMED_VITS.get((width, depth, gated))
    if named is not None and (registers, patch, head_width) in {(4, 16, 64), (4, 16, 128)}:
        return _vit_variant(f"{named}_patch16_dinov3", biased=biased), {}
    base = "vit_small_plus_patch16_dinov3" if gated else "vit_small_patch16_dinov3"
    return _vit_variant(base, biased=biased), {
        "embed_dim": width,
        "depth": depth,
        "num_heads": width // head_width,
        "mlp_ratio": plain[hidden].shape[0] / width,
        "num_reg_tokens": registers,
        "patch_size": patch,
    }


def _rename_vit(plain: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for theirs, value in plain.items():
        if _UNUSED.match(theirs):
            continue
        name = theirs
        for before, after in _VIT_RENAMES:
            name = name.replace(before, after)
        if name.endswith("attn.qkv.bias"):
            stem = name.removesuffix("qkv.bias")
            query, key, value_bias = _masked_bias(plain, theirs, source).chunk(3)
            if key.any():
                msg = f"{source}: {theirs} has a bias on the keys, which DINOv3 masks out"
                raise CheckpointError(msg)
            renamed[f"{stem}q_bias"], renamed[f"{stem}v_bias"] = query, value_bias
        else:
            renamed[name] = value
    return renamed


def _masked_bias(plain: Mapping[str, Tensor], name: str, source: str) -> Tensor:
    bias, mask = plain[name], plain.get(f"{name}_mask")
    if mask is None:
        return bias
    if mask.shape != bias.shape or not torch.isfinite(mask).all():
        msg = f"{source}: {name}_mask is not a finite mask of {tuple(bias.shape)}"
        raise CheckpointError(msg)
    return bias * mask


def _build_convnext(
    plain: Mapping[str, Tensor],
    source: str,
    name: str | None,
    options: Mapping[str, Any] | None,
) -> ImageNetwork:
    if name is None:
        blocks = [re.match(r"stages\.(\d)\.(\d+)\.gamma", key) for key in plain]
        found = [(int(match[1]), int(match[2])) for match in blocks if match]
        depths = [1 + max((b for s, b in found if s == stage), default=-1) for stage in range(4)]
        gammas = [plain.get(f"stages.{stage}.0.gamma") for stage in range(4)]
        if not all(isinstance(gamma, torch.Tensor) for gamma in gammas):
            missing = next(stage for stage in range(4) if gammas[stage] is None)
            msg = f"{source} has no stages.{missing}.0.gamma, which every DINOv3 ConvNeXt has"
            raise CheckpointError(msg)
        dims = [len(gamma) for gamma in gammas if gamma is not None]
        architecture, arguments = "convnext_tiny", {"depths": depths, "dims": dims}
    else:
        architecture, arguments = name, dict(options or {})
    channels = plain[_CONVNEXT_STEM].shape[1]
    network = _build(architecture, arguments, channels, source)
    renamed = {}
    for theirs, value in plain.items():
        if _UNUSED.match(theirs):
            continue
        ours = re.sub(r"^stages\.(\d)\.(\d+)", r"stages.\1.blocks.\2", theirs)
        ours = re.sub(r"^downsample_layers\.0\.", "stem.", ours)
        ours = re.sub(r"^downsample_layers\.(\d)\.", r"stages.\1.downsample.", ours)
        ours = re.sub(r"^norm\.", "head.norm.", ours)
        renamed[ours.replace("dwconv", "conv_dw").replace("pwconv", "mlp.fc")] = value
    load_exactly(network, renamed, source)
    return ImageNetwork(network, architecture.partition(".")[0], arguments, channels)
