"""Dense features of any timm network, in one form: ``[B, C, H, W] -> [B, D, H/s, W/s]``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import timm
import torch
from timm.layers.patch_embed import PatchEmbed
from timm.layers.pos_embed_sincos import RotaryEmbeddingDinoV3
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional
from torchvision.ops import FeaturePyramidNetwork

from scaleevent_ros.models.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

NORM_EPSILON = 1e-6


class Backbone(nn.Module):
    """A timm network cut to what its dense features need: no classifier, no later stages.

    The features are the last ones the network offers, after its final norm: the patch tokens of a
    ViT, the neck of SAM, the last stage of a ConvNeXt under the norm of its head. Where the
    network ends features with no norm of its own (EfficientNet, an earlier stage), each position
    is brought to zero mean and unit variance over the channels, so that teachers of every kind
    hand out features of one scale. So are the features of a neck.

    Attributes:
        model: The timm network.
        neck: A feature pyramid (Lin et al., CVPR 2017) that carries what deep, coarse stages know
            to a fine one; None without.
        width: Channels D of the features.
        stride: Pixels per feature s, in both directions.
    """

    def __init__(
        self, model: nn.Module, stride: int | None = None, neck: int | None = None
    ) -> None:
        """Cut a timm network down.

        Args:
            model: Built by `build_network`.
            stride: Take the deepest features of at most this stride; the deepest of all if None.
                With a neck, the stride of its finest stage, from which on all are taken; 8 if None.
            neck: Channels of a feature pyramid; no pyramid if None.

        Raises:
            ModelError: If the network has no features so fine, or only one stage for a neck.
        """
        super().__init__()
        stages: list[dict[str, Any]] = list(cast("Any", model).feature_info)
        if neck is not None:
            self._indices = _pyramid_stages(stages, 8 if stride is None else stride)
        else:
            self._indices = [_deepest_stage(stages, stride)]
        finest, deepest = stages[self._indices[0]], stages[self._indices[-1]]
        self.stride = int(finest["reduction"])
        self._multiple = int(deepest["reduction"])
        at_end = self._indices[-1] == len(stages) - 1
        self.neck: nn.Module | None = None
        if neck is not None:
            self.neck = _build_neck([int(stages[i]["num_chs"]) for i in self._indices], neck)
            self.width = neck
            self._native_norm, self.norm = False, _plain_norm(neck)
        else:
            self.width = int(deepest.get("num_chs_norm", deepest["num_chs"]))
            self._native_norm, self.norm = _final_norm(model, deepest["num_chs"], at_end=at_end)
        cast("Any", model).prune_intermediate_layers(list(self._indices), prune_head=True)
        if hasattr(model, "head"):
            model.head = nn.Identity()  # ConvNeXt's keeps the norm that is ours now
        self.model = model
        self._keep_rope_periods()

    def forward(self, image: Tensor, kept: Tensor | None = None) -> Tensor:
        """Compute dense features.

        Args:
            image: ``[B, C, H, W]``; padded with zeros at the right and the bottom to multiples of
                the coarsest stride that is used.
            kept: Patch tokens to compute, int64 ``[B, K]``, numbered row by row, if
                `can_drop_tokens`; all if None.

        Returns:
            ``[B, D, ceil(H / s), ceil(W / s)]``; zero at dropped tokens.
        """
        if kept is not None:
            return self._forward_kept(self.pad(image), kept)
        maps = cast("Any", self.model).forward_intermediates(
            self.pad(image),
            indices=self._indices,
            norm=self._native_norm,
            intermediates_only=True,
        )
        features = maps[-1]
        if self.neck is not None:
            features = self.neck({str(level): each for level, each in enumerate(maps)})["0"]
            rows, columns = (-(-side // self.stride) for side in image.shape[-2:])
            features = features[..., :rows, :columns]
        return cast("Tensor", self.norm(features))

    @property
    def can_drop_tokens(self) -> bool:
        """Whether patch tokens can be left out: in plain ViTs, DINOv3's among them."""
        return isinstance(self.model, (VisionTransformer, Eva))

    def _forward_kept(self, image: Tensor, kept: Tensor) -> Tensor:
        model = cast("Any", self.model)
        embedding, dropout = model.patch_embed, model.patch_drop
        if _embeds_patches_alone(embedding):
            model.patch_embed = _EmbedTokens(embedding, kept)
        model.patch_drop = _KeepTokens(kept, model.num_prefix_tokens, isinstance(model, Eva))
        try:
            (features,) = model.forward_intermediates(
                image,
                indices=self._indices,
                norm=self._native_norm,
                output_fmt="NLC",
                intermediates_only=True,
            )
        finally:
            model.patch_embed, model.patch_drop = embedding, dropout
        features = self.norm(features.transpose(1, 2)[..., None]).squeeze(-1).transpose(1, 2)
        rows, columns = (side // self.stride for side in image.shape[-2:])
        whole = _scatter(features, kept, rows * columns)
        return torch.unflatten(whole.transpose(1, 2), 2, (rows, columns))

    def pad(self, image: Tensor) -> Tensor:
        """Pad ``[B, C, H, W]`` with zeros at the right and the bottom to whole features.

        With a neck, to whole features of its coarsest stage, so that stages lie over one another in
        the same way at every size.
        """
        height, width = image.shape[-2:]
        right, bottom = -width % self._multiple, -height % self._multiple
        if isinstance(right, int) and not right and isinstance(bottom, int) and not bottom:
            return image  # else exported files copy it
        return functional.pad(image, (0, right, 0, bottom))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade compute for memory: keep only the blocks' inputs for the backward pass."""
        cast("Any", self.model).set_grad_checkpointing(enable)

    def _keep_rope_periods(self) -> None:
        """Store DINOv3's RoPE periods in the state.

        timm computes them anew for each model, but released files hold them rounded to bfloat16,
        and features differ by 1e-2 if the rounding is lost.
        """
        rope = getattr(self.model, "rope", None)
        if rope is not None and hasattr(rope, "periods"):
            rope.register_buffer("periods", rope.periods.float(), persistent=True)
        if type(rope) is RotaryEmbeddingDinoV3:
            rope.__class__ = _CachedRotaryEmbedding

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Backbone:
        """Move and cast as any module, but keep the RoPE periods in float32."""
        rope = getattr(self.model, "rope", None)
        periods = getattr(rope, "periods", None)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call] # torch's own has no types
        if rope is not None and periods is not None:
            now = rope.periods
            if not (now.is_meta or periods.is_meta):
                rope.register_buffer("periods", periods.to(now.device), persistent=True)
        return self


