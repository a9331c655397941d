"""Constants that replace what a network computes from the size of the image alone.

Position embeddings that depend on the size cost time in every call, copy from the host, which a
CUDA graph cannot capture, and export as branches that some runtimes compute incorrectly. Padding
that depends on the size becomes an expression that grows with each layer, on which `torch.export`
spends minutes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from timm.layers.conv2d_same import Conv2dSame
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from scaleevent_ros.models import Backbone


class FixedRotaryEmbedding(nn.Module):
    """Rotary position embedding of one grid, in timm's form and always in float32."""

    embedding: Tensor

    def __init__(self, embedding: Tensor) -> None:
        super().__init__()
        self.register_buffer("embedding", embedding.detach().float(), persistent=False)

    def get_embed(self, shape: object = None) -> Tensor:  # noqa: ARG002 - timm passes the grid
        """Return the embedding."""
        return self.embedding

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> FixedRotaryEmbedding:
        """Move like any module, but keep float32: 16-bit positions change the features."""
        exact = self.embedding
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call] # torch's own has no types
        self.embedding = exact.to(self.embedding.device)
        return self


def fix_size(backbone: Backbone, grid: tuple[int, int]) -> None:
    """Replace a backbone's position embeddings by constants for one grid of features, in place.

    Other networks are not changed: those without such embeddings, and those with other kinds of
    them (SAM), which still run, but slower.
    """
    model = cast("Any", backbone.model)
    if getattr(model, "rope", None) is not None:
        model.rope = FixedRotaryEmbedding(model.rope.get_embed(shape=grid))
    if getattr(model, "pos_embed", None) is not None and getattr(model, "dynamic_img_size", False):
        model.set_input_size(img_size=tuple(cells * backbone.stride for cells in grid))
        model.dynamic_img_size = False
        model.patch_embed.flatten = True  # timm needs a list of tokens for a fixed size


def fix_padding(backbone: Backbone) -> None:
    """Make TensorFlow's "same" padding of convolutions a constant for every size, in place.

    A `Backbone` pads images to multiples of its coarsest stride, so that the stride of each
    convolution divides the map it is applied to, and the padding depends on the kernel alone.
    """
    for parent in list(backbone.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is Conv2dSame:
                setattr(parent, name, _with_constant_padding(child))


def _with_constant_padding(convolution: nn.Conv2d) -> nn.Module:
    rows, columns = (
        max(0, (kernel - 1) * dilation + 1 - stride)
        for kernel, stride, dilation in zip(
            convolution.kernel_size, convolution.stride, convolution.dilation, strict=True
        )
    )
    padding = nn.ZeroPad2d((columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
    plain = nn.Conv2d(
        convolution.in_channels,
        convolution.out_channels,
        cast("Any", convolution.kernel_size),
        cast("Any", convolution.stride),
        dilation=cast("Any", convolution.dilation),
        groups=convolution.groups,
        bias=convolution.bias is not None,
    )
    plain.weight, plain.bias = convolution.weight, convolution.bias
    return nn.Sequential(padding, plain)
