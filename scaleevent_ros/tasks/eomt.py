"""The encoder-only mask transformer (EoMT): queries that run through the student's last blocks.

Source: Kerssies et al., "Your ViT is Secretly an Image Segmentation Model", CVPR 2025, section 3.
There is no decoder: learned queries are appended to the tokens of a plain ViT before its last L
blocks. After these, each query predicts a class, and by its product with the upscaled patches a
mask.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, cast

import torch
from timm.layers.norm import LayerNorm2d
from torch import nn
from torch.nn import functional

from scaleevent_ros.distill.losses import to_device
from scaleevent_ros.models import ModelError
from scaleevent_ros.models.late_blocks import LateBlocks
from scaleevent_ros.tasks.dense_heads import to_pixels
from scaleevent_ros.tasks.errors import TaskError
from scaleevent_ros.tasks.losses_masks import MaskPrediction

if TYPE_CHECKING:
    from torch import Tensor

    from scaleevent_ros.models import Backbone

_MASK_STRIDE = 4  # pixels per cell of a mask, reached as closely as doubling allows


class EomtSegmentation(nn.Module):
    """Segmentation head with queries and masks.

    Unlike other heads it does not take features, but the tokens before the student's last blocks,
    and these blocks (see `late_blocks_for`).

    Attributes:
        blocks: Number L of the student's last blocks through which the queries run.
        mask_share: Share of queries whose attention is masked in training, for each of these
            blocks, float32 ``[L]``; see `anneal`.

    Args:
        width: Channels D of the student.
        stride: Pixels per patch.
        classes: Number of classes C.
        queries: Number of queries Q.
        blocks: Number of blocks L.
    """

    mask_share: Tensor

    def __init__(
        self, width: int, stride: int, classes: int, queries: int = 100, blocks: int = 4
    ) -> None:
        super().__init__()
        self.stride = stride
        self.blocks = blocks
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.tell_class = nn.Linear(width, classes + 1)
        self.tell_mask = nn.Sequential(
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, width),
        )
        doublings = max(1, (stride // _MASK_STRIDE).bit_length() - 1)
        self.upscale = nn.Sequential(*(_doubling(width) for _ in range(doublings)))
        self.register_buffer("mask_share", torch.ones(blocks), persistent=False)

    def forward(self, late: LateBlocks, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Compute scores of the classes.

        The score of a class at a pixel is the sum over queries of the probability of the class
        times that of the mask (MaskFormer: Cheng, Schwing and Kirillov, NeurIPS 2021, section 3.4).
        It is computed on the masks' own grid and then resized, so that C maps are resized, not Q.

        Args:
            late: The student's last blocks.
            tokens: Tokens before these blocks, ``[B, N, D]``.
            size: Height and width H, W of the student's input.

        Returns:
            Scores ``[B, C, H, W]``, at least 0; the class with the highest one is predicted.
        """
        grid = self._grid(size)
        tokens = self._join(tokens)
        for number, position in enumerate(late.positions(grid, len(self.queries))):
            tokens = late.run(number, tokens, position)
        masks, classes = self._predict(late, tokens, grid)
        likely = classes.softmax(dim=-1)[..., :-1]
        scores = torch.einsum("bqhw,bqc->bchw", masks.sigmoid(), likely)
        return to_pixels(scores, grid, self.stride, size)

    def predictions(
        self, late: LateBlocks, tokens: Tensor, size: tuple[int, int]
    ) -> list[MaskPrediction]:
        """Predict masks before each of the last blocks and after them, for training.

        In each block, a share of the queries, `mask_share`, attends only to the patches in its
        predicted mask.

        Args:
            late: The student's last blocks.
            tokens: Tokens before these blocks, ``[B, N, D]``.
            size: Height and width of the student's input.

        Returns:
            L + 1 predictions, whose masks span the padded input.
        """
        grid = self._grid(size)
        tokens = self._join(tokens)
        found = [self._predict(late, tokens, grid)]
        for number, position in enumerate(late.positions(grid, len(self.queries))):
            mask = self._attention(late, found[-1].masks, tokens.shape[1], grid, number)
            tokens = late.run(number, tokens, position, mask)
            found.append(self._predict(late, tokens, grid))
        return found

    def anneal(self, progress: float) -> None:
        """Set `mask_share` for a point of the training.

        Training with masks converges better, but inference without them is faster. So they are
        removed during training, in the first block first (section 3.3 of the paper). Block i of L
        keeps its masks until ``(i + 1) / (L + 2)`` of the training; their share falls to 0 at
        ``(i + 2) / (L + 2)``, by a polynomial of degree 0.9, as in the COCO configurations of the
        paper's code.

        Args:
            progress: 0 at the start, 1 at the end.
        """
        bounds = torch.arange(1, self.blocks + 2) / (self.blocks + 2)
        shares = [
            ((end - progress) / (end - start)).clamp(0, 1) ** 0.9 for start, end in pairwise(bounds)
        ]
        self.mask_share.copy_(to_device(torch.stack(shares), self.mask_share.device))

    def _grid(self, size: tuple[int, int]) -> tuple[int, int]:
        return -(-size[0] // self.stride), -(-size[1] // self.stride)

    def _join(self, tokens: Tensor) -> Tensor:
        """Append the queries to tokens ``[B, N, D]``."""
        return torch.cat([tokens, self.queries.to(tokens.dtype).expand(len(tokens), -1, -1)], dim=1)

    def _predict(self, late: LateBlocks, tokens: Tensor, grid: tuple[int, int]) -> MaskPrediction:
        normed = late.normalize(tokens)
        queries = normed[:, -len(self.queries) :]
        fine = cast("Tensor", self.upscale(late.to_map(normed, grid)))
        masks = torch.einsum("bqd,bdhw->bqhw", self.tell_mask(queries), fine)
        return MaskPrediction(masks, self.tell_class(queries))

    def _attention(
        self, late: LateBlocks, masks: Tensor, tokens: int, grid: tuple[int, int], number: int
    ) -> Tensor:
        """Attention mask of a block, bool ``[B, 1, N, N]``; see `predictions`."""
        batch, queries = masks.shape[:2]
        inside = functional.interpolate(masks, grid, mode="bilinear", align_corners=False) > 0
        free = torch.rand(batch, queries, 1, device=masks.device) >= self.mask_share[number]
        may = torch.ones(batch, 1, tokens, tokens, dtype=torch.bool, device=masks.device)
        patches = slice(late.prefix, late.prefix + grid[0] * grid[1])
        may[:, 0, -queries:, patches] = inside.flatten(2) | free
        return may


def _doubling(width: int) -> nn.Sequential:
    """Double a map's resolution (the paper's upscaling, from ViTDet)."""
    return nn.Sequential(
        nn.ConvTranspose2d(width, width, kernel_size=2, stride=2),
        nn.GELU(),
        nn.Conv2d(width, width, kernel_size=3, padding=1, groups=width, bias=False),
        LayerNorm2d(width),
    )


def late_blocks_for(head: EomtSegmentation, backbone: Backbone) -> LateBlocks:
    """Split a student's backbone at the block before which a head's queries are appended.

    Raises:
        TaskError: If the backbone is no plain ViT, or has too few blocks.
    """
    try:
        return LateBlocks(backbone, head.blocks)
    except ModelError as error:
        msg = (
            f"a head segmentation_eomt does not fit this student: {error}; segmentation_linear and "
            "segmentation_dpt fit any student"
        )
        raise TaskError(msg) from error
