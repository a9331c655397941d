"""The last blocks of a ViT on their own, for heads whose queries go through them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch.utils.checkpoint import checkpoint

from scaleevent_ros.models.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

    from scaleevent_ros.models.backbone import Backbone


class LateBlocks:
    """A ViT backbone in two parts: everything before its last blocks, and the last blocks.

    It refers to the backbone and has no parameters of its own: moving, casting or training the
    backbone applies to these blocks too.

    A sequence of tokens holds the network's prefix (class token and registers), the patches row by
    row, and whatever else is appended, which has no position.

    Attributes:
        count: Number of blocks in the second part.
    """

    def __init__(self, backbone: Backbone, count: int) -> None:
        """Split a backbone.

        Args:
            backbone: A plain ViT: timm's `VisionTransformer` or `Eva` (the class of DINOv3).
            count: Number of blocks of the second part; fewer than the backbone has.

        Raises:
            ModelError: If the backbone is no plain ViT, or has too few blocks.
        """
        model = backbone.model
        if not isinstance(model, (VisionTransformer, Eva)):
            msg = f"a {type(model).__name__} is no plain ViT: its last blocks cannot be split off"
            raise ModelError(msg)
        self._depth = len(cast("Any", model).blocks)
        if not 1 <= count < self._depth:
            known = f"of its {self._depth} blocks, the last 1 to {self._depth - 1} can be split off"
            msg = f"{known}, not {count}"
            raise ModelError(msg)
        self._backbone = backbone
        self._model = cast("Any", model)
        self.count = count

    @property
    def prefix(self) -> int:
        """Number of tokens before the patches: class token and registers."""
        return int(self._model.num_prefix_tokens)

    def tokens(self, image: Tensor) -> Tensor:
        """Run the first part: ``[B, C, H, W]`` to tokens ``[B, P + h * w, D]``, not normalized."""
        (found,) = self._model.forward_intermediates(
            self._backbone.pad(image),
            indices=[self._depth - self.count - 1],
            return_prefix_tokens=self.prefix > 0,
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        if not self.prefix:
            return cast("Tensor", found)
        patches, prefix = found
        return torch.cat([prefix, patches], dim=1)

    def positions(self, grid: tuple[int, int], appended: int = 0) -> list[Tensor | None]:
        """Return the rotary position embedding of each late block; None for each without one.

        Args:
            grid: Height h and width w of the patches.
            appended: Number of tokens after the patches; their angle is 0, so they have no
                position.

        Returns:
            For each block ``[N, 2 * d]`` or ``[heads, N, 2 * d]``, with sines before cosines, for
            the ``N = h * w + appended`` tokens after the prefix.
        """
        rope = getattr(self._model, "rope", None)
        if rope is None:
            return [None] * self.count
        # [N, 2 * d], or [blocks, heads, N, 2 * d] where each block has its own.
        embedding: Tensor = rope.get_embed(shape=grid)
        sines, cosines = embedding.new_zeros(appended), embedding.new_ones(appended)
        half = embedding.shape[-1] // 2
        still = torch.cat([sines[:, None].expand(-1, half), cosines[:, None].expand(-1, half)], 1)
        still = still.expand(*embedding.shape[:-2], -1, -1)
        embedding = torch.cat([embedding, still], dim=-2)
        if embedding.ndim == 2:
            return [embedding] * self.count
        return list(embedding[-self.count :].unbind())

    def run(
        self, number: int, tokens: Tensor, position: Tensor | None, mask: Tensor | None = None
    ) -> Tensor:
        """Run one block of the second part.

        Args:
            number: Index of the block, from 0.
            tokens: ``[B, N, D]``.
            position: Position embedding from `positions`.
            mask: Attention mask, bool ``[B, 1, N, N]``: which token (row) attends to which
                (column); all if None.

        Returns:
            Tokens ``[B, N, D]``.
        """
        block = self._model.blocks[self._depth - self.count + number]
        more = {"attn_mask": mask} if position is None else {"rope": position, "attn_mask": mask}
        call = partial(block, **more)
        if self._model.grad_checkpointing and torch.is_grad_enabled():
            return cast("Tensor", checkpoint(call, tokens, use_reentrant=False))
        return cast("Tensor", call(tokens))

    def normalize(self, tokens: Tensor) -> Tensor:
        """Apply the final norm to tokens ``[B, N, D]``, as the backbone does to its features."""
        normed = cast("Tensor", self._model.norm(tokens))
        # The backbone's own norm, where the network has none at its end, takes maps.
        return cast("Tensor", self._backbone.norm(normed.mT.unsqueeze(-1))).squeeze(-1).mT

    def to_map(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Rearrange the patches of tokens ``[B, N, D]`` to a map ``[B, D, h, w]``."""
        patches = tokens[:, self.prefix : self.prefix + grid[0] * grid[1]]
        return patches.mT.reshape(len(tokens), -1, *grid)

    def features(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Compute the backbone's features ``[B, D, h, w]`` from the output of `tokens`."""
        for number, position in enumerate(self.positions(grid)):
            tokens = self.run(number, tokens, position)
        return self.to_map(self.normalize(tokens), grid)
