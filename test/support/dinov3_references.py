"""DINOv3 written from its published definition, and files of it with random tensors.

arXiv 2508.10104 and github.com/facebookresearch/dinov3: pre-norm blocks with LayerScale, biases of
queries and values alone, axial RoPE on patch tokens with coordinates in [-1, 1], class and register
tokens in front; ConvNeXt with the final norm on every position.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

PATCH = 16


def random_vit(
    width: int = 64,
    depth: int = 3,
    heads: int = 2,
    registers: int = 4,
    channels: int = 3,
    *,
    gated: bool = False,
    base: float = 100.0,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Create the tensors of a ViT under Meta's names, with sizes that matter to the features."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float) -> Tensor:
        return scale * torch.randn(*shape, generator=generator)

    def linear(name: str, out: int, into: int) -> dict[str, Tensor]:
        return {
            f"{name}.weight": normal(out, into, scale=into**-0.5),
            f"{name}.bias": normal(out, scale=0.2),
        }

    def norm(name: str) -> dict[str, Tensor]:
        return {
            f"{name}.weight": 1 + normal(width, scale=0.1),
            f"{name}.bias": normal(width, scale=0.1),
        }

    quarter = width // heads // 4
    exponents = 2 * torch.arange(quarter) / (2 * quarter)
    tensors = {
        "cls_token": normal(1, 1, width, scale=1.0),
        "mask_token": normal(1, width, scale=1.0),
        "patch_embed.proj.weight": normal(
            width, channels, PATCH, PATCH, scale=(channels * PATCH**2) ** -0.5
        ),
        "patch_embed.proj.bias": normal(width, scale=0.2),
        # Meta's files hold the periods rounded to bfloat16.
        "rope_embed.periods": (base**exponents).bfloat16().float(),
        **norm("norm"),
    }
    if registers:
        tensors["storage_tokens"] = normal(1, registers, width, scale=1.0)
    mask = torch.ones(3 * width)
    mask[width : 2 * width] = 0
    for i in range(depth):
        block = f"blocks.{i}"
        tensors |= norm(f"{block}.norm1") | norm(f"{block}.norm2")
        tensors |= linear(f"{block}.attn.qkv", 3 * width, width)
        tensors[f"{block}.attn.qkv.bias_mask"] = mask.clone()
        tensors |= linear(f"{block}.attn.proj", width, width)
        if gated:
            tensors |= linear(f"{block}.mlp.w1", 4 * width, width)
            tensors |= linear(f"{block}.mlp.w2", 4 * width, width)
            tensors |= linear(f"{block}.mlp.w3", width, 4 * width)
        else:
            tensors |= linear(f"{block}.mlp.fc1", 4 * width, width)
            tensors |= linear(f"{block}.mlp.fc2", width, 4 * width)
        for scale in ("ls1", "ls2"):
            tensors[f"{block}.{scale}.gamma"] = 0.5 + normal(width, scale=0.2)
    return tensors


def _rotate(x: Tensor, angles: Tensor, prefix: int) -> Tensor:
    """Rotate the pairs (i, i + d/2) of each head's patch tokens by their angles."""
    kept, patches = x[:, :, :prefix], x[:, :, prefix:]
    first, second = patches.chunk(2, dim=-1)
    sine, cosine = angles.sin(), angles.cos()
    turned = torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
    return torch.cat([kept, turned], dim=2)