class _CachedRotaryEmbedding(RotaryEmbeddingDinoV3):
    """DINOv3's position embedding, kept for the last grid.

    timm computes the grid's coordinates on the CPU in each forward pass, and copying them makes the
    CPU wait for the GPU.
    """

    periods: Tensor
    _last: tuple[tuple[object, ...], Tensor] | None = None

    def _create_embed(self, feat_shape: Any, no_aug: bool = False) -> Tensor:
        augmented = self.training and self.aug_active and not no_aug
        if augmented or torch.compiler.is_compiling():
            return super()._create_embed(feat_shape, no_aug)
        periods = self.periods
        version = None if periods.is_inference() else periods._version  # noqa: SLF001
        key = (*feat_shape, periods.device, periods.dtype, version)
        if self._last is None or self._last[0] != key:
            with torch.inference_mode(mode=False):  # whose tensors cannot be trained with
                self._last = key, super()._create_embed(feat_shape, no_aug=True)
        return self._last[1]


class _KeepTokens(nn.Module):
    """The place of timm's patch dropout in a ViT, with the choice of tokens from outside."""

    def __init__(self, kept: Tensor, prefix: int, with_indices: bool) -> None:
        super().__init__()
        self._kept = kept
        self._prefix = prefix
        self._with_indices = with_indices

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Select the prefix and the chosen patches of ``[B, prefix + N, D]``."""
        x = torch.cat([x[:, : self._prefix], _gather(x[:, self._prefix :], self._kept)], dim=1)
        return (x, self._kept) if self._with_indices else x


class _EmbedTokens(nn.Module):
    """The place of timm's patch embedding in a ViT, which embeds the chosen tokens alone."""

    def __init__(self, embedding: PatchEmbed, kept: Tensor) -> None:
        super().__init__()
        self._embedding = embedding
        self._kept = kept
        self.grid_size = embedding.grid_size

    def forward(self, x: Tensor) -> Tensor:
        """Embed the chosen patches of ``[B, C, H, W]``; the others are zero."""
        embedding = self._embedding
        convolution = embedding.proj
        (height, width), channels = convolution.kernel_size, x.shape[1]
        rows, columns = x.shape[2] // height, x.shape[3] // width
        # Gather lines of pixels, since rearranging the whole image takes longer than a block.
        kept, device = self._kept, x.device
        first = torch.div(kept, columns, rounding_mode="floor") * (height * columns)
        of_plane = torch.arange(channels, device=device) * (rows * height * columns)
        of_line = torch.arange(height, device=device) * columns
        lines = (of_plane[:, None] + of_line).flatten() + (first + kept % columns)[..., None]
        patches = _gather(x.reshape(len(x), -1, width), lines.flatten(1))
        tokens = functional.linear(
            patches.reshape(*kept.shape, -1), convolution.weight.flatten(1), convolution.bias
        )
        whole = _scatter(embedding.norm(tokens), self._kept, rows * columns)
        return whole if embedding.flatten else torch.unflatten(whole, 1, (rows, columns))