def vit_features(tensors: dict[str, Tensor], image: Tensor) -> Tensor:
    """Compute the normalized patch tokens, ``[B, C, H, W] -> [B, D, H / 16, W / 16]``."""
    t = {name: value.double() for name, value in tensors.items()}
    patches = functional.conv2d(
        image.double(), t["patch_embed.proj.weight"], t["patch_embed.proj.bias"], stride=PATCH
    )
    batch, width, rows, columns = patches.shape
    prefix = [t["cls_token"].expand(batch, -1, -1)]
    if "storage_tokens" in t:
        prefix.append(t["storage_tokens"].expand(batch, -1, -1))
    x = torch.cat([*prefix, patches.flatten(2).mT], dim=1)
    skipped = x.shape[1] - rows * columns

    periods = t["rope_embed.periods"]
    heads = width // (4 * len(periods))
    y = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows * 2 - 1
    z = (torch.arange(columns, dtype=torch.float64) + 0.5) / columns * 2 - 1
    grid = torch.stack(torch.meshgrid(y, z, indexing="ij"), dim=-1).flatten(0, 1)
    angles = (2 * math.pi * grid[:, :, None] / periods).flatten(1)  # [h * w, head width / 2]

    def norm(value: Tensor, name: str) -> Tensor:
        return functional.layer_norm(
            value, (width,), t[f"{name}.weight"], t[f"{name}.bias"], eps=1e-5
        )

    def linear(value: Tensor, name: str) -> Tensor:
        return functional.linear(value, t[f"{name}.weight"], t[f"{name}.bias"])

    depth = 1 + max(int(name.split(".")[1]) for name in t if name.startswith("blocks."))
    for i in range(depth):
        block = f"blocks.{i}"
        bias = t[f"{block}.attn.qkv.bias"] * t[f"{block}.attn.qkv.bias_mask"]
        qkv = functional.linear(norm(x, f"{block}.norm1"), t[f"{block}.attn.qkv.weight"], bias)
        query, key, value = qkv.view(batch, -1, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        query, key = _rotate(query, angles, skipped), _rotate(key, angles, skipped)
        weights = (query @ key.mT / math.sqrt(width // heads)).softmax(dim=-1)
        mixed = (weights @ value).transpose(1, 2).flatten(2)
        x = x + t[f"{block}.ls1.gamma"] * linear(mixed, f"{block}.attn.proj")
        hidden = norm(x, f"{block}.norm2")
        if f"{block}.mlp.w1.weight" in t:
            gate = functional.silu(linear(hidden, f"{block}.mlp.w1"))
            hidden = linear(gate * linear(hidden, f"{block}.mlp.w2"), f"{block}.mlp.w3")
        else:
            hidden = linear(functional.gelu(linear(hidden, f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
        x = x + t[f"{block}.ls2.gamma"] * hidden
    tokens = norm(x, "norm")[:, skipped:]
    return tokens.mT.reshape(batch, width, rows, columns).float()


def random_convnext(
    depths: tuple[int, ...] = (1, 2, 1, 1), dims: tuple[int, ...] = (8, 12, 16, 24)
) -> dict[str, Tensor]:
    """Create the tensors of a ConvNeXt under Meta's names."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) / math.sqrt(math.prod(shape[1:]))

    def norm(name: str, width: int) -> dict[str, Tensor]:
        return {f"{name}.weight": 1 + 0.1 * normal(width), f"{name}.bias": 0.1 * normal(width)}

    tensors: dict[str, Tensor] = {}
    channels = 3
    for stage, (depth, width) in enumerate(zip(depths, dims, strict=True)):
        down, kernel = f"downsample_layers.{stage}", 2 if stage else 4
        convolution = {
            "weight": normal(width, channels, kernel, kernel),
            "bias": 0.1 * normal(width),
        }
        place = 1 if stage else 0
        tensors |= {f"{down}.{place}.{name}": value for name, value in convolution.items()}
        tensors |= norm(f"{down}.{1 - place}", channels if stage else width)
        for i in range(depth):
            block = f"stages.{stage}.{i}"
            tensors[f"{block}.gamma"] = 0.5 + 0.1 * normal(width)
            tensors |= {
                f"{block}.dwconv.weight": normal(width, 1, 7, 7),
                f"{block}.dwconv.bias": 0.1 * normal(width),
                f"{block}.pwconv1.weight": normal(4 * width, width),
                f"{block}.pwconv1.bias": 0.1 * normal(4 * width),
                f"{block}.pwconv2.weight": normal(width, 4 * width),
                f"{block}.pwconv2.bias": 0.1 * normal(width),
            }
            tensors |= norm(f"{block}.norm", width)
        channels = width
    tensors |= norm("norm", dims[-1])
    # The definition registers the final norm twice.
    return tensors | {f"norms.3.{kind}": tensors[f"norm.{kind}"] for kind in ("weight", "bias")}


def convnext_features(tensors: dict[str, Tensor], image: Tensor) -> Tensor:
    """Compute the normalized features of the last stage, ``[B, 3, H, W] -> [B, D, H/32, W/32]``."""
    t = {name: value.double() for name, value in tensors.items()}

    def norm(value: Tensor, name: str) -> Tensor:
        weight, bias = t[f"{name}.weight"], t[f"{name}.bias"]
        last = value.permute(0, 2, 3, 1)
        normed: Tensor = functional.layer_norm(last, (len(weight),), weight, bias, eps=1e-6)
        return normed.permute(0, 3, 1, 2)

    x = image.double()
    for stage in range(4):
        down = f"downsample_layers.{stage}"
        place = 1 if stage else 0
        if stage:
            x = norm(x, f"{down}.0")
        x = functional.conv2d(
            x, t[f"{down}.{place}.weight"], t[f"{down}.{place}.bias"], stride=2 if stage else 4
        )
        if not stage:
            x = norm(x, f"{down}.1")
        i = 0
        while f"stages.{stage}.{i}.gamma" in t:
            block = f"stages.{stage}.{i}"
            y = functional.conv2d(
                x,
                t[f"{block}.dwconv.weight"],
                t[f"{block}.dwconv.bias"],
                padding=3,
                groups=x.shape[1],
            )
            y = norm(y, f"{block}.norm").permute(0, 2, 3, 1)
            for name in ("pwconv1", "pwconv2"):
                y = functional.linear(y, t[f"{block}.{name}.weight"], t[f"{block}.{name}.bias"])
                if name == "pwconv1":
                    y = functional.gelu(y)
            x = x + (t[f"{block}.gamma"] * y).permute(0, 3, 1, 2)
            i += 1
    return norm(x, "norm").float()