def _embeds_patches_alone(embedding: nn.Module) -> bool:
    """Return whether a ViT's patch embedding is one matrix for each patch of pixels."""
    return type(embedding) is PatchEmbed and embedding.proj.kernel_size == embedding.proj.stride


def _gather(x: Tensor, index: Tensor) -> Tensor:
    """Select tokens ``[B, K, D]`` of ``[B, N, D]`` by their index ``[B, K]``."""
    if len(x) == 1:  # a simpler operation in exported files
        return x.squeeze(0)[index.squeeze(0)][None]
    return x[torch.arange(len(index), device=x.device)[:, None], index]


def _scatter(tokens: Tensor, index: Tensor, count: int) -> Tensor:
    """Place tokens ``[B, K, D]`` at their index ``[B, K]`` in zeros ``[B, count, D]``."""
    if len(tokens) == 1:
        whole = tokens.new_zeros(count, tokens.shape[-1])
        return whole.index_put((index.squeeze(0),), tokens.squeeze(0))[None]
    whole = tokens.new_zeros(len(tokens), count, tokens.shape[-1])
    return whole.index_put((torch.arange(len(index), device=index.device)[:, None], index), tokens)


def token_mask(kept: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mark chosen tokens, int64 ``[B, K]``, on a grid; bool ``[B, 1, h, w]``."""
    mask = torch.zeros(len(kept), grid[0] * grid[1], device=kept.device)
    return torch.unflatten(mask.scatter(1, kept, 1.0) > 0, 1, (1, *grid))


class _ChannelNorm(nn.Module):
    """A layer norm over the channels of ``[B, D, h, w]``."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, features: Tensor) -> Tensor:
        return cast("Tensor", self.norm(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


def _final_norm(model: nn.Module, width: int, *, at_end: bool) -> tuple[bool, nn.Module]:
    """Return whether timm applies the final norm, and what must be applied after it."""
    if _has(model, "norm") or _has(model, "neck"):
        return True, nn.Identity()
    if _has(model, "fc_norm"):  # trained to average tokens first: the norm sits in the head
        return False, _ChannelNorm(cast("nn.Module", model.fc_norm))
    if at_end and _has(model, "norm_pre"):
        return True, nn.Identity()
    head = getattr(model, "head", None)
    if at_end and isinstance(head, nn.Module) and _has(head, "norm"):  # ConvNeXt
        return False, cast("nn.Module", head.norm)
    return False, _plain_norm(width)


def _plain_norm(width: int) -> nn.Module:
    """Build a norm over channels that has no parameters."""
    return _ChannelNorm(nn.LayerNorm(width, NORM_EPSILON, elementwise_affine=False))


def _deepest_stage(stages: list[dict[str, Any]], stride: int | None) -> int:
    """Return the index of the deepest features of at most a stride."""
    fitting = [i for i, s in enumerate(stages) if stride is None or s["reduction"] <= stride]
    if not fitting:
        finest = min(stage["reduction"] for stage in stages)
        msg = f"stride {stride} is finer than the network's finest features, {finest}"
        raise ModelError(msg)
    return fitting[-1]


def _pyramid_stages(stages: list[dict[str, Any]], stride: int) -> list[int]:
    """Return the index of the deepest features of each resolution from a stride on."""
    deepest = {int(stage["reduction"]): index for index, stage in enumerate(stages)}
    if len(deepest) < 2:
        (only,) = deepest
        msg = f"a neck needs a network of several resolutions; this one has stride {only} alone"
        raise ModelError(msg)
    if stride not in deepest or stride == max(deepest):
        *finer, _ = sorted(deepest)
        msg = f"a neck of this network has a stride of {', '.join(map(str, finer))}, not {stride}"
        raise ModelError(msg)
    return [index for reduction, index in sorted(deepest.items()) if reduction >= stride]


def _build_neck(widths: list[int], channels: int) -> nn.Module:
    """Build a feature pyramid of which only the finest level is computed to the end."""
    neck: nn.Module = FeaturePyramidNetwork(widths, channels)
    for level in range(1, len(widths)):
        cast("nn.ModuleList", neck.layer_blocks)[level] = nn.Identity()
    return neck


def _has(module: nn.Module, name: str) -> bool:
    child = getattr(module, name, None)
    return isinstance(child, nn.Module) and not isinstance(child, nn.Identity)


def tokens(features: Tensor) -> Tensor:
    """Turn a feature map into a list: ``[B, D, h, w] -> [B, h * w, D]``, row by row."""
    return features.flatten(2).transpose(1, 2)


def check_name(name: str) -> None:
    """Check that timm knows a model, and its tag if the name has one.

    Raises:
        ModelError: The name is unknown; lists similar ones.
    """
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = ", ".join(timm.list_models(f"*{architecture[:12]}*")[:5])
        hint = f"; similar names: {close}" if close else ""
        msg = f"timm {timm.__version__} knows no model {name!r}{hint}"
        raise ModelError(msg)
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError:
        known = ", ".join(timm.list_pretrained(f"{architecture}.*")) or "none"
        msg = f"timm {timm.__version__} knows no weights {tag!r} of {architecture}, only {known}"
        raise ModelError(msg) from None


def build_network(name: str, options: Mapping[str, Any] | None = None, **more: Any) -> nn.Module:
    """Build a timm network that takes any size of image, with random weights unless told.

    Args:
        name: timm's name, with or without its tag.
        options: Arguments of timm's model, such as ``{"embed_dim": 64, "depth": 2}``.
        more: Further arguments of ``timm.create_model``.

    Raises:
        ModelError: If timm knows no such model, or refuses the options.
    """
    check_name(name)
    arguments = {**(options or {}), **more}
    try:
        try:
            # Position embeddings follow the image; only plain ViTs have and need the option.
            model = timm.create_model(name, dynamic_img_size=True, **arguments)
        except TypeError:
            model = timm.create_model(name, **arguments)
    except (TypeError, ValueError, AssertionError) as error:
        msg = f"timm cannot build {name} with {arguments}: {error}"
        raise ModelError(msg) from error
    return model


def adapt_input(network: nn.Module, bins: int) -> None:
    """Adapt the first convolution of a pretrained network to ``bins`` input channels, in place.

    The filters of the old channels are summed and distributed equally:
    ``w_new[b] = sum_c w_old[c] / bins``. A tensor whose bins all hold the same picture then gives
    the same tokens as that picture in grey gave before, whatever the number of bins. A network that
    has ``bins`` channels already is not changed: three bins take the places of red, green and
    blue, as in the paper.
    """
    first = cast("dict[str, Any]", network.pretrained_cfg)["first_conv"]
    convolution = cast("nn.Conv2d", network.get_submodule(first))
    if convolution.in_channels == bins:
        return
    shared = convolution.weight.detach().sum(1, keepdim=True) / bins
    convolution.weight = nn.Parameter(shared.repeat(1, bins, 1, 1))
    convolution.in_channels = bins
